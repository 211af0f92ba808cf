# The MaxPool study (arXiv 2401.02736): train cells, gather them, draw every figure and table.


# Everything that was made of this study.
rule maxpool:
    input:
        expand(
            "figures/{run}/maxpool/{stem}.{format}",
            run=RUN,
            stem=[*maxpool_figures(), *zone_figures()],
            format=FIGURE_FORMATS,
        ),
        expand(
            "figures/{run}/maxpool/{table}.{format}",
            run=RUN,
            table=["summary", "published", "mitigations", *zone_tables()],
            format=TABLE_FORMATS,
        ),
    message:
        "All figures and tables of the MaxPool study are there"


# Expensive rules have no module as input, so that only another cell, another setting or a raised numerics version runs
# them again.


rule maxpool_search:
    input:
        lambda wildcards: prepared(wildcards.dataset, MAXPOOL_SETUPS[CONDITION_PATH.format(**wildcards)].train_split),
    output:
        trials=f"results/{{run}}/maxpool/search/{CONDITION_PATH}/trials.csv",
        chosen=f"results/{{run}}/maxpool/search/{CONDITION_PATH}/chosen.json",
    log:
        f"logs/{{run}}/maxpool/search/{CONDITION_PATH}.log",
    # Every cell of a set-up waits for its search.
    priority: 1000
    threads: cell_threads
    resources:
        mem_mb=growing(lambda wildcards: ARCHITECTURES[wildcards.architecture].memory_mb),
        runtime=cell_runtime("search"),
        gpu=CELL_GPUS,
        gpu_slots=gpu_slots,
    params:
        cell=lambda wildcards: MAXPOOL_SETUPS[CONDITION_PATH.format(**wildcards)].to_dict(),
        trials=presets.search_settings(config)["trials"],
        settings=SETTINGS,
        # Not an output, which Snakemake would delete when a job is interrupted.
        journals=lambda wildcards, output: os.path.dirname(output.chosen),
        numerics_version=NUMERICS_VERSION,
    message:
        "Search the learning rate of {wildcards.architecture} on {wildcards.dataset}: {wildcards.normalization}, {wildcards.optimizer}, {wildcards.precision}"
    script:
        "../scripts/maxpool/search.py"


# The searches that cells of the preset wait for.
rule maxpool_searches:
    input:
        trials=expand("results/{{run}}/maxpool/search/{path}/trials.csv", path=MAXPOOL_SEARCHES),
        chosen=expand("results/{{run}}/maxpool/search/{path}/chosen.json", path=MAXPOOL_SEARCHES),
        code=source("scripts/maxpool/learning_rates.py") + library("cells"),
    output:
        trials="results/{run}/maxpool/searches.csv",
        entries="results/{run}/maxpool/searches.yaml",
    log:
        "logs/{run}/maxpool/searches.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cells=[cell.to_dict() for cell in MAXPOOL_SEARCHES.values()],
    message:
        "Gather the searches for learning rates"
    script:
        "../scripts/maxpool/learning_rates.py"


# A rate for every set-up of the preset, to be copied into a configuration: `snakemake learning_rates`.
rule learning_rates:
    input:
        f"results/{RUN}/maxpool/learning_rates.yaml",
    message:
        "The learning rates are in {input}"


# Searches for every set-up, also for those whose rate is given.
rule maxpool_learning_rates:
    input:
        trials=expand("results/{{run}}/maxpool/search/{path}/trials.csv", path=MAXPOOL_SETUPS),
        chosen=expand("results/{{run}}/maxpool/search/{path}/chosen.json", path=MAXPOOL_SETUPS),
        code=source("scripts/maxpool/learning_rates.py") + library("cells"),
    output:
        trials="results/{run}/maxpool/learning_rates.csv",
        entries="results/{run}/maxpool/learning_rates.yaml",
    log:
        "logs/{run}/maxpool/learning_rates.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cells=[cell.to_dict() for cell in MAXPOOL_SETUPS.values()],
    message:
        "Gather the learning rates that were found"
    script:
        "../scripts/maxpool/learning_rates.py"


rule maxpool_train:
    input:
        unpack(trained_from),
    output:
        metrics=f"results/{{run}}/maxpool/train/{PATH}/metrics.csv",
        record=f"results/{{run}}/maxpool/train/{PATH}/record.json",
        layers=f"results/{{run}}/maxpool/train/{PATH}/layers.csv",
        activations=f"results/{{run}}/maxpool/train/{PATH}/activations.csv",
    log:
        f"logs/{{run}}/maxpool/train/{PATH}.log",
    priority: lambda wildcards: PRIORITIES[maxpool_cell(wildcards)]
    threads: cell_threads
    resources:
        mem_mb=growing(lambda wildcards: ARCHITECTURES[wildcards.architecture].memory_mb),
        runtime=cell_runtime("train"),
        gpu=CELL_GPUS,
        gpu_slots=gpu_slots,
    params:
        cell=lambda wildcards: maxpool_cell(wildcards).to_dict(),
        settings=SETTINGS,
        numerics_version=NUMERICS_VERSION,
    message:
        "Train {wildcards.architecture} on {wildcards.dataset}: normalization {wildcards.normalization}, {wildcards.optimizer}, {wildcards.precision}, {wildcards.rule}, ReLU'(0) = {wildcards.relu_derivative}, seed {wildcards.seed}"
    script:
        "../scripts/maxpool/train.py"


