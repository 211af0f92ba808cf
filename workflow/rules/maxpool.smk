# The MaxPool study (arXiv 2401.02736): train cells, gather them, draw every figure and table.


# Everything that was made of this study.
rule maxpool:
    input:
        expand("figures/{run}/maxpool/{stem}.{format}", run=RUN, stem=maxpool_figures(), format=FIGURE_FORMATS),
        expand("figures/{run}/maxpool/summary.{format}", run=RUN, format=["csv", "md", "tex"]),
    message:
        "All figures and tables of the MaxPool study are there"


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
    message:
        "Train {wildcards.architecture} on {wildcards.dataset}: {wildcards.normalization}, {wildcards.optimizer}, {wildcards.precision}, {wildcards.rule}, seed {wildcards.seed}"
    script:
        "../scripts/maxpool/train.py"


rule maxpool_aggregate:
    input:
        metrics=expand("results/{{run}}/maxpool/train/{cell}/metrics.csv", cell=MAXPOOL_CELLS),
        records=expand("results/{{run}}/maxpool/train/{cell}/record.json", cell=MAXPOOL_CELLS),
        benchmarks=expand("benchmarks/{{run}}/maxpool/train/{cell}.tsv", cell=MAXPOOL_CELLS),
        code=source("scripts/maxpool/aggregate.py") + library("maxpool", "rules", "cells", "numerics"),
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
    params:
        cells=[cell.to_dict() for cell in MAXPOOL_CELLS.values()],
    message:
        "Gather all cells of {wildcards.run}"
    script:
        "../scripts/maxpool/aggregate.py"


rule maxpool_accuracy_by_beta:
    input:
        runs="results/{run}/maxpool/runs.csv",
        code=source("scripts/maxpool/accuracy_by_beta.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "datasets"),
    output:
        **figure_files("maxpool/accuracy_by_beta", "maxpool/accuracy_by_beta", figure="all conditions"),
    log:
        "logs/{run}/maxpool/accuracy_by_beta.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw accuracy by beta, all conditions"
    script:
        "../scripts/maxpool/accuracy_by_beta.py"


rule maxpool_accuracy:
    input:
        runs="results/{run}/maxpool/runs.csv",
        code=source("scripts/maxpool/accuracy.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "datasets"),
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
    params:
        group=maxpool_group,
    message:
        "Draw accuracy: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
    script:
        "../scripts/maxpool/accuracy.py"


rule maxpool_loss:
    input:
        epochs="results/{run}/maxpool/epochs.csv",
        code=source("scripts/maxpool/loss.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "datasets"),
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
    params:
        group=maxpool_group,
    message:
        "Draw training loss: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
    script:
        "../scripts/maxpool/loss.py"


rule maxpool_summary:
    input:
        summary="results/{run}/maxpool/summary.csv",
        code=source("scripts/maxpool/summary.py") + library("plotting", "datasets"),
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
    message:
        "Write the summary table"
    script:
        "../scripts/maxpool/summary.py"


if MAXPOOL_TIES:

    rule maxpool_ties:
        input:
            ancient(f"data/prepared/{MAXPOOL_TIES['dataset']}/test.npy"),
            code=source("scripts/maxpool/ties.py") + library("ties"),
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
        message:
            "Find the ties in one image"
        script:
            "../scripts/maxpool/ties.py"

    rule maxpool_tie_map:
        input:
            arrays="results/{run}/maxpool/ties.npz",
            counts="results/{run}/maxpool/ties.csv",
            code=source("scripts/maxpool/tie_map.py", "lib/nonsmooth/nonsmooth.mplstyle")
            + library("plotting", "precision", "datasets"),
        output:
            **figure_files("maxpool/tie_map", "maxpool/tie_map", figure="ties in one image"),
        log:
            "logs/{run}/maxpool/tie_map.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            ties=MAXPOOL_TIES,
        message:
            "Draw the ties in one image"
        script:
            "../scripts/maxpool/tie_map.py"
