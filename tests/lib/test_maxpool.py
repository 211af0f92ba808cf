"""The MaxPool study's tables, recomputed by loops from the files of made-up cells."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from nonsmooth import maxpool, published
from nonsmooth.cells import CONDITION, GROUP, SEARCH, SETUP, TrainingCell, WeightsCell
from nonsmooth.files import read_json, write_json
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.rules import EVALUATIONS, SIMPLE_RULES, Hybrid, parse_rule, rule_beta

MakeCell = Callable[..., TrainingCell]

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
        self.cells, self.metrics, self.records = [], [], []

    def add(self, cell: TrainingCell, epochs: int = 2, lost: list[str] = (), **record) -> None:
        """`lost`: columns that are NaN in the last epoch; `record`: what differs from a run without incident."""
        folder = self.folder / cell.path
        rows = metrics_rows(cell, epochs)
        rows[-1].update(dict.fromkeys(lost, math.nan))
        usual = {"diverged": False, "first_nonfinite_step": None, "steps": 32 * epochs, "skipped_steps": 0}
        usual |= {"process_seconds": 15.5, "peak_memory_mib": 700.5}
        made_by = {"weights_sha256": "ab" * 32, "config_hash": "cd" * 32, "git": {"commit": "ef" * 20, "dirty": False}}
        made_by["numerics_version"] = NUMERICS_VERSION
        device = {"name": "a processor", "type": "cpu", "capability": "AVX2"}
        write_json(
            folder / "record.json",
            {"cell": cell.to_dict(), "epochs_run": epochs, "device": device, **usual, **made_by, **record},
        )
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
        self.cells.append(cell)
        self.metrics.append(str(folder / "metrics.csv"))
        self.records.append(str(folder / "record.json"))

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return maxpool.read_runs(self.cells, self.metrics, self.records)


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path)


def test_a_run_is_the_last_epoch_and_the_record(cells: Cells, make_cell: MakeCell) -> None:
    cell = make_cell(
        rule="hybrid-0.5-composed", relu_derivative=0.5, optimizer="adam", precision="mixed16", seed=3, epochs=4,
        schedule="step", augmentation="crop_flip", train_split="extra",
    )  # fmt: skip
    cells.add(cell, epochs=4, skipped_steps=5, peak_gpu_memory_mib=300.25)
    runs, epochs = cells.read()
    identity = {
        "dataset": "mnist_5k",
        "architecture": "lenet5",
        "normalization": "none",
        "optimizer": "adam",
        "precision": "mixed16",
        "rule": "hybrid-0.5-composed",
        "relu_derivative": 0.5,
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
        "schedule": "step",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "adam_eps": 1e-4,
        "augmentation": "crop_flip",
        "train_split": "extra",
        "images_per_second": 450.0,  # the median of 700, 100, 200, 1000
        "job_seconds": 15.5,
        "peak_memory_mib": 700.5,
        "peak_gpu_memory_mib": 300.25,
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


def test_the_memory_of_a_gpu_is_empty_without_one(cells: Cells, make_cell: MakeCell) -> None:
    cells.add(make_cell())
    cells.add(make_cell(seed=1), peak_gpu_memory_mib=300.25)
    assert cells.read()[0].peak_gpu_memory_mib.isna().tolist() == [True, False]


def test_a_rule_without_a_beta_has_none(cells: Cells, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __str__(self) -> str:
            return "other"

    monkeypatch.setitem(SIMPLE_RULES, "other", Other)
    for seed in range(2):
        cells.add(make_cell(rule="other", seed=seed))
    runs, epochs = cells.read()
    assert runs.beta.isna().all()
    assert set(runs.evaluation) == {""}
    assert epochs.beta.isna().all()
    (row,) = maxpool.summarize(runs).to_dict("records")
    assert (row["rule"], row["runs"]) == ("other", 2)
    assert math.isnan(row["beta"])


def test_a_rate_that_was_searched_is_the_one_of_the_record(cells: Cells, make_cell: MakeCell) -> None:
    """The preset does not know it, and every other setting still has to agree."""
    cells.add(make_cell(learning_rate=0.0123))
    cells.cells[0] = make_cell(learning_rate=SEARCH)
    assert cells.read()[0].learning_rate.tolist() == [0.0123]
    cells.cells[0] = make_cell(learning_rate=SEARCH, momentum=0.5)
    with pytest.raises(ValueError, match=r"the cell was trained with momentum 0\.9, not 0\.5; delete"):
        cells.read()


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
    "metrics of too few epochs": ("metrics", None),
    "record of nothing": ("records", b"null"),
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


@pytest.mark.parametrize("name", sorted(maxpool.RECORDED))
def test_a_record_that_lacks_something_is_named(name: str, cells: Cells, make_cell: MakeCell) -> None:
    cells.add(make_cell())
    record = read_json(cells.records[0])
    del record[name]
    write_json(cells.records[0], record)
    with pytest.raises(ValueError, match=r"record\.json: not the record of a cell; delete it and run snakemake again"):
        cells.read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cell", {}),
        ("cell", None),
        ("cell", {"dataset": "mnist_5k", "architecture": "lenet5"}),
        ("device", {}),
        ("device", "a processor"),
        ("git", None),
        ("git", {}),
    ],
)
def test_a_record_of_another_version_is_named(name: str, value: object, cells: Cells, make_cell: MakeCell) -> None:
    """Such as one from before ReLU'(0) was a factor, moved to where it is now."""
    cells.add(make_cell())
    write_json(cells.records[0], {**read_json(cells.records[0]), name: value})
    with pytest.raises(ValueError, match=r"record\.json: .*; delete it and run snakemake again"):
        cells.read()


