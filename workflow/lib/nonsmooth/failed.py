"""Cells that failed, why, and the ends of their logs: `python -m nonsmooth.failed`, in the project's folder.

Shows the runs that go on, or else the latest one, from the records of `nonsmooth.progress`. It only reads, so that it can be
called at any time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

# Cells of each reason that are shown without --all.
SHOWN = 3
# Bytes at the end of a log that are read, and characters of a line that are shown.
TAIL, WIDTH = 16_384, 300
# Seconds by which the clocks of machines that share a folder may differ.
CLOCK_SKEW = 60


@dataclass(frozen=True)
class Failure:
    """The last attempt at a cell, which failed.

    Attributes:
        cell: its folder below `results/<run>`.
        began, ended: in seconds since 1970.
        message: what Snakemake said of it.
        logs: the job's own log, and that of Slurm if it ran there.
    """

    cell: str
    began: float
    ended: float
    message: str
    logs: list[Path]

    @property
    def telling_log(self) -> Path | None:
        """The first log with an error in it, or else the last one; None if this attempt wrote nothing."""
        # One that dies early leaves the log of the attempt before.
        written = [log for log in self.logs if tail(log) and log.stat().st_mtime > self.began - CLOCK_SKEW]
        return next((log for log in written if last_error(tail(log))), written[-1] if written else None)

    @property
    def reason(self) -> str:
        """Why, in one line."""
        if self.telling_log and (error := last_error(tail(self.telling_log))):
            return error
        if status := re.search(r"exit status (\d+)|Signals\.(SIG\w+)", self.message):
            number = int(status[1] or 0)
            name = status[2] or (signal.Signals(number - 128).name if number > 128 else f"exit status {number}")
            return f"ended by {name}" + (", as where memory is short" if name == "SIGKILL" else "")
        return self.message.strip().partition("\n")[0][:WIDTH] or "ended without a word"


@dataclass(frozen=True)
class Run:
    """What a record says of a run.

    Attributes:
        name: of the preset.
        is_alive: whether it goes on.
        began: in seconds since 1970.
        cells, done, unfinished: how many it is about, are done, and were started but neither finished nor failed.
        failures: of cells that are not done since.
    """

    name: str
    is_alive: bool
    began: float
    cells: int
    done: int
    unfinished: int
    failures: list[Failure]

    def __str__(self) -> str:
        waiting = self.cells - self.done - self.unfinished - len(self.failures)
        return (
            f"{self.name}, begun {clock(self.began)}, {'goes on' if self.is_alive else 'over'}: "
            f"{self.done:,} of {self.cells:,} cells done, {self.unfinished:,} "
            f"{'running' if self.is_alive else 'interrupted'}, {len(self.failures):,} failed, {waiting:,} waiting"
        )


def read(record: Path) -> Run:
    """The run of a record. Raises ValueError if its beginning is lost."""
    header: dict[str, Any] = {}
    began: dict[str, float] = {}
    outputs: dict[str, Path] = {}
    failures: dict[str, Failure] = {}
    for event in _events(record):
        cell = event.get("cell", "")
        match event["event"]:
            case "run":
                header = event
            case "started":
                began[cell], outputs[cell] = event["time"], Path(event["output"])
                failures.pop(cell, None)
            case "failed":
                logs = [Path(os.path.relpath(log)) for log in event["logs"]]
                failures[cell] = Failure(cell, began.get(cell, 0.0), event["time"], event["message"], logs)
    if not header:
        raise ValueError(f"{record}: damaged, as where the disk was full; delete it to see the run before")
    finished = {cell for cell, output in outputs.items() if output.exists()}
    failed = [failure for cell, failure in failures.items() if cell not in finished]
    return Run(
        name=record.parent.parent.name,
        is_alive=_is_locked(record),
        began=header["time"],
        cells=header["cells"],
        done=header["finished_before"] + len(finished),
        unfinished=len(outputs.keys() - finished - failures.keys()),
        failures=failed,
    )


def _events(record: Path) -> Iterator[dict[str, Any]]:
    """Lines that are not whole, as after a full disk, are left out."""
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _is_locked(record: Path) -> bool:
    """Whether the process that writes the record is alive; False where the file system has no locks."""
    with record.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
    return False


def tail(log: Path, lines: int | None = None) -> list[str]:
    """The last lines of a log, without what a terminal would take for commands; none of a log that is empty or not there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    found = ["".join(c if c.isprintable() else " " for c in line).rstrip()[:WIDTH] for line in text.splitlines()]
    found = [line for line in found if line]
    return found if lines is None else found[len(found) - lines :]


def last_error(lines: Sequence[str]) -> str | None:
    """The line of the last exception, or else what Slurm said when it ended the job."""
    for start in reversed(range(len(lines))):
        if lines[start].startswith("Traceback (most recent call last):"):
            for line in lines[start + 1 :]:
                if not line.startswith(" "):
                    return line
    return next((line for line in reversed(lines) if re.match(r"slurmstepd\S*: error: ", line)), None)


def kind(reason: str) -> str:
    """A reason without its paths and numbers, which differ from cell to cell."""
    return re.sub(r"\S*[/\d]\S*", "…", reason)


def clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%d %b %H:%M:%S")


def show(run: Run, shown: int | None, lines: int) -> None:
    """Print the failures of a run, those of one kind together, the largest kind first."""
    print(run)
    kinds: dict[str, list[tuple[Failure, str]]] = {}
    for failure in run.failures:
        reason = failure.reason
        kinds.setdefault(kind(reason), []).append((failure, reason))
    for failures in sorted(kinds.values(), key=len, reverse=True):
        first = failures[0][1]
        print(f"\n{len(failures):,} failed: {first}")
        for failure, reason in failures[:shown]:
            print(f"\n  {failure.cell}, {clock(failure.ended)}" + (f": {reason}" if reason != first else ""))
            telling = failure.telling_log
            for log in failure.logs:
                print(f"  {log}")
            for line in tail(telling, lines) if telling else ["(nothing in it from this attempt)"]:
                print(f"    {line}")
        if shown is not None and len(failures) > shown:
            print(f"\n  and {len(failures) - shown:,} more, which --all shows")
    print()


def latest(name: str | None) -> list[Path]:
    """The records of the runs that go on, or else of the latest one."""
    records = sorted(Path("logs").glob(f"{name or '*'}/progress/*.jsonl"), key=lambda record: record.name)
    return [record for record in records if _is_locked(record)] or records[-1:]


def main(command: Sequence[str] | None = None) -> None:
    """The command line; see `python -m nonsmooth.failed --help`. Raises SystemExit if there is nothing to read."""
    parser = argparse.ArgumentParser(prog="python -m nonsmooth.failed", description=__doc__)
    parser.add_argument("run", nargs="?", help="name of a preset; otherwise of all")
    parser.add_argument("--all", action="store_true", help=f"every failed cell, not the first {SHOWN} of each reason")
    parser.add_argument("--lines", type=int, default=10, help="how many of each log (default: 10)")
    arguments = parser.parse_args(command)
    records = latest(arguments.run)
    if not records:
        raise SystemExit(f"no run is recorded in logs/{arguments.run or '*'}/progress; is this the project's folder?")
    try:
        for record in records:
            show(read(record), None if arguments.all else SHOWN, arguments.lines)
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without an error
    main()
