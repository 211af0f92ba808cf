"""The names of the MaxPool backward rules: every rule has one, and every name has one rule."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nonsmooth.rules import (
    EVALUATIONS,
    NORM_EVALUATIONS,
    SIMPLE_RULES,
    Average,
    Boltzmann,
    Evaluation,
    Hybrid,
    LogSumExp,
    Minimal,
    Native,
    Norm,
    Rounded,
    Rule,
    Strided,
    has_choice,
    number,
    parse_rule,
    rule_beta,
)

thorough = settings(deadline=None, derandomize=True, max_examples=300)

finite = st.floats(allow_nan=False, allow_infinity=False)
evaluations = st.sampled_from(list(EVALUATIONS))


def with_evaluations(number: float, evaluation: str) -> list[Rule]:
    """The rules with that number that know the evaluation."""
    return [Hybrid(number, evaluation), *([Norm(number, evaluation)] if evaluation in NORM_EVALUATIONS else [])]


NAMES = {
    "native": Native(),
    "minimal": Minimal(),
    "hybrid-0-exact": Hybrid(0),
    "hybrid-1-composed": Hybrid(1.0, "composed"),
    "hybrid-1000-exact": Hybrid(1000),
    "hybrid-0.1-exact": Hybrid(0.1),
    "hybrid--2.5-composed": Hybrid(-2.5, "composed"),
    "hybrid-1e-05-exact": Hybrid(1e-5),
    "hybrid-1e+16-exact": Hybrid(1e16),
    "norm-0": Norm(0),
    "norm-1": Norm(1.0),
    "norm--0.5": Norm(-0.5),
    "norm-1e-05": Norm(1e-5),
    "norm-0-composed": Norm(0, "composed"),
    "norm--2.5-composed": Norm(-2.5, "composed"),
    "norm-1e-05-composed": Norm(1e-5, "composed"),
    "average": Average(),
    "boltzmann-0.1": Boltzmann(0.1),
    "boltzmann-1e-05": Boltzmann(1e-5),
    "logsumexp-2": LogSumExp(2.0),
    "rounded-3.5": Rounded(3.5),
    "rounded-11": Rounded(11),
    "strided": Strided(),
}
NUMBERED = {Boltzmann: "temperature", LogSumExp: "temperature", Rounded: "bits"}


@pytest.mark.parametrize(("name", "rule"), NAMES.items(), ids=NAMES)
def test_names(name: str, rule: Rule) -> None:
    assert str(rule) == name
    assert parse_rule(name) == rule


@thorough
@given(finite | st.integers(-(2**53), 2**53), evaluations)
@example(-0.0, "exact")
@example(999999999999999.0, "exact")
@example(1e15, "exact")
@example(5e-324, "composed")
@example(1.7976931348623157e308, "exact")
def test_parsing_inverts_naming(beta: float, evaluation: str) -> None:
    for rule in with_evaluations(beta, evaluation):
        assert parse_rule(str(rule)) == rule


def test_parsing_inverts_naming_for_integers_that_no_float_holds() -> None:
    rule = Hybrid(2**53 + 1)
    assert parse_rule(str(rule)) == rule


@thorough
@given(finite, finite)
def test_equal_rules_have_equal_names_and_different_rules_different_ones(first: float, second: float) -> None:
    for other in (first, second):
        assert (str(Hybrid(first)) == str(Hybrid(other))) == (first == other)
        assert (str(Norm(first)) == str(Norm(other))) == (first == other)
        assert str(Norm(first)) != str(Norm(other, "composed"))


@thorough
@given(finite, evaluations)
def test_names_are_safe_in_paths(beta: float, evaluation: str) -> None:
    for rule in with_evaluations(beta, evaluation):
        assert re.fullmatch(r"[a-z0-9_.+-]+", str(rule))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Native",
        "native ",
        "minimal\n",
        "hybrid",
        "hybrid-10",
        "hybrid-10-",
        "hybrid-10-fast",
        "hybrid-ten-exact",
        "hybrid-nan-exact",
        "hybrid-inf-exact",
        "hybrid-.5-exact",
        "hybrid-1_000-exact",
        "hybrid-+1-exact",
        "hybrid-1.2.3-exact",
        "hybrid-10-exact\n",
        "hybrid-٣-exact",
        "norm",
        "norm-",
        "norm-one",
        "norm-nan",
        "norm-0-exact",
        "norm-0-",
        "norm-composed",
        "norm-0-composed-composed",
        "norm-0-composed\n",
        "norm-1\n",
        "Average",
        "average-1",
        "boltzmann",
        "boltzmann-",
        "boltzmann-nan",
        "logsumexp-1-exact",
        "rounded-three",
        "strided-2",
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    message = f"unknown pooling rule {name!r}; expected one of {[*SIMPLE_RULES, 'hybrid-<beta>-<evaluation>']}"[:-1]
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rule(name)


@pytest.mark.parametrize(
    ("name", "shortest"),
    [
        ("hybrid-10.0-exact", "hybrid-10-exact"),
        ("hybrid-010-exact", "hybrid-10-exact"),
        ("hybrid--0-exact", "hybrid-0-exact"),
        ("hybrid-1e3-composed", "hybrid-1000-composed"),
        ("hybrid-0.10-exact", "hybrid-0.1-exact"),
        ("hybrid-0.00001-exact", "hybrid-1e-05-exact"),
        ("norm-1.0", "norm-1"),
        ("norm--0", "norm-0"),
        ("norm-1.0-composed", "norm-1-composed"),
        ("boltzmann-0.10", "boltzmann-0.1"),
        ("logsumexp-1.0", "logsumexp-1"),
        ("rounded-011", "rounded-11"),
    ],
)
def test_one_name_for_a_rule(name: str, shortest: str) -> None:
    message = f"{name!r}: write the number in its shortest form, {shortest!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rule(name)


@pytest.mark.parametrize(
    "beta", [math.nan, math.inf, -math.inf, "10", None, True, 1j, pytest.param(10**400, id="10**400")]
)
def test_a_beta_that_is_not_a_finite_number_is_refused(beta: object) -> None:
    with pytest.raises(ValueError, match="Hybrid: beta must be a finite number, got"):
        Hybrid(beta)
    with pytest.raises(ValueError, match="Norm: derivative must be a finite number, got"):
        Norm(beta)


@thorough
@given(st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False), st.sampled_from(list(NUMBERED)))
def test_parsing_inverts_naming_of_rules_with_a_number(value: float, kind: type) -> None:
    if kind is Rounded:
        value = math.fmod(value, 53) or 53.0
    rule = kind(value)
    assert parse_rule(str(rule)) == rule
    assert re.fullmatch(r"[a-z0-9_.+-]+", str(rule))


@pytest.mark.parametrize("kind", NUMBERED)
@pytest.mark.parametrize("value", [0, -0.0, -1, math.nan, math.inf, "1", None, True])
def test_a_number_that_is_not_positive_is_refused(kind: type, value: object) -> None:
    what = "more than 0" if value in (0, -1) and value is not True else "a finite number"
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {NUMBERED[kind]} must be {what}, got"):
        kind(value)


def test_more_bits_than_float64_has_are_refused() -> None:
    assert Rounded(53).bits == 53
    with pytest.raises(ValueError, match=r"Rounded: bits must be at most 53, got 53\.5"):
        parse_rule("rounded-53.5")


@pytest.mark.parametrize(("name", "rule"), NAMES.items(), ids=NAMES)
def test_which_derivatives_are_a_choice(name: str, rule: Rule) -> None:
    assert has_choice(rule) == name.startswith(("native", "minimal", "hybrid", "norm"))
    assert math.isnan(rule_beta(rule)) == (not name.startswith(("native", "minimal", "hybrid")))


def test_a_beta_that_overflows_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be a finite number"):
        parse_rule("hybrid-1e999-exact")


@pytest.mark.parametrize("evaluation", ["fast", "Exact", "", None])
def test_an_unknown_evaluation_is_refused_with_the_known_ones(evaluation: object) -> None:
    for rule, known in ((Hybrid, EVALUATIONS), (Norm, NORM_EVALUATIONS)):
        message = f"evaluation must be one of {list(known)}, got {evaluation!r}"
        with pytest.raises(ValueError, match=re.escape(f"{rule.__name__}: {message}")):
            rule(10, evaluation)


@thorough
@given(finite, evaluations)
def test_beta(beta: float, evaluation: str) -> None:
    assert (rule_beta(Native()), rule_beta(Minimal())) == (0, 1)
    result = rule_beta(Hybrid(beta, evaluation))
    assert result == beta
    assert type(result) is float
    assert math.isnan(rule_beta(Norm(beta)))


def test_rules_are_values() -> None:
    assert {Native(), Minimal(), Hybrid(10), Hybrid(10.0), Hybrid(10, "composed")} == {
        Native(),
        Minimal(),
        Hybrid(10),
        Hybrid(10, "composed"),
    }
    assert Hybrid(0) != Native()
    with pytest.raises(AttributeError):
        Hybrid(10).beta = 1  # frozen
    assert {parse_rule("norm-1"), Norm(1)} == {SIMPLE_RULES["norm-1"]()}
    assert {parse_rule("norm-1-composed"), Norm(1, "composed")} == {SIMPLE_RULES["norm-1-composed"]()} != {Norm(1)}


# ----------------------------------------------------------------------------------------- rules of a user


class Largest:
    """A rule that is not between or beyond native and minimal."""

    def __str__(self) -> str:
        return "largest"


def test_simple_rules_have_the_names_they_are_registered_under() -> None:
    assert {name: str(make()) for name, make in SIMPLE_RULES.items()} == {name: name for name in SIMPLE_RULES}
    assert not any(name.startswith("hybrid") for name in SIMPLE_RULES)


def test_a_registered_rule_is_known_and_has_no_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown pooling rule 'largest'"):
        parse_rule("largest")
    monkeypatch.setitem(SIMPLE_RULES, "largest", Largest)
    assert isinstance(parse_rule("largest"), Largest)
    assert math.isnan(rule_beta(Largest()))
    with pytest.raises(
        ValueError, match=re.escape("'norm-0-composed', 'norm-1-composed', 'average', 'strided', 'largest', 'hy")
    ):
        parse_rule("larger")


# ------------------------------------------------------------------------------------------ numbers in names


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (1.0, "1"), (-3, "-3"), (0.1, "0.1"), (1e-7, "1e-07"), (999999999999999.0, "999999999999999"),
     (1e15, "1000000000000000.0"), (1e16, "1e+16"), (True, "1")],
)  # fmt: skip
def test_numbers_are_written_in_their_shortest_form(value: float, text: str) -> None:
    assert number(value) == text


@thorough
@given(finite)
def test_a_number_reads_back(value: float) -> None:
    assert float(number(value)) == value
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?", number(value))


def test_evaluations_are_all_combinations_of_parts_that_mean_something() -> None:
    """Every set of parts but the empty one, which is native; the range where products are rounded, the width where they are backward."""
    expected = set()
    for forward, backward, jacobian in itertools.product((False, True), repeat=3):
        if not (forward or backward or jacobian):
            continue
        for unlimited, wide in itertools.product((False, True), repeat=2):
            if (unlimited and not (forward or backward)) or (wide and not backward):
                continue
            if unlimited and wide and not forward:  # float32's range is enough for the gradients of 16 bits
                continue
            expected.add(Evaluation(forward, backward, jacobian, unlimited, wide))
    assert expected | {Evaluation(True, True, True, wide=True, wide_forward=True)} == set(EVALUATIONS.values())
    assert len(set(EVALUATIONS.values())) == len(EVALUATIONS)
    assert EVALUATIONS["exact"] == Evaluation(jacobian=True)
    assert EVALUATIONS["composed"] == Evaluation(forward=True, backward=True, jacobian=True)
