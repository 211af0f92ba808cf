# What helps: other poolings and safeguards beside native and composed max pooling.


rule maxpool_mitigations:
    input:
        runs="results/{run}/maxpool/runs.csv",
        proportions=["results/{run}/maxpool/zone_tables/proportions.csv"] if ZONE_CELLS else [],
        code=source("scripts/maxpool/mitigations.py")
        + library(
            "mitigations", "rules", "statistics", "tables", "plotting", "datasets/__init__", "architectures/__init__"
        ),
    output:
        **table_files("mitigations", "what helps"),
        table="results/{run}/maxpool/mitigations.csv",
    log:
        "logs/{run}/maxpool/mitigations.log",
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Compare the mitigations"
    script:
        "../scripts/maxpool/mitigations.py"
