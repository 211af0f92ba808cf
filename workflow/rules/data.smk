# From the source of a dataset to the checked form that cells read.


# The receipt is the output, not the files: what is there stays there if one of them cannot be had.
rule fetch:
    output:
        "data/raw/{dataset}/fetched.json",
    log:
        "logs/data/fetch/{dataset}.log",
    params:
        splits=lambda wildcards: SPLITS.get(wildcards.dataset, list(DATASETS[wildcards.dataset].files)),
    message:
        "Download {wildcards.dataset}"
    script:
        "../scripts/data/fetch.py"


# Contents are checked against fixed checksums, so a cell never has to be trained again because this file is newer.
rule prepare:
    input:
        fetch_receipt,
    output:
        "data/prepared/{dataset}/{split}.npy",
    log:
        "logs/data/prepare/{dataset}/{split}.log",
    resources:
        # SVHN's extra split is 1.6 GB, and read whole.
        mem_mb=lambda wildcards: 8000 if wildcards.split == "extra" else 2000,
        runtime=60,
    params:
        folder=data_folder,
    message:
        "Prepare {wildcards.dataset}, split {wildcards.split}"
    script:
        "../scripts/data/prepare.py"
