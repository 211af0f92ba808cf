"""Programs of the function zero that differ in how they take a maximum, and the derivatives that autodiff gives them.

The introductory example of arXiv 2401.02736: zero(t) = max1(t x) - max2(t x) for numbers x, and its model, relu2(t) - relu(t)
and relu3(t) - relu(t), from Bertoin, Bolte, Gerchinovitz, Pauwels (NeurIPS 2021). The value is 0, and so is the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import pandas as pd
import torch
from torch import Tensor

from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import number

CPU = torch.device("cpu")


def loop_max(values: Tensor) -> Tensor:
    """The first of the largest entries, found by comparisons; its derivative goes to that entry."""
    largest = values[0]
    for i in range(1, len(values)):
        if values[i] > largest:
            largest = values[i]
    return largest


def pairwise(maximum: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The maximum of a vector, from the first entry to the last by a maximum of two."""
    return lambda values: reduce(maximum, [values[i] for i in range(len(values))])


# The maximum of a vector (n,). PyTorch divides the derivative equally among the largest entries in `max` and `amax`, equally
# between two equal ones in `maximum`, and gives all of it to the first of them with `dim`.
MAXIMA: dict[str, Callable[[Tensor], Tensor]] = {
    "loop": loop_max,
    "max": torch.max,
    "amax": torch.amax,
    "max(dim)": lambda values: torch.max(values, 0)[0],
    "maximum": pairwise(torch.maximum),
    "a + relu(b - a)": pairwise(lambda a, b: a + torch.relu(b - a)),
    "b + relu(a - b)": pairwise(lambda a, b: b + torch.relu(a - b)),
}
MAXIMA_COMPARED = [("loop", name) for name in ("max", "amax", "max(dim)", "maximum")]
MAXIMA_COMPARED.append(("a + relu(b - a)", "b + relu(a - b)"))


def relu2(t: Tensor) -> Tensor:
    return torch.relu(-t) + t


def relu3(t: Tensor) -> Tensor:
    return (torch.relu(t) + relu2(t)) / 2


RELUS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "relu2": relu2, "relu3": relu3}
RELUS_COMPARED = [("relu2", "relu"), ("relu3", "relu")]

# The vector t x. Autodiff adds the terms of the derivative by one sum over a vector, or one number after the other.
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "t * x": lambda t, x: t * x,
    "t * x[i]": lambda t, x: torch.cat([(t * x[i]).reshape(1) for i in range(len(x))]),
}
# How often it is computed: both sides share it, so that their derivatives are added first, or each has its own.
TIMES = ("once", "twice")

Zero = Callable[[Tensor], Tensor]


def zero_of_maxima(first: str, second: str, products: str, times: str, x: Tensor) -> Zero:
    """The program t -> max1(t x) - max2(t x), named by `MAXIMA`, `PRODUCTS` and `TIMES`; x has the type of t."""

    def zero(t: Tensor) -> Tensor:
        values = PRODUCTS[products](t, x)
        others = values if times == "once" else PRODUCTS[products](t, x)
        return MAXIMA[first](values) - MAXIMA[second](others)

    return zero


def zero_of_relus(first: str, second: str) -> Zero:
    """The program t -> relu1(t) - relu2(t), named by the keys of `RELUS`."""
    return lambda t: RELUS[first](t) - RELUS[second](t)


def value_and_derivative(zero: Zero, t: float, precision_name: str) -> tuple[float, float]:
    """What a program and its backward pass return on a CPU at `t`, rounded to the precision."""
    precision = PRECISIONS[precision_name]
    argument = torch.tensor(t, dtype=precision.dtype, requires_grad=True)
    with precision.arithmetic(CPU):
        value = zero(argument)
        (derivative,) = torch.autograd.grad(value, argument)
    return value.item(), derivative.item()


def zero_table(precisions: Sequence[str], x: Sequence[Sequence[float]], t: Sequence[float]) -> pd.DataFrame:
    """What all programs return.

    Args:
        precisions: names of precision levels that a CPU has.
        x: vectors of numbers, each rounded to the precision.
        t: arguments.

    Returns:
        One row per precision, program and argument: `precision`, `unit_roundoff` (u), `first`, `second` (how the two sides
        are computed), `products` and `x` (empty for ReLUs; numbers separated by spaces), `t`, `value` of zero,
        `derivative` by autodiff, `true_derivative`, `derivative_in_u`.
    """
    rows = []
    for name in precisions:
        precision = PRECISIONS[name]
        programs = [
            (first, second, f"{products}, {times}", " ".join(map(number, numbers)),
             zero_of_maxima(first, second, products, times, torch.tensor(numbers, dtype=precision.dtype)))
            for numbers in x for first, second in MAXIMA_COMPARED for products in PRODUCTS for times in TIMES
        ]  # fmt: skip
        programs += [(first, second, "", "", zero_of_relus(first, second)) for first, second in RELUS_COMPARED]
        for first, second, products, numbers, zero in programs:
            for argument in t:
                value, derivative = value_and_derivative(zero, argument, name)
                in_u = derivative / precision.unit_roundoff
                rows.append((name, precision.unit_roundoff, first, second, products, numbers, float(argument), value,
                             derivative, 0.0, in_u))  # fmt: skip
    columns = ["precision", "unit_roundoff", "first", "second", "products", "x", "t", "value", "derivative",
               "true_derivative", "derivative_in_u"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`zero_table` for readers: a column of derivatives per precision, and one row for programs and arguments that agree."""
    programs = ["x", "first", "second", "products"]
    words = table.assign(t=table.t.map(number), derivative=list(map(_word, table.derivative, table.derivative_in_u)))
    wide = words.pivot_table("derivative", [*programs, "t"], "precision", aggfunc="first", sort=False).reset_index()
    for column in ("t", "products", "second"):
        wide = _merge(wide, column)
    wide["products"] = wide.products.replace("; ".join(name for name in table.products.unique() if name), "all")
    order = [*programs, "t", *dict.fromkeys(table.precision)]
    return wide[order].rename(columns={"first": "one side", "second": "other side"})


def _word(derivative: float, in_u: float) -> str:
    """A derivative with three digits, and in u if it is of that order."""
    word = f"{derivative + 0:.3g}"  # -0 + 0 is 0
    return f"{word} ({in_u:.3g} u)" if 0 < abs(in_u) < 8 else word


def _merge(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row, in the place of the first, for all that differ in `column` only."""
    others = [name for name in table if name != column]
    return table.groupby(others, sort=False)[column].agg("; ".join).reset_index()