rule maxpool_aggregate:
    input:
        metrics=of_every_cell("metrics.csv"),
        records=of_every_cell("record.json"),
        published="data/published/training.csv",
        code=source("scripts/maxpool/aggregate.py") + library("maxpool", "published", "rules", "cells", "numerics"),
    output:
        runs="results/{run}/maxpool/runs.csv",
        epochs="results/{run}/maxpool/epochs.csv",
        summary="results/{run}/maxpool/summary.csv",
        costs="results/{run}/maxpool/costs.csv",
        published="results/{run}/maxpool/published.csv",
    log:
        "logs/{run}/maxpool/aggregate.log",
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        cells=lambda wildcards: [cell.to_dict() for cell in MAXPOOL_CELLS.values()],
    message:
        "Gather all cells of {wildcards.run}"
    script:
        "../scripts/maxpool/aggregate.py"


rule maxpool_traces:
    input:
        layers=of_every_cell("layers.csv"),
        activations=of_every_cell("activations.csv"),
        code=source("scripts/maxpool/traces.py") + library("maxpool", "records", "rules", "cells"),
    output:
        layers="results/{run}/maxpool/layers.csv",
        activations="results/{run}/maxpool/activations.csv",
    log:
        "logs/{run}/maxpool/traces.log",
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cells=lambda wildcards: [cell.to_dict() for cell in MAXPOOL_CELLS.values()],
    message:
        "Gather what the poolings of {wildcards.run} did"
    script:
        "../scripts/maxpool/traces.py"


rule maxpool_accuracy_by_beta:
    input:
        runs="results/{run}/maxpool/runs.csv",
        published="results/{run}/maxpool/published.csv",
        code=source("scripts/maxpool/accuracy_by_beta.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "programs", "datasets/__init__", "architectures/__init__"),
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
        published="results/{run}/maxpool/published.csv",
        code=source("scripts/maxpool/accuracy.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "programs", "datasets/__init__", "architectures/__init__"),
    output:
        **figure_files(
            f"maxpool/accuracy/{GROUP_PATH}",
            "maxpool/accuracy",
            dataset="{dataset}",
            architecture="{architecture}",
            optimizer="{optimizer}",
            precision="{precision}",
            relu="{relu_derivative}",
        ),
    log:
        f"logs/{{run}}/maxpool/accuracy/{GROUP_PATH}.log",
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
        code=source("scripts/maxpool/curves.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "programs", "datasets/__init__", "architectures/__init__"),
    output:
        **figure_files(
            f"maxpool/loss/{GROUP_PATH}",
            "maxpool/loss",
            dataset="{dataset}",
            architecture="{architecture}",
            optimizer="{optimizer}",
            precision="{precision}",
            relu="{relu_derivative}",
        ),
    log:
        f"logs/{{run}}/maxpool/loss/{GROUP_PATH}.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        group=maxpool_group,
        quantity="train_loss",
    message:
        "Draw loss: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
    script:
        "../scripts/maxpool/curves.py"


rule maxpool_accuracy_by_epoch:
    input:
        epochs="results/{run}/maxpool/epochs.csv",
        code=source("scripts/maxpool/curves.py", "lib/nonsmooth/nonsmooth.mplstyle")
        + library("plotting", "maxpool", "programs", "datasets/__init__", "architectures/__init__"),
    output:
        **figure_files(
            f"maxpool/accuracy_by_epoch/{GROUP_PATH}",
            "maxpool/accuracy_by_epoch",
            dataset="{dataset}",
            architecture="{architecture}",
            optimizer="{optimizer}",
            precision="{precision}",
            relu="{relu_derivative}",
        ),
    log:
        f"logs/{{run}}/maxpool/accuracy_by_epoch/{GROUP_PATH}.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        group=maxpool_group,
        quantity="test_accuracy",
    message:
        "Draw accuracy by epoch: {wildcards.architecture} on {wildcards.dataset}, {wildcards.optimizer}, {wildcards.precision}"
    script:
        "../scripts/maxpool/curves.py"


rule maxpool_tables:
    input:
        summary="results/{run}/maxpool/summary.csv",
        published="results/{run}/maxpool/published.csv",
        code=source("scripts/maxpool/tables.py")
        + library("tables", "plotting", "datasets/__init__", "architectures/__init__"),
    output:
        **table_files("summary", "final accuracy"),
        **table_files("published", "ours and published"),
    log:
        "logs/{run}/maxpool/tables.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Write the tables"
    script:
        "../scripts/maxpool/tables.py"


if MAXPOOL_TIES:

    rule maxpool_ties:
        input:
            prepared(MAXPOOL_TIES["dataset"], "test"),
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
            + library("plotting", "precision", "datasets/__init__", "architectures/__init__"),
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
