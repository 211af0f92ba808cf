"""Training jobs that are killed at random moments, also while they start or write, and started again until they are done.

    python tests/scripts/test_kills.py 36

kills that many times over all the cells below, and says how many of the cells end with the files of an uninterrupted job.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import datasets
from nonsmooth.cells import TrainingCell, WeightsCell

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts/maxpool"
# Runs a script as Snakemake does, with the arguments in a JSON file.
RUN = """
import json, runpy, sys
from types import SimpleNamespace

class Named(dict):
    __getattr__ = dict.__getitem__

script, arguments = sys.argv[1:]
values = {name: Named(value) if isinstance(value, dict) else value for name, value in json.load(open(arguments)).items()}
runpy.run_path(script, {"snakemake": SimpleNamespace(**values)}, run_name="__main__")
"""
SETTINGS = {"device": "cpu", "threads": 1, "deterministic": True}
TIMES = ["seconds", "images_per_second"]
OF_A_RUN = {"seconds", "interrupted", "process_seconds", "cpu_seconds", "peak_memory_mib", "git"}

BASE = TrainingCell(dataset="mnist_5k", architecture="lenet5", epochs=3, learning_rate=0.05)
CELLS: dict[str, TrainingCell | WeightsCell] = {
    "float16-sgd": replace(BASE, precision="float16", rule="hybrid-100-composed", epochs=4),
    "mixed16-adam-batch_norm": replace(BASE, precision="mixed16", optimizer="adam", normalization="batch_norm"),
    "float32-adam": replace(BASE, precision="float32", optimizer="adam", rule="minimal", epochs=5),
    "float64-sgd-batch_norm": replace(BASE, precision="float64", normalization="batch_norm", augmentation="crop_flip"),
    "weights-float32": WeightsCell(dataset="mnist_5k", architecture="lenet5", epochs=2, learning_rate=0.05),
    "bfloat16-sgd_scaled": replace(BASE, precision="bfloat16", optimizer="sgd_scaled"),
    "float16-sgd_clipped-batch_norm": replace(
        BASE, precision="float16", optimizer="sgd_clipped", clip_norm=0.5, normalization="batch_norm"
    ),
    "float16-adam": replace(BASE, precision="float16", optimizer="adam", adam_eps=1e-4),
    "float32-sgd-batch_norm": replace(BASE, precision="float32", normalization="batch_norm", rule="hybrid-10-composed"),
}


@dataclass
class Job:
    """The files of a cell and how its job is started."""

    cell: TrainingCell | WeightsCell
    data: Path
    folder: Path

    @property
    def outputs(self) -> dict[str, str]:
        if isinstance(self.cell, WeightsCell):
            names = ("epochs.csv", "record.json")
        else:
            names = ("metrics.csv", "record.json", "layers.csv", "activations.csv")
        return {name.split(".")[0]: str(self.folder / "cell" / name) for name in names}

    def start(self) -> subprocess.Popen:
        self.folder.mkdir(exist_ok=True)
        script = "weights" if isinstance(self.cell, WeightsCell) else "train"
        arguments = {
            "input": {split: str(self.data / f"{split}.npy") for split in ("train", "test")},
            "output": self.outputs,
            "params": {"cell": self.cell.to_dict(), "settings": SETTINGS},
            "config": {"checkpoints": {"minutes": 1e-3}, "jobs_per_gpu": 1},
            "resources": {"gpu_slots": 0},
            "threads": 1,
            "log": [str(self.folder / "job.log")],
        }
        (self.folder / "arguments.json").write_text(json.dumps(arguments))
        command = [sys.executable, "-c", RUN, str(SCRIPTS / f"{script}.py"), str(self.folder / "arguments.json")]
        return subprocess.Popen(command)

    def finish(self) -> float:
        """Seconds until it is done."""
        started = time.monotonic()
        assert self.start().wait(timeout=600) == 0
        return time.monotonic() - started

    @property
    def record(self) -> dict:
        return json.loads(Path(self.outputs["record"]).read_text())

    def wait_for_checkpoint(self, process: subprocess.Popen) -> None:
        """Until this process has written one, or ended."""
        path = self.folder / "cell" / "checkpoint.pt"

        def written() -> int:
            try:
                return path.stat().st_mtime_ns
            except FileNotFoundError:
                return 0

        before = written()
        while process.poll() is None and written() in (0, before):
            time.sleep(0.002)

    def results(self) -> list[str]:
        """What does not differ between two jobs of one cell: all files, but for times, memory and interruptions."""
        tables = sorted(set(self.outputs) - {"record"})
        found = [pd.read_csv(self.outputs[name], dtype=str).drop(columns=TIMES, errors="ignore") for name in tables]
        kept = {key: value for key, value in self.record.items() if key not in OF_A_RUN}
        assert {path.name for path in (self.folder / "cell").iterdir()} == {
            Path(path).name for path in self.outputs.values()
        }
        return [*(table.to_csv() for table in found), json.dumps(kept)]


def kill_and_finish(job: Job, seconds: float, trained: float, kills: int, draw: random.Random) -> int:
    """Kill the job this often and let it finish; returns how many of its parts went on from a checkpoint.

    One kill in five is at any moment of the `seconds` that a job takes; the others after its first checkpoint, in the `trained`
    seconds of training, which are the smaller part of these short jobs. One that ends before it is killed does not count.
    """
    went_on = 0
    while kills > 0:
        process = job.start()
        wait = draw.uniform(0, seconds)
        if draw.random() < 0.8:
            job.wait_for_checkpoint(process)
            wait = draw.uniform(0, trained)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills -= process.wait() == -signal.SIGKILL
        else:
            assert process.returncode == 0
            went_on += len(job.record["interrupted"])
    job.finish()
    return went_on + len(job.record["interrupted"])


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        datasets.prepare("mnist_5k", split, folder / f"{split}.npy")
    return folder


@pytest.mark.parametrize("name", list(CELLS)[:5])
def test_a_killed_job_ends_as_one_that_was_not(name: str, data: Path, tmp_path: Path) -> None:
    whole = Job(CELLS[name], data, tmp_path / "whole")
    seconds = whole.finish()
    killed = Job(CELLS[name], data, tmp_path / "killed")
    kill_and_finish(killed, seconds, whole.record["seconds"], 1, random.Random(os.urandom(8)))
    assert killed.results() == whole.results()


def main(kills: int) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split in ("train", "test"):
            datasets.prepare("mnist_5k", split, folder / f"{split}.npy")
        same = resumed = 0
        for number, (name, cell) in enumerate(CELLS.items()):
            share = kills // len(CELLS) + (number < kills % len(CELLS))
            whole = Job(cell, folder, folder / f"{name}-whole")
            seconds = whole.finish()
            job = Job(cell, folder, folder / name)
            times = kill_and_finish(job, seconds, whole.record["seconds"], share, random.Random(number))
            is_same = job.results() == whole.results()
            same, resumed = same + is_same, resumed + times
            print(
                f"{name}: {share} kills, went on {times} times, {'identical' if is_same else 'DIFFERENT'}", flush=True
            )
        print(f"{kills} kills, {resumed} times gone on from a checkpoint, {same} of {len(CELLS)} cells identical")
        return 0 if same == len(CELLS) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
