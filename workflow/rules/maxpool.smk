# The MaxPool study (arXiv 2401.02736): train cells, gather them, draw every figure and table.

MAXPOOL_CELLS = {cell.path: cell for cell in presets.training_cells(config)}
MAXPOOL_CELL = "{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/seed{seed}"
MAXPOOL_GROUP = "{dataset}/{architecture}/{optimizer}/{precision}"
MAXPOOL_GROUPS = list(
    dict.fromkeys(
        f"{cell.dataset}/{cell.architecture}/{cell.optimizer}/{cell.precision}" for cell in MAXPOOL_CELLS.values()
    )
)
MAXPOOL_TIES = config["maxpool"].get("ties")
FIGURE_FORMATS = ["pdf", "svg", "png", "csv"]


def alternatives(factor):
    """The values of a factor in this preset, as a regular expression."""
    return "|".join(sorted({str(getattr(cell, factor)) for cell in MAXPOOL_CELLS.values()}))


wildcard_constraints:
    dataset="[a-z0-9_]+",
    architecture=alternatives("architecture"),
    normalization=alternatives("normalization"),
    optimizer=alternatives("optimizer"),
    precision=alternatives("precision"),
    rule="[a-z0-9.+-]+",
    seed="[0-9]+",


def maxpool_cell(wildcards):
    path = MAXPOOL_CELL.format(**wildcards)
    if path not in MAXPOOL_CELLS:
        raise ValueError(f"{path}: not a cell of preset {RUN}; add it to maxpool.train in the configuration")
    return MAXPOOL_CELLS[path].to_dict()


def maxpool_figures():
    stems = ["accuracy_by_beta", *(f"{kind}/{group}" for kind in ("accuracy", "loss") for group in MAXPOOL_GROUPS)]
    return stems + (["tie_map"] if MAXPOOL_TIES else [])


# Everything that was made of this study.
rule maxpool:
    input:
        expand("figures/{run}/maxpool/{stem}.{format}", run=RUN, stem=maxpool_figures(), format=FIGURE_FORMATS),
        expand("figures/{run}/maxpool/summary.{format}", run=RUN, format=["csv", "md", "tex"]),


# Expensive: no module is an input, so that only another cell, another setting or a raised numerics version trains.
rule maxpool_train:
    input:
        train=ancient("data/prepared/{dataset}/train.npy"),
        test=ancient("data/prepared/{dataset}/test.npy"),
    output:
        metrics=f"results/{{run}}/maxpool/train/{MAXPOOL_CELL}/metrics.csv",
        record=f"results/{{run}}/maxpool/train/{MAXPOOL_CELL}/record.json",
    log:
        f"logs/{{run}}/maxpool/train/{MAXPOOL_CELL}.log",
    benchmark:
        f"benchmarks/{{run}}/maxpool/train/{MAXPOOL_CELL}.tsv"
    threads: SETTINGS["threads"]
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        cell=maxpool_cell,
        settings=SETTINGS,
        numerics_version=NUMERICS_VERSION,
    script:
        "../scripts/maxpool/train.py"


rule maxpool_aggregate:
    input:
        metrics=expand("results/{{run}}/maxpool/train/{cell}/metrics.csv", cell=MAXPOOL_CELLS),
        records=expand("results/{{run}}/maxpool/train/{cell}/record.json", cell=MAXPOOL_CELLS),
        benchmarks=expand("benchmarks/{{run}}/maxpool/train/{cell}.tsv", cell=MAXPOOL_CELLS),
        code=source("scripts/maxpool/aggregate.py") + library("maxpool", "rules", "cells"),
    output:
        runs="results/{run}/maxpool/runs.csv",
        epochs="results/{run}/maxpool/epochs.csv",
        summary="results/{run}/maxpool/summary.csv",
        costs="results/{run}/maxpool/costs.csv",
    log:
        "logs/{run}/maxpool/aggregate.log",
    resources:
        mem_mb=1500,
        runtime=10,
    script:
        "../scripts/maxpool/aggregate.py"


