"""The zones' tables for readers: the numbers of the library in CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth.zones import tables as zones

from .conftest import load, never_finite, write_zone_cells, zone_cells

script = load("maxpool/zone_tables")
SOURCES = {"zone_proportions": "proportions", "magnitudes": "magnitudes", "misjudged": "misjudged", "pure_rounding": "pure_rounding",
           "thresholds": "thresholds"}  # fmt: skip
CELLS = [
    *zone_cells(precision=["float16", "float32", "float64"], normalization=["none", "batch_norm"]),
    *zone_cells(program=["native+relu-1"], noise=[0.0, 0.01]),
]


def make(folder: Path, minibatches: pd.DataFrame, run_script) -> dict[str, pd.DataFrame]:
    """Writes the library's tables and runs the script; the library's tables as the script reads them."""
    inputs = {name: folder / "in" / f"{name}.csv" for name in SOURCES.values()}
    (folder / "in").mkdir()
    for name, path in inputs.items():
        getattr(zones, name)(minibatches).to_csv(path, index=False)
    output = {f"{name}_{suffix}": folder / f"{name}.{suffix}" for name in SOURCES for suffix in ("csv", "md", "tex")}
    run_script("maxpool/zone_tables", input=inputs, output=output, log=[str(folder / "job.log")])
    assert {path.name for path in folder.iterdir()} == {*(path.name for path in output.values()), "in", "job.log"}
    return {name: pd.read_csv(path, keep_default_na=False, na_values=[""]) for name, path in inputs.items()}


@pytest.fixture
def made(tmp_path: Path, run_script) -> tuple[Path, dict[str, pd.DataFrame]]:
    for name in ("cells", "out"):
        (tmp_path / name).mkdir()
    minibatches = write_zone_cells(tmp_path / "cells", CELLS, 12).read()[0]
    return tmp_path / "out", make(tmp_path / "out", minibatches, run_script)


def read_csv(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def read_markdown(path: Path) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in path.read_text().splitlines()]
    return [lines[0], *lines[2:]]


def assert_same(text: str, value: object, is_share: bool) -> None:
    """A cell of a table for readers and the number or word that it stands for."""
    if isinstance(value, float) and math.isnan(value):
        assert text == ""
    elif isinstance(value, str):
        # Beside "all", a number was read as text.
        assert text == {"0.0": "0", "none": "no", "batch_norm": "yes", "cifar10": "CIFAR-10", "vgg11": "VGG11"}.get(
            value, value
        )
    elif isinstance(value, bool):
        assert text == ("yes" if value else "no")
    elif is_share:
        assert float(text) == pytest.approx(100 * value, abs=0.005 + 1e-9)
    else:
        assert float(text) == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize("name", SOURCES)
def test_all_numbers_are_there(name: str, made) -> None:
    folder, tables = made
    table, (_, headings) = tables[SOURCES[name]], script.TABLES[name]
    header, *rows = read_csv(folder / f"{name}.csv")
    assert header == list(headings.values())
    assert len(set(header)) == len(header)
    for cells, row in zip(rows, table.to_dict("records"), strict=True):
        for text, column in zip(cells, headings, strict=True):
            if column in row:
                assert_same(text, row[column], headings[column].endswith("(%)"))
    assert len(rows) >= 6


@pytest.mark.parametrize("name", SOURCES)
def test_all_forms_have_the_same_cells(name: str, made) -> None:
    folder, _ = made
    header, *rows = read_csv(folder / f"{name}.csv")
    found_header, *found = read_markdown(folder / f"{name}.md")
    assert found_header == header
    for cells, expected in zip(found, rows, strict=True):
        for cell, text in zip(cells, expected, strict=True):
            assert cell == text or float(cell) == pytest.approx(float(text), abs=0.005)
    latex = (folder / f"{name}.tex").read_text()
    assert r"\begin{longtable}" in latex
    assert latex.count(r"\\") >= len(rows) + 2
    assert "nan" not in (folder / f"{name}.md").read_text().lower() + latex.lower()


def test_intervals_hold_their_shares(made) -> None:
    folder, _ = made
    header, *rows = read_csv(folder / "zone_proportions.csv")
    for row in rows:
        low, high = map(float, row[header.index("95 % interval (%)")].split(" to "))
        assert low - 0.05 <= float(row[header.index("above (%)")]) <= high + 0.05
    header, *rows = read_csv(folder / "pure_rounding.csv")
    for name in ("rounding only", "rounding-induced", "real"):
        for row in rows:
            text = row[header.index(f"95 % interval of {name} (%)")]
            assert (text == "") == (row[header.index("above")] == "0")
            if text:
                low, high = map(float, text.split(" to "))
                assert low - 0.05 <= float(row[header.index(f"{name} (%)")]) <= high + 0.05


def test_sums_and_programs_are_named(made) -> None:
    folder, _ = made
    header, *rows = read_csv(folder / "misjudged.csv")
    last = dict(zip(header, rows[-1], strict=True))
    assert last["precision"] == "float32"
    assert last["programs"] == "native, ReLU'(0) = 1 vs native"
    assert {last[name] for name in ("dataset", "architecture", "batch norm", "batch size", "noise", "kernels")} == {
        "all"
    }
    first = dict(zip(header, rows[0], strict=True))
    assert (first["batch size"], first["noise"], first["programs"]) == ("128", "0", "minimal vs native")


def test_whether_a_threshold_separates_is_a_word(made) -> None:
    folder, tables = made
    header, *rows = read_csv(folder / "thresholds.csv")
    words = [row[header.index("separable")] for row in rows]
    assert words == [{True: "yes", False: "no"}.get(value, "") for value in tables["thresholds"].separable]
    assert {"yes", ""} <= set(words)


@pytest.mark.parametrize("what", ["never finite", "no main pair", "nothing"])
def test_tables_of_little(what: str, tmp_path: Path, run_script) -> None:
    """What cannot be said is empty."""
    made = zone_cells(program=["native" if what == "no main pair" else "minimal"])
    options = {"measure": never_finite} if what == "never finite" else {}
    (tmp_path / "cells").mkdir()
    minibatches = write_zone_cells(tmp_path / "cells", made, 5, **options).read()[0]
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", minibatches[:0] if what == "nothing" else minibatches, run_script)
    lengths = {name: len(read_csv(tmp_path / "out" / f"{name}.csv")) - 1 for name in SOURCES}
    expected = {
        "never finite": {"zone_proportions": 1, "magnitudes": 0, "misjudged": 2, "pure_rounding": 2, "thresholds": 1},
        "no main pair": {"zone_proportions": 1, "magnitudes": 1, "misjudged": 2, "pure_rounding": 2, "thresholds": 0},
        "nothing": dict.fromkeys(SOURCES, 0),
    }
    assert lengths == expected[what]
