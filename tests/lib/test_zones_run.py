"""Cells of the zones: rows of one pass, draws from the seed, sums of the census, the record."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nonsmooth.cells import Program, ZoneCell
from nonsmooth.images import Images
from nonsmooth.precision import PRECISIONS
from nonsmooth.training import Settings
from nonsmooth.zones.measure import SEPARATED, SEPARATED_LAYER, Comparison
from nonsmooth.zones.run import add_census, initial_network, measure_cell, noisy

CELL = ZoneCell(dataset="mnist_5k", architecture="lenet5", precision="float16", batch_size=16, seed=2, minibatches=3)


@pytest.fixture
def data(train_set: Images) -> Images:
    return train_set


def test_rows_are_those_of_the_comparison_minibatch_by_minibatch(data: Images) -> None:
    run = measure_cell(CELL, data, Settings())
    comparison = Comparison(
        initial_network(CELL), Program("minimal"), Program(), PRECISIONS["float16"], torch.device("cpu")
    )
    draws = torch.Generator().manual_seed(CELL.seed)
    layers: list[dict] = []
    for number, (batch, row) in enumerate(zip(data.batches(16, draws), run.minibatches, strict=False)):
        measured = comparison.measure(*batch)
        layers = add_census(layers, measured.layers) if layers else measured.layers
        del measured.row["seconds_pair"], measured.row["seconds_replays"]
        assert row == {"minibatch": number, **measured.row}
    assert number == 2
    assert run.layers == [{"layer": position, **layer} for position, layer in enumerate(layers, 1)]


def test_a_whole_pass_sees_every_image_once(data: Images) -> None:
    run = measure_cell(replace(CELL, minibatches=None, replays=False), data, Settings())
    assert [row["images"] for row in run.minibatches] == [16] * 12 + [8]
    assert run.record["minibatches"] == 13
    assert run.layers[0]["windows"] == 200 * 6 * 12 * 12


@pytest.mark.parametrize("changes", [{}, {"noise": 0.3}, {"precision": "float32", "program": "native+relu-1"}])
def test_a_cell_is_the_same_when_it_is_measured_again(data: Images, changes: dict) -> None:
    cell = replace(CELL, **changes)
    first, second = (measure_cell(cell, data, Settings()) for _ in range(2))
    assert first.minibatches == second.minibatches
    assert first.layers == second.layers
    assert first.record["config_hash"] == second.record["config_hash"]
    other = measure_cell(replace(cell, seed=3), data, Settings())
    assert [row["gradient"] for row in other.minibatches] != [row["gradient"] for row in first.minibatches]


def test_precisions_see_the_same_images_and_weights(data: Images) -> None:
    losses = {
        precision: [
            row["loss"] for row in measure_cell(replace(CELL, precision=precision), data, Settings()).minibatches
        ]
        for precision in ("float16", "float32", "float64")
    }
    assert losses["float32"] == pytest.approx(losses["float64"], rel=1e-5)
    assert losses["float16"] == pytest.approx(losses["float64"], rel=1e-2)


def test_a_program_beside_itself_is_identical(data: Images) -> None:
    run = measure_cell(replace(CELL, program="native"), data, Settings())
    assert {row["class"] for row in run.minibatches} == {"identical"}
    assert all(row["difference"] == row["replay"] == row["real"] == 0 for row in run.minibatches)


def test_the_published_initialisation() -> None:
    model = initial_network(replace(CELL, architecture="vgg11"))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / module.weight[0].numel()) ** 0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.abs().max() > 0.98 * bound
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any()
    assert model.training


def test_the_default_initialisation_is_that_of_training() -> None:
    from nonsmooth.cells import TrainingCell
    from nonsmooth.training import initial_model

    trained = initial_model(TrainingCell(dataset="mnist_5k", architecture="lenet5", seed=2))
    model = initial_network(replace(CELL, initialization="default"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


def test_noise_has_its_deviation_and_none_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(64, 1, 28, 28)
    assert noisy(images, 0.0, generator) is images
    assert noisy(images, 0.5, generator).std().item() == pytest.approx(0.5, rel=0.02)


def test_counts_add_up_and_what_is_unknown_stays_out() -> None:
    def layer(tied: int, largest: int, both: int | None) -> list[dict]:
        return [{"name": "pool", "kind": "max_pool", "tied": tied, "largest_size": largest, "tied_both": both}]

    assert add_census(layer(2, 3, 1), layer(5, 4, None)) == layer(7, 4, 1)
    assert add_census(layer(2, 3, None), layer(5, 2, None)) == layer(7, 3, None)


def test_a_precision_that_a_device_does_not_have_is_refused(data: Images) -> None:
    with pytest.raises(ValueError, match="tf32 needs a device of type"):
        measure_cell(replace(CELL, precision="tf32"), data, Settings())


def test_memory_does_not_grow(data: Images) -> None:
    """As many tensors are alive after each minibatch, counted without those of the minibatch itself."""
    alive: list[int] = []

    def count(row: dict) -> None:
        gc.collect()
        alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))

    cell = replace(CELL, normalization="batch_norm", program="minimal+relu-1", minibatches=6)
    measure_cell(cell, data, Settings(), on_minibatch=count)
    assert len(set(alive[1:])) == 1


@pytest.mark.parametrize("program", ["minimal", "hybrid-1000-composed"])
def test_a_cell_without_replays(data: Images, program: str) -> None:
    """The columns that replays fill are there and empty; the others are as with replays where there are any."""
    cell = replace(CELL, normalization="batch_norm", program=program, replays=False)
    run = measure_cell(cell, data, Settings())
    for row in run.minibatches:
        assert all(row[name] is None for name in SEPARATED)
        assert row["class"] == ""
        assert row["difference"] > 0
    assert [layer["name"] for layer in run.layers] == ["pool1", "pool2"]
    assert all(layer[name] is None for layer in run.layers for name in SEPARATED_LAYER)
    if program == "minimal":
        full = measure_cell(replace(cell, replays=True), data, Settings())
        for row, other in zip(run.minibatches, full.minibatches, strict=True):
            assert row.keys() == other.keys()
            separated = {*SEPARATED, "class"}
            assert {k: v for k, v in row.items() if k not in separated} == {
                k: v for k, v in other.items() if k not in separated
            }


def test_the_record(data: Images) -> None:
    cell = replace(CELL, precision="float32", kernels="default")
    record = measure_cell(cell, data, Settings()).record
    assert ZoneCell.from_dict(record["cell"]) == cell
    assert record["minibatches"] == 3
    assert set(record["seconds"]) == {"plain", "pair", "replays"}
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert record["settings"]["deterministic"] is False
    keys = {"config_hash", "device", "flags", "machine", "versions", "git", "numerics_version", "process_seconds"}
    assert keys | {"peak_memory_mib"} <= record.keys()


def test_rows_are_reported_as_they_come(data: Images) -> None:
    seen: list[dict] = []
    run = measure_cell(CELL, data, Settings(), on_minibatch=seen.append)
    assert seen == run.minibatches


@pytest.fixture(autouse=True)
def uninitialized_memory(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """What a cell switches off is put back."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    return monkeypatch.undo


