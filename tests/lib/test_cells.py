"""Cells as values: what identifies them, what they are written as, and what survives JSON."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonsmooth import cells as module
from nonsmooth.cells import CONDITION, FACTORS, GROUP, GROUP_PATH, SEARCH, SETUP, TrainingCell, WeightsCell
from nonsmooth.rules import EVALUATIONS, Hybrid

thorough = settings(deadline=None, derandomize=True, max_examples=200)
CELL = TrainingCell(dataset="mnist_5k", architecture="lenet5")

words = st.sampled_from(["none", "batch_norm", "sgd", "adam", "float16", "mixed16", "mnist", "vgg11"])
numbers = st.floats(allow_nan=False, allow_infinity=False)
rules = st.sampled_from(["native", "minimal"]) | st.builds(
    lambda beta, evaluation: str(Hybrid(beta, evaluation)), numbers, st.sampled_from(list(EVALUATIONS))
)
factors = {
    **dict.fromkeys(SETUP, words),
    "rule": rules,
    "relu_derivative": numbers,
    "seed": st.integers(0, 2**32 - 1),
}
made_of = {
    **factors,
    "epochs": st.integers(1, 100),
    "learning_rate": st.floats(1e-300, 1e300) | st.just(SEARCH),
    "schedule": words,
    "batch_size": st.integers(1, 1000),
    **dict.fromkeys(("momentum", "weight_decay", "adam_eps"), numbers),
    "augmentation": words,
    "train_split": words,
    "clip_norm": st.none() | st.floats(1e-300, 1e300),
}
any_cell = st.builds(TrainingCell, **made_of)


def test_the_strategy_has_every_field():
    assert list(made_of) == [field.name for field in fields(TrainingCell)]


def test_values_are_given_by_name():
    """Eighteen values in a row would not be told apart."""
    with pytest.raises(TypeError):
        TrainingCell("mnist_5k", "lenet5")
    with pytest.raises(TypeError):
        TrainingCell(architecture="lenet5")


def test_a_cell_is_a_value():
    with pytest.raises(FrozenInstanceError):
        CELL.seed = 1
    assert len({CELL, replace(CELL), replace(CELL, seed=1), replace(CELL, epochs=2)}) == 3


def test_parts_of_a_path_are_in_parts():
    assert set(SETUP) < set(CONDITION) < set(FACTORS)
    assert CONDITION[: len(SETUP)] == SETUP
    assert FACTORS[: len(CONDITION)] == CONDITION
    # A figure is of all rules and normalizations.
    assert set(GROUP) == set(CONDITION) - {"rule", "normalization"}
    for names, path in ((CONDITION, module.CONDITION_PATH), (FACTORS, module.PATH), (GROUP, GROUP_PATH)):
        assert re.findall(r"\{(\w+)\}", path) == list(names)


def test_paths():
    cell = TrainingCell(
        dataset="cifar10", architecture="vgg11", normalization="batch_norm", optimizer="adam", precision="float16",
        rule="hybrid-0.5-exact", relu_derivative=0.25, seed=7,
    )  # fmt: skip
    assert cell.condition_path == "cifar10/vgg11/batch_norm/adam/float16/hybrid-0.5-exact/relu-0.25"
    assert cell.path == str(cell) == f"{cell.condition_path}/seed7"
    assert GROUP_PATH.format(**cell.wildcards) == "cifar10/vgg11/adam/float16/relu-0.25"
    assert cell.setup == ("cifar10", "vgg11", "batch_norm", "adam", "float16")
    assert CELL.path == "mnist_5k/lenet5/none/sgd/float32/native/relu-0/seed0"


@pytest.mark.parametrize(
    ("derivative", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.0, "0"),
        (1, "1"),
        (1.0, "1"),
        (0.5, "0.5"),
        (-2.0, "-2"),
        (1e-7, "1e-07"),
        (1e20, "1e+20"),
    ],
)
def test_a_derivative_is_written_in_its_shortest_form(derivative: float, text: str):
    assert replace(CELL, relu_derivative=derivative).wildcards["relu_derivative"] == text


@thorough
@given(any_cell)
def test_factors_and_settings_are_everything(cell: TrainingCell):
    assert tuple(cell.factors) == FACTORS
    assert not set(cell.factors) & set(cell.settings)
    assert {**cell.factors, **cell.settings} == cell.to_dict()
    clipped = {"clip_norm"} if cell.clip_norm is not None else set()
    assert set(cell.to_dict()) == {field.name for field in fields(cell)} - {"clip_norm"} | clipped


@thorough
@given(any_cell)
def test_a_cell_survives_json(cell: TrainingCell):
    again = TrainingCell.from_dict(json.loads(json.dumps(cell.to_dict())))
    assert again == cell
    assert again.path == cell.path
    assert TrainingCell.from_dict({**cell.to_dict(), "of another version": 1}) == cell


@thorough
@given(any_cell)
def test_wildcards_are_the_parts_of_the_path(cell: TrainingCell):
    assert list(cell.wildcards) == list(FACTORS)
    assert all(type(value) is str for value in cell.wildcards.values())
    *factors, relu, seed = cell.path.split("/")
    assert [*factors, relu.removeprefix("relu-"), seed.removeprefix("seed")] == list(cell.wildcards.values())
    assert re.fullmatch(r"[A-Za-z0-9_.+/-]+", cell.path)


@thorough
@given(any_cell, any_cell)
def test_cells_have_one_path_if_their_factors_are_equal(one: TrainingCell, other: TrainingCell):
    mixed = replace(other, **one.factors)
    assert mixed.path == one.path
    assert mixed.condition_path == one.condition_path
    for cell in (other, replace(one, seed=other.seed), replace(one, relu_derivative=other.relu_derivative)):
        assert (cell.path == one.path) == (cell.factors == one.factors)


# ------------------------------------------------------------------------------------------------ weights

PAIR = WeightsCell(dataset="mnist_5k", architecture="lenet5")
programs = rules | st.builds(lambda rule, derivative: str(module.Program(rule, derivative)), rules, numbers)
any_pair = st.builds(
    WeightsCell,
    **dict.fromkeys(("dataset", "architecture", "normalization", "precision", "augmentation", "train_split"), words),
    **dict.fromkeys(("program", "reference"), programs),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.integers(1, 100),
    learning_rate=st.floats(1e-300, 1e300),
    batch_size=st.integers(1, 1000),
)


def test_paths_of_weights():
    assert PAIR.path == str(PAIR) == "mnist_5k/lenet5/none/float32/minimal-vs-native/seed0"
    other = replace(PAIR, program="native+relu-0.5", reference="hybrid-1000-composed", precision="float16", seed=7)
    assert other.path == "mnist_5k/lenet5/none/float16/native+relu-0.5-vs-hybrid-1000-composed/seed7"
    assert re.findall(r"\{(\w+)\}", module.WEIGHTS_PATH) == [*module.WEIGHTS_CONDITION, "seed"]


@thorough
@given(any_pair)
def test_a_cell_of_weights_is_its_factors_and_settings(cell: WeightsCell):
    assert {**cell.factors, **cell.settings} == cell.to_dict()
    assert not set(cell.factors) & set(cell.settings)
    assert tuple(cell.factors) == module.WEIGHTS_FACTORS
    assert WeightsCell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert all(type(value) is str for value in cell.wildcards.values())
    assert re.fullmatch(r"[A-Za-z0-9_.+/-]+", cell.path)
    # One way to read the path, as Snakemake does.
    program, _, reference = cell.path.split("/")[4].partition("-vs-")
    assert (program, reference) == (cell.program, cell.reference)


@thorough
@given(any_pair)
def test_runs_of_a_cell_of_weights_differ_in_their_program_only(cell: WeightsCell):
    runs = cell.runs()
    for run, name in zip(runs, (cell.program, cell.reference), strict=True):
        assert str(module.Program(run.rule, run.relu_derivative)) == name
        assert (run.optimizer, run.schedule, run.momentum, run.weight_decay) == ("sgd", "constant", 0, 0)
        shared = cell.to_dict().keys() & run.to_dict().keys()
        assert {key: run.to_dict()[key] for key in shared} == {key: cell.to_dict()[key] for key in shared}
    assert replace(runs[0], rule=runs[1].rule, relu_derivative=runs[1].relu_derivative) == runs[1]


# ----------------------------------------------------------------------------------- programs and their Jacobians


@pytest.mark.parametrize(
    ("name", "coefficients"),
    [
        ("native", {"max_pool": 0, "relu": 0}),
        ("minimal+relu-0.5", {"max_pool": 1, "relu": 0.5}),
        ("hybrid-10-exact", {"max_pool": 10, "relu": 0}),
        ("hybrid-10-composed", None),
        ("norm-0", {"norm_pool": 0, "relu": 0}),
        ("norm--2.5+relu-1", {"norm_pool": -2.5, "relu": 1}),
        ("norm-1-composed", {"norm_pool_composed": 1, "relu": 0}),
    ],
)
def test_coefficients_of_a_program(name: str, coefficients: dict[str, float] | None):
    assert module.Program.parse(name).coefficients == coefficients


def test_programs_that_can_be_replayed_with_each_other_have_the_same_forward_pass():
    families = [
        ["native", "minimal+relu-1", "hybrid-10-exact"],
        ["norm-0", "norm-1", "norm-0.5+relu-1"],
        ["norm-0-composed", "norm-1-composed"],
    ]
    names = [*itertools.chain(*families), "hybrid-10-composed"]
    for one, other in itertools.product(names, repeat=2):
        expected = any(one in family and other in family for family in families)
        assert module.Program.parse(one).can_be_replayed_with(module.Program.parse(other)) == expected
