"""The backward rules of poolings as plain values, with the names that paths and configs use.

Torch-free, so that the workflow can be planned without importing torch; `nonsmooth.pooling` gives them
their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

# Of rules that have no parts: one rounding, or an operation at a time in the working precision.
NORM_EVALUATIONS = ("exact", "composed")
# Significant bits, the implicit one included.
FLOAT64_BITS = 53


@dataclass(frozen=True)
class Evaluation:
    """Which parts of the published program an evaluation of the hybrid rule keeps, and in what arithmetic.

    Attributes:
        forward: the output is the combination of two pooling outputs, each product rounded; otherwise the true maximum.
        backward: where a window has one maximum, its gradient is the sum of two rounded products; otherwise it is passed on.
        jacobian: where a window has several, the gradient follows the hybrid Jacobian; otherwise native's.
        unlimited: the operations of `forward` and `backward` round to the working type's number of bits, without limits of the
            exponent, so that none over- or underflows; only what is stored has the working type's range.
        wide: the operations of `backward` are in float32 (or wider), and the result is rounded once.
        wide_forward: so are those of `forward`.
    """

    forward: bool = False
    backward: bool = False
    jacobian: bool = False
    unlimited: bool = False
    wide: bool = False
    wide_forward: bool = False


def _evaluations() -> dict[str, Evaluation]:
    parts = {
        "exact": Evaluation(jacobian=True),
        "composed": Evaluation(forward=True, backward=True, jacobian=True),
        "forward": Evaluation(forward=True),
        "backward": Evaluation(backward=True),
        "forward_backward": Evaluation(forward=True, backward=True),
        "forward_jacobian": Evaluation(forward=True, jacobian=True),
        "backward_jacobian": Evaluation(backward=True, jacobian=True),
    }
    found = dict(parts)
    for name, evaluation in parts.items():
        if evaluation.forward or evaluation.backward:
            found[f"{name}_unlimited"] = replace(evaluation, unlimited=True)
        if evaluation.backward:
            found[f"{name}_wide"] = replace(evaluation, wide=True)
        if evaluation.forward and evaluation.backward:  # in float32 a backward pass of 16 bits is in range as it is
            found[f"{name}_unlimited_wide"] = replace(evaluation, unlimited=True, wide=True)
    found["composed_float32"] = replace(parts["composed"], wide=True, wide_forward=True)
    return found


# The evaluations of the hybrid rule, by name: `exact` and `composed`, what lies between them, and changes of its arithmetic.
EVALUATIONS: dict[str, Evaluation] = _evaluations()


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
    combination of two pooling outputs in the working precision, as the published program does. `EVALUATIONS` has those in between.
    """

    beta: float
    evaluation: str = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _finite(self.beta, "Hybrid: beta"))
        _require_known(self.evaluation, EVALUATIONS, "Hybrid: evaluation")

    def __str__(self) -> str:
        return f"hybrid-{number(self.beta)}-{self.evaluation}"


@dataclass(frozen=True)
class Norm:
    """Not a maximum: the window's Euclidean norm, which has no derivative where the whole window is zero.

    `derivative` is what every entry of such a window gets there. `exact` is the norm rounded once; `composed` squares, adds and
    takes the root in the working precision, so that a window of small entries, whose squares underflow, is zero to it, too.
    """

    derivative: float
    evaluation: str = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "derivative", _finite(self.derivative, "Norm: derivative"))
        _require_known(self.evaluation, NORM_EVALUATIONS, "Norm: evaluation")

    def __str__(self) -> str:
        name = f"norm-{number(self.derivative)}"
        return name if self.evaluation == "exact" else f"{name}-{self.evaluation}"


@dataclass(frozen=True)
class Average:
    """Not a maximum: the mean of the window's values, by PyTorch's `avg_pool2d`."""

    def __str__(self) -> str:
        return "average"


@dataclass(frozen=True)
class Boltzmann:
    """Not a maximum: the mean of the window's values x_i with weights exp(x_i / temperature); smooth, and not monotonic.

    It tends to the maximum as the temperature tends to 0, and to the mean as it grows.
    """

    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", _positive(self.temperature, "Boltzmann: temperature"))

    def __str__(self) -> str:
        return f"boltzmann-{number(self.temperature)}"


@dataclass(frozen=True)
class LogSumExp:
    """Not a maximum: temperature * log(mean(exp(x_i / temperature))); smooth and monotonic.

    A mean, not the sum of the name, so that a window of equal values gives that value. It tends to the maximum as the
    temperature tends to 0, and to the mean as it grows.
    """

    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", _positive(self.temperature, "LogSumExp: temperature"))

    def __str__(self) -> str:
        return f"logsumexp-{number(self.temperature)}"


