"""The whole default preset on Slurm, with jobs cancelled, reruns, a requeue and a controller that goes away: `make test-cluster`."""

import csv
import re
import signal
import subprocess
import time

import pytest

from .conftest import HERE, ClusterProject, slurm

HOUR = 3600


def cells(project: ClusterProject) -> list[str]:
    """Cells that are finished."""
    return [str(path) for path in project.path.glob("results/default/maxpool/train/**/metrics.csv")]


def running() -> list[str]:
    return slurm("squeue", "--noheader", "--states", "RUNNING", "--format", "%i").split()


class Run:
    """A run of the default preset in the background, with its output in a file."""

    def __init__(self, request: pytest.FixtureRequest, project: ClusterProject, name: str) -> None:
        self.project = project
        self.log = project.path / name
        # A pipe that nobody reads would stop Snakemake.
        with self.log.open("w") as log:
            self.process = project.start(stdout=log)
        request.addfinalizer(self.process.kill)

    def interrupt(self) -> None:
        """Ctrl+C, and once more if Snakemake waits for an answer of Slurm; what is left is cancelled, and the folder unlocked."""
        for _ in range(2):
            self.process.send_signal(signal.SIGINT)
            try:
                assert self.process.wait(timeout=60) != 0
                break
            except subprocess.TimeoutExpired:
                continue
        assert self.process.poll() is not None
        # While Snakemake waits for an answer it does not know its jobs.
        slurm("scancel", "--user", "root")
        deadline = time.monotonic() + 120
        while slurm("squeue", "--noheader"):
            assert time.monotonic() < deadline
            time.sleep(1)
        self.project.snakemake("--unlock")

    def wait_until(self, condition) -> None:
        deadline = time.monotonic() + HOUR
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            time.sleep(1)

    def wait_for_cells(self, more: int) -> None:
        wanted = len(cells(self.project)) + more
        self.wait_until(lambda: len(cells(self.project)) >= wanted and running())


@pytest.fixture(scope="module")
def runs(cluster, request) -> list[Run]:
    """A run with cancelled jobs that is interrupted; one with a requeued job and an outage; and one that finishes."""
    first = Run(request, cluster, "first.log")
    first.wait_for_cells(10)
    cancelled = running()
    slurm("scancel", *cancelled)
    first.wait_until(lambda: first.log.read_text().count("Trying to restart job") >= len(cancelled))
    first.wait_for_cells(10)
    first.interrupt()

    second = Run(request, cluster, "second.log")
    second.wait_for_cells(5)
    slurm("scontrol", "requeue", running()[0])
    second.wait_for_cells(5)
    subprocess.run([HERE / "slurm.sh", "stop-controller"], check=True)
    # Longer than the pause between two questions.
    time.sleep(60)
    subprocess.run([HERE / "slurm.sh", "start"], check=True)
    assert second.process.poll() is None, second.log.read_text()[-6000:]
    # Without accounting the executor does not come back by itself.
    second.interrupt()

    third = Run(request, cluster, "third.log")
    assert third.process.wait(timeout=HOUR) == 0, third.log.read_text()[-6000:]
    return [first, second, third]


def test_every_cell_and_the_report_are_there(cluster, runs):
    with (cluster.path / "results/default/maxpool/runs.csv").open() as table:
        assert len(list(csv.DictReader(table))) == len(cells(cluster))
    assert (cluster.path / "figures/default/report.html").exists()
    assert cluster.planned() == {}


def test_no_run_trained_what_was_known_to_be_finished(cluster, runs):
    finished = [len(re.findall(r"Finished jobid: \d+ \(Rule: maxpool_train\)", run.log.read_text())) for run in runs]
    # Fewer, since some end while Snakemake is away.
    assert 0 < finished[-1] <= sum(finished) <= len(cells(cluster))


def test_only_cancelled_jobs_use_up_an_attempt(runs):
    first, second, third = (run.log.read_text() for run in runs)
    assert "Trying to restart job" in first
    # Neither the requeue nor the outage does.
    assert "Trying to restart job" not in second + third
