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


rule gpu:
    output:
        "jobs/gpu-{number}.txt",
    resources:
        mem_mb=500,
        runtime=5,
        gpu=lambda wildcards: int(wildcards.number),
    shell:
        'echo "${{CUDA_VISIBLE_DEVICES:-none}}" > {output}'
