# From the source of a dataset to the checked form that cells read.


# Contents are checked against fixed checksums, so a cell never has to be trained again because this file is newer.
rule prepare:
    output:
        "data/prepared/{dataset}/{split}.npy",
    log:
        "logs/data/prepare/{dataset}/{split}.log",
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        path=lambda wildcards: config["datasets"].get(wildcards.dataset, {}).get("path"),
    message:
        "Prepare {wildcards.dataset}, split {wildcards.split}"
    script:
        "../scripts/data/prepare.py"
