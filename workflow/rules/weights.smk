# Distance between the weights that two programs train (arXiv 2401.02736): train pairs, gather them, draw.

if WEIGHTS_CELLS:

    # A target: `snakemake weights`.
    rule weights:
        input:
            expand("figures/{run}/maxpool/weights_distance.{format}", run=RUN, format=FIGURE_FORMATS),
        message:
            "The figure of the weights is there"

    rule maxpool_weights:
        input:
            train=lambda wildcards: prepared(wildcards.dataset, weights_cell(wildcards).train_split),
            test=lambda wildcards: prepared(wildcards.dataset, "test"),
        output:
            epochs=f"results/{{run}}/maxpool/weights/{WEIGHTS_PATH}/epochs.csv",
            record=f"results/{{run}}/maxpool/weights/{WEIGHTS_PATH}/record.json",
        log:
            f"logs/{{run}}/maxpool/weights/{WEIGHTS_PATH}.log",
        threads: cell_threads
        resources:
            # Two networks, one of which waits.
            mem_mb=growing(lambda wildcards: ARCHITECTURES[wildcards.architecture].memory_mb + 500),
            runtime=cell_runtime("weights"),
            gpu=CELL_GPUS,
            gpu_slots=gpu_slots,
        params:
            cell=lambda wildcards: weights_cell(wildcards).to_dict(),
            settings=SETTINGS,
            numerics_version=NUMERICS_VERSION,
        message:
            "Train {wildcards.program} beside {wildcards.reference}: {wildcards.architecture} on {wildcards.dataset}, normalization {wildcards.normalization}, {wildcards.precision}, seed {wildcards.seed}"
        script:
            "../scripts/maxpool/weights.py"

    rule maxpool_weights_tables:
        input:
            epochs=expand("results/{{run}}/maxpool/weights/{cell}/epochs.csv", cell=WEIGHTS_CELLS),
            records=expand("results/{{run}}/maxpool/weights/{cell}/record.json", cell=WEIGHTS_CELLS),
            code=source("scripts/maxpool/weights_tables.py") + library("maxpool", "cells", "numerics"),
        output:
            "results/{run}/maxpool/weights.csv",
        log:
            "logs/{run}/maxpool/weights_tables.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            cells=[cell.to_dict() for cell in WEIGHTS_CELLS.values()],
        message:
            "Gather the distances of weights"
        script:
            "../scripts/maxpool/weights_tables.py"

    rule maxpool_weights_distance:
        input:
            weights="results/{run}/maxpool/weights.csv",
            code=source("scripts/maxpool/weights_distance.py", "lib/nonsmooth/nonsmooth.mplstyle")
            + library("plotting", "maxpool", "datasets/__init__", "architectures/__init__"),
        output:
            **figure_files("maxpool/weights_distance", "maxpool/weights_distance", figure="distance between weights"),
        log:
            "logs/{run}/maxpool/weights_distance.log",
        resources:
            mem_mb=1000,
            runtime=5,
        message:
            "Draw the distance between weights"
        script:
            "../scripts/maxpool/weights_distance.py"
