# Validation before anything runs, wildcard constraints, and helpers of all rules.
import atexit
import gc
import os
import re
import shutil
import signal
import time
from functools import cache, partial
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.enums import Quietness

try:
    import nonsmooth
    from nonsmooth import config as presets
    from nonsmooth import leases
    from nonsmooth.cells import CONDITION_PATH, GROUP, GROUP_PATH, PATH, SEARCH, WEIGHTS_PATH, ZONE_PATH
    from nonsmooth.datasets import DATASETS
    from nonsmooth.architectures import ARCHITECTURES
    from nonsmooth.numerics import NUMERICS_VERSION
    from nonsmooth import costs, preloading, programs, signals
    from nonsmooth.progress import Job, Progress, duration
except ImportError as error:
    raise WorkflowError(
        f"{error}: the project's package is not installed in this environment. Run `make setup`, or "
        "`pip install -r requirements.txt && pip install --no-deps -e .`"
    )

# Otherwise changes of this checkout's library would be ignored without a word.
if not Path(nonsmooth.__file__).resolve().is_relative_to(Path(workflow.basedir).resolve()):
    raise WorkflowError(
        f"the library is imported from {os.path.dirname(nonsmooth.__file__)}, which is not in this checkout: run `make "
        "setup` here, or `pip install --no-deps -e .`"
    )

CONFIG_FILES = [str(path) for path in workflow.overwrite_configfiles] or ["config/config.yaml"]
OVERRIDES = dict(workflow.config_settings.config)

try:
    config = presets.check(presets.with_overrides(config, OVERRIDES))
except presets.ConfigError as error:
    where = " + ".join(map(os.path.relpath, CONFIG_FILES)) + (" + --config" if OVERRIDES else "")
    raise WorkflowError(f"{where}: {error}")

# Slurm signals the first process of a job only, which is Snakemake, and Snakemake waits for its script.
if workflow.remote_exec:
    signals.pass_on(signal.SIGTERM)

RUN = config["run"]
SETTINGS = {key: config[key] for key in ("device", "threads", "deterministic")}

for notice in presets.left_out(config).values():
    logger.warning(notice)

# None with a scheduler, whose jobs get as many cores as they have threads.
CORES = workflow.resource_settings.cores
if CORES is not None and CORES < SETTINGS["threads"]:
    raise WorkflowError(
        f"threads: {SETTINGS['threads']} per cell need --cores {SETTINGS['threads']} or more, got {CORES}; "
        "sums depend on the number of threads, so Snakemake may not lower it"
    )


# Snakemake itself would stop with a traceback, without a lock.
if workflow.is_main_process and shutil.disk_usage(".").free < 2**20:
    raise WorkflowError(f"no space left on the disk of {os.getcwd()}; free some and run the same command again")


# By default glibc returns every large block to the system and faults it in again at the next training step.
for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(variable, str(2**30))


# A plan of thousands of jobs is millions of objects that stay. Python would look through all of them for garbage again and again, and
# once more at its end.
if workflow.is_main_process:
    gc.disable()
    atexit.register(gc.freeze)


PRIORITIES = presets.priorities(config)
MAXPOOL_CELLS = {cell.path: cell for cell in PRIORITIES}
MAXPOOL_SETUPS = presets.search_cells(PRIORITIES, presets.search_settings(config))
MAXPOOL_GROUPS = {GROUP_PATH.format(**cell.wildcards): cell for cell in MAXPOOL_CELLS.values()}
MAXPOOL_TIES = config["maxpool"].get("ties")
# The groups that have figures against beta, of partial programs, and of a whole factorial.
BETA_GROUPS = programs.groups_against_beta(MAXPOOL_CELLS.values())
PROGRAM_GROUPS = programs.groups_with_partial_programs(MAXPOOL_CELLS.values())
FACTORIAL_GROUPS = programs.groups_with_whole_factorials(MAXPOOL_CELLS.values())
POOLING_ERRORS = presets.pooling_errors_settings(config)
WEIGHTS_CELLS = {cell.path: cell for cell in presets.weights_cells(config)}
ZONE_CELLS = {cell.path: cell for cell in presets.zone_cells(config)}
ZONE_FUNCTION = config["maxpool"].get("zero_function")
SPLITS = presets.splits(config, MAXPOOL_CELLS.values())
FIGURE_FORMATS = ["pdf", "svg", "png", "csv"]
TABLE_FORMATS = ["csv", "md", "tex"]


