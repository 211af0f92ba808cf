"""Time and memory of planning on this machine: where nothing is made yet, and where everything is there.

Real processes in a copy of the workflow. What jobs would make is replaced by empty files, of which Snakemake records what it records of a run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nonsmooth import provenance
from nonsmooth.files import write_rows
from nonsmooth.joblog import job_log

ROOT = Path(provenance.__file__).resolve().parents[3]
COPIED = ("workflow", "config", "profiles", "data/benchmarks", "data/claims", "data/published")
CELLS = (100, 1_000, 10_000)
PRESETS = ("config/presets/paper.yaml",)
# Linux hands on what a process had in memory when it started another one, but for this.
PEAK = "largest resident memory in MiB: "
MAIN = (
    "import atexit; from nonsmooth.provenance import peak_memory_mib; from snakemake.cli import main; "
    f"atexit.register(lambda: print('{PEAK}', peak_memory_mib(), sep='')); main()"
)
SNAKEMAKE = (sys.executable, "-c", MAIN)
# The executor that only touches files would sleep a tenth of a second after each job, for file systems with coarse times.
TOUCH = (
    "from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0; from snakemake.cli import main; main()"
)


def preset(cells: int) -> dict[str, Any]:
    """A preset of so many training cells, a multiple of ten: ten conditions of LeNet-5, and their seeds."""
    block = {
        "dataset": ["mnist_5k"],
        "architecture": ["lenet5"],
        "normalization": ["none", "batch_norm"],
        "optimizer": ["sgd"],
        "precision": ["float16"],
        "rule": ["native", "hybrid"],
        "beta": [1000, 10000],
        "evaluation": ["exact", "composed"],
        "seeds": list(range(cells // 10)),
        "epochs": 10,
        "learning_rate": 0.05,
    }
    return {"run": f"cells{cells}", "maxpool": {"train": [block]}}


def run(folder: Path, *command: str) -> tuple[str, dict[str, float]]:
    """Output of a process in a copy of the workflow; its seconds, those on a processor, and its largest resident memory in MiB.

    Raises RuntimeError with the end of the output if it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow/lib")}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {output[-2000:]}")
    output, _, memory = output.partition(PEAK)
    return output, {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_memory_mib": float(memory or "nan"),
    }


def make_everything(folder: Path, *options: str) -> None:
    """Empty files in place of all that jobs would make, in the order of the jobs, with Snakemake's records."""
    summary, _ = run(folder, *SNAKEMAKE, "--summary", *options)
    _, *files = [line.split("\t")[0] for line in summary.splitlines() if line.count("\t") == 5]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    # The other scheduler solves an integer program over all that is ready, again and again.
    at_once = ("--cores", str(len(files)), "--scheduler", "greedy")
    run(folder, sys.executable, "-c", TOUCH, "--touch", "--forceall", "--quiet", "all", *options, *at_once)


def measure(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Jobs, seconds and memory of planning a preset, and of planning and running it when everything is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for copied in COPIED:
            shutil.copytree(ROOT / copied, folder / copied)
        shutil.copy(ROOT / "Snakefile", folder)
        options = ("--configfile", "config/measured.yaml", "--cores", "1")
        (folder / "config/measured.yaml").write_text(yaml.safe_dump(config))
        plan, used = run(folder, *SNAKEMAKE, "--dry-run", "--quiet", "rules", *options)
        counts = dict(re.findall(r"^(\w+) +(\d+)$", plan, re.MULTILINE))
        about = {
            "run": config["run"],
            "cells": sum(int(counts.get(f"maxpool_{part}", 0)) for part in ("train", "weights", "zones")),
            "jobs": int(counts["total"]),
        }
        yield {**about, "what": "plan, nothing made", **used}
        make_everything(folder, *options)
        for what, *dry in (("plan, everything made", "--dry-run"), ("run, everything made",)):
            output, used = run(folder, *SNAKEMAKE, *dry, "--quiet", "rules", *options)
            if "Nothing to be done" not in output or "missing provenance/metadata" in output:
                raise RuntimeError(f"{config['run']}: something is left to be done: {output[-2000:]}")
            yield {**about, "what": what, **used}


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        configs = [preset(cells) for cells in CELLS]
        configs += [yaml.safe_load((ROOT / file).read_text()) for file in PRESETS]
        rows = [row for config in configs for row in measure(config)]
        where = provenance.benchmark("cpu", threads=1)
        write_rows(snakemake.output[0], [{**row, **where} for row in rows])
