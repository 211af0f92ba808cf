# Speed, measured on this machine as ratios within one run: `snakemake benchmark`.


rule benchmark:
    input:
        f"results/{RUN}/benchmark/pooling.csv",
        f"results/{RUN}/benchmark/training_step.csv",
        f"results/{RUN}/benchmark/architectures.csv",
        f"results/{RUN}/benchmark/zones.csv",
    message:
        "All benchmarks are there"


rule benchmark_pooling:
    output:
        "results/{run}/benchmark/pooling.csv",
    log:
        "logs/{run}/benchmark/pooling.log",
    threads: workflow.cores or 1
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
    threads: workflow.cores or 1
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
    threads: workflow.cores or 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=CELL_GPUS,
    params:
        settings=SETTINGS,
    message:
        "Time a training step of every architecture on this machine"
    script:
        "../scripts/benchmark/architectures.py"


rule benchmark_zones:
    output:
        "results/{run}/benchmark/zones.csv",
    log:
        "logs/{run}/benchmark/zones.log",
    threads: workflow.cores or 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=CELL_GPUS,
    params:
        settings=SETTINGS,
        rounds=3,
    message:
        "Time the comparison of two programs on this machine"
    script:
        "../scripts/benchmark/zones.py"
