"""The MaxPool study's tables, recomputed by loops from the files of made-up cells, and ties counted window by window."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from nonsmooth import maxpool, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import write_json
from nonsmooth.pooling import Hybrid, MaxPool2d, Native
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS
from nonsmooth.training import Images

MakeCell = Callable[..., TrainingCell]
CPU_PRECISIONS = [name for name, precision in PRECISIONS.items() if "cpu" in precision.devices]

# --------------------------------------------------------------------------------------------------- runs


def metrics_rows(cell: TrainingCell, epochs: int) -> list[dict]:
    return [
        {
            "epoch": epoch,
            "learning_rate": cell.learning_rate / epoch,
            "train_loss": 2.0 / epoch + cell.seed,
            "train_accuracy": 0.5 + epoch / 100,
            "test_loss": 2.5 / epoch + cell.seed,
            "test_accuracy": 0.4 + epoch / 100 + cell.seed / 1000,
            "skipped_steps": 0,
            "seconds": 1.5,
            "images_per_second": [700.0, 100.0, 200.0, 1000.0][epoch - 1],
        }
        for epoch in range(1, epochs + 1)
    ]


class Cells:
    """Writes the files of cells, and keeps their paths as the rule lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics, self.records, self.benchmarks = [], [], []

    def add(self, cell: TrainingCell, epochs: int = 2, lost: list[str] = (), **record) -> None:
        """`lost`: columns that are NaN in the last epoch; `record`: what differs from a run without incident."""
        folder = self.folder / cell.path
        rows = metrics_rows(cell, epochs)
        rows[-1].update(dict.fromkeys(lost, math.nan))
        usual = {"diverged": False, "first_nonfinite_step": None, "steps": 32 * epochs, "skipped_steps": 0}
        made_by = {"weights_sha256": "ab" * 32, "config_hash": "cd" * 32, "git": {"commit": "ef" * 20, "dirty": False}}
        device = {"name": "a processor", "type": "cpu", "capability": "AVX2"}
        write_json(
            folder / "record.json",
            {"cell": cell.to_dict(), "epochs_run": epochs, "device": device, **usual, **made_by, **record},
        )
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
        benchmark = pd.DataFrame({"s": [9.0, 12.5 + cell.seed], "h:m:s": "0:00:12", "max_rss": [1.0, 700.5]})
        benchmark.to_csv(folder / "job.tsv", index=False, sep="\t")
        self.metrics.append(str(folder / "metrics.csv"))
        self.records.append(str(folder / "record.json"))
        self.benchmarks.append(str(folder / "job.tsv"))

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return maxpool.read_runs(self.metrics, self.records, self.benchmarks)


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path)


