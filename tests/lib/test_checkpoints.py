"""Runs that go on from a checkpoint end with the bits of those that were not interrupted; wrong and damaged files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonsmooth import training
from nonsmooth.cells import TrainingCell, WeightsCell
from nonsmooth.checkpoints import Checkpoint
from nonsmooth.images import Images
from nonsmooth.training import Run, Settings, checkpoint_identity
from nonsmooth.weights import train_pair

EPOCHS = 3
BATCH = 64
TIMES = ("seconds", "images_per_second")
# What of a record differs between two runs of one cell.
OF_A_RUN = ("seconds", "interrupted", "process_seconds", "cpu_seconds", "peak_memory_mib")


class Stop(Exception):
    """In place of a process that ends."""


class Stopping(Checkpoint):
    """Saves after the `at`-th step or epoch that it is told of, from 1, and stops there."""

    def __init__(self, path: Path, identity: dict[str, Any], at: int) -> None:
        super().__init__(path, identity)
        self.left = at

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        self.left -= 1
        if self.left == 0:
            self.save(state())
            raise Stop


def bits(run: Run) -> tuple:
    """Everything but times, so that NaNs and zeros of both signs count."""
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in run.metrics]
    record = {key: value for key, value in run.record.items() if key not in OF_A_RUN}
    return repr(rows), repr(run.layers), repr(run.activations), repr(record)


def interrupted(train: Callable[..., Run], cell: TrainingCell | WeightsCell, path: Path, stops: list[int]) -> Run:
    """The run that is left when every part but the last ends after so many steps and epochs."""
    identity = checkpoint_identity(cell, Settings())
    for at in stops:
        with pytest.raises(Stop):
            train(checkpoint=Stopping(path, identity, at))
    run = train(checkpoint=Checkpoint(path, identity))
    assert len(run.record["interrupted"]) == len(stops)
    return run


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("precision", "optimizer", "normalization", "rule", "values"),
    [
        ("float16", "sgd", "none", "hybrid-1000-composed", {}),
        ("float16", "sgd_scaled", "batch_norm", "native", {}),
        ("float16", "sgd_clipped", "none", "hybrid-100-exact", {"clip_norm": 0.5}),
        ("float16", "adam", "none", "minimal", {"adam_eps": 1e-4}),
        ("float16", "sgd", "none", "hybrid-10000-composed", {"learning_rate": 10.0}),
        ("bfloat16", "adam", "batch_norm", "native", {"schedule": "constant"}),
        ("mixed16", "sgd", "batch_norm", "hybrid-10-composed", {}),
        ("mixed16", "adam", "none", "native", {}),
        ("float32", "sgd", "none", "strided", {"augmentation": "crop_flip"}),
        ("float32", "adam", "batch_norm", "minimal", {"schedule": "step"}),
        ("float64", "sgd", "batch_norm", "hybrid-1000-exact", {"weight_decay": 5e-4}),
        ("float64", "adam", "none", "native", {"relu_derivative": 1.0}),
    ],
)
def test_a_run_goes_on_to_the_same_bits(
    precision, optimizer, normalization, rule, values, seed, make_cell, train_set, test_set, tmp_path
) -> None:
    """Stopped at random steps, at the end of epochs, and right before and after these."""
    cell = make_cell(
        precision=precision,
        optimizer=optimizer,
        normalization=normalization,
        rule=rule,
        epochs=EPOCHS,
        batch_size=BATCH,
        **values,
    )

    def train(**others) -> Run:
        return training.train(cell, train_set, test_set, **others)

    whole = train()
    told = whole.record["steps"] + len(whole.metrics)
    per_epoch = ceil(len(train_set) / BATCH) + 1
    draw = random.Random(seed)
    stops = {
        0: [draw.randint(1, told)],
        1: [per_epoch - 1, 1],
        2: [draw.randint(1, 3) for _ in range(draw.randint(2, 4))],
    }[seed]
    assert bits(interrupted(train, cell, tmp_path / "checkpoint.pt", stops)) == bits(whole)


@pytest.mark.parametrize("precision", ["float16", "float32"])
@settings(deadline=None, derandomize=True, max_examples=6)
@given(stops=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_pair_goes_on_to_the_same_bits(precision, stops, train_set, test_set, tmp_path_factory) -> None:
    cell = WeightsCell(
        dataset="mnist_5k",
        architecture="lenet5",
        precision=precision,
        program="hybrid-1000-composed",
        learning_rate=0.5,
        epochs=2,
        batch_size=BATCH,
    )

    def train(**others) -> Run:
        return train_pair(cell, train_set, test_set, Settings(), **others)

    path = tmp_path_factory.mktemp("pair") / "checkpoint.pt"
    assert bits(interrupted(train, cell, path, stops)) == bits(train())


def test_a_pair_of_which_one_side_is_dead_goes_on(train_set, test_set, tmp_path) -> None:
    cell = WeightsCell(
        dataset="mnist_5k", architecture="lenet5", precision="float16", program="hybrid-10000-composed",
        learning_rate=1.0, epochs=EPOCHS, batch_size=BATCH,
    )  # fmt: skip

    def train(**others) -> Run:
        return train_pair(cell, train_set, test_set, Settings(), **others)

    whole = train()
    assert whole.record["program"]["epochs_run"] < EPOCHS  # it is what it is for
    # Both in the first epoch, the other one after it.
    stops = [2 * ceil(len(train_set) / BATCH) + 3]
    assert bits(interrupted(train, cell, tmp_path / "checkpoint.pt", stops)) == bits(whole)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@settings(deadline=None, derandomize=True, max_examples=20)
@given(skip=st.integers(0, 8), batch_size=st.integers(1, 80), drawn=st.booleans())
def test_skipped_batches_are_left_out_and_the_rest_is_the_same(augmentation, skip, batch_size, drawn, digits) -> None:
    data: Images = digits("train", 64)

    def batches(skip: int) -> tuple[list, torch.Tensor]:
        generator = torch.Generator().manual_seed(3) if drawn else None
        found = list(data.batches(batch_size, generator, augmentation, skip))
        return found, generator.get_state() if drawn else torch.zeros(1)

    (every, after), (some, after_some) = batches(0), batches(skip)
    assert torch.equal(after, after_some)
    assert len(some) == max(0, len(every) - skip)
    for (images, labels), (expected_images, expected_labels) in zip(some, every[skip:], strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


# ------------------------------------------------------------------------------------------------- the file


STATE = {"weights": torch.arange(100.0), "epoch": 3, "nan": float("nan"), "nothing": None, "names": ["a"]}


def saved(path: Path, **identity) -> Checkpoint:
    checkpoint = Checkpoint(path, identity)
    checkpoint.save(STATE)
    return checkpoint


def test_what_was_saved_is_loaded_and_removed(tmp_path) -> None:
    checkpoint = saved(tmp_path / "folder" / "checkpoint.pt", epochs=2)
    loaded = checkpoint.load()
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert repr(loaded) == repr({key: value for key, value in STATE.items() if key != "weights"})
    checkpoint.remove()
    checkpoint.remove()
    assert list((tmp_path / "folder").iterdir()) == []
    assert checkpoint.load() is None


@settings(deadline=None, derandomize=True, max_examples=30)
@given(data=st.data())
def test_a_damaged_file_is_set_aside(data, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("damaged") / "checkpoint.pt"
    checkpoint = saved(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert checkpoint.load() is None
    assert [found.name for found in path.parent.iterdir()] == ["checkpoint.pt.damaged"]


def test_a_run_with_a_damaged_file_starts_anew(make_cell, train_set, test_set, tmp_path, caplog) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half")
    cell = make_cell(epochs=1)
    run = training.train(cell, train_set, test_set, checkpoint=Checkpoint(path, {}))
    assert bits(run) == bits(training.train(cell, train_set, test_set))
    assert f"{path}: damaged, now called checkpoint.pt.damaged; starting from the beginning" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 5}, "epochs 2, not 5"),
        ({"learning_rate": 0.1, "rule": "minimal"}, "learning_rate 0.05, not 0.1; rule native, not minimal"),
        ({"clip_norm": 1.0, "optimizer": "sgd_clipped"}, "clip_norm None, not 1.0; optimizer sgd, not sgd_clipped"),
    ],
)
def test_another_configuration_is_refused(change, said, make_cell, train_set, test_set, tmp_path) -> None:
    path = tmp_path / "checkpoint.pt"
    before = make_cell(epochs=2, learning_rate=0.05)
    with pytest.raises(Stop):
        training.train(
            before, train_set, test_set, checkpoint=Stopping(path, checkpoint_identity(before, Settings()), 1)
        )
    content = path.read_bytes()
    after = TrainingCell.from_dict({**before.to_dict(), **change})
    with pytest.raises(ValueError, match=r"checkpoint\.pt: of a run with .*; delete it to start") as error:
        training.train(after, train_set, test_set, checkpoint=Checkpoint(path, checkpoint_identity(after, Settings())))
    assert f"of a run with {said};" in str(error.value)
    assert path.read_bytes() == content


def test_other_settings_are_refused(make_cell) -> None:
    cell = make_cell()
    assert checkpoint_identity(cell, Settings(threads=2)) != checkpoint_identity(cell, Settings())
    assert checkpoint_identity(cell, Settings(deterministic=False)) != checkpoint_identity(cell, Settings())


def test_another_machine_is_said_and_recorded(make_cell, train_set, test_set, tmp_path, caplog, monkeypatch) -> None:
    cell, path = make_cell(epochs=2), tmp_path / "checkpoint.pt"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(training.provenance, "device", lambda _: {"name": "Another CPU"})
        with pytest.raises(Stop):
            training.train(cell, train_set, test_set, checkpoint=Stopping(path, {}, 2))
    run = training.train(cell, train_set, test_set, checkpoint=Checkpoint(path, {}))
    (part,) = run.record["interrupted"]
    assert (part["device"], part["steps"]) == ("Another CPU", 2)
    assert f"until now with device Another CPU, from here with {run.record['device']['name']}" in caplog.text
    assert run.record["seconds"] >= part["seconds"]


class Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_file_with_code_in_it_is_not_executed(tmp_path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {})
    checkpoint.save({"evil": Touch(tmp_path / "executed")})
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load()
    assert not (tmp_path / "executed").exists()


def test_what_a_killed_process_left_is_removed(tmp_path) -> None:
    checkpoint = saved(tmp_path / "checkpoint.pt")
    (tmp_path / ".checkpoint.0123.pt").write_bytes(b"half")
    (tmp_path / ".metrics.0123.csv").write_bytes(b"another's")
    assert checkpoint.load() is not None
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", ".metrics.0123.csv"}


def saves(monkeypatch, tmp_path, clock: list[float], **every) -> list[float]:
    """At which of the times, one per step, something is saved; every third step ends an epoch."""
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    now, found = [0.0], []
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {}, **every)
    monkeypatch.setattr(
        checkpoint, "save", lambda state: (found.append(now[0]), setattr(checkpoint, "_saved_at", now[0]))
    )
    for number, now[0] in enumerate(clock, 1):
        checkpoint.after_step(dict)
        if number % 3 == 0:
            checkpoint.after_epoch(number // 3, dict)
    return found


def test_it_saves_by_minutes_and_by_epochs(monkeypatch, tmp_path) -> None:
    clock = list(np.arange(10.0, 190, 10))  # 18 steps, 6 epochs
    assert saves(monkeypatch, tmp_path, clock, minutes=1) == [60, 120, 180]
    assert saves(monkeypatch, tmp_path, clock, epochs=2) == [60, 120, 180]
    assert saves(monkeypatch, tmp_path, clock, minutes=1.1, epochs=5) == [70, 140, 150]
    assert saves(monkeypatch, tmp_path, clock) == []


def test_a_full_disk_does_not_end_a_run(make_disk, fill_disk, tmp_path, caplog) -> None:
    disk = make_disk(tmp_path / "disk", "1m")
    checkpoint = saved(disk / "checkpoint.pt")
    filler = fill_disk(disk)
    every = Checkpoint(disk / "checkpoint.pt", {}, epochs=1)
    every.after_epoch(1, lambda: {"large": torch.zeros(10**5)})
    assert f"not saved: [Errno 28] {disk / 'checkpoint.pt'}: No space left on device; free some space" in caplog.text
    assert torch.equal(checkpoint.load()["weights"], STATE["weights"])
    filler.unlink()
    every.after_epoch(2, lambda: {"large": torch.zeros(10**5)})
    assert checkpoint.load().keys() == {"large"}


# ---------------------------------------------------------------------------------------------- the signals


WAITER = """
import sys, time
from nonsmooth.checkpoints import Checkpoint
with Checkpoint(sys.argv[1], {}) as checkpoint:
    for number in range(10**6):
        time.sleep(0.01)
        print(number, flush=True)
        if sys.argv[2] == "steps":
            checkpoint.after_step(lambda: {"number": number})
"""


def waiter(path: Path, kind: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITER, str(path), kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: signal.Signals, tmp_path) -> None:
    process = waiter(tmp_path / "checkpoint.pt", "steps")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}; saved in {tmp_path / 'checkpoint.pt'}" in errors
    last = int(["0", *output.split()][-1])
    assert Checkpoint(tmp_path / "checkpoint.pt", {}).load() == {"number": last}


def test_only_a_second_interrupt_ends_at_once(tmp_path) -> None:
    process = waiter(tmp_path / "checkpoint.pt", "no steps")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        assert process.poll() is None
        process.send_signal(number)
        for _ in range(3):
            process.stdout.readline()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_put_back(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoint(tmp_path / "checkpoint.pt", {}):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert os.listdir(tmp_path) == []
