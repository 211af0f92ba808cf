"""The tables for readers: the same numbers in CSV, Markdown and LaTeX, rounded to two decimals of a percent."""

from __future__ import annotations

import csv
import math
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import maxpool, plotting, published

from .conftest import OTHER, as_if_published, composed_diverges, load, of_condition

tables = load("maxpool/tables")
CONDITION = ["dataset", "architecture", "batch norm", "optimizer", "precision"]
SUMMARY = [
    *CONDITION,
    "ReLU'(0)",
    "beta",
    "evaluation",
    "mean (%)",
    "std (%)",
    "min (%)",
    "max (%)",
    "runs",
    "diverged",
]
PUBLISHED = [*CONDITION, "beta", "evaluation", "ours (%)", "std (%)", "runs", "diverged", "epochs", "published (%)",
             "published std (%)", "published runs", "published diverged", "published epochs",
             "difference (points)", "95 % from (points)", "to (points)"]  # fmt: skip
RULES = ["native", "minimal", "hybrid-0.001-exact", "hybrid-10000-composed", OTHER]
BETAS = {"native": "0", "minimal": "1", "hybrid-0.001-exact": "0.001", "hybrid-10000-composed": "10,000", OTHER: ""}


@pytest.fixture(params=[[0], [0, 1, 2]], ids=["one run", "three runs"])
def made(request, study):
    return study(
        composed_diverges, seed=request.param, rule=RULES, optimizer=["sgd", "adam"], relu_derivative=[0.0, 0.25],
        precision=["float32"], is_published=True,
    )  # fmt: skip


def words_of(row: dict) -> list[str]:
    """How a reader meets the set-up of a run."""
    return [
        plotting.word("mnist_5k"),
        "LeNet-5",
        {"none": "no", "batch_norm": "yes"}[row["normalization"]],
        {"sgd": "SGD", "adam": "Adam"}[row["optimizer"]],
        "float32",
    ]


def summary_rows(runs: pd.DataFrame) -> list[list]:
    """Words, then numbers as they are, in the order of the runs."""
    rows = []
    factors = ["normalization", "optimizer", "rule", "relu_derivative"]
    for values in runs[factors].drop_duplicates().to_dict("records"):
        members = of_condition(runs, values)
        accuracies = [100 * member["test_accuracy"] for member in members]
        std = statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan
        rows.append(
            [*words_of(values), {0.0: "0", 0.25: "0.25"}[values["relu_derivative"]], BETAS[values["rule"]],
             members[0]["evaluation"] or values["rule"], statistics.fmean(accuracies), std, min(accuracies),
             max(accuracies), len(members), sum(member["diverged"] for member in members)]
        )  # fmt: skip
    return rows


def interval_of(members: list[dict], row: dict) -> list[float]:
    """In points, as the library has it, which its own test recomputes."""
    (compared,) = maxpool.compare(pd.DataFrame(members), pd.DataFrame([row]).assign(dataset="mnist_5k")).to_dict(
        "records"
    )
    return [100 * compared["difference_low"], 100 * compared["difference_high"]]


def published_rows(runs: pd.DataFrame) -> list[list]:
    rows = []
    factors = ["normalization", "optimizer", "rule"]
    for values in runs[factors].drop_duplicates().to_dict("records"):
        members = of_condition(runs, {**values, "relu_derivative": 0.0})
        names = {name: values[name] for name in ("normalization", "optimizer")} | {"precision": "float32"}
        theirs = of_condition(published.training(), {**names, "dataset": "mnist", "beta": members[0]["beta"]})
        for row in theirs:
            accuracies = [100 * member["test_accuracy"] for member in members]
            mean, their_mean = statistics.fmean(accuracies), 100 * row["test_accuracy_mean"]
            rows.append(
                [*words_of(values), BETAS[values["rule"]], members[0]["evaluation"] or values["rule"], mean,
                 statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan, len(members),
                 sum(member["diverged"] for member in members), 4, their_mean, 100 * row["test_accuracy_std"], row["runs"],
                 row["diverged"], row["epochs"], mean - their_mean, *interval_of(members, row)]
            )  # fmt: skip
    return rows


