# The report: one HTML file that needs nothing beside it.

CAPTIONS = ["accuracy_by_beta", "accuracy", "loss", "tie_map", "summary"]


def report_figures(wildcards):
    return expand("figures/{run}/maxpool/{stem}.svg", run=wildcards.run, stem=maxpool_figures())


rule report:
    input:
        figures=report_figures,
        runs="results/{run}/maxpool/runs.csv",
        summary="figures/{run}/maxpool/summary.csv",
        summary_formats=["figures/{run}/maxpool/summary.md", "figures/{run}/maxpool/summary.tex"],
        costs="results/{run}/maxpool/costs.csv",
        ties=["results/{run}/maxpool/ties.csv"] if MAXPOOL_TIES else [],
        records=expand("results/{{run}}/maxpool/train/{cell}/record.json", cell=MAXPOOL_CELLS),
        captions=source(*(f"report/maxpool/{name}.rst" for name in CAPTIONS)),
        code=source("scripts/report/report.py", "lib/nonsmooth/templates/report.html.j2")
        + library("report", "plotting", "maxpool"),
    output:
        "figures/{run}/report.html",
    log:
        "logs/{run}/report.log",
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        config=config,
        config_files=list(map(os.path.relpath, CONFIG_FILES)),
    script:
        "../scripts/report/report.py"
