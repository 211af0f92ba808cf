# Speed, measured on this machine as ratios within one run: `snakemake benchmark`.


rule benchmark:
    input:
        f"results/{RUN}/benchmark/pooling.csv",
        f"results/{RUN}/benchmark/training_step.csv",
        f"results/{RUN}/benchmark/architectures.csv",
        f"results/{RUN}/benchmark/rules.csv",
        f"results/{RUN}/benchmark/zones.csv",
        f"results/{RUN}/benchmark/end_to_end.csv",
        f"results/{RUN}/benchmark/side_by_side.csv",
        f"results/{RUN}/benchmark/planning.csv",
    message:
        "All benchmarks are there"


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
        rounds=30,
        threads=SETTINGS["threads"],
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
        rounds=20,
        threads=SETTINGS["threads"],
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
        settings=SETTINGS,
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
        settings=SETTINGS,
        rounds=20,
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
        settings=SETTINGS,
        rounds=3,
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
        rounds=5,
        threads=SETTINGS["threads"],
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
        settings=SETTINGS,
        seconds=10,
        # Up to twice as many as there are cores, but eight on a GPU, where each has a context of its own.
        cells=lambda wildcards, threads: [2**power for power in range((8 if CELL_GPUS else 2 * threads).bit_length())],
    message:
        "Time several cells at once on this machine"
    script:
        "../scripts/benchmark/side_by_side.py"


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
        cells=[100, 1_000, 10_000],
        presets=["config/presets/paper.yaml"],
    message:
        "Time Snakemake's planning on this machine"
    script:
        "../scripts/benchmark/planning.py"
