"""The log of a job, in a process of its own as in Snakemake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def job(log: Path, body: str) -> subprocess.CompletedProcess:
    """Run `body` inside `job_log`."""
    lines = ["import logging, sys, warnings", "from nonsmooth.joblog import job_log", f"with job_log({str(log)!r}):"]
    program = "\n".join([*lines, *(f"    {line}" for line in body.splitlines()), "print('after')"])
    return subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=60)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "job.log"


def test_messages_and_warnings_are_in_the_log_alone(log: Path) -> None:
    result = job(
        log,
        "logging.info('epoch %d', 3)\nlogging.getLogger('nonsmooth.training').info('stopping')\n"
        "logging.debug('too much')\nwarnings.warn('careful')",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "after\n", "")
    text = log.read_text()
    for expected in (" INFO epoch 3\n", " INFO stopping\n", "WARNING", "UserWarning: careful"):
        assert expected in text
    assert "too much" not in text


def test_a_log_begins_anew(log: Path) -> None:
    job(log, "logging.info('first')")
    job(log, "logging.info('second')")
    assert "first" not in log.read_text()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("ValueError('results/a.csv: no rows')", "ValueError: results/a.csv: no rows"),
        ("KeyError('cell')", "KeyError: 'cell'"),
        ("OSError(28, 'No space left on device')", "OSError: [Errno 28] No space left on device"),
        ("RuntimeError('sizes differ\\n  in line 2:\\n\\n    here')", "RuntimeError: sizes differ in line 2: here"),
    ],
)
def test_an_error_is_one_line_for_the_terminal_and_a_traceback_in_the_log(error: str, line: str, log: Path) -> None:
    result = job(log, f"def inner():\n    raise {error}\nlogging.info('started')\ninner()")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{line} (details: {log})\n"
    text = log.read_text()
    assert " INFO started\n" in text
    assert text.index(" ERROR failed\nTraceback (most recent call last):\n") < text.index("in inner\n")
    assert f"\n{line.split(':')[0]}: " in text


def test_the_cause_of_an_error_is_in_the_log(log: Path) -> None:
    job(log, "try:\n    int('x')\nexcept ValueError as error:\n    raise OSError('unreadable') from error")
    text = log.read_text()
    assert text.index("ValueError: invalid literal") < text.index("OSError: unreadable")


@pytest.mark.parametrize(("body", "code"), [("sys.exit(7)", 7), ("raise KeyboardInterrupt", -2)])
def test_leaving_on_purpose_is_no_error(body: str, code: int, log: Path) -> None:
    result = job(log, body)
    assert result.returncode in (code, 128 - code)
    assert "details:" not in result.stderr
    assert "failed" not in log.read_text()