@pytest.mark.parametrize(
    "setting",
    ["epochs", "learning_rate", "batch_size", "schedule", "augmentation", "train_split", "relu_derivative", "seed"],
)
def test_a_cell_trained_otherwise_is_refused(setting: str, cells: Cells, make_cell: MakeCell) -> None:
    """Its files can be there although the preset has changed, if Snakemake's own folder was deleted."""
    cells.add(make_cell())
    cells.cells[0] = replace(make_cell(), **{setting: 7})
    old = getattr(make_cell(), setting)
    with pytest.raises(ValueError, match=rf"record\.json: the cell was trained with {setting} {old}, not 7; delete"):
        cells.read()


def test_a_cell_of_another_numerics_version_is_refused(cells: Cells, make_cell: MakeCell) -> None:
    cells.add(make_cell(), numerics_version=NUMERICS_VERSION + 1)
    with pytest.raises(ValueError, match="numerics_version"):
        cells.read()


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
        (("minimal", 1.0, ""), ("hybrid-10000-exact", 1e4, "exact"), ("native", 0.0, "")), (0.0, 1.0),
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
            "relu_derivative": relu_derivative,
            "seed": seed,
            "epochs": int(generator.integers(1, 4)),
            "test_accuracy": 0.1 if (diverged := bool(generator.random() < 0.3)) else generator.random(),
            "diverged": diverged,
            "device": f"device {generator.integers(2)}",
            "images_per_second": 1000 * generator.random(),
            "job_seconds": 100 * generator.random(),
            "peak_memory_mib": 1000 * generator.random(),
            "peak_gpu_memory_mib": 1000 * generator.random() if dataset == "mnist_5k" else None,
        }
        for number, (
            dataset,
            normalization,
            optimizer,
            precision,
            (rule, beta, evaluation),
            relu_derivative,
        ) in enumerate(factors)
        for seed in range(1 + number % 4)
    ]
    table = pd.DataFrame([rows[i] for i in generator.permutation(len(rows))])
    return table.astype({"peak_gpu_memory_mib": "Float64"})