def test_no_minibatches_are_one_error(data: Images) -> None:
    with pytest.raises(ValueError, match=r"^mnist_5k/lenet5/.*: no minibatch to measure; there are 0 images$"):
        measure_cell(CELL, data.subset(torch.zeros(200, dtype=torch.bool)), Settings())


def test_too_little_memory_names_the_cell(data: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Comparison, "measure", fails)
    with pytest.raises(MemoryError, match=rf"^{re.escape(str(CELL))}: not enough memory for batch_size 16 .*smaller"):
        measure_cell(CELL, data, Settings())


# With this much more address space than PyTorch has taken so far.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from nonsmooth import images
from nonsmooth.cells import ZoneCell
from nonsmooth.training import Settings
from nonsmooth.zones.run import measure_cell

data = images.load("mnist_5k", "lenet5", sys.argv[1], torch.device("cpu"))
cell = ZoneCell(dataset="mnist_5k", architecture="lenet5", precision="float64", batch_size=4000, seed=0)
measure_cell(ZoneCell(**{**vars(cell), "batch_size": 16, "minibatches": 1}), data, Settings())
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
measure_cell(cell, data, Settings())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_gets_no_more_memory_names_the_cell(prepared: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, prepared / "train.npy"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1
    assert re.search(r"^MemoryError: mnist_5k/lenet5/.*: not enough memory for batch_size 4000", result.stderr, re.M)
