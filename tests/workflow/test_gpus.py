"""Real Snakemake runs on pretended GPUs: jobs fill all of them, small ones by slots, and none has more than it asked for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from .conftest import CELL, Project, copy_project

# In place of training: a lease as scripts take it, kept until as many jobs have begun as the test says.
JOB = """
import json, os, time
from pathlib import Path
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease

with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
    began = time.monotonic()
    job = Path(f"{os.getpid()}.job")
    job.touch()
    while len(list(Path().glob("*.job"))) < int(os.environ["TOGETHER"]) and time.monotonic() < began + 120:
        time.sleep(0.05)
    for path in snakemake.output:
        Path(path).touch()
    gpu, slots = os.environ["CUDA_VISIBLE_DEVICES"], snakemake.resources.gpu_slots
    job.write_text(json.dumps({"gpu": gpu, "slots": slots, "began": began, "ended": time.monotonic()}))
"""


@pytest.fixture
def project(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on a machine that pretends to have two GPUs, with locks of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return copy_project(tmp_path / "project", finished)


def hold_leases(project: Project, tiny: dict, networks: list[str], *arguments: str) -> list[dict]:
    """What the jobs of a run had whose training does nothing else: GPU, slots, begin and end. A network is a seed of a cell."""
    (project.path / "workflow/scripts/maxpool/train.py").write_text(JOB)
    base = {key: value for key, value in tiny["maxpool"]["train"][0].items() if key not in ("beta", "evaluation")}
    tiny["device"] = "cuda"
    tiny["maxpool"]["train"] = [
        {**base, "architecture": [name], "rule": ["native"], "seeds": list(range(count))}
        for name, count in Counter(networks).items()
    ]
    targets = [
        f"results/tiny/maxpool/train/{CELL.format(rule='native')}/metrics.csv".replace("lenet5", name).replace(
            "seed0", f"seed{seed}"
        )
        for name, count in Counter(networks).items()
        for seed in range(count)
    ]
    project.snakemake(*targets, "--configfile", project.write_config(tiny), *arguments, cores=8)
    return [json.loads(path.read_text()) for path in project.path.glob("*.job")]


def most_slots_at_once(jobs: list[dict]) -> int:
    return max(sum(job["slots"] for job in jobs if job["began"] <= now["began"] < job["ended"]) for now in jobs)


def on(gpu: str, jobs: list[dict]) -> list[dict]:
    return [job for job in jobs if job["gpu"] == gpu]


@pytest.mark.parametrize("jobs_per_gpu", [1, 2])
def test_jobs_fill_all_gpus_of_the_machine(project, tiny, monkeypatch, jobs_per_gpu) -> None:
    monkeypatch.setenv("TOGETHER", str(2 * jobs_per_gpu))
    tiny["jobs_per_gpu"] = jobs_per_gpu
    jobs = hold_leases(project, tiny, ["lenet5"] * (2 * jobs_per_gpu + 1))
    assert len(jobs) == 2 * jobs_per_gpu + 1
    assert most_slots_at_once(jobs) == 2 * jobs_per_gpu
    assert [most_slots_at_once(on(gpu, jobs)) for gpu in "01"] == [jobs_per_gpu] * 2
    # Snakemake starts no more than can run.
    assert not any("waiting" in log.read_text() for log in (project.path / "logs/tiny/maxpool/train").rglob("*.log"))


def test_a_large_network_has_a_gpu_for_itself(project, tiny, monkeypatch) -> None:
    monkeypatch.setenv("TOGETHER", "2")
    tiny["jobs_per_gpu"] = 3
    jobs = hold_leases(project, tiny, ["vgg11"] * 2 + ["lenet5"] * 3)
    assert sorted(job["slots"] for job in jobs) == [1, 1, 1, 3, 3]
    assert all(most_slots_at_once(on(gpu, jobs)) <= 3 for gpu in "01")


def test_a_limit_of_the_user_holds(project, tiny, monkeypatch) -> None:
    monkeypatch.setenv("TOGETHER", "1")
    tiny["jobs_per_gpu"] = 2
    assert most_slots_at_once(hold_leases(project, tiny, ["lenet5"] * 3, "--resources", "gpu=1")) == 1


def test_the_user_may_let_large_networks_share(project, tiny, monkeypatch) -> None:
    monkeypatch.setenv("TOGETHER", "4")
    tiny["jobs_per_gpu"] = 2
    jobs = hold_leases(project, tiny, ["vgg11"] * 4, "--set-resources", "maxpool_train:gpu_slots=1")
    assert [len(on(gpu, jobs)) for gpu in "01"] == [2, 2]


def test_every_expensive_job_computes_on_a_gpu_of_its_own(project, tiny) -> None:
    """The scripts themselves, which train on the CPU here, since PyTorch sees no such GPU."""
    tiny["device"] = "auto"
    block = tiny["maxpool"]["train"][0]
    block.update(learning_rate="search")
    tiny["maxpool"]["search"] = {"trials": 1, "epochs": 1}
    shared = {key: block[key] for key in ("dataset", "architecture", "normalization", "precision", "seeds")}
    pair = {**shared, "compare": [["minimal", "native"]]}
    tiny["maxpool"]["weights"] = [{**pair, "epochs": 1}]
    tiny["maxpool"]["zones"] = [{**pair, "minibatches": 1}]
    condition = "mnist_5k/lenet5/none/float16"
    project.snakemake(
        f"results/tiny/maxpool/train/{CELL.format(rule='native')}/metrics.csv",
        f"results/tiny/maxpool/weights/{condition}/minimal-vs-native/seed0/epochs.csv",
        f"results/tiny/maxpool/zones/{condition}/batch128/minimal-vs-native/noise-0/deterministic/seed0/minibatches.csv",
        "--configfile",
        project.write_config(tiny),
    )
    for study in ("search", "train", "weights", "zones"):
        (log,) = (project.path / f"logs/tiny/maxpool/{study}").rglob("*.log")
        assert "computing on GPU" in log.read_text(), log
