"""The published results: every row of the files under names of this project, and the presets that promise them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import yaml

from nonsmooth import config as presets
from nonsmooth import published
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS
from nonsmooth.cells import SETUP, TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import is_against_beta
from nonsmooth.rules import Hybrid, parse_rule, rule_beta

ROOT = Path(__file__).resolve().parents[2]
ACCURACY = [f"test_accuracy_{name}" for name in ("mean", "std", "min", "max")]
# What the files call things.
ARCHITECTURE = {"lenet": "lenet5", "vgg11": "vgg11", "resnet18": "resnet18", "resnet50": "resnet50",
                "densenet121": "densenet121"}  # fmt: skip
PRECISION = {"16": "float16", "32": "float32", "mixed": "mixed16"}
NORMALIZATION = {"False": "none", "True": "batch_norm"}


def rows(name: str) -> list[dict[str, str]]:
    with (ROOT / f"data/published/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def setup(row: dict[str, str]) -> tuple[str, ...]:
    """Dataset, architecture, normalization, optimizer and precision of a row."""
    return (
        row["dataset"],
        ARCHITECTURE[row["architecture"]],
        NORMALIZATION[row["batch_norm"]],
        row["optimizer"],
        PRECISION[row["precision"]],
    )


def assert_registered(dataset: str, architecture: str, normalization: str, optimizer: str, precision: str) -> None:
    ARCHITECTURES[architecture].padding(*DATASETS[dataset].shape[1:])
    assert normalization in NORMALIZATIONS
    assert optimizer in presets.WEIGHT_DECAY
    assert precision in PRECISIONS


# ------------------------------------------------------------------------------------------------- the tables


def test_learning_rates_are_those_of_the_file():
    found = published.learning_rates()
    assert list(found.items()) == [(setup(row), float(row["learning_rate"])) for row in rows("learning_rates")]
    assert len(found) == len(rows("learning_rates")) > 0
    for key, rate in found.items():
        assert_registered(*key)
        assert 1e-5 <= rate <= 1e-1


def test_training_is_that_of_the_file():
    table = published.training()
    wanted = rows("training")
    assert len(table) == len(wanted) > 0
    assert set(table) == {*SETUP, "train_split", "beta", "epochs", "runs", "diverged", *ACCURACY}
    for found, row in zip(table.to_dict("records"), wanted, strict=True):
        assert tuple(found[factor] for factor in SETUP) == setup(row)
        assert_registered(*setup(row))
        assert found["train_split"] == ("extra" if row["dataset"] == "svhn" else "train")
        assert found["train_split"] in DATASETS[row["dataset"]].train_splits
        for name in ("beta", "epochs", "runs", "diverged"):
            assert found[name] == int(row[name])
        for name in ACCURACY:
            assert found[name] == pytest.approx(float(row[name] or "nan"), rel=1e-15, nan_ok=True)


def test_training_is_what_accuracies_can_be():
    for row in published.training().to_dict("records"):
        low, mean, high = (row[f"test_accuracy_{name}"] for name in ("min", "mean", "max"))
        assert 0 <= low <= mean <= high <= 1, row
        assert 0 <= row["diverged"] <= row["runs"]
        deviation = row["test_accuracy_std"]
        assert math.isnan(deviation) == (row["runs"] == 1)
        # A sample's deviation is at most half of its range, corrected for the mean.
        assert row["runs"] == 1 or deviation <= (high - low) / 2 * math.sqrt(row["runs"] / (row["runs"] - 1)) + 1e-5


def test_a_condition_was_published_once():
    """Otherwise a run of ours would be compared with two values."""
    table = published.training()
    assert not table.duplicated([*SETUP, "train_split", "beta"]).any()
    assert set(table.beta) == {0, 1, 10, 100, 1000, 10000}


def test_every_trained_setup_has_a_rate():
    """But ImageNet, whose rate is in the preset."""
    trained = {tuple(row[factor] for factor in SETUP) for row in published.training().to_dict("records")}
    assert {key for key in trained if key not in published.learning_rates()} == {
        ("imagenet", "resnet50", "batch_norm", "sgd", "mixed16")
    }


def test_every_published_proportion_is_there_under_our_names():
    table = published.zones().to_dict("records")
    for found, row in zip(table, rows("zones"), strict=True):
        assert found == {
            "dataset": "cifar10",
            "architecture": row["architecture"],
            "normalization": NORMALIZATION[row["batch_norm"]],
            "precision": {"16": "float16", "32": "float32", "64": "float64"}[row["precision"]],
            "batch_size": int(row["batch_size"]),
            "factor": row["factor"].replace("batch_norm", "normalization"),
            "proportion": float(row["proportion_percent"]) / 100,
            "note": row["note"],
        }
        assert found["architecture"] in ARCHITECTURES
        assert 0 <= found["proportion"] <= 1


# ------------------------------------------------------------------------------------------------ the presets


def cells_of(preset: str, **top) -> list[TrainingCell]:
    config = yaml.safe_load((ROOT / f"config/presets/{preset}.yaml").read_text(encoding="utf-8"))
    return presets.training_cells(presets.check({**config, **top}))


def condition(cell: TrainingCell) -> tuple:
    """Set-up and beta."""
    return (*cell.setup, rule_beta(parse_rule(cell.rule)))


def runs_by_rule(cells: list[TrainingCell]) -> dict[tuple, dict[str, list[TrainingCell]]]:
    """The runs of each set-up and beta, by their evaluation (empty for native and minimal), of the programs that the paper compares."""
    found: dict[tuple, dict[str, list[TrainingCell]]] = {}
    for cell in cells:
        rule = parse_rule(cell.rule)
        evaluation = rule.evaluation if isinstance(rule, Hybrid) else ""
        if is_against_beta(cell.rule, cell.optimizer):
            found.setdefault(condition(cell), {}).setdefault(evaluation, []).append(cell)
    return found


@pytest.fixture
def imagenet(tmp_path: Path) -> dict:
    """Where a folder of ImageNet is, as far as planning looks."""
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    return {"datasets": {"imagenet": {"path": str(tmp_path)}}}


@pytest.mark.parametrize("with_imagenet", [False, True])
def test_the_paper_preset_has_the_published_grid(with_imagenet: bool, imagenet: dict):
    """Every condition with at least its number of runs, with its epochs and rate; every beta in both evaluations."""
    found = runs_by_rule(cells_of("paper", **(imagenet if with_imagenet else {})))
    wanted = [row for row in rows("training") if with_imagenet or row["dataset"] != "imagenet"]
    rates = {setup(row): float(row["learning_rate"]) for row in rows("learning_rates")}
    assert set(found) >= {(*setup(row), float(row["beta"])) for row in wanted}
    assert any(cell.dataset == "imagenet" for runs in found.values() for cells in runs.values() for cell in cells) == (
        with_imagenet
    )
    for row in wanted:
        by_evaluation = found[*setup(row), float(row["beta"])]
        # At a beta of 1 the factorial experiment has hybrids, too.
        plain, hybrids = {""} & set(by_evaluation), {"composed", "exact"} & set(by_evaluation)
        assert plain if row["beta"] in ("0", "1") else len(hybrids) == 2
        for evaluation, cells in by_evaluation.items():
            seeds = sorted(cell.seed for cell in cells)
            assert seeds == list(range(len(seeds)))
            if evaluation == "" or row["beta"] not in ("0", "1"):
                assert len(seeds) >= int(row["runs"])
            for cell in cells:
                assert cell.epochs == int(row["epochs"])
                assert cell.relu_derivative == 0
                assert cell.train_split == ("extra" if cell.dataset == "svhn" else "train")
                assert cell.learning_rate == (0.1 if cell.dataset == "imagenet" else rates[cell.setup])
                is_imagenet = cell.dataset == "imagenet"
                assert (cell.schedule, cell.batch_size) == (("step", 512) if is_imagenet else ("cosine", 128))
                assert cell.augmentation == ("crop_flip" if cell.dataset in ("imagenet", "cifar10") else "none")


# Of the precision law: 2^13 times a beta of 16 bits.
LAW = {819200.0, 8192000.0}


def test_the_gpu_preset_trains_what_was_published_as_it_was():
    """But for ReLU'(0), which was not published for training, norms in place of maxima, and the precision law."""
    wanted = {(*setup(row), float(row["beta"])): row for row in rows("training")}
    rates = {setup(row): float(row["learning_rate"]) for row in rows("learning_rates")}
    found = runs_by_rule([cell for cell in cells_of("gpu") if cell.relu_derivative == 0])
    assert {key for key in found if key[-1] not in LAW} < set(wanted)
    for key in found.keys() & wanted.keys():
        for cells in found[key].values():
            assert {cell.epochs for cell in cells} == {int(wanted[key]["epochs"])}
            assert {cell.learning_rate for cell in cells} == {rates[key[:-1]]}
    others = {condition(cell) for cell in cells_of("gpu") if cell.relu_derivative != 0}
    # They are compared with runs of the preset that differ in nothing else.
    assert others <= set(found)