def alternatives(factor):
    """The values of a factor in this preset, as a regular expression."""
    cells = [*MAXPOOL_CELLS.values(), *MAXPOOL_SETUPS.values(), *WEIGHTS_CELLS.values(), *ZONE_CELLS.values()]
    return "|".join(sorted({re.escape(cell.wildcards[factor]) for cell in cells if factor in cell.wildcards}))


def maxpool_cell(wildcards):
    path = PATH.format(**wildcards)
    if path not in MAXPOOL_CELLS:
        raise ValueError(f"{path}: not a cell of preset {RUN}; add it to maxpool.train in the configuration")
    return MAXPOOL_CELLS[path]


def weights_cell(wildcards):
    path = WEIGHTS_PATH.format(**wildcards)
    if path not in WEIGHTS_CELLS:
        raise ValueError(f"{path}: not a cell of preset {RUN}; add it to maxpool.weights in the configuration")
    return WEIGHTS_CELLS[path]


def zone_cell(wildcards):
    path = ZONE_PATH.format(**wildcards)
    if path not in ZONE_CELLS:
        raise ValueError(f"{path}: not a cell of preset {RUN}; add it to maxpool.zones in the configuration")
    return ZONE_CELLS[path]


def zone_group(wildcards):
    """What the wildcards of a figure of zones choose, if the preset has it."""
    group = {factor: value for factor, value in wildcards.items() if factor != "run"}
    if not any(all(cell.wildcards[factor] == value for factor, value in group.items()) for cell in ZONE_CELLS.values()):
        raise ValueError(f"{'/'.join(group.values())}: no zones of it in preset {RUN}; add them to maxpool.zones")
    return group


def maxpool_search(cell):
    """The path of the search that finds a cell's learning rate."""
    return presets.searched_cell(cell, presets.search_settings(config)).condition_path


MAXPOOL_SEARCHES = {
    path: MAXPOOL_SETUPS[path]
    for path in dict.fromkeys(maxpool_search(cell) for cell in MAXPOOL_CELLS.values() if cell.learning_rate == SEARCH)
}


def maxpool_group(wildcards):
    group = GROUP_PATH.format(**wildcards)
    if group not in MAXPOOL_GROUPS:
        raise ValueError(f"{group}: not in preset {RUN}, which has {', '.join(MAXPOOL_GROUPS)}")
    return {factor: getattr(MAXPOOL_GROUPS[group], factor) for factor in GROUP}


def factorial_group(wildcards):
    if GROUP_PATH.format(**wildcards) not in FACTORIAL_GROUPS:
        raise ValueError(f"{GROUP_PATH.format(**wildcards)}: no seed of it has all eight programs in preset {RUN}")
    return maxpool_group(wildcards)


def program_group(wildcards):
    if GROUP_PATH.format(**wildcards) not in PROGRAM_GROUPS:
        raise ValueError(f"{GROUP_PATH.format(**wildcards)}: no partial program of it in preset {RUN}")
    return maxpool_group(wildcards)


def of_every_cell(name):
    """A file of every trained cell. A function, so that the job of one cell does not write down thousands of paths first."""
    return lambda wildcards: expand(
        "results/{run}/maxpool/train/{cell}/{name}", run=wildcards.run, cell=MAXPOOL_CELLS, name=name
    )


def prepared(dataset, split):
    return ancient(f"data/prepared/{dataset}/{split}.npy")


def trained_from(wildcards):
    """What a training run reads: images, and the result of a search if it waits for one."""
    # One function for all: Snakemake inspects a function anew at each of its calls.
    cell = maxpool_cell(wildcards)
    chosen = f"results/{RUN}/maxpool/search/{maxpool_search(cell)}/chosen.json"
    return {
        "train": prepared(cell.dataset, cell.train_split),
        "test": prepared(cell.dataset, "test"),
        "search": [chosen] if cell.learning_rate == SEARCH else [],
    }


