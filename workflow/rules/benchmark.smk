# Speed, measured on this machine as ratios within one run: `snakemake benchmark`.


rule benchmark:
    input:
        expand("results/{run}/benchmark/{name}.csv", run=RUN, name=BENCHMARKS),
        expand("figures/{run}/benchmark/{name}.{format}", run=RUN, name=BENCHMARK_FIGURES, format=FIGURE_FORMATS),
    message:
        "All benchmarks and their figures are there"


rule benchmark_pooling:
    output:
        "results/{run}/benchmark/pooling.csv",
    log:
        "logs/{run}/benchmark/pooling.log",
    threads: CORES or 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=benchmark_settings,
    message:
        "Time max pooling on this machine"
    script:
        "../scripts/benchmark/pooling.py"


rule benchmark_training_step:
    output:
        "results/{run}/benchmark/training_step.csv",
    log:
        "logs/{run}/benchmark/training_step.log",
    threads: CORES or 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=benchmark_settings,
    message:
        "Time training steps on this machine"
    script:
        "../scripts/benchmark/training_step.py"


rule benchmark_architectures:
    output:
        "results/{run}/benchmark/architectures.csv",
    log:
        "logs/{run}/benchmark/architectures.log",
    threads: CORES or 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=CELL_GPUS,
        gpu_slots=WHOLE_GPU,
    params:
        settings=benchmark_settings,
    message:
        "Time a training step of every architecture on this machine"
    script:
        "../scripts/benchmark/architectures.py"


rule benchmark_rules:
    output:
        "results/{run}/benchmark/rules.csv",
    log:
        "logs/{run}/benchmark/rules.log",
    threads: CORES or 1
    resources:
        mem_mb=6000,
        runtime=60,
        gpu=CELL_GPUS,
        gpu_slots=WHOLE_GPU,
    params:
        settings=benchmark_settings,
    message:
        "Time a training step with every pooling rule on this machine"
    script:
        "../scripts/benchmark/rules.py"


rule benchmark_zones:
    output:
        "results/{run}/benchmark/zones.csv",
    log:
        "logs/{run}/benchmark/zones.log",
    threads: CORES or 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=CELL_GPUS,
        gpu_slots=WHOLE_GPU,
    params:
        settings=benchmark_settings,
    message:
        "Time the comparison of two programs on this machine"
    script:
        "../scripts/benchmark/zones.py"


rule benchmark_end_to_end:
    input:
        prepared("mnist_5k", "train"),
    output:
        "results/{run}/benchmark/end_to_end.csv",
    log:
        "logs/{run}/benchmark/end_to_end.log",
    threads: CORES or 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=benchmark_settings,
    message:
        "Time an epoch of the project and of a plain program on this machine"
    script:
        "../scripts/benchmark/end_to_end.py"


rule benchmark_side_by_side:
    input:
        prepared("mnist_5k", "train"),
    output:
        "results/{run}/benchmark/side_by_side.csv",
    log:
        "logs/{run}/benchmark/side_by_side.log",
    threads: CORES or 1
    resources:
        mem_mb=lambda wildcards, threads: 1000 * 2 * threads,
        runtime=30,
        gpu=CELL_GPUS,
        gpu_slots=WHOLE_GPU,
    params:
        settings=benchmark_settings,
        # Up to twice as many as there are cores, but eight on a GPU, where each has a context of its own.
        cells=lambda wildcards, threads: [2**power for power in range((8 if CELL_GPUS else 2 * threads).bit_length())],
    message:
        "Time several cells at once on this machine"
    script:
        "../scripts/benchmark/side_by_side.py"


for name in BENCHMARK_FIGURES:

    rule:
        name:
            f"benchmark_{name}_figure"
        input:
            measured=f"results/{{run}}/benchmark/{name}.csv",
            code=source(f"scripts/benchmark/{name}_figure.py", "lib/nonsmooth/nonsmooth.mplstyle")
            + library("plotting", "speed", "datasets/__init__", "architectures/__init__"),
        output:
            **figure_files(f"benchmark/{name}", f"benchmark/{name}", figure=name.replace("_", " ")),
        log:
            f"logs/{{run}}/benchmark/{name}_figure.log",
        resources:
            mem_mb=1000,
            runtime=5,
        message:
            f"Draw the benchmark {name}"
        script:
            f"../scripts/benchmark/{name}_figure.py"
