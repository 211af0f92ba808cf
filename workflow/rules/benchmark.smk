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
        gpu=CELL_GPUS,
        gpu_slots=WHOLE_GPU,
    params:
        settings=benchmark_settings,
    message:
        "Time max pooling on this machine"
    script:
        "../scripts/benchmark/pooling.py"


rule benchmark_pooling_figure:
    input:
        measured="results/{run}/benchmark/pooling.csv",
        code=benchmark_plot_code("pooling"),
    output:
        **figure_files("benchmark/pooling", "benchmark/pooling", figure="pooling"),
    log:
        "logs/{run}/benchmark/pooling_figure.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw the benchmark of max pooling"
    script:
        "../scripts/benchmark/pooling_figure.py"


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


rule benchmark_architectures_figure:
    input:
        measured="results/{run}/benchmark/architectures.csv",
        code=benchmark_plot_code("architectures"),
    output:
        **figure_files("benchmark/architectures", "benchmark/architectures", figure="architectures"),
    log:
        "logs/{run}/benchmark/architectures_figure.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw the benchmark of architectures"
    script:
        "../scripts/benchmark/architectures_figure.py"


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


rule benchmark_zones_figure:
    input:
        measured="results/{run}/benchmark/zones.csv",
        code=benchmark_plot_code("zones"),
    output:
        **figure_files("benchmark/zones", "benchmark/zones", figure="zones"),
    log:
        "logs/{run}/benchmark/zones_figure.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw the benchmark of zones"
    script:
        "../scripts/benchmark/zones_figure.py"


rule benchmark_end_to_end:
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


rule benchmark_end_to_end_figure:
    input:
        measured="results/{run}/benchmark/end_to_end.csv",
        code=benchmark_plot_code("end_to_end"),
    output:
        **figure_files("benchmark/end_to_end", "benchmark/end_to_end", figure="end to end"),
    log:
        "logs/{run}/benchmark/end_to_end_figure.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw the benchmark beside a plain program"
    script:
        "../scripts/benchmark/end_to_end_figure.py"


rule benchmark_starting:
    output:
        "results/{run}/benchmark/starting.csv",
    log:
        "logs/{run}/benchmark/starting.log",
    threads: CORES or 1
    resources:
        mem_mb=3000,
        runtime=15,
    params:
        settings=benchmark_settings,
    message:
        "Time the start of scripts on this machine"
    script:
        "../scripts/benchmark/starting.py"


rule benchmark_side_by_side:
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


rule benchmark_side_by_side_figure:
    input:
        measured="results/{run}/benchmark/side_by_side.csv",
        code=benchmark_plot_code("side_by_side"),
    output:
        **figure_files("benchmark/side_by_side", "benchmark/side_by_side", figure="side by side"),
    log:
        "logs/{run}/benchmark/side_by_side_figure.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Draw the benchmark of several cells at once"
    script:
        "../scripts/benchmark/side_by_side_figure.py"


rule benchmark_planning:
    output:
        "results/{run}/benchmark/planning.csv",
    log:
        "logs/{run}/benchmark/planning.log",
    threads: CORES or 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=benchmark_settings,
    message:
        "Time Snakemake's planning on this machine"
    script:
        "../scripts/benchmark/planning.py"
