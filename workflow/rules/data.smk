# From the source of a dataset to the checked form that cells read.


def data_folder(wildcards):
    """Where the files of a dataset are: the folder of the configuration, what `fetch` downloaded, or nowhere."""
    if DATASETS[wildcards.dataset].is_embedded:
        return None
    path = config["datasets"].get(wildcards.dataset, {}).get("path", f"data/raw/{wildcards.dataset}")
    return os.path.expanduser(path)


def is_fetched(name):
    dataset = DATASETS[name]
    return bool(dataset.files) and "path" not in config["datasets"].get(name, {})


def fetch_receipt(wildcards):
    return [ancient(f"data/raw/{wildcards.dataset}/fetched.json")] if is_fetched(wildcards.dataset) else []


localrules:
    fetch,


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
