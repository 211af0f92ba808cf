"""The command that lists failed cells, on records and logs as Snakemake, Slurm and `nonsmooth.joblog` leave them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nonsmooth.failed import kind, last_error, main, tail

KILLED = "RuleException:\nCalledProcessError:\nCommand 'python x.train.py' died with <Signals.SIGKILL: 9>."
EXITED = "RuleException:\nCalledProcessError:\nCommand 'python x.train.py' returned non-zero exit status {}."
TRACEBACK = (
    "2026-11-25 16:32:21,496 ERROR failed\nTraceback (most recent call last):\n"
    '  File "train.py", line 3, in <module>\n    train()\n    ^^^^^^^\n{}\n'
)
SLURM_ENDS = "[Wed Nov 25 16:28:29 2026]\nError in rule maxpool_train:\n    jobid: 0\nslurmstepd-node7: error: {}\nElapsed time: 0:00:06\n"


class Records:
    """A project's folder with the record of one run, in which cells are started at once and fail later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "logs/tiny/progress/2026-11-25T162000-1.jsonl"
        self.record.parent.mkdir(parents=True)
        self.count = 0

    def note(self, **event: object) -> None:
        with self.record.open("a") as file:
            file.write(json.dumps({"time": 1e9, **event}) + "\n")

    def begin(self, cells: int = 10, finished_before: int = 2) -> None:
        self.note(event="run", cells=cells, finished_before=finished_before)

    def start(self, cell: str) -> Path:
        """A started cell; its output, which is not there yet."""
        output = self.folder / f"results/tiny/{cell}/record.json"
        self.note(event="started", cell=cell, output=str(output))
        return output

    def fail(self, message: str = "", *logs: str | bytes | None) -> str:
        """A cell that failed, with logs of these contents; None is one that is not there."""
        self.count += 1
        cell = f"maxpool/train/cell{self.count}"
        self.start(cell)
        paths = [self.folder / f"logs/tiny/{cell}-{number}.log" for number in range(len(logs))]
        for path, content in zip(paths, logs, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.note(event="failed", cell=cell, message=message, logs=[str(path) for path in paths])
        return cell


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.chdir(tmp_path)
    return Records(tmp_path)


@pytest.mark.parametrize(
    ("message", "logs", "reason"),
    [
        (EXITED.format(1), [TRACEBACK.format("ValueError: a.csv: no rows")], "ValueError: a.csv: no rows"),
        (EXITED.format(1), [TRACEBACK.format("RuntimeError: sizes\n  differ\nin line 2")], "RuntimeError: sizes"),
        (EXITED.format(1), [TRACEBACK.format("OSError: a\n\nThe above:\n\n" + TRACEBACK.format("KeyError: 'b'"))], "KeyError: 'b'"),
        (KILLED, [""], "ended by SIGKILL, as where memory is short"),
        (KILLED, [None], "ended by SIGKILL, as where memory is short"),
        (KILLED, ["2026-11-25 16:32:21,496 INFO epoch 1\n"], "ended by SIGKILL, as where memory is short"),
        (EXITED.format(137), [""], "ended by SIGKILL, as where memory is short"),
        (EXITED.format(143), ["2026-11-25 16:32:21,496 WARNING interrupted\n"], "ended by SIGTERM"),
        (EXITED.format(2), [""], "ended by exit status 2"),
        ("", [], "ended without a word"),
        ("SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Reason: None.\nmore", ["", None], "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Reason: None."),
        ("SLURM sbatch failed.", [None], "SLURM sbatch failed."),
        ("SLURM-job '7' failed", ["", SLURM_ENDS.format("Detected 1 oom-kill event(s) in StepId=1.0.")], "slurmstepd-node7: error: Detected 1 oom-kill event(s) in StepId=1.0."),
        ("SLURM-job '7' failed", [TRACEBACK.format("ValueError: no"), SLURM_ENDS.format("x")], "ValueError: no"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure(records: Records, capsys, message: str, logs: list, reason: str) -> None:
    records.begin()
    cell = records.fail(message, *logs)
    main([])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith(": 2 of 10 cells done, 0 interrupted, 1 failed, 7 waiting")
    assert shown[2] == f"1 failed: {reason}"
    assert shown[4].startswith(f"  {cell}, ")


def test_the_end_of_the_log_that_explains_it_is_shown(records: Records, capsys) -> None:
    records.begin()
    progress = "".join(f"2026-11-25 16:32:21,496 INFO epoch {number}\n" for number in range(100))
    cell = records.fail(EXITED.format(1), progress + TRACEBACK.format("ValueError: no"))
    records.fail(
        "SLURM-job '7' failed", progress, SLURM_ENDS.format("*** JOB 7 ON node7 CANCELLED DUE TO TIME LIMIT ***")
    )
    main(["--lines", "7"])
    lines = capsys.readouterr().out.splitlines()
    first = lines.index(f"  logs/tiny/{cell}-0.log")
    assert lines[first + 1].strip().endswith("INFO epoch 99")
    assert lines[first + 7].strip() == "ValueError: no"
    assert lines[first + 8] == ""
    assert sum("TIME LIMIT" in line for line in lines) == 2
    assert sum("INFO epoch" in line for line in lines) == 1


def test_a_log_of_an_earlier_attempt_explains_nothing(records: Records, capsys) -> None:
    records.begin()
    cell = records.fail(KILLED, TRACEBACK.format("ValueError: before"))
    log = Path(f"logs/tiny/{cell}-0.log")
    os.utime(log, (1e9 - 3600, 1e9 - 3600))
    main([])
    shown = capsys.readouterr().out
    assert "ended by SIGKILL" in shown
    assert f"{log}\n    (nothing in it from this attempt)" in shown
    assert "before" not in shown


def test_what_is_done_running_and_waiting_is_counted(records: Records, capsys) -> None:
    records.begin()
    for number in range(3):
        output = records.start(f"maxpool/train/done{number}")
        output.parent.mkdir(parents=True)
        output.touch()
    records.start("maxpool/train/running")
    records.fail(EXITED.format(1), "")
    main([])
    assert ": 5 of 10 cells done, 1 interrupted, 1 failed, 3 waiting" in capsys.readouterr().out


def test_a_cell_that_a_later_attempt_finished_has_not_failed(records: Records, capsys) -> None:
    records.begin()
    cell = records.fail(KILLED, "")
    output = records.start(cell)
    output.parent.mkdir(parents=True)
    output.touch()
    main([])
    assert ": 3 of 10 cells done, 0 interrupted, 0 failed, 7 waiting" in capsys.readouterr().out


def test_many_failures_are_grouped_by_reason(records: Records, capsys) -> None:
    records.begin(cells=3000)
    killed = [records.fail(KILLED, "") for _ in range(5)]
    refused = [
        records.fail(EXITED.format(1), TRACEBACK.format(f"ValueError: /data/{number}.npy: {number} rows"))
        for number in range(2000)
    ]
    main(["--lines", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    heads = [line for line in lines if " failed: " in line]
    assert heads == [
        "2,000 failed: ValueError: /data/0.npy: 0 rows",
        "5 failed: ended by SIGKILL, as where memory is short",
    ]
    assert any(
        line.startswith(f"  {refused[1]}, ") and line.endswith(": ValueError: /data/1.npy: 1 rows") for line in lines
    )
    assert "  and 1,997 more, which --all shows" in lines
    main(["--lines", "0", "--all"])
    everything = capsys.readouterr().out
    assert all(f"  {cell}, " in everything for cell in killed + refused)
    assert "--all" not in everything


def test_a_huge_log_of_junk_is_read_at_its_end_and_cannot_command_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "junk.log"
    with log.open("wb") as file:
        file.write(b"Traceback (most recent call last):\nValueError: long ago\n")
        file.seek(10**10)  # a hole: no disk holds it
        file.write(b"\n\x1b[2J\x1b]0;title\x07 \xff\xfe\x00 loss nan\rstep 2\n" + b"x" * 1000 + b"\n")
    lines = tail(log, 3)
    assert [line.split()[-1] for line in lines[:2]] == ["nan", "2"]
    assert lines[2] == "x" * 300
    assert all(line.isprintable() for line in lines)
    assert last_error(tail(log)) is None


def test_a_record_with_broken_lines_is_read(records: Records, capsys) -> None:
    records.begin()
    cell = records.fail(KILLED, "")
    with records.record.open("a") as file:
        file.write('{"time": 1e9, "event": "start')
    main([])
    assert cell in capsys.readouterr().out
    records.record.write_text("\n")
    with pytest.raises(SystemExit, match=r"162000-1\.jsonl: damaged"):
        main([])


def test_the_latest_run_is_shown_unless_another_is_asked_for(records: Records, capsys) -> None:
    records.begin()
    other = Path("logs/paper/progress/2026-11-26T080000-9.jsonl")
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"time": 1e9, "event": "run", "cells": 5, "finished_before": 5}) + "\n")
    main([])
    assert capsys.readouterr().out.startswith("paper, begun ")
    main(["tiny"])
    assert capsys.readouterr().out.startswith("tiny, begun ")


def test_without_a_record_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"no run is recorded in logs/\*/progress"):
        main([])
    with pytest.raises(SystemExit, match=r"no run is recorded in logs/paper/progress"):
        main(["paper"])


def test_reasons_of_a_kind_differ_in_paths_and_numbers_only() -> None:
    assert kind("ValueError: /a/b.npy: 3 rows") == kind("ValueError: c/d.npy: 17 rows")
    assert kind("ValueError: a/b.npy: 3 rows") != kind("OSError: a/b.npy: 3 rows")
