"""The tables of claims as the rule makes them, with and without the tables that a preset may lack."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import claims
from nonsmooth.cells import TrainingCell
from nonsmooth.zones import tables as zones

from .conftest import ROOT, load

script = load("claims/claims_judge")
FILE = ROOT / "data/claims/maxpool.yaml"
HEADER = ["claim", "sentence", "source", "verdict", "rule", "conditions", "hold", "fail", "undecidable", "n", "n needed", "means",
          "test", "judged on", "not run here"]  # fmt: skip
SETTINGS = {"margin": 0.1, "alpha": 0.05, "power": 0.8}


def every_composed_diverges(cell: TrainingCell) -> int | None:
    return 40 if cell.rule.endswith("-composed") else None


@pytest.fixture
def made(study):
    return study(every_composed_diverges, rule=["native", "minimal", "hybrid-1000-composed"], seed=range(6))


def judge(made, folder: Path, run_script, **inputs) -> dict[str, Path]:
    output = {name: folder / f"{name}.csv" for name in ("results", "conditions", "csv")} | {
        suffix: folder / f"table.{suffix}" for suffix in ("md", "tex")
    }
    usual = {
        "claims": str(FILE),
        "runs": str(made.folder / "runs.csv"),
        "zone_shares": [],
        "minibatches": [],
        "pooling_errors": [],
    }
    run_script(
        "claims/claims_judge",
        input=usual | inputs,
        output=output,
        params={"settings": SETTINGS},
        log=[str(folder / "job.log")],
    )
    assert all(path.stat().st_size for path in output.values())
    return output


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_the_tables_are_those_of_the_library(made, tmp_path: Path, run_script) -> None:
    output = judge(made, tmp_path, run_script)
    expected = claims.evaluate(claims.read(FILE), claims.Tables(made.runs), claims.Settings(**SETTINGS))
    for name, table in zip(("results", "conditions"), expected, strict=True):
        table.to_csv(tmp_path / "expected.csv", index=False)
        assert output[name].read_text() == (tmp_path / "expected.csv").read_text()
    verdicts = read(output["results"]).set_index("claim").verdict
    assert verdicts["C6b"] == claims.HOLDS
    assert verdicts["C1"] == claims.NOT_TESTED


def test_the_zones_are_judged_where_there_are_some(made, tmp_path: Path, run_script, measured) -> None:
    factors = {
        "dataset": ["cifar10"],
        "architecture": ["vgg11"],
        "precision": ["float16", "float32"],
        "seed": [0, 1, 2],
    }
    minibatches, _, _ = measured(**factors).read()
    tables = {"zone_shares": zones.proportions_by_seed(minibatches), "minibatches": minibatches}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    output = judge(made, tmp_path, run_script, **{name: [str(tmp_path / f"{name}.csv")] for name in tables})
    found = read(output["results"]).set_index("claim")
    assert found.conditions["C1"] > 0
    assert found.conditions["C10"] > 0


def test_the_table_for_readers_has_a_claim_in_a_row(made, tmp_path: Path, run_script) -> None:
    output = judge(made, tmp_path, run_script)
    table, results = read(output["csv"]).fillna(""), read(output["results"])
    assert list(table) == HEADER
    assert table.claim.tolist() == [claim.id for claim in claims.read(FILE)]
    for row, result in zip(table.to_dict("records"), results.to_dict("records"), strict=True):
        assert (row["sentence"], row["verdict"]) == (result["sentence"], result["verdict"])
        assert (row["n needed"] != "") == (not math.isnan(result["runs_needed"]))
        assert row["judged on"] != "" or row["verdict"] == claims.NOT_TESTED
    for suffix in ("md", "tex"):
        text = output[suffix].read_text()
        assert "nan" not in text.replace("nance", "")
        assert all(name in text for name in table.claim)


def test_numbers_in_words() -> None:
    row = {"claim": "X", "sentence": "s", "source": "t", "verdict": "undecidable", "decide": "lower", "quantifier": "every",
           "conditions": 2, "holding": 0, "failing": 0, "undecided": 2, "n_min": 3, "n_max": 6, "mean_min": -0.01234, "mean_max": 0.5,
           "runs_needed": math.inf, "test": "t", "judged_on": "a; b", "missing": ""}  # fmt: skip
    (found,) = script.readable(pd.DataFrame([row])).to_dict("records")
    assert (found["rule"], found["n"], found["means"], found["n needed"]) == (
        "lower, every",
        "3 to 6",
        "-0.0123 to 0.5",
        "many",
    )
    (found,) = script.readable(pd.DataFrame([{**row, "n_max": 3, "runs_needed": 7.0}])).to_dict("records")
    assert (found["n"], found["n needed"]) == ("3", "7")


def test_the_simulation_is_a_table(tmp_path: Path, run_script, monkeypatch) -> None:
    from nonsmooth import simulation

    whole = simulation.simulate
    asked = []
    monkeypatch.setattr(
        simulation, "simulate", lambda repeats, *more: (asked.append((repeats, *more)), whole(1, *more))[1]
    )
    run_script(
        "claims/claims_simulation",
        output=[str(tmp_path / "simulation.csv")],
        params={"settings": SETTINGS},
        log=[str(tmp_path / "job.log")],
    )
    assert asked == [(500, 0.05, 0.8)]
    assert len(read(tmp_path / "simulation.csv")) == 270