@dataclass(frozen=True)
class Rounded:
    """The maximum rounded to so many significant bits, a real number, with native's gradient.

    A maximum m becomes the nearest multiple of 2^(floor(log2(abs(m))) + 1 - bits), ties to even; for an integer that is ordinary
    rounding, without limits of the exponent. float64, in which it is computed, has 53 bits.
    """

    bits: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", _positive(self.bits, "Rounded: bits"))
        if self.bits > FLOAT64_BITS:
            raise ValueError(f"Rounded: bits must be at most {FLOAT64_BITS}, got {self.bits!r}")

    def __str__(self) -> str:
        return f"rounded-{number(self.bits)}"


@dataclass(frozen=True)
class Strided:
    """Not a pooling: a convolution with the pooling's kernel and stride, from all channels to as many (arXiv 1412.6806).

    It has weights, so that `nonsmooth.architectures.build` makes it, and `max_pool2d` cannot.
    """

    def __str__(self) -> str:
        return "strided"


Rule = Native | Minimal | Hybrid | Norm | Average | Boltzmann | LogSumExp | Rounded | Strided

# The rules that a configuration calls by one word, and what makes them. docs/extending.md shows how to add one.
SIMPLE_RULES: dict[str, Callable[[], Rule]] = {
    "native": Native,
    "minimal": Minimal,
    "norm-0": partial(Norm, 0.0),
    "norm-1": partial(Norm, 1.0),
    "norm-0-composed": partial(Norm, 0.0, "composed"),
    "norm-1-composed": partial(Norm, 1.0, "composed"),
    "average": Average,
    "strided": Strided,
}
# The rules that are called by a word and a number.
_NUMBERED: dict[str, Callable[[float], Rule]] = {"boltzmann": Boltzmann, "logsumexp": LogSumExp, "rounded": Rounded}

_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_HYBRID = re.compile(rf"hybrid-(?P<beta>{_NUMBER})-(?P<evaluation>[a-z0-9_]+)")
_NORM = re.compile(rf"norm-(?P<derivative>{_NUMBER})(?:-(?P<evaluation>composed))?")
_WORD_AND_NUMBER = re.compile(rf"(?P<word>{'|'.join(_NUMBERED)})-(?P<number>{_NUMBER})")


def parse_rule(name: str) -> Rule:
    """The rule called `name`, the inverse of `str`: a word of `SIMPLE_RULES`, `hybrid-<beta>-<evaluation>`, `norm-<derivative>`,
    `norm-<derivative>-composed`, `boltzmann-<temperature>`, `logsumexp-<temperature>` or `rounded-<bits>`.

    Raises ValueError for anything else, such as a number that is not written in its shortest form.
    """
    if name in SIMPLE_RULES:
        return SIMPLE_RULES[name]()
    if (match := _HYBRID.fullmatch(name)) and match["evaluation"] in EVALUATIONS:
        rule = Hybrid(float(match["beta"]), match["evaluation"])
    elif match := _NORM.fullmatch(name):
        rule = Norm(float(match["derivative"]), match["evaluation"] or "exact")
    elif match := _WORD_AND_NUMBER.fullmatch(name):
        rule = _NUMBERED[match["word"]](float(match["number"]))
    else:
        forms = [*SIMPLE_RULES, "hybrid-<beta>-<evaluation>", "norm-<derivative>", "norm-<derivative>-composed",
                 "boltzmann-<temperature>", "logsumexp-<temperature>", "rounded-<bits>"]  # fmt: skip
        raise ValueError(
            f"unknown pooling rule {name!r}; expected one of {forms}, such as 'hybrid-1000-exact'; evaluations: {', '.join(EVALUATIONS)}"
        )
    if str(rule) != name:
        raise ValueError(f"pooling rule {name!r}: write the number in its shortest form, {str(rule)!r}")
    return rule


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


def has_choice(rule: Rule) -> bool:
    """Whether the derivative is a choice at some windows, which several rules with the same output make differently.

    It is none for smooth poolings and convolutions, and for `Rounded`, whose derivative is native's by definition.
    """
    return not isinstance(rule, Average | Boltzmann | LogSumExp | Rounded | Strided)


def number(value: float) -> str:
    """The shortest text that reads back as `value`, integers without a decimal point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _finite(value: Any, what: str) -> float:
    try:
        result = float("nan") if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = float("nan")
    if not isfinite(result):
        raise ValueError(f"{what} must be a finite number, got {value!r}")
    return result


def _positive(value: Any, what: str) -> float:
    result = _finite(value, what)
    if result <= 0:
        raise ValueError(f"{what} must be more than 0, got {value!r}")
    return result


def _require_known(evaluation: Any, known: Iterable[str], what: str) -> None:
    if evaluation not in known:
        raise ValueError(f"{what} must be one of {list(known)}, got {evaluation!r}")
