"""Seconds of a script that imports what training imports and does nothing: in a Python of its own, and forked as scripts of a run are."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from nonsmooth import preloading, provenance
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log

ROUNDS = 20
SCRIPT = "from nonsmooth import images, training\n"


def run(script: Path, shell: str, threads: int) -> float:
    """Seconds from the start to the end of a script, started as Snakemake starts it."""
    environment = {**os.environ, **dict.fromkeys(preloading.THREADS, str(threads))}
    started = time.perf_counter()
    subprocess.run([shell, "-c", f"{sys.executable} {script}"], env=environment, check=True)
    return time.perf_counter() - started


def measure(rounds: int, threads: int) -> pd.DataFrame:
    """Median and quartiles (seconds) of both, in turn, and the ratio to a Python of its own."""
    shells = {"by itself": "/bin/bash", "forked": preloading.start(threads)}
    if shells["forked"] is None:
        raise RuntimeError(f"scripts are not forked here: not on Linux, or {preloading.VARIABLE}=0")
    seconds: dict[str, list[float]] = {name: [] for name in shells}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(SCRIPT)
        for number in range(rounds + 1):
            for name, shell in shells.items():
                taken = run(script, shell, threads)
                if number > 0:  # the first round warms up
                    seconds[name].append(taken)
    quartiles = pd.DataFrame(seconds).quantile([0.25, 0.5, 0.75]).T
    quartiles.columns = ["quartile1", "seconds", "quartile3"]
    table = quartiles.rename_axis("start").reset_index()
    return table.assign(ratio=table.seconds / table.seconds[0], rounds=rounds).round(3)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        threads = snakemake.params.settings["threads"]
        table = measure(ROUNDS, threads).assign(**provenance.benchmark("cpu", threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
