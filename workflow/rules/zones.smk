# Where autodiff is numerically wrong (arXiv 2401.02736): the zero function; gradients of two programs, minibatch by minibatch.

if ZONE_FUNCTION:

    rule maxpool_zero_function:
        input:
            code=source("scripts/maxpool/zero_function.py")
            + library("tables", "rules", "precision", "zones/zero_function"),
        output:
            **{
                name.removeprefix("zero_function_"): path
                for name, path in table_files("zero_function", "the zero function").items()
            },
            values="results/{run}/maxpool/zero_function.csv",
        log:
            "logs/{run}/maxpool/zero_function.log",
        resources:
            mem_mb=1500,
            runtime=5,
        params:
            zero_function=ZONE_FUNCTION,
        message:
            "Differentiate the zero function"
        script:
            "../scripts/maxpool/zero_function.py"


if ZONE_FUNCTION or ZONE_CELLS:

    # A target: `snakemake zones`.
    rule zones:
        input:
            expand("figures/{run}/maxpool/{stem}.{format}", run=RUN, stem=zone_figures(), format=FIGURE_FORMATS),
            expand("figures/{run}/maxpool/{table}.{format}", run=RUN, table=zone_tables(), format=TABLE_FORMATS),
        message:
            "All figures and tables of the zones are there"


if ZONE_CELLS:

    rule maxpool_zones:
        input:
            lambda wildcards: prepared(wildcards.dataset, presets.ZONES_SPLIT),
        output:
            minibatches=f"results/{{run}}/maxpool/zones/{ZONE_PATH}/minibatches.csv",
            layers=f"results/{{run}}/maxpool/zones/{ZONE_PATH}/layers.csv",
            record=f"results/{{run}}/maxpool/zones/{ZONE_PATH}/record.json",
        log:
            f"logs/{{run}}/maxpool/zones/{ZONE_PATH}.log",
        threads: cell_threads
        resources:
            # Replays hold a minibatch's activations in 64 bits.
            mem_mb=growing(
                lambda wildcards: ARCHITECTURES[wildcards.architecture].memory_mb
                * max(1, int(wildcards.batch_size) // 128)
            ),
            runtime=cell_runtime("zones"),
            gpu=CELL_GPUS,
            gpu_slots=gpu_slots,
        params:
            cell=lambda wildcards: zone_cell(wildcards).to_dict(),
            settings=SETTINGS,
            numerics_version=NUMERICS_VERSION,
        message:
            "Compare {wildcards.program} with {wildcards.reference}: {wildcards.architecture} on {wildcards.dataset}, normalization {wildcards.normalization}, {wildcards.precision}, batch size {wildcards.batch_size}, seed {wildcards.seed}"
        script:
            "../scripts/maxpool/zones.py"

    rule maxpool_zones_aggregate:
        input:
            minibatches=expand("results/{{run}}/maxpool/zones/{cell}/minibatches.csv", cell=ZONE_CELLS),
            layers=expand("results/{{run}}/maxpool/zones/{cell}/layers.csv", cell=ZONE_CELLS),
            records=expand("results/{{run}}/maxpool/zones/{cell}/record.json", cell=ZONE_CELLS),
            published="data/published/zones.csv",
            code=source("scripts/maxpool/zones_aggregate.py")
            + library("zones/tables", "records", "published", "cells", "numerics"),
        output:
            **{name: f"results/{{run}}/maxpool/zone_tables/{name}.csv" for name in ZONE_RESULTS},
        log:
            "logs/{run}/maxpool/zones_aggregate.log",
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            cells=[cell.to_dict() for cell in ZONE_CELLS.values()],
        message:
            "Gather the zones of {wildcards.run}"
        script:
            "../scripts/maxpool/zones_aggregate.py"

    rule maxpool_differences:
        input:
            minibatches="results/{run}/maxpool/zone_tables/minibatches.csv",
            code=zone_plot_code("differences"),
        output:
            **figure_files(
                "maxpool/differences/{dataset}/{architecture}/{normalization}",
                "maxpool/differences",
                dataset="{dataset}",
                architecture="{architecture}",
                normalization="{normalization}",
            ),
        log:
            "logs/{run}/maxpool/differences/{dataset}/{architecture}/{normalization}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=zone_group,
        message:
            "Draw differences of gradients: {wildcards.architecture} on {wildcards.dataset}, normalization {wildcards.normalization}"
        script:
            "../scripts/maxpool/differences.py"

    rule maxpool_classes:
        input:
            classes="results/{run}/maxpool/zone_tables/classes.csv",
            code=zone_plot_code("classes"),
        output:
            **figure_files(
                "maxpool/classes/{dataset}/{architecture}",
                "maxpool/classes",
                dataset="{dataset}",
                architecture="{architecture}",
            ),
        log:
            "logs/{run}/maxpool/classes/{dataset}/{architecture}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=zone_group,
        message:
            "Draw the classes of minibatches: {wildcards.architecture} on {wildcards.dataset}"
        script:
            "../scripts/maxpool/classes.py"

    rule maxpool_proportions:
        input:
            proportions="results/{run}/maxpool/zone_tables/proportions.csv",
            proportions_by_seed="results/{run}/maxpool/zone_tables/proportions_by_seed.csv",
            published="results/{run}/maxpool/zone_tables/published.csv",
            code=zone_plot_code("proportions"),
        output:
            **figure_files("maxpool/proportions/{dataset}", "maxpool/proportions", dataset="{dataset}"),
        log:
            "logs/{run}/maxpool/proportions/{dataset}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=zone_group,
        message:
            "Draw the share of minibatches above the threshold: {wildcards.dataset}"
        script:
            "../scripts/maxpool/proportions.py"

    rule maxpool_ties_by_layer:
        input:
            layers="results/{run}/maxpool/zone_tables/layers.csv",
            code=zone_plot_code("ties_by_layer"),
        output:
            **figure_files(
                "maxpool/ties_by_layer/{dataset}/{architecture}/{normalization}",
                "maxpool/ties_by_layer",
                dataset="{dataset}",
                architecture="{architecture}",
                normalization="{normalization}",
            ),
        log:
            "logs/{run}/maxpool/ties_by_layer/{dataset}/{architecture}/{normalization}.log",
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            group=zone_group,
        message:
            "Draw ties by layer: {wildcards.architecture} on {wildcards.dataset}, normalization {wildcards.normalization}"
        script:
            "../scripts/maxpool/ties_by_layer.py"

    rule maxpool_zone_tables:
        input:
            **{
                name: f"results/{{run}}/maxpool/zone_tables/{name}.csv"
                for name in ("proportions", "magnitudes", "misjudged", "pure_rounding", "thresholds")
            },
            code=source("scripts/maxpool/zone_tables.py")
            + library("plotting", "tables", "datasets/__init__", "architectures/__init__"),
        output:
            **table_files("zone_proportions", "minibatches above the threshold"),
            **table_files("magnitudes", "magnitudes of differences"),
            **table_files("misjudged", "what a threshold misjudges"),
            **table_files("pure_rounding", "what is above the threshold"),
            **table_files("thresholds", "thresholds"),
        log:
            "logs/{run}/maxpool/zone_tables.log",
        resources:
            mem_mb=1000,
            runtime=5,
        message:
            "Write the tables of the zones"
        script:
            "../scripts/maxpool/zone_tables.py"
