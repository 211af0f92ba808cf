# What the runs say of the claims in data/claims, and how often the rule of decision errs.


# A target: `snakemake claims`.
rule claims:
    input:
        expand("figures/{run}/claims.{format}", run=RUN, format=TABLE_FORMATS),
        expand("results/{run}/{table}.csv", run=RUN, table=["claims", "claims_conditions", "claims_simulation"]),
    message:
        "What the runs of {RUN} say of the claims is there"


rule claims_judge:
    input:
        claims="data/claims/maxpool.yaml",
        runs="results/{run}/maxpool/runs.csv",
        zone_shares=["results/{run}/maxpool/zone_tables/proportions_by_seed.csv"] if ZONE_CELLS else [],
        minibatches=["results/{run}/maxpool/zone_tables/minibatches.csv"] if ZONE_CELLS else [],
        pooling_errors=["results/{run}/maxpool/pooling_errors.csv"] if "pooling_errors" in config["maxpool"] else [],
        published=["data/published/training.csv", "data/published/zones.csv"],
        code=source("scripts/claims/claims_judge.py", "schemas/claims.schema.yaml")
        + library(
            "claims",
            "statistics",
            "factorial",
            "maxpool",
            "schema",
            "published",
            "programs",
            "precision",
            "rules",
            "cells",
            "datasets/__init__",
            "architectures/__init__",
            "zones/tables",
            "tables",
        ),
    output:
        results="results/{run}/claims.csv",
        conditions="results/{run}/claims_conditions.csv",
        csv=report(
            "figures/{run}/claims.csv",
            caption="../report/claims.rst",
            category="claims",
            labels={"table": "claims and verdicts"},
        ),
        md="figures/{run}/claims.md",
        tex="figures/{run}/claims.tex",
    log:
        "logs/{run}/claims_judge.log",
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=presets.claims_settings(config),
    message:
        "Judge the claims"
    script:
        "../scripts/claims/claims_judge.py"


rule claims_simulation:
    input:
        code=source("scripts/claims/claims_simulation.py") + library("simulation", "statistics"),
    output:
        "results/{run}/claims_simulation.csv",
    log:
        "logs/{run}/claims_simulation.log",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=presets.claims_settings(config),
    message:
        "Simulate how often the rule of decision errs"
    script:
        "../scripts/claims/claims_simulation.py"