def write(summary: pd.DataFrame, compared: pd.DataFrame, folder: Path, run_script) -> dict[str, dict[str, str]]:
    """The texts of both tables as the rule makes them."""
    inputs = {"summary": folder / "in" / "summary.csv", "published": folder / "in" / "published.csv"}
    (folder / "in").mkdir()
    summary.to_csv(inputs["summary"], index=False)
    compared.to_csv(inputs["published"], index=False)
    output = {f"{name}_{suffix}": folder / f"{name}.{suffix}" for name in inputs for suffix in ("csv", "md", "tex")}
    run_script("maxpool/tables", input=inputs, output=output, log=[str(folder / "job.log")])
    assert {path.name for path in folder.iterdir()} == {*(path.name for path in output.values()), "in", "job.log"}
    return {
        name: {suffix: output[f"{name}_{suffix}"].read_text() for suffix in ("csv", "md", "tex")} for name in inputs
    }


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def read_markdown(text: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert all(set(cell) <= {":", "-"} for cell in lines.pop(1))
    return lines


def read_latex(text: str) -> list[list[str]]:
    width = text.splitlines()[0].split("}")[1].strip("{")
    lines = [line.removesuffix(r"\\").strip() for line in text.splitlines() if line.count("&") == len(width) - 1]
    cells = [[re.sub(r"\\([%&_#$])", r"\1", cell.strip()) for cell in line.split("&")] for line in lines]
    assert cells.pop(1) == cells[0]  # on every page
    assert r"\begin{longtable}" in text
    assert not re.search(r"(?<!\\)[%_#$]", text)
    return cells


READERS = {"csv": read_csv, "md": read_markdown, "tex": read_latex}


@pytest.fixture
def texts(made, tmp_path: Path, run_script) -> dict[str, dict[str, str]]:
    return write(maxpool.summarize(made.runs), made.published, tmp_path, run_script)


@pytest.mark.parametrize("name", ["summary", "published"])
def test_all_forms_have_all_numbers(name: str, made, texts) -> None:
    expected, header = {
        "summary": (summary_rows(made.runs), SUMMARY),
        "published": (published_rows(made.runs), PUBLISHED),
    }[name]
    assert len(expected) >= 16 if name == "summary" else len(expected) == 2 * 2 * 3
    for suffix, read in READERS.items():
        found_header, *rows = read(texts[name][suffix])
        assert found_header == header
        for row, values in zip(rows, expected, strict=True):
            for text, value in zip(row, values, strict=True):
                match value:
                    case str():
                        assert text == value
                    case int():
                        assert text in (str(value), f"{value}.00")
                    case _ if math.isnan(value):
                        assert text == ""
                    case _:
                        assert float(text) == pytest.approx(value, abs=0.005 + 1e-9)
    assert "nan" not in "".join(texts[name].values()).lower()


@pytest.mark.parametrize("name", ["summary", "published"])
def test_numbers_for_reading_have_two_decimals_and_counts_none(name: str, texts) -> None:
    for suffix in ("md", "tex"):
        header, *rows = READERS[suffix](texts[name][suffix])
        for heading, *column in zip(header, *rows, strict=True):
            is_share = heading.endswith(("(%)", "(points)"))
            is_count = heading.removeprefix("published ") in ("runs", "diverged", "epochs")
            pattern = r"-?\d+\.\d\d|" if is_share else r"\d+" if is_count else r".*"
            assert all(re.fullmatch(pattern, cell) for cell in column), (heading, column)


@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_nothing_published_is_a_table_without_rows(suffix: str, study, tmp_path: Path, run_script) -> None:
    made = study(rule=["native", "minimal"], seed=[0])
    assert made.published.empty
    texts = write(maxpool.summarize(made.runs), made.published, tmp_path, run_script)
    text = texts["published"][suffix]
    if suffix == "tex":
        assert "longtable" in text
        assert all(heading.replace("%", r"\%") in text for heading in PUBLISHED)
    else:
        assert READERS[suffix](text) == [PUBLISHED]
    assert len(READERS["csv"](texts["summary"]["csv"])) == 1 + 4


def test_only_evaluations_are_read_where_all_are_empty(study, tmp_path: Path, run_script) -> None:
    """A column of nothing is read as numbers."""
    made = study(rule=["native", OTHER], seed=[0, 1], is_published=True)
    texts = write(maxpool.summarize(made.runs), as_if_published(made.runs), tmp_path, run_script)
    header, *rows = read_csv(texts["summary"]["csv"])
    assert {row[header.index("evaluation")] for row in rows} == {"native", OTHER}
    assert {row[header.index("beta")] for row in rows} == {"0", ""}


@pytest.mark.parametrize("name", ["a & b", "50 %", "x_y", "#1", "$x$", "{a}", "~", "^", "\\"])
def test_names_are_not_read_as_latex(name: str, tmp_path: Path, study) -> None:
    table = tables.readable(maxpool.summarize(study(rule=["native"], seed=[0]).runs), tables.SUMMARY)
    table["dataset"] = name
    outputs = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    tables.write(table, outputs)
    row = next(line for line in outputs["tex"].read_text().splitlines() if "LeNet-5" in line)
    assert row.count(" & ") == len(SUMMARY) - 1
    assert not re.search(r"(?<!\\)[%_#$]", row)
    assert pd.read_csv(outputs["csv"], keep_default_na=False).dataset.unique().tolist() == [name]
