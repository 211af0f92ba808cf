"""Searching a learning rate: files hold what the library found, also where the job was stopped before."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from nonsmooth import images, training, tuning
from nonsmooth.cells import SEARCH, TrainingCell

from .conftest import load

search = load("maxpool/search")
SETTINGS = {"device": "cpu", "threads": 1, "deterministic": True}
CELL = TrainingCell(dataset="mnist_5k", architecture="lenet5", epochs=1, batch_size=16, learning_rate=SEARCH)


@pytest.fixture
def split(write_split) -> Path:
    return write_split("train", 160)


def arguments(split: Path, folder: Path, **others) -> dict:
    return {
        "input": [str(split)],
        "output": {"trials": str(folder / "trials.csv"), "chosen": str(folder / "chosen.json")},
        "params": {
            "cell": CELL.to_dict(),
            "trials": 3,
            "settings": SETTINGS,
            "journals": str(folder),
            "numerics_version": 1,
        },
        "threads": 1,
        "log": [str(folder / "job.log")],
        **others,
    }


def test_files_hold_what_the_search_found(split: Path, run_script, tmp_path: Path) -> None:
    run_script("maxpool/search", **arguments(split, tmp_path / "a"))
    (journal,) = (tmp_path / "a").glob("*.journal")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "trials.csv", "chosen.json", journal.name, "job.log"
    }  # fmt: skip
    lines = (tmp_path / "a" / "job.log").read_text().splitlines()
    assert [line.split("INFO ")[1].split(":")[0] for line in lines if "INFO trial" in line] == [
        f"trial {number} of 3" for number in (1, 2, 3)
    ]
    data = images.load("mnist_5k", "lenet5", split, torch.device("cpu"))
    expected = tuning.trial_table(tuning.search(CELL, data, training.Settings(**SETTINGS), 3))
    table = pd.read_csv(tmp_path / "a" / "trials.csv")
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    (best,) = expected[expected.chosen].to_dict("records")
    chosen = json.loads((tmp_path / "a" / "chosen.json").read_text())
    assert chosen == {
        "learning_rate": float(f"{best['learning_rate']:.4g}"),
        "accuracy": best["accuracy"],
        "cell": CELL.to_dict(),
    }


def test_a_search_that_was_stopped_goes_on(split: Path, run_script, tmp_path: Path, monkeypatch) -> None:
    run_script("maxpool/search", **arguments(split, tmp_path / "whole"))
    real, calls = training.train, []

    def stopped(*given, **others):
        calls.append(given)
        if len(calls) == 2:
            raise MemoryError("not enough memory")
        return real(*given, **others)

    monkeypatch.setattr(training, "train", stopped)
    wanted = arguments(split, tmp_path / "stopped")
    with pytest.raises(SystemExit):
        run_script("maxpool/search", **wanted)
    assert {path.suffix for path in (tmp_path / "stopped").iterdir()} == {".journal", ".log"}
    run_script("maxpool/search", **wanted)
    assert len(calls) == 4
    for name in ("trials.csv", "chosen.json"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": ["missing.npy"]}, "`snakemake missing.npy` makes it"),
        ({"cell": {"rule": "hybrid"}}, "unknown pooling rule"),
        ({"cell": {"precision": "tf32"}}, "precision tf32 needs"),
        ({"settings": {"device": "cuda"}}, "device: cuda, but PyTorch sees no GPU"),
    ],
)
def test_a_job_that_cannot_run_writes_nothing(
    changes: dict, message: str, split: Path, run_script, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = arguments(split, tmp_path / "a")
    for key, values in changes.items():
        if key == "input":
            wanted["input"] = values
        else:
            wanted["params"][key] = {**wanted["params"][key], **values}
    with pytest.raises(SystemExit) as stopped:
        run_script("maxpool/search", **wanted)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not {"trials.csv", "chosen.json"} & {path.name for path in (tmp_path / "a").iterdir()}


@pytest.mark.parametrize("what", ["batch size", "epochs", "numerics version"])
def test_a_search_of_other_settings_begins_anew(
    what: str, split: Path, run_script, tmp_path: Path, monkeypatch
) -> None:
    """And the trials of the first are still there for it."""
    wanted, calls, real = arguments(split, tmp_path), [], training.train
    wanted["params"]["trials"] = 2
    monkeypatch.setattr(training, "train", lambda *given, **others: calls.append(given) or real(*given, **others))
    run_script("maxpool/search", **wanted)
    first = (tmp_path / "trials.csv").read_text()
    changed = {**wanted, "params": {**wanted["params"]}}
    with monkeypatch.context() as patch:
        match what:
            case "numerics version":
                patch.setattr(tuning, "NUMERICS_VERSION", 1000)
            case _:
                changed["params"]["cell"] = {**CELL.to_dict(), what.replace(" ", "_"): 2}
        run_script("maxpool/search", **changed)
    assert len(calls) == 4
    assert len(list(tmp_path.glob("*.journal"))) == 2
    run_script("maxpool/search", **wanted)
    assert len(calls) == 4
    assert (tmp_path / "trials.csv").read_text() == first


def test_a_damaged_journal_is_one_line(split: Path, run_script, tmp_path: Path, capsys) -> None:
    wanted = arguments(split, tmp_path)
    wanted["params"]["trials"] = 1
    run_script("maxpool/search", **wanted)
    (journal,) = tmp_path.glob("*.journal")
    journal.write_text("damaged\n")
    with pytest.raises(SystemExit):
        run_script("maxpool/search", **wanted)
    error = capsys.readouterr().err
    assert error.startswith(f"ValueError: {journal}: not a journal of trials")
    assert "delete it to search again" in error
    assert error.count("\n") == 1
