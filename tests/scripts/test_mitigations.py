"""The table of mitigations for readers: the numbers of the table in words and percent, in all formats."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from .conftest import load, read_table

script = load("maxpool/mitigations")
FACTORS = {"rule": ("native", "average", "hybrid-1000-composed", "norm-0"), "optimizer": ("sgd", "sgd_clipped"),
           "normalization": ("none", "batch_norm"), "precision": ("float16",)}  # fmt: skip


def diverging(cell) -> int | None:
    return 2 if cell.rule == "hybrid-1000-composed" and cell.optimizer == "sgd" and cell.seed == 1 else None


@pytest.fixture
def made(study, run_script, tmp_path):
    """The table and its readable forms, as the rule makes them."""
    runs = study(diverging, **FACTORS).folder / "runs.csv"
    proportions = tmp_path / "proportions.csv"
    row = {"dataset": "mnist_5k", "architecture": "lenet5", "normalization": "none", "precision": "float16",
           "batch_size": 128, "program": "minimal", "reference": "native", "noise": 0.0, "kernels": "deterministic",
           "proportion": 0.625}  # fmt: skip
    pd.DataFrame([row]).to_csv(proportions, index=False)
    outputs = {"table": str(tmp_path / "table.csv")}
    outputs |= {f"mitigations_{suffix}": str(tmp_path / f"mitigations.{suffix}") for suffix in ("csv", "md", "tex")}
    run_script(
        "maxpool/mitigations",
        input={"runs": str(runs), "proportions": [str(proportions)]},
        output=outputs,
        log=[str(tmp_path / "log")],
    )
    return outputs


def test_numbers_are_those_of_the_table(made) -> None:
    table, shown = read_table(made["table"]), pd.read_csv(made["mitigations_csv"], keep_default_na=False, na_values=[])
    assert list(shown) == list(script.HEADINGS.values())
    assert len(shown) == len(table) == 2 * (4 + 2)  # clipping is for native and composed
    for row, readable in zip(table.to_dict("records"), shown.to_dict("records"), strict=True):
        assert readable["batch norm"] == {"none": "no", "batch_norm": "yes"}[row["normalization"]]
        assert readable["mitigation"] == row["mitigation"]
        assert float(readable["mean (%)"]) == pytest.approx(100 * row["test_accuracy_mean"], abs=0.00501)
        assert float(readable["less native (points)"]) == pytest.approx(100 * row["difference"], abs=0.00501)
        if row["diverged"]:
            assert readable["95 % interval (points)"] == ""
        else:
            low, high = (float(end) for end in readable["95 % interval (points)"].split(" to "))
            assert (low, high) == pytest.approx(
                (100 * row["difference_low"], 100 * row["difference_high"]), abs=0.00501
            )
        assert float(readable["cost"]) == pytest.approx(row["cost"], abs=0.00501)
        is_hybrid = not math.isnan(row["beta"])
        assert (readable["beta"], readable["pooling"]) == (("1,000", "composed") if is_hybrid else ("", row["rule"]))
        measured = row["rule"] == "native" and row["normalization"] == "none"
        assert readable["zone (%)"] == ("no choice" if row["rule"] == "average" else "62.5" if measured else "")
    assert set(shown.diverged[shown.mitigation == "none"]) == {0, 1}


def test_formats_show_the_same(made) -> None:
    shown = pd.read_csv(made["mitigations_csv"], keep_default_na=False, na_values=[])
    with open(made["mitigations_md"]) as markdown, open(made["mitigations_tex"]) as latex:
        lines, rows = markdown.read().splitlines()[2:], [line for line in latex if line.rstrip().endswith(r"\\")]
    assert len(lines) == len(shown)
    assert sum("gradient clipping" in row for row in rows) == sum(shown.mitigation == "gradient clipping") == 4
    for line, (mitigation, interval) in zip(lines, shown[["mitigation", "95 % interval (points)"]].values, strict=True):
        assert mitigation in line
        assert interval in line


def test_a_preset_without_zones_and_without_such_runs(study, run_script, tmp_path) -> None:
    runs = study(rule=["native", "minimal"], optimizer=["adam"], normalization=["none"]).folder / "runs.csv"
    outputs = {"table": str(tmp_path / "table.csv")}
    outputs |= {f"mitigations_{suffix}": str(tmp_path / f"mitigations.{suffix}") for suffix in ("csv", "md", "tex")}
    run_script(
        "maxpool/mitigations", input={"runs": str(runs), "proportions": []}, output=outputs, log=[str(tmp_path / "log")]
    )
    assert pd.read_csv(outputs["mitigations_csv"]).empty
