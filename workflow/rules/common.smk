# Validation before anything runs, wildcard constraints, and helpers of all rules.
import os
import time

from snakemake.exceptions import WorkflowError

try:
    from nonsmooth import config as presets
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


wildcard_constraints:
    run=RUN,
    split="train|test",


def source(*names):
    """Files below workflow/ whose change makes a cheap rule's output stale."""
    return [os.path.relpath(os.path.join(workflow.basedir, "workflow", name)) for name in names]


def library(*modules):
    return source(*(f"lib/nonsmooth/{module}.py" for module in modules))


def figure_files(stem, caption, **labels):
    """Outputs of a figure: pdf, svg and png, and the plotted data; the svg is in Snakemake's report."""
    category, *rest = stem.split("/")
    path = f"figures/{{run}}/{stem}"
    return {
        "pdf": f"{path}.pdf",
        "png": f"{path}.png",
        "svg": report(
            f"{path}.svg",
            caption=f"../report/{caption}.rst",
            category=category,
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


onsuccess:
    print(f"Done in {duration(time.time() - STARTED)}. Report: figures/{RUN}/report.html", flush=True)


onerror:
    print(
        f"Stopped after {duration(time.time() - STARTED)}. What is finished is kept: correct the cause and run the same "
        "command again.",
        flush=True,
    )
