# What a run would cost, before it is started: `snakemake plan`. It prints, needs nothing and makes nothing but its log.


rule plan:
    log:
        f"logs/{RUN}/plan.log",
    localrule: True
    threads: CORES or 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        config=config,
        device="cuda" if CELL_GPUS else "cpu",
    message:
        "Plan of preset {RUN}"
    script:
        "../scripts/plan/plan.py"


# What finished cells took, beside what was expected of them.
rule plan_check:
    log:
        f"logs/{RUN}/plan_check.log",
    localrule: True
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        config=config,
        device="cuda" if CELL_GPUS else "cpu",
    message:
        "Plan of preset {RUN}, and what its finished cells took"
    script:
        "../scripts/plan/plan_check.py"