@pytest.mark.parametrize("preset", ["gpu", "paper", "factorial"])
def test_the_precision_law_compares_runs_of_one_learning_rate(preset: str):
    """Composed in 32 bits at 8,192 beta with 16 bits at beta."""
    chosen = cells_of(preset) if preset != "factorial" else factorial_cells()
    in_32_bits = [cell for cell in chosen if rule_beta(parse_rule(cell.rule)) in LAW]
    assert in_32_bits
    for cell in in_32_bits:
        rule = parse_rule(cell.rule)
        partner = str(Hybrid(rule.beta / 8192, f"{rule.evaluation}_unlimited"))
        matching = [
            other for other in chosen
            if (other.rule, other.precision, other.seed) == (partner, "float16", cell.seed)
            and (other.dataset, other.architecture, other.normalization) == (cell.dataset, cell.architecture, cell.normalization)
        ]  # fmt: skip
        without_adam = [{**other.settings, "adam_eps": None} for other in (*matching, cell)]
        assert len(matching) == 1
        assert without_adam[0] == without_adam[1]


def factorial_cells() -> list[TrainingCell]:
    """Planned without the images, which are not on every machine."""
    config = yaml.safe_load((ROOT / "config/presets/factorial.yaml").read_text(encoding="utf-8"))
    del config["datasets"]
    return presets.training_cells(presets.check(config))
