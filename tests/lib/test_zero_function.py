"""Derivatives of zero functions against rational arithmetic with every rounding written out.

Where n entries are equal, each side's derivative is a fixed weight per entry. Autodiff multiplies weights and x, and adds
the products; the model here rounds where it does.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonsmooth.precision import PRECISIONS
from nonsmooth.zones import zero_function
from nonsmooth.zones.zero_function import MAXIMA, MAXIMA_COMPARED, PRODUCTS, RELUS_COMPARED, TIMES, zero_table

# Bits of the significand, and of the sums of a vector.
BITS = {"float16": (11, 24), "bfloat16": (8, 24), "float32": (24, 24), "float64": (53, 53)}
T = [0.0, 1.0, -1.0, 0.5, 3.0, -0.1, 1000.1]

precision_names = pytest.mark.parametrize("precision", BITS)


def rounded(value: Fraction, bits: int) -> Fraction:
    """To nearest even, for numbers far from underflow and overflow."""
    if value == 0:
        return value
    exponent = math.frexp(float(value))[1]
    unit = Fraction(2) ** (exponent - bits)
    return round(value / unit) * unit


def tied_weights(name: str, n: int) -> list[Fraction]:
    """The derivative of a maximum of n equal entries by each of them."""
    first, half = [Fraction(i == 0) for i in range(n)], Fraction(1, 2)
    match name:
        case "max" | "amax":
            return [Fraction(1, n)] * n
        case "maximum":  # of the first two, each a half; then a half of that, and so on
            return [half ** (n - max(i, 1)) if n > 1 else Fraction(1) for i in range(n)]
        case "b + relu(a - b)":
            return first[::-1]
    return first


def sum_in_order(terms: list[Fraction], bits: int) -> Fraction:
    total = Fraction(0)
    for term in terms:
        total = rounded(total + term, bits)
    return total


def expected_at_a_tie(
    first: str, second: str, products: str, times: str, x: list[Fraction], precision: str
) -> Fraction:
    bits, sum_bits = BITS[precision]
    one, other = (tied_weights(name, len(x)) for name in (first, second))
    # What arrives at each vector of products, in the order of the backward pass, which begins with what was made last.
    arriving = [[-b for b in other], one]
    if times == "once":
        arriving = [[b + a for b, a in zip(*arriving, strict=True)]]
    terms = [
        [rounded(weight * number, bits) for weight, number in zip(weights, x, strict=True)] for weights in arriving
    ]
    if products == "t * x":
        return sum_in_order([rounded(sum_in_order(vector, sum_bits), bits) for vector in terms], bits)
    return sum_in_order([term for vector in terms for term in reversed(vector)], bits)


@st.composite
def vectors(draw: st.DrawFn) -> list[float]:
    n = draw(st.sampled_from([1, 2, 4]))
    numbers = st.floats(0.125, 8)
    return [draw(numbers)] * n if draw(st.booleans()) else draw(st.lists(numbers, min_size=n, max_size=n))


@precision_names
@settings(deadline=None)
@given(x=vectors())
def test_derivatives_are_those_of_rational_arithmetic(precision: str, x: list[float]) -> None:
    """At t = 0 all entries tie; equal entries do at every t; at other t one side's maximum is the other's."""
    stored = torch.tensor(x, dtype=PRECISIONS[precision].dtype)
    exact = [Fraction(value) for value in stored.tolist()]
    for first, second in MAXIMA_COMPARED:
        for products in PRODUCTS:
            for times in TIMES:
                zero = zero_function.zero_of_maxima(first, second, products, times, stored)
                at_a_tie = expected_at_a_tie(first, second, products, times, exact, precision)
                found = zero_function.value_and_derivative(zero, 0.0, precision)
                assert found == (0, at_a_tie), (first, second, products, times)
                if len(set(exact)) == 1:
                    value, derivative = zero_function.value_and_derivative(zero, -2.0, precision)
                    assert (value, derivative) == (0, at_a_tie)
                elif len(set(exact)) == len(exact):
                    assert zero_function.value_and_derivative(zero, 1.0, precision)[1] == 0


@pytest.mark.parametrize("name", MAXIMA)
@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [-1.0, 5.0, 5.0], [-2.0], [0.0, -0.0]])
def test_all_maxima_are_maxima(name: str, values: list[float]) -> None:
    assert MAXIMA[name](torch.tensor(values)) == max(values)


@precision_names
def test_zeros_of_relus(precision: str) -> None:
    """At 0, where ReLU'(0) = 0, relu2 has derivative 1 and relu3 has 1/2; elsewhere both are ReLU."""
    table = zero_table([precision], [], T)
    assert table[["first", "second"]].drop_duplicates().apply(tuple, axis=1).tolist() == RELUS_COMPARED
    for row in table.itertuples():
        at_zero = {"relu2": 1.0, "relu3": 0.5}[row.first]
        assert (row.value, row.derivative) == (0, at_zero if row.t == 0 else 0)