def test_a_run_is_the_last_epoch_the_record_and_the_job(cells: Cells, make_cell: MakeCell) -> None:
    cell = make_cell(rule="hybrid-0.5-composed", optimizer="adam", precision="mixed16", seed=3, epochs=4)
    cells.add(cell, epochs=4, skipped_steps=5)
    runs, epochs = cells.read()
    identity = {
        "dataset": "mnist_5k",
        "architecture": "lenet5",
        "normalization": "none",
        "optimizer": "adam",
        "precision": "mixed16",
        "rule": "hybrid-0.5-composed",
        "beta": 0.5,
        "evaluation": "composed",
        "seed": 3,
    }
    last = metrics_rows(cell, 4)[-1]
    (row,) = runs.to_dict("records")
    assert row == {
        **identity,
        **{name: last[name] for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss")},
        "diverged": False,
        "first_nonfinite_step": None,
        "steps": 128,
        "skipped_steps": 5,
        "epochs_run": 4,
        "epochs": 4,
        "batch_size": 64,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "adam_eps": 1e-4,
        "images_per_second": 450.0,  # the median of 700, 100, 200, 1000
        "job_seconds": 15.5,  # a retried job has a row for each attempt, and the last one made the files
        "peak_memory_mib": 700.5,
        "device": "a processor",
        "weights_sha256": "ab" * 32,
        "config_hash": "cd" * 32,
        "commit": "ef" * 20,
    }
    for found, written in zip(epochs.to_dict("records"), metrics_rows(cell, 4), strict=True):
        assert {**written, **identity}.items() <= found.items()


def test_runs_and_epochs_come_in_the_order_of_the_files(cells: Cells, make_cell: MakeCell) -> None:
    rules = {"native": (0, ""), "hybrid-10000-exact": (10000, "exact"), "minimal": (1, ""), "hybrid--3-exact": (-3, "exact")}  # fmt: skip
    for (rule, _), seed in itertools.product(rules.items(), (7, 0)):
        cells.add(make_cell(rule=rule, seed=seed))
    runs, epochs = cells.read()
    expected = [(rule, *beta, seed) for (rule, beta), seed in itertools.product(rules.items(), (7, 0))]
    columns = ["rule", "beta", "evaluation", "seed"]
    assert list(runs[columns].itertuples(index=False, name=None)) == expected
    expected = [(*run, epoch) for run, epoch in itertools.product(expected, (1, 2))]
    assert list(epochs[[*columns, "epoch"]].itertuples(index=False, name=None)) == expected
    assert epochs.index.is_unique


def test_a_diverged_run_keeps_its_losses_its_step_and_its_accuracy(cells: Cells, make_cell: MakeCell) -> None:
    cells.add(make_cell(), epochs=2)
    diverged = {"diverged": True, "first_nonfinite_step": 40}
    cells.add(make_cell(seed=1, epochs=2), epochs=1, lost=["train_loss", "test_loss"], **diverged)
    runs, epochs = cells.read()
    assert runs.diverged.tolist() == [False, True]
    assert [str(step) for step in runs.first_nonfinite_step] == ["<NA>", "40"]
    assert runs.train_loss.isna().tolist() == [False, True]
    assert runs.test_accuracy.tolist() == [0.4 + 2 / 100, 0.4 + 1 / 100 + 1 / 1000]
    assert epochs.train_loss.isna().tolist() == [False, False, True]


def test_runs_survive_a_csv(cells: Cells, make_cell: MakeCell, tmp_path: Path) -> None:
    """As the figures read them: `none` is a word, and the accuracies come back to the bit."""
    cells.add(make_cell(rule="hybrid-1000-exact"))
    cells.add(make_cell(seed=1), lost=["train_loss"], diverged=True, first_nonfinite_step=40)
    runs, _ = cells.read()
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = pd.read_csv(tmp_path / "runs.csv", keep_default_na=False, na_values=[""]).fillna({"evaluation": ""})
    pd.testing.assert_frame_equal(again, runs, check_dtype=False, check_exact=True)
    assert again.diverged.dtype == bool


DAMAGES = {
    "empty metrics": ("metrics", b""),
    "metrics with a header only": ("metrics", b"epoch,learning_rate\n"),
    "metrics with too long a row": ("metrics", b"epoch,train_loss\n1,2\n1,2,3,4\n"),
    "metrics that are not text": ("metrics", b"\xff\xfe\x00epoch"),
    "metrics without a column": ("metrics", b"epoch,train_loss\n1,2.5\n2,2.0\n"),
    "metrics cut short": ("metrics", None),
    "empty record": ("records", b""),
    "record cut short": ("records", b'{"cell": {"dataset": "mni'),
    "record that is not text": ("records", b"\xff\xfe{}"),
    "record without a cell": ("records", b"{}"),
    "record that is a list": ("records", b"[]"),
    "empty benchmark": ("benchmarks", b""),
    "benchmark with a header only": ("benchmarks", b"s\th:m:s\tmax_rss\n"),
    "benchmark without a column": ("benchmarks", b"h:m:s\n0:00:12\n"),
}


@pytest.mark.parametrize(("kind", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(kind: str, content: bytes | None, cells: Cells, make_cell: MakeCell) -> None:
    for seed in range(3):
        cells.add(make_cell(seed=seed))
    damaged = Path(getattr(cells, kind)[1])
    damaged.write_bytes(b"".join(damaged.read_bytes().splitlines(keepends=True)[:-1]) if content is None else content)
    with pytest.raises(ValueError, match="delete it and run snakemake again") as raised:
        cells.read()
    assert str(raised.value).startswith(f"{damaged}: ")
    assert "\n" not in str(raised.value)


def test_lists_of_different_length_are_refused(cells: Cells, make_cell: MakeCell) -> None:
    cells.add(make_cell())
    cells.records.append(cells.records[0])
    with pytest.raises(ValueError, match="longer than"):
        cells.read()


# ------------------------------------------------------------------------------------------ summary and costs


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """One to four runs per condition in mixed order, some of which diverged, with accuracies that need rounding."""
    generator = np.random.default_rng(0)
    factors = itertools.product(
        ("mnist_5k", "fashion_mnist"), ("batch_norm", "none"), ("sgd", "adam"), ("float32", "float16"),
        (("minimal", 1.0, ""), ("hybrid-10000-exact", 1e4, "exact"), ("native", 0.0, "")),
    )  # fmt: skip
    rows = [
        {
            "dataset": dataset,
            "architecture": "lenet5",
            "normalization": normalization,
            "optimizer": optimizer,
            "precision": precision,
            "rule": rule,
            "beta": beta,
            "evaluation": evaluation,
            "seed": seed,
            "epochs": int(generator.integers(1, 4)),
            "test_accuracy": 0.1 if (diverged := bool(generator.random() < 0.3)) else generator.random(),
            "diverged": diverged,
            "device": f"device {generator.integers(2)}",
            "images_per_second": 1000 * generator.random(),
            "job_seconds": 100 * generator.random(),
            "peak_memory_mib": 1000 * generator.random(),
        }
        for number, (dataset, normalization, optimizer, precision, (rule, beta, evaluation)) in enumerate(factors)
        for seed in range(1 + number % 4)
    ]
    return pd.DataFrame([rows[i] for i in generator.permutation(len(rows))])


def groups(runs: pd.DataFrame, *factors: str) -> dict[tuple, list[dict]]:
    """Rows by the values of `factors`, in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for row in runs.to_dict("records"):
        found.setdefault(tuple(row[factor] for factor in factors), []).append(row)
    return found


def test_summary_is_mean_and_deviation_over_all_runs(runs: pd.DataFrame) -> None:
    keys = ("dataset", "architecture", "normalization", "optimizer", "precision", "rule", "beta", "evaluation")
    expected = groups(runs, *keys)
    found = maxpool.summarize(runs).to_dict("records")
    assert [tuple(row[key] for key in keys) for row in found] == list(expected)
    for row, members in zip(found, expected.values(), strict=True):
        accuracies = [member["test_accuracy"] for member in members]
        assert row["test_accuracy_mean"] == pytest.approx(statistics.fmean(accuracies), rel=1e-15 * len(accuracies))
        # The sum of squares about the mean loses digits to cancellation only where the deviation is tiny.
        if len(accuracies) == 1:
            assert math.isnan(row["test_accuracy_std"])
        else:
            assert row["test_accuracy_std"] == pytest.approx(statistics.stdev(accuracies), rel=1e-12)
        assert (row["test_accuracy_min"], row["test_accuracy_max"]) == (min(accuracies), max(accuracies))
        assert row["runs"] == len(members)
        assert row["diverged"] == sum(member["diverged"] for member in members)
    # The made-up runs hold what the test is about.
    assert {len(members) for members in expected.values()} == {1, 2, 3, 4}
    assert any(0 < row["diverged"] < row["runs"] for row in found)


def test_costs_are_sums_over_jobs_and_medians_over_runs(runs: pd.DataFrame) -> None:
    keys = ("dataset", "architecture", "optimizer", "precision")
    expected = groups(runs, *keys)
    found = maxpool.costs(runs).to_dict("records")
    assert [tuple(row.pop(key) for key in keys) for row in found] == list(expected)
    for row, members in zip(found, expected.values(), strict=True):
        column = {name: [member[name] for member in members] for name in members[0]}
        assert row.pop("job_seconds") == pytest.approx(math.fsum(column["job_seconds"]), rel=1e-14)
        assert row.pop("images_per_second") == pytest.approx(statistics.median(column["images_per_second"]))
        assert row == {
            "runs": len(members),
            "epochs": max(column["epochs"]),
            "device": ", ".join(sorted(set(column["device"]))),
            "peak_memory_mib": max(column["peak_memory_mib"]),
        }
    assert {row["device"] for row in found} >= {"device 0, device 1"}


def test_conditions_are_distinct_and_in_order_of_appearance(runs: pd.DataFrame) -> None:
    for factors in (("precision",), ("optimizer", "rule"), ("dataset", "normalization", "precision", "beta")):
        assert maxpool.conditions(runs, factors) == list(groups(runs, *factors))


# --------------------------------------------------------------------------------------------------- ties


def plain_ties(values: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """What `maxpool.ties` returns, window by window."""
    channels, height, width = values.shape
    tied = np.zeros(values.shape, bool)
    maxima = np.zeros((channels, height // size, width // size))
    count = np.zeros(maxima.shape, int)
    for channel, row, column in np.ndindex(maxima.shape):
        window = [(channel, size * row + i, size * column + j) for i, j in itertools.product(range(size), range(size))]
        largest = max(values[place] for place in window)
        winners = [place for place in window if values[place] == largest]
        maxima[channel, row, column], count[channel, row, column] = largest, len(winners)
        for place in winners:
            tied[place] = len(winners) > 1
    return {"activations": values, "tied": tied, "maxima": maxima, "count": count}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert found["activations"].dtype == np.float64
    assert found["tied"].dtype == bool


@pytest.mark.parametrize("name", CPU_PRECISIONS)
def test_ties_in_digits(name: str, test_set: Images) -> None:
    """What enters the pooling is computed here by one convolution in float32 or wider that is rounded once."""
    precision = PRECISIONS[name]
    stored = precision.autocast or precision.dtype
    wide = torch.float32 if stored in SIXTEEN_BITS else stored
    for number, seed in ((0, 0), (37, 0), (99, 1)):
        (image,), _ = test_set.batch(slice(number, number + 1))
        layer = maxpool.initial_network("lenet5", "mnist_5k", seed).conv1
        weight, bias, pixels = (tensor.detach().to(stored).to(wide) for tensor in (layer.weight, layer.bias, image))
        activations = conv2d(pixels[None], weight, bias)[0].clamp(min=0).to(stored).double().numpy()
        found = maxpool.ties(image, maxpool.initial_network("lenet5", "mnist_5k", seed), name)
        assert_same(found, plain_ties(activations, 2))
        # A digit has a flat background, and a stroke.
        assert 0 < (found["count"] > 1).sum() < found["count"].size


def pooling(size: int = 2, **geometry) -> nn.Module:
    """A network that begins with its pooling, so that the image is what is pooled."""
    return nn.Sequential(nn.MaxPool2d(size, **geometry))


CONSTRUCTED = {
    "flat": torch.full((2, 4, 6), 3.0),
    "flat at zero": torch.zeros(1, 4, 4),
    "no ties": torch.arange(48.0).view(3, 4, 4),
    "below zero": torch.tensor([[[-1.0, -1, -3, -2], [-1, -2, -4, -5]]]),
    "two of four, in every place": torch.tensor([[[1.0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0],
                                                  [0.0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1]]]),
    "zeros of either sign": torch.tensor([[[0.0, -0.0], [-1, -2]]]),
    # The larger value of a window that ties rounds to 1 in 16 bits: float16 has 11 digits, bfloat16 8.
    "by rounding": torch.tensor([[[1 + 2.0**-12, 1, 1 + 2.0**-9, 1], [0, 0, 0, 0]]]),
    "across windows only": torch.tensor([[[0.0, 5, 5, 0], [1, 2, 3, 4]]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("image", CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_ties_in_constructed_activations(image: torch.Tensor, name: str) -> None:
    found = maxpool.ties(image, pooling(), name)
    assert_same(found, plain_ties(image.to(PRECISIONS[name].dtype).double().numpy(), 2))


def test_rounding_makes_ties() -> None:
    counts = {name: maxpool.ties(CONSTRUCTED["by rounding"], pooling(), name)["count"].tolist() for name in CPU_PRECISIONS}  # fmt: skip
    expected = {name: [[[1, 1]]] for name in CPU_PRECISIONS} | {"bfloat16": [[[2, 2]]], "float16": [[[2, 1]]]}
    assert counts == expected


def test_windows_of_three() -> None:
    image = torch.randint(3, (2, 6, 9), generator=torch.Generator().manual_seed(0)).float()
    found = maxpool.ties(image, pooling(3), "float32")
    assert_same(found, plain_ties(image.double().numpy(), 3))
    assert len(np.unique(found["count"])) > 3


@pytest.mark.parametrize("rule", [Native(), Hybrid(10000.0, "exact"), Hybrid(10000.0, "composed")], ids=str)
def test_ties_are_of_the_input_whatever_the_rule(rule) -> None:
    """In the composed evaluation the pooled values are others."""
    image = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(0)) / 8
    found = maxpool.ties(image, nn.Sequential(MaxPool2d(2, rule=rule)), "float16")
    assert_same(found, plain_ties(image.double().numpy(), 2))
    assert (found["count"] > 1).any()


def test_the_first_pooling_counts_and_a_network_can_be_asked_again() -> None:
    network = nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2))
    image = torch.arange(16.0).view(1, 4, 4)
    for precision in ("float64", "float32"):
        assert maxpool.ties(image, network, precision)["count"].shape == (1, 2, 2)
    assert not any(module._forward_pre_hooks for module in network)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (pooling(3, stride=2), (1, 9, 9)),
        (pooling(2, stride=3), (1, 6, 6)),
        (pooling(2), (1, 5, 4)),
        (pooling(2), (1, 4, 5)),
        (pooling(2, padding=1), (1, 4, 4)),
        (pooling(2, dilation=2), (1, 4, 4)),
        (pooling((2, 4)), (1, 4, 4)),
    ],
)
def test_windows_that_do_not_tile_are_refused(network: nn.Module, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="windows that tile"):
        maxpool.ties(torch.zeros(shape), network, "float32")


def test_tie_counts() -> None:
    images = {name: CONSTRUCTED[name] for name in ("flat", "flat at zero", "no ties", "below zero", "by rounding")}
    mixed = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1], [7, 7, 0, 0], [7, 6, 0, -1]]])
    measured = {
        name: plain_ties(image.double().numpy(), 2) for name, image in {**images, "mixed": mixed}.items()
    }  # fmt: skip
    table = maxpool.tie_counts(measured).set_index("precision")
    assert list(table.index) == list(measured)
    for name, arrays in measured.items():
        windows = list(zip(arrays["maxima"].ravel(), arrays["count"].ravel(), strict=True))
        sizes = [k for _, k in windows if k > 1]
        row = table.loc[name]
        assert row.windows == len(windows)
        assert row.tied == len(sizes)
        assert row.tied_at_zero == sum(value == 0 for value, k in windows if k > 1)
        assert row.tied_above_zero == sum(value > 0 for value, k in windows if k > 1)
        assert row.mean_size_of_ties == (pytest.approx(sum(sizes) / len(sizes)) if sizes else pytest.approx(math.nan, nan_ok=True))  # fmt: skip
    assert list(table.loc["mixed"]) == [4, 4, 2, 2, 13 / 4]
    assert not table.loc["no ties", ["tied", "tied_at_zero", "tied_above_zero"]].any()
    assert pd.api.types.is_integer_dtype(table.tied)


def test_initial_network_is_what_a_cell_starts_from(make_cell: MakeCell) -> None:
    state = torch.get_rng_state()
    network = maxpool.initial_network("lenet5", "mnist_5k", 5)
    assert torch.equal(torch.get_rng_state(), state)
    cell = make_cell(seed=5, rule="hybrid-10-composed", precision="float16")
    rounded = training.initial_model(cell).state_dict()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.half(), rounded[name])
    other = maxpool.initial_network("lenet5", "mnist_5k", 6)
    assert not torch.equal(other.conv1.weight, network.conv1.weight)


def test_every_published_experiment_is_described() -> None:
    """The identifiers of the study notes; the report lists those that a preset left out."""
    assert list(maxpool.EXPERIMENTS) == ["intro", "ties", "differences", "thresholds", "factors", "weights",
                                         "accuracy", "loss", "imagenet", "normpool"]  # fmt: skip