def groups(runs: pd.DataFrame, *factors: str) -> dict[tuple, list[dict]]:
    """Rows by the values of `factors`, in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for row in runs.to_dict("records"):
        found.setdefault(tuple(row[factor] for factor in factors), []).append(row)
    return found


def test_summary_is_mean_and_deviation_over_all_runs(runs: pd.DataFrame) -> None:
    keys = (*CONDITION, "beta", "evaluation")
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
    keys = tuple(GROUP)
    assert set(keys) == {"dataset", "architecture", "optimizer", "precision", "relu_derivative"}
    expected = groups(runs, *keys)
    found = maxpool.costs(runs).to_dict("records")
    assert [tuple(row.pop(key) for key in keys) for row in found] == list(expected)
    for row, members in zip(found, expected.values(), strict=True):
        column = {name: [member[name] for member in members] for name in members[0]}
        assert row.pop("job_seconds") == pytest.approx(math.fsum(column["job_seconds"]), rel=1e-14)
        assert row.pop("images_per_second") == pytest.approx(statistics.median(column["images_per_second"]))
        on_gpu = [value for value in column["peak_gpu_memory_mib"] if not pd.isna(value)]
        gpu = row.pop("peak_gpu_memory_mib")
        assert pd.isna(gpu) if not on_gpu else gpu == max(on_gpu)
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


# ----------------------------------------------------------------------------------------- beside the published


def trained(setup: tuple, rule: str, **values) -> dict:
    """A run of ours as `read_runs` gives it, as far as it matters."""
    parsed = parse_rule(rule)
    return {
        **dict(zip(SETUP, setup, strict=True)),
        "rule": rule,
        "relu_derivative": 0.0,
        "beta": rule_beta(parsed),
        "evaluation": parsed.evaluation if isinstance(parsed, Hybrid) else "",
        "seed": 0,
        "epochs": 2,
        "train_split": "train",
        "test_accuracy": 0.5,
        "diverged": False,
        **values,
    }


MNIST = ("mnist", "lenet5", "none", "sgd", "float16")
SVHN = ("svhn", "vgg11", "none", "sgd", "float16")
COLUMNS = [*CONDITION, "beta", "evaluation",
           *(f"ours_{name}" for name in ("mean", "std", "runs", "diverged", "epochs")),
           *(f"published_{name}" for name in ("epochs", "runs", "diverged", "mean", "std")), "difference",
           "difference_low", "difference_high"]  # fmt: skip


def welch(row: dict) -> dict[str, float]:
    """The interval as of SciPy's test of two samples that have these means and deviations."""
    samples = [
        of_moments(*(row[f"{side}_{name}"] for name in ("mean", "std", "runs"))) for side in ("ours", "published")
    ]
    if min(map(len, samples)) < 2:
        return {"difference_low": math.nan, "difference_high": math.nan}
    found = ttest_ind(*samples, equal_var=False).confidence_interval(0.95)
    return {"difference_low": found.low, "difference_high": found.high}


def of_moments(mean: float, std: float, n: int) -> np.ndarray:
    """A sample of n values with this mean and standard deviation."""
    values = np.arange(n) - (n - 1) / 2
    return mean + (values / values.std(ddof=1) * std if n > 1 else values)


def reference(runs: list[dict], table: list[dict]) -> list[dict]:
    """What `compare` says, by looking at every pair."""
    found: dict[tuple, list[dict]] = {}
    for run in runs:
        key = (*(run[name] for name in CONDITION), run["train_split"])
        found.setdefault(key, []).append(run)
    rows = []
    for members in found.values():
        first, accuracies = members[0], [member["test_accuracy"] for member in members]
        for theirs in table:
            names = (*SETUP, "train_split", "beta")
            if first["relu_derivative"] != 0 or any(first[name] != theirs[name] for name in names):
                continue
            row = {name: first[name] for name in (*CONDITION, "beta", "evaluation")}
            row |= {
                "ours_mean": statistics.fmean(accuracies),
                "ours_std": statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan,
                "ours_runs": len(members),
                "ours_diverged": sum(member["diverged"] for member in members),
                "ours_epochs": max(member["epochs"] for member in members),
            }
            row |= {
                "published_mean": theirs["test_accuracy_mean"],
                "published_std": theirs["test_accuracy_std"],
                "published_runs": theirs["runs"],
                "published_diverged": theirs["diverged"],
                "published_epochs": theirs["epochs"],
            }
            rows.append({**row, "difference": row["ours_mean"] - row["published_mean"], **welch(row)})
    return rows