def test_published_derivatives() -> None:
    """5.96e-8 = u in float32 and 1.1e-16 = u in float64: for 1.14 four times at every t, and 0 for 1, 2, 3, 4."""
    table = zero_table(["float32", "float64"], [[1.14] * 4, [1, 2, 3, 4]], T)
    published = table[
        table["first"].eq("loop") & table["second"].isin(["max", "amax"]) & table.products.eq("t * x, once")
    ]
    assert (published.value == 0).all()
    equal = published[published.x.eq("1.14 1.14 1.14 1.14")]
    assert (equal.derivative == equal.precision.map({"float32": 2.0**-24, "float64": 2.0**-53})).all()
    assert (equal.derivative_in_u == 1).all()
    others = published[published.x.eq("1 2 3 4")]
    assert len(equal) == len(others) == 2 * 2 * len(T)
    assert (others.derivative == others.t.map(lambda t: 1 - 2.5 if t == 0 else 0)).all()  # the first, and the mean


def test_the_table_has_every_program_and_argument() -> None:
    table = zero_table(["float16", "float64"], [[1.5, 0.1], [2]], T)
    programs = 2 * len(MAXIMA_COMPARED) * len(PRODUCTS) * len(TIMES) + len(RELUS_COMPARED)
    assert len(table) == 2 * programs * len(T)
    assert not table.duplicated(["precision", "first", "second", "products", "x", "t"]).any()
    assert set(table.x) == {"1.5 0.1", "2", ""}
    assert (
        table.derivative_in_u == table.derivative / table.precision.map({"float16": 2.0**-11, "float64": 2.0**-53})
    ).all()
    assert (table.true_derivative == 0).all()


def test_a_precision_that_a_cpu_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="tf32"):
        zero_table(["tf32"], [[1.0]], [0.0])


def test_overflow_is_a_result() -> None:
    table = zero_table(["float16"], [[6e4, 6e4]], [2.0])
    maxima = table[table["second"].eq("max")]
    assert maxima.value.isna().all()  # inf - inf
    assert zero_function.readable(table).float16.str.len().gt(0).all()


def test_rows_for_readers_hold_every_derivative() -> None:
    """Merged rows, taken apart again, are the table."""
    precisions = ["float16", "float32"]
    table = zero_table(precisions, [[1.14] * 4, [1, 2, 3, 4]], T)
    words = zero_function.readable(table)
    assert list(words) == ["x", "one side", "other side", "products", "t", *precisions]
    assert len(words) < len(table) / 8
    found = {}
    every = [name for name in table.products.unique() if name]
    for row in words.to_dict("records"):
        for second in row["other side"].split("; "):
            for products in every if row["products"] == "all" else row["products"].split("; "):
                for t in row["t"].split("; "):
                    for precision in precisions:
                        key = precision, row["one side"], second, products, row["x"], float(t)
                        assert key not in found
                        found[key] = row[precision]
    assert len(found) == len(table)
    keys = table[["precision", "first", "second", "products", "x", "t"]].itertuples(index=False, name=None)
    for key, derivative, in_u in zip(keys, table.derivative, table.derivative_in_u, strict=True):
        number, _, units = found[key].partition(" ")
        assert float(number) == pytest.approx(derivative, rel=5e-3)
        assert units == "" or float(units.strip("( u)")) == pytest.approx(in_u, rel=5e-3)
        assert not number.startswith("-0") or derivative != 0
    assert isinstance(words, pd.DataFrame)