def data_folder(wildcards):
    """Where the files of a dataset are: the folder of the configuration, what `fetch` downloaded, or nowhere."""
    if DATASETS[wildcards.dataset].is_embedded:
        return None
    path = config["datasets"].get(wildcards.dataset, {}).get("path", f"data/raw/{wildcards.dataset}")
    return os.path.expanduser(path)


def is_fetched(name):
    dataset = DATASETS[name]
    return bool(dataset.files) and "path" not in config["datasets"].get(name, {})


def fetch_receipt(wildcards):
    return [ancient(f"data/raw/{wildcards.dataset}/fetched.json")] if is_fetched(wildcards.dataset) else []


def cell_threads(wildcards):
    """Threads that compute, and processes that decode images where they are read while training."""
    return SETTINGS["threads"] + (config["workers"] if DATASETS[wildcards.dataset].streamed else 0)


def growing(amount):
    """A resource that is `amount(wildcards)` at a job's first attempt, and twice and three times as much at the next."""
    return lambda wildcards, attempt: attempt * amount(wildcards)


# What the jobs of the rules `maxpool_<part>` make, by part.
CELL_OF = {
    "search": lambda wildcards: MAXPOOL_SETUPS[CONDITION_PATH.format(**wildcards)],
    "train": maxpool_cell,
    "weights": weights_cell,
    "zones": zone_cell,
}


@cache
def benchmarks():
    """Measured times, of this machine if there are any; None if there are none of its kind of device."""
    try:
        return costs.find(Path("results"), "cuda" if CELL_GPUS else "cpu", SETTINGS["threads"])
    except ValueError:  # `snakemake plan` says what is wrong
        return None


def expected_seconds(part, wildcards):
    """How long a cell takes, or None where that is not known."""
    trials = presets.search_settings(config)["trials"] if part == "search" else 1
    cell = CELL_OF[part](wildcards)
    return benchmarks() and benchmarks().seconds(costs.Job(part, cell, cell.path, trials))


def cell_runtime(part):
    """Minutes after which a scheduler ends the first attempt at a cell: three times what it takes, as nodes differ, and a quarter of an
    hour at least; a day where that is not known."""

    def minutes(wildcards):
        seconds = expected_seconds(part, wildcards)
        return 1440 if seconds is None else 15 + round(3 * seconds / 60)

    return growing(minutes)


# A scheduler's profile sets `jobs`, and a plain run `cores`. The machine where jobs are submitted need not have their GPU.
HAS_SCHEDULER = workflow.resource_settings.nodes is not None
GPUS = leases.visible_gpus() if SETTINGS["device"] != "cpu" else []
if SETTINGS["device"] == "auto" and not (GPUS or HAS_SCHEDULER):
    logger.warning(f"device: auto, and no GPU here: on this machine {len(MAXPOOL_CELLS):,} cells train on the CPU")
# One GPU per job, where the device is one, and how much of it a job has for itself, in slots.
CELL_GPUS = 1 if SETTINGS["device"] == "cuda" or GPUS or (SETTINGS["device"] == "auto" and HAS_SCHEDULER) else 0
WHOLE_GPU = CELL_GPUS * config["jobs_per_gpu"]


def gpu_slots(wildcards):
    """A whole GPU, but one slot for a network that leaves most of it idle."""
    return CELL_GPUS if ARCHITECTURES[wildcards.architecture].shares_gpu else WHOLE_GPU


# Jobs on this machine fill its GPUs; on a cluster the scheduler knows how many there are.
if workflow.is_main_process and not HAS_SCHEDULER and "gpu_slots" not in workflow.global_resources:
    workflow.register_resource("gpu_slots", max(1, len(GPUS)) * config["jobs_per_gpu"])


MAXPOOL_GROUP_FIGURES = ["accuracy", "accuracy_by_epoch", "loss"]
FACTORIAL_FIGURES = ["factorial", "factorial_effects"]
PROGRAM_FIGURES = ["programs_by_beta", "max_activation"]


