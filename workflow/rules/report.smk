# The report: one HTML file that needs nothing beside it.


rule report:
    input:
        figures=expand("figures/{{run}}/maxpool/{stem}.svg", stem=[*maxpool_figures(), *zone_figures()]),
        runs="results/{run}/maxpool/runs.csv",
        summary="figures/{run}/maxpool/summary.csv",
        published="figures/{run}/maxpool/published.csv",
        other_formats=expand(
            "figures/{{run}}/maxpool/{table}.{format}",
            table=["summary", "published", "mitigations"],
            format=TABLE_FORMATS[1:],
        ),
        searches=["results/{run}/maxpool/searches.csv"] if MAXPOOL_SEARCHES else [],
        costs="results/{run}/maxpool/costs.csv",
        claims="results/{run}/claims.csv",
        claims_conditions="results/{run}/claims_conditions.csv",
        claims_readable="figures/{run}/claims.csv",
        other_claims_formats=expand("figures/{{run}}/claims.{format}", format=TABLE_FORMATS[1:]),
        mitigations="figures/{run}/maxpool/mitigations.csv",
        layers=["results/{run}/maxpool/layers.csv"] if PROGRAM_GROUPS else [],
        factorial=["results/{run}/maxpool/factorial.csv"] if FACTORIAL_GROUPS else [],
        factorial_effects=["results/{run}/maxpool/factorial_effects.csv"] if FACTORIAL_GROUPS else [],
        ties=["results/{run}/maxpool/ties.csv"] if MAXPOOL_TIES else [],
        zone_results=(
            [f"results/{{run}}/maxpool/zone_tables/{name}.csv" for name in ZONE_RESULTS if name != "minibatches"]
            if ZONE_CELLS
            else []
        ),
        zone_tables=expand("figures/{{run}}/maxpool/{table}.csv", table=zone_tables()),
        other_zone_formats=expand(
            "figures/{{run}}/maxpool/{table}.{format}", table=zone_tables(), format=TABLE_FORMATS[1:]
        ),
        records=of_every_cell("record.json"),
        benchmarks=finished_benchmarks("results/{run}/benchmark/{name}.csv", BENCHMARKS),
        benchmark_figures=finished_benchmarks("figures/{run}/benchmark/{name}.svg", BENCHMARK_FIGURES),
        captions=source("report/claims.rst", *(f"report/maxpool/{name}.rst" for name in MAXPOOL_CAPTIONS)),
        benchmark_captions=source(*(f"report/benchmark/{name}.rst" for name in BENCHMARK_FIGURES)),
        code=source("scripts/report/report.py", "lib/nonsmooth/templates/report.html.j2")
        + library(
            "report",
            "front_page",
            "claims",
            "statistics",
            "plotting",
            "maxpool",
            "precision",
            "speed",
            "zones/chapter",
            "zones/tables",
            "datasets/__init__",
            "architectures/__init__",
        ),
    output:
        "figures/{run}/report.html",
    log:
        "logs/{run}/report.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        # Not read: another configuration is another report.
        config=config,
        config_files=list(map(os.path.relpath, CONFIG_FILES)),
        overrides=OVERRIDES,
    message:
        "Write the report"
    script:
        "../scripts/report/report.py"
