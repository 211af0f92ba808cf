# Replication of papers on the numerical reliability of nonsmooth automatic differentiation.
#
# Paths, outermost factor first, one directory per factor:
#   results/{run}/maxpool/train/{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/relu-{relu_derivative}/seed{seed}/
#   results/{run}/maxpool/weights/{dataset}/{architecture}/{normalization}/{precision}/{program}-vs-{reference}/seed{seed}/
#   results/{run}/maxpool/*.csv             tables over all cells
#   figures/{run}/maxpool/...               figures (pdf, svg, png) with the plotted data (csv), and tables
#   results/{run}/benchmark/*.csv           the speed of this machine, drawn in figures/{run}/benchmark
#   figures/{run}/report.html               the report
#   logs/{run}/...                          mirror results (logs/data of the preparation of data)
#   data/prepared/{dataset}/{split}.npy     checked data, shared by all presets
# where run is the name of the preset. Loaded with profiles/default; config/README.md documents the configuration.
from snakemake.utils import min_version

min_version("9.10")


# Snakemake merges configuration files deeply, and presets are whole, so the default is read only on its own.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/maxpool.smk"
include: "workflow/rules/factorial.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/zones.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/mitigations.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/plan.smk"


rule all:
    default_target: True
    input:
        REPORT,
    message:
        "Everything of preset {RUN} is there"


# A scheduler gets what computes for long, and the benchmarks. The rest takes seconds to minutes and runs beside Snakemake.
SUBMITTED = {"maxpool_search", "maxpool_train", "maxpool_weights", "maxpool_zones", "maxpool_pooling_errors"}
SUBMITTED |= {f"benchmark_{name}" for name in BENCHMARKS}
workflow.localrules(*({rule.name for rule in workflow.rules} - SUBMITTED))
