"""What is told of a run, from the events that Snakemake logs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from nonsmooth.failed import read
from nonsmooth.progress import Job, Progress, duration


class Run:
    """Five jobs, of which 0 to 3 make cells; ten cells were there before."""

    def __init__(self, folder: Path, costs: tuple[float, ...] = (1, 1, 1, 1), interval: float = 0) -> None:
        self.lines: list[str] = []
        self.outputs = [folder / f"results/{number}" for number in range(len(costs))]
        jobs = {number: Job(f"cell{number}", str(self.outputs[number]), cost) for number, cost in enumerate(costs)}
        self.progress = Progress(jobs, 10, folder / "logs/tiny/progress", self.lines.append, interval)

    def start(self, now: float, *numbers: int) -> None:
        self._log(LogEvent.JOB_STARTED, now, jobs=list(numbers))

    def finish(self, now: float, number: int) -> None:
        self._log(LogEvent.JOB_FINISHED, now, job_id=number)

    def fail(self, now: float, number: int, message: str | None = None) -> None:
        self._log(LogEvent.JOB_ERROR, now, jobid=number, rule_msg=message, log=[f"logs/{number}.log"])

    def error(self, exception: str, text: str) -> None:
        self._log(LogEvent.ERROR, 0, exception=exception, msg=text)

    def _log(self, event: LogEvent, now: float, **attributes: object) -> None:
        self.progress.handle(logging.makeLogRecord({"event": event, "created": now, **attributes}))

    def events(self) -> list[dict]:
        (record,) = Path(self.progress.record.name).parent.iterdir()
        return [json.loads(line) for line in record.read_text().splitlines()]


def test_what_is_done_running_and_failed_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(100, 0, 1)
    run.finish(110, 0)
    run.start(110, 2)
    run.fail(120, 1)
    run.start(121, 3)
    run.finish(130, 2)
    run.finish(150, 3)
    assert run.lines == [
        "Cells: 10 of 14 are done already, 4 to run",
        # One of four in 10 s, so three more in 30 s, if they go on as they began.
        "Cells: 11 of 14 done, 2 running, 0 failed; about 30 s left",
        "Cells: 11 of 14 done, 1 running, 1 failed; about 40 s left",
        "Cells: 12 of 14 done, 1 running, 1 failed; about 15 s left",
        "Cells: 13 of 14 done, 0 running, 1 failed",
    ]


def test_the_time_left_is_by_cost(tmp_path: Path) -> None:
    run = Run(tmp_path, costs=(1, 2, 7))
    run.start(0.0, 0, 1)
    run.start(50.0, 2)
    run.finish(60.0, 0)
    assert run.lines[-1].endswith("; about 9 min 0 s left")
    run.finish(90.0, 1)
    assert run.lines[-1].endswith("; about 3 min 30 s left")


def test_lines_come_no_more_often_than_the_interval_but_for_failures_and_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path, costs=(1,) * 6, interval=10)
    run.start(0, *range(6))
    run.finish(1, 0)
    run.finish(2, 1)
    run.finish(11, 2)
    run.fail(12, 3)
    run.finish(13, 4)
    run.start(14, 3)
    run.finish(15, 3)
    run.finish(16, 5)
    told = [line.partition(" running")[0] for line in run.lines[1:]]
    assert told == [
        "Cells: 11 of 16 done, 5",
        "Cells: 13 of 16 done, 3",
        "Cells: 13 of 16 done, 2",
        "Cells: 16 of 16 done, 0",
    ]


def test_after_a_failure_the_last_jobs_are_told_although_no_other_is_started(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(0, 0, 1)
    run.fail(1, 0)
    run.finish(2, 1)
    assert run.lines[-1].startswith("Cells: 11 of 14 done, 0 running, 1 failed")


def test_other_jobs_and_messages_are_no_news(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(1, 4)
    run.finish(2, 4)
    run.fail(3, 4)
    run.progress.handle(logging.makeLogRecord({"msg": "Select jobs to execute..."}))
    assert len(run.lines) == 1
    assert [event["event"] for event in run.events()] == ["run"]


def test_a_cell_that_is_started_again_has_not_failed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(1, 0)
    run.fail(2, 0)
    assert [failure.cell for failure in read(Path(run.progress.record.name)).failures] == ["cell0"]
    run.start(3, 0)
    assert not read(Path(run.progress.record.name)).failures
    run.finish(4, 0)
    run.start(4, 1)
    assert run.lines[-1].startswith("Cells: 11 of 14 done, 1 running, 0 failed")


def test_the_record_says_what_snakemake_said(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(1, 0, 1)
    run.error("RuleException", "Command 'python train.py' died with <Signals.SIGKILL: 9>.")
    run.fail(2, 0)
    run.fail(3, 1, "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Reason: None.")
    events = {event["cell"]: event for event in run.events() if event["event"] == "failed"}
    assert events["cell0"]["message"].endswith("died with <Signals.SIGKILL: 9>.")
    assert events["cell0"]["logs"] == ["logs/0.log"]
    assert "'TIMEOUT'" in events["cell1"]["message"]


def test_a_job_whose_files_are_missing_has_failed(tmp_path: Path) -> None:
    """Snakemake has no event of the job for it."""
    run = Run(tmp_path)
    run.start(1, 2)
    text = "MissingOutputException in rule x:\nJob 2  completed successfully, but some output files are missing."
    run.error("MissingOutputException", text)
    assert run.lines[-1] == "Cells: 10 of 14 done, 0 running, 1 failed"


def test_what_goes_wrong_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for _ in range(2):
        run.progress.handle(logging.makeLogRecord({"event": LogEvent.JOB_FINISHED}))
    assert len(run.lines) == 2
    assert run.lines[1].startswith("Progress may be wrong or missing from here on (AttributeError: ")
    run.start(1, 0, 1, 2, 3)
    run.finish(2, 0)
    assert run.lines[-1].startswith("Cells: 11 of 14 done")


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.progress.record = open("/dev/full", "w")  # noqa: SIM115
    run.start(1, 0, 1, 2, 3)
    assert "No space left on device" in run.lines[1]
    run.finish(2, 0)
    assert run.lines[2].startswith("Cells: 11 of 14 done, 3 running")


def test_a_record_tells_whether_its_run_goes_on(tmp_path: Path) -> None:
    program = (
        "import sys, time; from nonsmooth.progress import Job, Progress\n"
        f"progress = Progress({{0: Job('cell', 'no')}}, 0, {str(tmp_path)!r} + '/tiny/progress', print)\n"
        "print(progress.record.name, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        record = Path(process.stdout.readline().strip())
        assert read(record).is_alive
        process.kill()
    assert not read(record).is_alive


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (200_000, "55 h 33 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
