"""Programs by their parts: names and levels are one to one, and which groups have what is counted cell by cell."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nonsmooth import programs
from nonsmooth.cells import GROUP_PATH, TrainingCell
from nonsmooth.programs import (
    FACTORS,
    PARTIAL,
    PARTS,
    PROGRAMS,
    at,
    groups_against_beta,
    groups_with_partial_programs,
    groups_with_whole_factorials,
    letters,
    levels,
    program_of,
)
from nonsmooth.rules import EVALUATIONS, Evaluation, Hybrid, Minimal, Native, parse_rule

LEVELS = {
    "native": (0, 0, 0), "forward": (1, 0, 0), "backward": (0, 1, 0), "exact": (0, 0, 1), "forward_backward": (1, 1, 0),
    "forward_jacobian": (1, 0, 1), "backward_jacobian": (0, 1, 1), "composed": (1, 1, 1),
}  # fmt: skip


def test_the_eight_programs_are_all_combinations_of_the_parts():
    assert {name: tuple(levels(program)[part] for part in PARTS) for name, program in PROGRAMS.items()} == LEVELS
    assert set(LEVELS.values()) == set(itertools.product((0, 1), repeat=3))
    assert [sum(cell) for cell in LEVELS.values()] == sorted(sum(cell) for cell in LEVELS.values())
    assert list(PROGRAMS) == list(LEVELS)
    for name, evaluation in PROGRAMS.items():
        assert name == "native" or evaluation == EVALUATIONS[name]
        assert levels(evaluation)["R"] == 1
        assert levels(evaluation)["W"] == 0


def test_levels_name_every_factor():
    assert list(levels(Evaluation())) == list(FACTORS)
    assert list(FACTORS)[:3] == list(PARTS)


@pytest.mark.parametrize("name", [name for name, found in EVALUATIONS.items() if not found.wide_forward])
def test_a_program_is_at_its_levels(name: str):
    assert at(**levels(EVALUATIONS[name])) == EVALUATIONS[name]


@given(st.tuples(*[st.integers(0, 1)] * 5))
def test_all_levels_are_a_program_that_can_be_run(cell: tuple[int, ...]):
    """Where range or width has nothing to act on, the program at its other level is the same."""
    F, B, J, R, W = cell
    assume(R or not W)  # they are changed one at a time
    found = at(F, B, J, R, W)
    assert found in EVALUATIONS.values() or found == Evaluation()
    assert tuple(levels(found)[part] for part in PARTS) == (F, B, J)
    if not (F or B):
        assert found == at(F, B, J, 1 - R, W)
    if not B:
        assert found == at(F, B, J, R, 1 - W)
    is_changed = levels(found)["R"] == 0 or levels(found)["W"] == 1
    assert is_changed == bool((not R and (F or B)) or (W and B))


def test_letters():
    assert [letters(program) for program in PROGRAMS.values()] == [
        "none", "F", "B", "J", "F+B", "F+J", "B+J", "F+B+J",
    ]  # fmt: skip
    assert letters(EVALUATIONS["composed_unlimited_wide"]) == "F+B+J"


def test_programs_of_rules():
    assert program_of(Native()) == "native"
    assert program_of(Minimal()) is None
    assert program_of(parse_rule("norm-1-composed")) is None
    for name in EVALUATIONS:
        assert program_of(Hybrid(3.0, name)) == name


def test_partial_programs_are_all_but_two():
    assert set(EVALUATIONS) - PARTIAL == {"exact", "composed"}
    assert {"forward", "composed_unlimited", "composed_float32"} <= PARTIAL


def cell(rule: str, seed: int = 0, **factors) -> TrainingCell:
    return TrainingCell(**{"dataset": "mnist_5k", "architecture": "lenet5", "rule": rule, "seed": seed, **factors})


def hybrids(beta: float, seed: int = 0, names=tuple(PROGRAMS)[1:], **factors) -> list[TrainingCell]:
    return [cell(str(Hybrid(beta, name)), seed, **factors) for name in names]


def test_groups():
    """Each of whose cells is in another group lacks one thing."""
    whole = [cell("native", precision="float16"), *hybrids(10, precision="float16")]
    no_native = hybrids(10, precision="bfloat16")
    other_seed = [cell("native", 1, precision="float32"), *hybrids(10, precision="float32")]
    two_betas = [cell("native", precision="float64"), *hybrids(10, names=["forward", "exact"], precision="float64"),
                 *hybrids(100, names=[*PROGRAMS][2:], precision="float64")]  # fmt: skip
    usual = [cell("native", optimizer="adam"), *hybrids(10, names=["exact", "composed"], optimizer="adam")]
    only_partial = hybrids(10, names=["forward"], architecture="vgg11")
    mitigated = [cell("native", optimizer="sgd_clipped"), *hybrids(10, names=["composed"], optimizer="sgd_scaled"),
                 cell("average", architecture="resnet18"), cell("strided", architecture="resnet18")]  # fmt: skip
    cells = [*whole, *no_native, *other_seed, *two_betas, *usual, *only_partial, *mitigated]

    def groups(*found: list[TrainingCell]) -> list[str]:
        return [GROUP_PATH.format(**part[0].wildcards) for part in found]

    assert groups_with_whole_factorials(cells) == groups(whole)
    assert groups_with_partial_programs(cells) == groups(whole, two_betas)
    assert groups_against_beta(cells) == groups(whole, no_native, other_seed, two_betas, usual)


def test_a_whole_factorial_needs_one_normalization():
    half = len(PROGRAMS) // 2
    mixed = [cell("native"), *hybrids(10)[:half], *hybrids(10, normalization="batch_norm")[half:]]
    mixed.append(cell("native", normalization="batch_norm"))
    assert groups_with_whole_factorials(mixed) == []
    assert groups_with_whole_factorials([*mixed, *hybrids(10)[half:]]) == ["mnist_5k/lenet5/sgd/float32/relu-0"]


def test_planning_with_programs_imports_neither_torch_nor_pandas():
    command = [sys.executable, "-c", f"import sys, {programs.__name__}; print(*sys.modules)"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert programs.__name__ in names
    assert not {"torch", "pandas", "scipy", "matplotlib"} & set(names)