def test_a_comparison_is_of_what_was_published_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every published set-up and some that were not, with rules, seeds, splits and derivatives of all kinds."""
    monkeypatch.setitem(SIMPLE_RULES, "other", type("Other", (), {"__str__": lambda _: "other"}))
    generator = np.random.default_rng(0)
    setups = {tuple(row[name] for name in SETUP): row for row in published.training().to_dict("records")}
    unpublished = [("fashion_mnist", *MNIST[1:]), (*MNIST[:4], "float64"), (*MNIST[:3], "adam", "float16")]
    assert not set(unpublished) & set(setups)
    rules = [
        "native",
        "minimal",
        "other",
        *(f"hybrid-{beta}-{name}" for beta in (10, 1000, 7) for name in ("exact", "composed")),
    ]
    runs = [
        trained(
            setup, rule, seed=seed, relu_derivative=relu, train_split=split, epochs=int(generator.integers(1, 200)),
            test_accuracy=generator.random(), diverged=bool(generator.random() < 0.3),
        )
        for setup in [*setups, *unpublished]
        for rule in rules
        for relu, split in ((0.0, "train"), (1.0, "train"), (0.0, "extra"))
        for seed in range(generator.integers(1, 4))
    ]  # fmt: skip
    runs = [runs[i] for i in generator.permutation(len(runs))]
    expected = reference(runs, published.training().to_dict("records"))
    table = maxpool.compare(pd.DataFrame(runs), published.training())
    assert list(table) == COLUMNS
    assert len(table) == len(expected) > 100
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected)[COLUMNS], check_dtype=False, rtol=1e-12, atol=1e-15)
    # What the made-up runs are about is among them.
    assert {row["dataset"] for row in expected} == {"mnist", "cifar10", "svhn", "imagenet"}
    assert any(row["ours_diverged"] for row in expected)
    assert any(math.isnan(row["published_std"]) for row in expected)
    assert {row["beta"] for row in expected} == {0, 1, 10, 1000}


def test_svhn_is_compared_if_it_was_trained_on_the_split_that_was_published() -> None:
    runs = [trained(SVHN, "native", train_split="train"), trained(SVHN, "native", train_split="extra", seed=1)]
    found = maxpool.compare(pd.DataFrame(runs), published.training())
    assert found.ours_runs.tolist() == [1]
    assert maxpool.compare(pd.DataFrame(runs[:1]), published.training()).empty


def test_both_evaluations_are_beside_the_published_one() -> None:
    runs = [trained(MNIST, f"hybrid-1000-{name}", test_accuracy=0.9) for name in ("exact", "composed")]
    found = maxpool.compare(pd.DataFrame(runs), published.training())
    assert found.evaluation.tolist() == ["exact", "composed"]
    assert found.published_mean.nunique() == 1
    assert found.difference.tolist() == pytest.approx([0.9 - found.published_mean[0]] * 2)


@pytest.mark.parametrize(
    "run",
    [
        trained(MNIST, "native", relu_derivative=1.0),
        trained(MNIST, "hybrid-7-exact"),
        trained(("mnist_5k", *MNIST[1:]), "native"),
        trained(SVHN, "native"),
    ],
    ids=["another ReLU", "another beta", "another dataset", "another split"],
)
def test_a_comparison_of_nothing_has_its_columns(run: dict, tmp_path: Path) -> None:
    table = maxpool.compare(pd.DataFrame([run]), published.training())
    assert table.empty
    assert list(table) == COLUMNS
    table.to_csv(tmp_path / "published.csv", index=False)
    assert list(pd.read_csv(tmp_path / "published.csv")) == COLUMNS


def test_a_comparison_changes_neither_table() -> None:
    runs, table = pd.DataFrame([trained(MNIST, "native")]), published.training()
    before = runs.copy(), table.copy()
    maxpool.compare(runs, table)
    pd.testing.assert_frame_equal(runs, before[0])
    pd.testing.assert_frame_equal(table, before[1])


def test_rows_are_selected_by_all_values(runs: pd.DataFrame) -> None:
    condition = {"dataset": "mnist_5k", "precision": "float16", "relu_derivative": 1.0}
    expected = [row for row in runs.to_dict("records") if all(row[name] == value for name, value in condition.items())]
    found = maxpool.select(runs, condition)
    assert len(found) == len(expected) > 0
    assert found.test_accuracy.tolist() == [row["test_accuracy"] for row in expected]
    assert maxpool.select(runs, {"dataset": "svhn"}).empty
    pd.testing.assert_frame_equal(maxpool.select(runs, {}), runs)


def test_partial_programs_and_mitigations_are_not_against_beta(runs: pd.DataFrame) -> None:
    """Of a partial program, of a pooling without a choice of a derivative, of an optimizer with a safeguard."""
    rows = [
        ("native", "sgd", True),
        ("minimal", "adam", True),
        ("norm-0", "sgd", False),
        *((f"hybrid-10-{name}", "sgd", name in ("exact", "composed")) for name in EVALUATIONS),
        ("native", "sgd_clipped", False),
        ("hybrid-1000-composed", "sgd_scaled", False),
        *((rule, "sgd", False) for rule in ("average", "boltzmann-0.1", "logsumexp-2", "strided", "rounded-3.5")),
    ]
    table = pd.DataFrame(rows, columns=["rule", "optimizer", "is_in"], index=range(5, 5 + len(rows)))
    pd.testing.assert_frame_equal(maxpool.against_beta(table), table[table.is_in])
    pd.testing.assert_frame_equal(maxpool.against_beta(runs), runs)
    assert maxpool.against_beta(table.head(0)).empty


def test_every_published_experiment_is_described() -> None:
    """The identifiers of the study notes; the report lists those that a preset left out."""
    assert list(maxpool.EXPERIMENTS) == ["intro", "ties", "differences", "thresholds", "factors", "weights",
                                         "accuracy", "loss", "imagenet", "normpool"]  # fmt: skip


# ------------------------------------------------------------------------------------------------ weights


def weights_rows(cell: WeightsCell, lost: int | None = None) -> list[dict]:
    """Rows of a cell whose distance is not finite from the epoch `lost` on."""
    return [
        {
            "epoch": epoch,
            "distance_l1": math.nan if lost is not None and epoch >= lost else 0.25 * epoch,
            "distance_linf": math.inf if lost is not None and epoch >= lost else 0.125 * epoch,
            "weights_l1": 1000.5,
            "program_test_accuracy": 0.1 + epoch / 100,
            "reference_test_accuracy": 0.2 + epoch / 100,
            "program_train_loss": None if epoch == 0 else 2.0,
            "reference_train_loss": None if epoch == 0 else 1.5,
            "seconds": 2.5,
        }
        for epoch in range(cell.epochs + 1)
    ]


def write_weights(folder: Path, cells: list[WeightsCell], lost: int | None = None, **record) -> tuple[list, list, list]:
    epochs, records = [], []
    for number, cell in enumerate(cells):
        epochs.append(str(folder / f"{number}.csv"))
        records.append(str(folder / f"{number}.json"))
        pd.DataFrame(weights_rows(cell, lost)).to_csv(epochs[-1], index=False)
        write_json(
            records[-1],
            {"cell": cell.to_dict(), "program": {"diverged": lost is not None}, "reference": {"diverged": False},
             "device": {"name": "a processor"}, "git": {"commit": "ef" * 20}, "config_hash": "cd" * 32,
             "numerics_version": NUMERICS_VERSION, **record},
        )  # fmt: skip
    return cells, epochs, records


PAIR = WeightsCell(dataset="mnist_5k", architecture="lenet5", epochs=2)
PAIRS = [replace(PAIR, program="native+relu-1", seed=3), PAIR, replace(PAIR, program="native")]


@pytest.mark.parametrize("lost", [None, 1])
def test_weights_are_the_rows_of_the_cells_in_order(tmp_path: Path, lost: int | None) -> None:
    table = maxpool.read_weights(*write_weights(tmp_path, PAIRS, lost))
    expected = [
        {**cell.factors, **row, "program_diverged": lost is not None, "reference_diverged": False}
        for cell in PAIRS
        for row in weights_rows(cell, lost)
    ]
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected), check_dtype=False)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"cell": replace(PAIR, epochs=3, learning_rate=0.5).to_dict()}, "trained with epochs 3, not 2; learning_rate 0.5, not"),
        ({"numerics_version": NUMERICS_VERSION + 1}, "trained with numerics_version"),
        ({"cell": {}}, "not the record of a cell"),
        ({"device": None}, "not the record of a cell"),
        ({"program": {}}, "not the record of a cell"),
    ],
)  # fmt: skip
def test_weights_of_another_cell_are_refused(tmp_path: Path, record: dict, message: str) -> None:
    files = write_weights(tmp_path, [PAIR], **record)
    with pytest.raises(ValueError, match=rf"0\.json: .*{message}.*delete it and run snakemake again"):
        maxpool.read_weights(*files)


def test_weights_whose_epochs_are_cut_short_are_refused(tmp_path: Path) -> None:
    cells, epochs, records = write_weights(tmp_path, [PAIR])
    pd.DataFrame(weights_rows(PAIR)[:2]).to_csv(epochs[0], index=False)
    with pytest.raises(ValueError, match=r"0\.csv: 2 rows, not 3, epoch 0 included; delete it"):
        maxpool.read_weights(cells, epochs, records)
    pd.DataFrame(weights_rows(PAIR)).drop(columns="distance_linf").to_csv(epochs[0], index=False)
    with pytest.raises(ValueError, match=r"0\.csv: no distance_linf; delete it"):
        maxpool.read_weights(cells, epochs, records)
