"""How far a run is: a line in the terminal now and then, and a record of the cells that were started and that failed.

Both come from the events that Snakemake logs in the process that starts the jobs, wherever these run. The record is what
`nonsmooth.failed` reads.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Seconds between two lines in the terminal; a failure is told at once.
INTERVAL = 10.0


@dataclass(frozen=True)
class Job:
    """What makes one cell.

    Attributes:
        cell: its folder below `results/<run>`.
        output: a file that is there when the cell is done.
        cost: how much work it is beside the others, in any unit.
    """

    cell: str
    output: str
    cost: float = 1.0


class Progress(logging.Handler):
    """Follows the jobs of cells through the events of Snakemake's logger.

    Args:
        jobs: what is to be run, by Snakemake's number of the job.
        finished_before: cells that were there already.
        folder: where the record is written, one file per run, locked for as long as this process lives.
        say: prints a line.
        interval: seconds between two lines.
    """

    def __init__(
        self,
        jobs: dict[int, Job],
        finished_before: int,
        folder: str | Path,
        say: Callable[[str], None],
        interval: float = INTERVAL,
    ) -> None:
        super().__init__()
        self.jobs, self.finished_before, self.say, self.interval = jobs, finished_before, say, interval
        self.running: set[int] = set()
        self.failed: set[int] = set()
        self.finished: set[int] = set()
        self.began: float | None = None
        self.said, self.told = -interval, 0
        self.errors: dict[int | None, str] = {}
        self.has_warned = False
        total = finished_before + len(jobs)
        say(f"Cells: {finished_before:,} of {total:,} are done already, {len(jobs):,} to run")
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.getpid()}.jsonl"
        self.record = (Path(folder) / name).open("a", encoding="utf-8")
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(self.record, fcntl.LOCK_EX)
        self._note(time=time.time(), event="run", cells=total, finished_before=finished_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Count an event of Snakemake. What goes wrong here is told once, and the run goes on."""
        try:
            self._follow(record)
        except Exception as error:
            self._warn_once(error)

    def close(self) -> None:
        """End the record."""
        with suppress(OSError):
            self.record.close()
        super().close()

    def _follow(self, record: logging.LogRecord) -> None:
        match getattr(record, "event", None):
            case "job_started":
                for number in self.jobs.keys() & set(record.jobs):
                    self._start(number, record.created)
                self._say_news(record.created)
            case "job_finished" if record.job_id in self.jobs:
                self.running.discard(record.job_id)
                self.finished.add(record.job_id)
                # Where a cell waits, it is started at once and tells both; but after a failure it may not be.
                if self.failed or not self._waiting():
                    self._say_news(record.created)
            case "job_error" if record.jobid in self.jobs:
                # Slurm's plugin has a message; of a local job Snakemake logs the exit status first, in the same thread.
                message = record.rule_msg or self.errors.pop(record.thread, "")
                self._fail(record.jobid, record.created, message, record.log)
            case "error" if record.exception == "MissingOutputException":
                # This has no event of the job.
                message = record.getMessage()
                number = int(message.split("Job ", 1)[1].split()[0])
                if number in self.jobs:
                    self._fail(number, record.created, "Job completed, but some of its files are missing", [])
            case "error":
                self.errors[record.thread] = record.getMessage()

    def _start(self, number: int, now: float) -> None:
        if self.began is None:
            self.began = now
        self.failed.discard(number)
        self.running.add(number)
        job = self.jobs[number]
        self._note(time=now, event="started", cell=job.cell, output=job.output)

    def _fail(self, number: int, now: float, message: str, logs: list[str]) -> None:
        self.running.discard(number)
        self.failed.add(number)
        self._say(now)
        self._note(time=now, event="failed", cell=self.jobs[number].cell, message=message[-2000:], logs=list(logs))

    def _waiting(self) -> set[int]:
        return self.jobs.keys() - self.running - self.finished - self.failed

    def _say_news(self, now: float) -> None:
        is_new = len(self.finished) > self.told
        is_end = not self._waiting() and not self.running
        if is_new and (now - self.said >= self.interval or is_end):
            self._say(now)

    def _say(self, now: float) -> None:
        self.said, self.told = now, len(self.finished)
        done, total = self.finished_before + len(self.finished), self.finished_before + len(self.jobs)
        line = f"Cells: {done:,} of {total:,} done, {len(self.running):,} running, {len(self.failed):,} failed"
        left = self._seconds_left(now)
        self.say(f"{line}; about {duration(left)} left" if left else line)

    def _seconds_left(self, now: float) -> float | None:
        """At the pace since the first cell of this run was started; None before one is finished."""
        done = sum(self.jobs[number].cost for number in self.finished)
        left = sum(self.jobs[number].cost for number in self._waiting() | self.running)
        return (now - self.began) / done * left if done else None

    def _note(self, **event: Any) -> None:
        try:
            self.record.write(json.dumps(event) + "\n")
            self.record.flush()
        except OSError as error:
            self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self.has_warned:
            self.has_warned = True
            self.say(
                f"Progress may be wrong or missing from here on ({type(error).__name__}: {error}); the run goes on"
            )


def duration(seconds: float) -> str:
    """In words, such as "3 h 20 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
