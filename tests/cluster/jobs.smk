# Jobs that fail in every way that Slurm knows. They ask for what the rules of the project do, by the same helpers.


rule fails:
    output:
        "jobs/fails.txt",
    log:
        "logs/jobs/fails.log",
    resources:
        mem_mb=500,
        runtime=5,
    shell:
        "echo 'this is why it fails' > {log}; exit 1"


# Saves at SIGTERM, as a training does, and goes on from there.
rule out_of_time:
    output:
        "jobs/out_of_time.txt",
    log:
        "logs/jobs/out_of_time.log",
    resources:
        mem_mb=500,
        runtime=growing(lambda wildcards: 1),
    params:
        checkpoint="jobs/checkpoint.txt",
    script:
        "out_of_time.py"


rule gpu:
    output:
        "jobs/gpu-{number}.txt",
    resources:
        mem_mb=500,
        runtime=5,
        gpu=lambda wildcards: int(wildcards.number),
    shell:
        'echo "${{CUDA_VISIBLE_DEVICES:-none}}" > {output}'
