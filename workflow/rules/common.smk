# Validation before anything runs, wildcard constraints, and helpers of all rules.
import os
import time

from snakemake.exceptions import WorkflowError

try:
    from nonsmooth import config as presets
    from nonsmooth.datasets import DATASETS
    from nonsmooth.numerics import NUMERICS_VERSION
except ImportError as error:
    raise WorkflowError(
        f"{error}: the project's package is not installed in this environment. Run `make setup`, or "
        "`pip install -r requirements.txt && pip install --no-deps -e .`"
    )

SCHEMA = os.path.join(workflow.basedir, "workflow/schemas/config.schema.yaml")
CONFIG_FILES = [str(path) for path in workflow.overwrite_configfiles] or ["config/config.yaml"]

try:
    config = presets.check(config, SCHEMA)
except presets.ConfigError as error:
    raise WorkflowError(f"{' + '.join(map(os.path.relpath, CONFIG_FILES))}: {error}")

RUN = config["run"]
SETTINGS = {key: config[key] for key in ("device", "threads", "deterministic")}

if workflow.cores is not None and workflow.cores < SETTINGS["threads"]:
    raise WorkflowError(
        f"threads: {SETTINGS['threads']} per cell need --cores {SETTINGS['threads']} or more, got {workflow.cores}; "
        "sums depend on the number of threads, so Snakemake may not lower it"
    )


# By default glibc returns every large block to the system and faults it in again at the next training step.
for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(variable, str(2**30))


MAXPOOL_CELLS = {cell.path: cell for cell in presets.training_cells(config)}
MAXPOOL_CELL = "{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/seed{seed}"
MAXPOOL_GROUP = "{dataset}/{architecture}/{optimizer}/{precision}"
MAXPOOL_GROUPS = list(dict.fromkeys(MAXPOOL_GROUP.format(**cell.factors) for cell in MAXPOOL_CELLS.values()))
MAXPOOL_TIES = config["maxpool"].get("ties")
FIGURE_FORMATS = ["pdf", "svg", "png", "csv"]


def alternatives(factor):
    """The values of a factor in this preset, as a regular expression."""
    return "|".join(sorted({str(getattr(cell, factor)) for cell in MAXPOOL_CELLS.values()}))


def maxpool_cell(wildcards):
    path = MAXPOOL_CELL.format(**wildcards)
    if path not in MAXPOOL_CELLS:
        raise ValueError(f"{path}: not a cell of preset {RUN}; add it to maxpool.train in the configuration")
    return MAXPOOL_CELLS[path].to_dict()


def maxpool_group(wildcards):
    group = MAXPOOL_GROUP.format(**wildcards)
    if group not in MAXPOOL_GROUPS:
        raise ValueError(f"{group}: not in preset {RUN}, which has {', '.join(MAXPOOL_GROUPS)}")
    return group


def maxpool_figures():
    stems = ["accuracy_by_beta", *(f"{kind}/{group}" for kind in ("accuracy", "loss") for group in MAXPOOL_GROUPS)]
    return stems + (["tie_map"] if MAXPOOL_TIES else [])


MAXPOOL_CAPTIONS = ["accuracy_by_beta", "accuracy", "loss", "tie_map", "summary"]


wildcard_constraints:
    run=RUN,
    split="train|test",
    dataset="|".join(DATASETS),
    architecture=alternatives("architecture"),
    normalization=alternatives("normalization"),
    optimizer=alternatives("optimizer"),
    precision=alternatives("precision"),
    rule="[a-z0-9.+-]+",
    seed="[0-9]+",


def source(*names):
    """Files below workflow/ whose change makes a cheap rule's output stale."""
    return [os.path.relpath(os.path.join(workflow.basedir, "workflow", name)) for name in names]


def library(*modules):
    return source(*(f"lib/nonsmooth/{module}.py" for module in modules))


def figure_files(stem, caption, **labels):
    """Outputs of a figure: pdf, svg and png, and the plotted data; the svg is in Snakemake's report."""
    path = f"figures/{{run}}/{stem}"
    return {
        "pdf": f"{path}.pdf",
        "png": f"{path}.png",
        "svg": report(
            f"{path}.svg",
            caption=f"../report/{caption}.rst",
            category=stem.split("/")[0],
            subcategory=caption.split("/")[-1],
            labels=labels,
        ),
        "csv": f"{path}.csv",
    }


def duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


STARTED = time.time()


REPORT = f"figures/{RUN}/report.html"


onsuccess:
    where = f"Report: {REPORT}" if os.path.exists(REPORT) else f"Results: results/{RUN}, figures/{RUN}"
    print(f"Done in {duration(time.time() - STARTED)}. {where}", flush=True)


onerror:
    print(
        f"Stopped after {duration(time.time() - STARTED)}. What is finished is kept: if something failed, correct the "
        "cause; then run the same command again.",
        flush=True,
    )