# The tables of zones over all cells, and those that are for readers, too.
ZONE_RESULTS = [
    "minibatches",
    "layers",
    "proportions",
    "proportions_by_seed",
    "classes",
    "magnitudes",
    "misjudged",
    "pure_rounding",
    "thresholds",
    "published",
    "costs",
]
ZONE_TABLES = ["zone_proportions", "magnitudes", "misjudged", "pure_rounding", "thresholds"]
# The figures of zones, and what each is drawn for.
ZONE_FIGURES = {
    "proportions": "{dataset}",
    "classes": "{dataset}/{architecture}",
    "differences": "{dataset}/{architecture}/{normalization}",
    "ties_by_layer": "{dataset}/{architecture}/{normalization}",
}


def zone_figures():
    return [
        stem
        for kind, group in ZONE_FIGURES.items()
        for stem in dict.fromkeys(f"{kind}/{group.format(**cell.wildcards)}" for cell in ZONE_CELLS.values())
    ]


def zone_tables():
    return (["zero_function"] if ZONE_FUNCTION else []) + (ZONE_TABLES if ZONE_CELLS else [])


def maxpool_figures():
    """Of all training; the zones have their own."""
    stems = ["accuracy_by_beta"] if BETA_GROUPS else []
    stems += [f"{kind}/{group}" for kind in MAXPOOL_GROUP_FIGURES for group in BETA_GROUPS]
    stems += [f"{kind}/{group}" for kind in FACTORIAL_FIGURES for group in FACTORIAL_GROUPS]
    stems += [f"{kind}/{group}" for kind in PROGRAM_FIGURES for group in PROGRAM_GROUPS]
    stems += ["pooling_error"] if POOLING_ERRORS else []
    return stems + (["tie_map"] if MAXPOOL_TIES else []) + (["weights_distance"] if WEIGHTS_CELLS else [])


MAXPOOL_CAPTIONS = [
    "accuracy_by_beta",
    *MAXPOOL_GROUP_FIGURES,
    *FACTORIAL_FIGURES,
    *PROGRAM_FIGURES,
    "pooling_error",
    "tie_map",
    "weights_distance",
    "summary",
    "published",
    "mitigations",
    *ZONE_FIGURES,
    *ZONE_TABLES,
    "zero_function",
]


# In the order of the report, and those that are drawn.
BENCHMARKS = [
    "pooling",
    "training_step",
    "rules",
    "architectures",
    "zones",
    "end_to_end",
    "starting",
    "side_by_side",
    "planning",
]
BENCHMARK_FIGURES = ["pooling", "architectures", "zones", "end_to_end", "side_by_side"]


def finished_benchmarks(path, names):
    """The path of every benchmark among `names` that was run: the report has these, and waits for no other one."""
    return lambda wildcards: [
        path.format(run=wildcards.run, name=name)
        for name in names
        if os.path.exists(f"results/{wildcards.run}/benchmark/{name}.csv")
    ]


def benchmark_settings(wildcards, output):
    """`SETTINGS`, but as what depends on the output Snakemake compares with no earlier run, so that it repeats no benchmark."""
    return SETTINGS


wildcard_constraints:
    run=RUN,
    split="|".join(sorted({split for dataset in DATASETS.values() for split in dataset.sizes})),
    dataset="|".join(DATASETS),
    architecture=alternatives("architecture"),
    normalization=alternatives("normalization"),
    optimizer=alternatives("optimizer"),
    precision=alternatives("precision"),
    rule="[a-z0-9_.+-]+",
    relu_derivative=alternatives("relu_derivative"),
    program="[a-z0-9_.+-]+",
    reference="[a-z0-9_.+-]+",
    batch_size="[0-9]+",
    noise="[0-9.e+-]+",
    kernels="deterministic|default",
    seed="[0-9]+",


def source(*names):
    """Files below workflow/ whose change makes a cheap rule's output stale."""
    return [os.path.relpath(os.path.join(workflow.basedir, "workflow", name)) for name in names]


def library(*modules):
    return source(*(f"lib/nonsmooth/{module}.py" for module in modules))


def zone_plot_code(name):
    return source(f"scripts/maxpool/{name}.py", "lib/nonsmooth/nonsmooth.mplstyle") + library(
        "plotting", "maxpool", "zones/tables", "datasets/__init__", "architectures/__init__"
    )