rule maxpool_accuracy_by_beta:
    input:
        runs="results/{run}/maxpool/runs.csv",
        code=source("scripts/maxpool/accuracy_by_beta.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool"),
    output:
        **figure_files("maxpool/accuracy_by_beta", "maxpool/accuracy_by_beta", figure="all conditions"),
    log:
        "logs/{run}/maxpool/accuracy_by_beta.log",
    resources:
        mem_mb=1000,
        runtime=5,
    script:
        "../scripts/maxpool/accuracy_by_beta.py"


rule maxpool_accuracy:
    input:
        runs="results/{run}/maxpool/runs.csv",
        code=source("scripts/maxpool/accuracy.py", "lib/nonsmooth/nonsmooth.mplstyle") + library("plotting"),
    output:
        **figure_files(
            f"maxpool/accuracy/{MAXPOOL_GROUP}",
            "maxpool/accuracy",
            dataset="{dataset}",
            architecture="{architecture}",
            optimizer="{optimizer}",
            precision="{precision}",
        ),
    log:
        f"logs/{{run}}/maxpool/accuracy/{MAXPOOL_GROUP}.log",
    resources:
        mem_mb=1000,
        runtime=5,
    script:
        "../scripts/maxpool/accuracy.py"


rule maxpool_loss:
    input:
        epochs="results/{run}/maxpool/epochs.csv",
        code=source("scripts/maxpool/loss.py", "lib/nonsmooth/nonsmooth.mplstyle") + library("plotting"),
    output:
        **figure_files(
            f"maxpool/loss/{MAXPOOL_GROUP}",
            "maxpool/loss",
            dataset="{dataset}",
            architecture="{architecture}",
            optimizer="{optimizer}",
            precision="{precision}",
        ),
    log:
        f"logs/{{run}}/maxpool/loss/{MAXPOOL_GROUP}.log",
    resources:
        mem_mb=1000,
        runtime=5,
    script:
        "../scripts/maxpool/loss.py"


rule maxpool_summary:
    input:
        summary="results/{run}/maxpool/summary.csv",
        code=source("scripts/maxpool/summary.py") + library("plotting"),
    output:
        csv=report(
            "figures/{run}/maxpool/summary.csv",
            caption="../report/maxpool/summary.rst",
            category="maxpool",
            subcategory="tables",
            labels={"table": "final accuracy"},
        ),
        md="figures/{run}/maxpool/summary.md",
        tex="figures/{run}/maxpool/summary.tex",
    log:
        "logs/{run}/maxpool/summary.log",
    resources:
        mem_mb=1000,
        runtime=5,
    script:
        "../scripts/maxpool/summary.py"


if MAXPOOL_TIES:

    rule maxpool_ties:
        input:
            ancient(f"data/prepared/{MAXPOOL_TIES['dataset']}/test.npy"),
        output:
            arrays="results/{run}/maxpool/ties.npz",
            counts="results/{run}/maxpool/ties.csv",
        log:
            "logs/{run}/maxpool/ties.log",
        resources:
            mem_mb=1500,
            runtime=5,
        params:
            ties=MAXPOOL_TIES,
            numerics_version=NUMERICS_VERSION,
        script:
            "../scripts/maxpool/ties.py"

    rule maxpool_tie_map:
        input:
            arrays="results/{run}/maxpool/ties.npz",
            counts="results/{run}/maxpool/ties.csv",
            code=source("scripts/maxpool/tie_map.py", "lib/nonsmooth/nonsmooth.mplstyle") + library("plotting"),
        output:
            **figure_files("maxpool/tie_map", "maxpool/tie_map", figure="ties in one image"),
        log:
            "logs/{run}/maxpool/tie_map.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            ties=MAXPOOL_TIES,
        script:
            "../scripts/maxpool/tie_map.py"
