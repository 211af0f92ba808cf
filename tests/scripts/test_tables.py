"""The summary table: the same numbers in CSV, Markdown and LaTeX, rounded to two decimals of a percent."""

from __future__ import annotations

import csv
import math
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import maxpool, plotting

from .conftest import composed_diverges, load, of_condition

summary = load("maxpool/summary")
HEADER = ["dataset", "architecture", "batch norm", "optimizer", "precision", "beta", "evaluation",
          "mean (%)", "std (%)", "min (%)", "max (%)", "runs", "diverged"]  # fmt: skip
RULES = ["native", "minimal", "hybrid-0.001-exact", "hybrid-10000-composed"]
BETAS = {"native": "0", "minimal": "1", "hybrid-0.001-exact": "0.001", "hybrid-10000-composed": "10,000"}


@pytest.fixture(params=[[0], [0, 1, 2]], ids=["one run", "three runs"])
def made(request, study):
    return study(composed_diverges, seed=request.param, rule=RULES, optimizer=["sgd", "adam"])


def expected_rows(runs: pd.DataFrame) -> list[list]:
    """Words, then numbers as they are, in the order of the runs."""
    rows = []
    for values in runs[["normalization", "optimizer", "rule"]].drop_duplicates().itertuples(index=False):
        members = of_condition(runs, values._asdict())
        accuracies = [100 * member["test_accuracy"] for member in members]
        std = statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan
        rows.append(
            [plotting.word("mnist_5k"), "LeNet-5", {"none": "no", "batch_norm": "yes"}[values.normalization],
             {"sgd": "SGD", "adam": "Adam"}[values.optimizer], "float16", BETAS[values.rule],
             members[0]["evaluation"] or values.rule, statistics.fmean(accuracies), std, min(accuracies),
             max(accuracies), len(members), sum(member["diverged"] for member in members)]
        )  # fmt: skip
    return rows


def write(made, folder: Path, run_script) -> dict[str, str]:
    """The three tables as the rule makes them."""
    maxpool.summarize(made.runs).to_csv(folder / "summary.csv", index=False)
    output = {suffix: folder / f"table.{suffix}" for suffix in ("csv", "md", "tex")}
    log = [str(folder / "job.log")]
    run_script("maxpool/summary", input={"summary": folder / "summary.csv"}, output=output, log=log)
    return {suffix: path.read_text() for suffix, path in output.items()}


def read_markdown(text: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert all(set(cell) <= {":", "-"} for cell in lines.pop(1))
    return lines


def read_latex(text: str) -> list[list[str]]:
    lines = [line.removesuffix(r"\\").strip() for line in text.splitlines() if line.count("&") == len(HEADER) - 1]
    cells = [[re.sub(r"\\([%&_#$])", r"\1", cell.strip()) for cell in line.split("&")] for line in lines]
    assert cells.pop(1) == cells[0]  # on every page
    assert r"\begin{longtable}" in text
    assert not re.search(r"(?<!\\)[%_#$]", text)
    return cells


def test_all_forms_have_all_numbers(made, tmp_path: Path, run_script) -> None:
    texts = write(made, tmp_path, run_script)
    forms = [list(csv.reader(texts["csv"].splitlines())), read_markdown(texts["md"]), read_latex(texts["tex"])]
    expected = expected_rows(made.runs)
    for header, *rows in forms:
        assert header == HEADER
        for row, values in zip(rows, expected, strict=True):
            assert row[:7] == values[:7]
            for text, value in zip(row[7:11], values[7:11], strict=True):
                assert text == "" if math.isnan(value) else float(text) == pytest.approx(value, abs=0.005 + 1e-9)
            assert row[11:] == [str(number) for number in values[11:]]
    assert "nan" not in "".join(texts.values()).lower().replace("nan/", "")


def test_numbers_for_reading_have_two_decimals(made, tmp_path: Path, run_script) -> None:
    texts = write(made, tmp_path, run_script)
    for _, *rows in (read_markdown(texts["md"]), read_latex(texts["tex"])):
        assert all(re.fullmatch(r"\d+\.\d\d|", cell) for row in rows for cell in row[7:11])