def benchmark_plot_code(name):
    return source(f"scripts/benchmark/{name}_figure.py", "lib/nonsmooth/nonsmooth.mplstyle") + library(
        "plotting", "speed", "datasets/__init__", "architectures/__init__"
    )


def program_plot_code(name, *modules):
    return source(f"scripts/maxpool/{name}.py", "lib/nonsmooth/nonsmooth.mplstyle") + library(
        "plotting", "maxpool", "programs", "rules", *modules, "datasets/__init__", "architectures/__init__"
    )


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


def program_figure_files(name):
    return figure_files(
        f"maxpool/{name}/{GROUP_PATH}",
        f"maxpool/{name}",
        dataset="{dataset}",
        architecture="{architecture}",
        optimizer="{optimizer}",
        precision="{precision}",
        relu="{relu_derivative}",
    )


def table_files(name, label):
    """Outputs of a table for readers; the CSV is in Snakemake's report."""
    path = f"figures/{{run}}/maxpool/{name}"
    return {
        f"{name}_csv": report(
            f"{path}.csv",
            caption=f"../report/maxpool/{name}.rst",
            category="maxpool",
            subcategory="tables",
            labels={"table": label},
        ),
        f"{name}_md": f"{path}.md",
        f"{name}_tex": f"{path}.tex",
    }


STARTED = time.time()


REPORT = f"figures/{RUN}/report.html"


# Jobs on other machines get these texts through shells, which would run what is in them: Snakemake quotes no further.
UNSAFE = re.compile(r"""[$`\\]|'.*"|".*'""", re.DOTALL)


def follow_cells():
    """Tell how many cells are done, running and failed while the run goes on, and record it for `nonsmooth.failed`."""
    jobs = [job for job in workflow.dag.jobs if job.rule.name.removeprefix("maxpool_") in CELL_OF]
    run = {job.jobid: job for job in jobs if workflow.dag.needrun(job)}
    seconds = {
        number: expected_seconds(job.rule.name.removeprefix("maxpool_"), job.wildcards) for number, job in run.items()
    }
    are_known = None not in seconds.values()
    to_run = {
        number: Job(
            cell=os.path.relpath(os.path.dirname(job.output[0]), f"results/{RUN}"),
            output=job.output.chosen if "chosen" in job.output.keys() else job.output.record,
            cost=seconds[number] if are_known else 1,
        )
        for number, job in run.items()
    }
    if to_run:
        say = partial(logger.info, extra={"quietness": Quietness.PROGRESS})
        logger.addHandler(Progress(to_run, len(jobs) - len(to_run), f"logs/{RUN}/progress", say))


# Neither in dry runs nor in jobs.
onstart:
    gc.freeze()
    gc.enable()
    for folder in ("results", "figures", "logs"):
        if os.path.exists(folder) and not os.access(folder, os.W_OK):
            raise WorkflowError(f"{folder}: nothing can be written there; make the folder writable")
    for text in [os.getcwd(), *CONFIG_FILES, *workflow.config_settings.config_args]:
        if workflow.non_local_exec and UNSAFE.search(text):
            raise WorkflowError(
                f"{text}: $, `, \\ and both kinds of quotes together cannot be handed to jobs on other machines; write a "
                "value of --config into a configuration file, or rename the file or folder"
            )
    if preloaded := preloading.start(SETTINGS["threads"]):
        shell.executable(preloaded)
    # It leans on the inside of Snakemake, and no run should be lost to that.
    try:
        follow_cells()
    except Exception as error:
        logger.warning(
            f"No progress of cells is shown or recorded ({type(error).__name__}: {error}); the run goes on"
        )


onsuccess:
    where = f"Report: {REPORT}" if os.path.exists(REPORT) else f"Results: results/{RUN}, figures/{RUN}"
    print(f"Done in {duration(time.time() - STARTED)}. {where}", flush=True)


onerror:
    print(
        f"Stopped after {duration(time.time() - STARTED)}. What is finished is kept: if something failed, correct the "
        "cause; then run the same command again. Failed cells and the ends of their logs: `make failed`, or "
        "`python -m nonsmooth.failed`.",
        flush=True,
    )
