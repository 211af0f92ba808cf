"""The MaxPool backward rules as plain values, with the names that paths and configs use.

Torch-free, so that the workflow can be planned without importing torch; `nonsmooth.pooling` gives them
their meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

Evaluation = Literal["exact", "composed"]
EVALUATIONS: tuple[str, ...] = get_args(Evaluation)


@dataclass(frozen=True)
class Native:
    """PyTorch's own choice: the whole gradient goes to one maximum of the window."""

    def __str__(self) -> str:
        return "native"


@dataclass(frozen=True)
class Minimal:
    """The least-norm element of the Clarke subdifferential: the gradient shared equally by the k maxima."""

    def __str__(self) -> str:
        return "minimal"


@dataclass(frozen=True)
class Hybrid:
    """`(1 - beta) * native + beta * minimal` (arXiv 2401.02736), which leaves the subdifferential for large beta.

    `exact` is a true maximum whose gradient is multiplied by that Jacobian; `composed` evaluates the
    combination of two pooling outputs in the working precision, as the published program does.
    """

    beta: float
    evaluation: Evaluation = "exact"

    def __post_init__(self) -> None:
        try:
            beta = float("nan") if isinstance(self.beta, bool | str) else float(self.beta)
        except (TypeError, ValueError, OverflowError):
            beta = float("nan")
        if not isfinite(beta):
            raise ValueError(f"Hybrid: beta must be a finite number, got {self.beta!r}")
        object.__setattr__(self, "beta", beta)
        if self.evaluation not in EVALUATIONS:
            raise ValueError(f"Hybrid: evaluation must be one of {list(EVALUATIONS)}, got {self.evaluation!r}")

    def __str__(self) -> str:
        return f"hybrid-{number(self.beta)}-{self.evaluation}"


Rule = Native | Minimal | Hybrid

# The rules that have no parameter, by name. docs/extending.md shows how to add one.
SIMPLE_RULES: dict[str, type[Rule]] = {"native": Native, "minimal": Minimal}

_HYBRID = re.compile(r"hybrid-(?P<beta>-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)-(?P<evaluation>[a-z]+)")


def parse_rule(name: str) -> Rule:
    """The rule called `name`: `native`, `minimal` or `hybrid-<beta>-<evaluation>`; the inverse of `str`.

    Raises ValueError for anything else, such as a beta that is not written in its shortest form.
    """
    if name in SIMPLE_RULES:
        return SIMPLE_RULES[name]()
    match = _HYBRID.fullmatch(name)
    if match and match["evaluation"] in EVALUATIONS:
        rule = Hybrid(float(match["beta"]), match["evaluation"])
        if str(rule) == name:
            return rule
        raise ValueError(f"pooling rule {name!r}: write the number in its shortest form, {str(rule)!r}")
    forms = [*SIMPLE_RULES, *(f"hybrid-<beta>-{evaluation}" for evaluation in EVALUATIONS)]
    raise ValueError(f"unknown pooling rule {name!r}; expected one of {forms}, such as 'hybrid-1000-exact'")


def rule_beta(rule: Rule) -> float:
    """The beta of a rule: native is 0 and minimal is 1; NaN for a rule that is not between or beyond these."""
    match rule:
        case Native():
            return 0.0
        case Minimal():
            return 1.0
        case Hybrid(beta=beta):
            return float(beta)
        case _:
            return float("nan")


def number(value: float) -> str:
    """The shortest text that reads back as `value`, integers without a decimal point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
