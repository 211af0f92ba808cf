"""The chapter on speed: its sentences and tables recomputed from small tables of benchmarks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import costs, provenance, speed
from nonsmooth.report import Sources

MADE = {"device": "cpu", "machine": "a processor", "threads": 1, "torch": "2.9.0", "date": "2026-01-31"}
SOURCES = Sources("mine", {}, {})


def table(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split()).assign(**MADE)


TABLES = {
    "pooling": table("program ratio_to_native", ("native", 1.0), ("exact", 2.5), ("exact compiled", 0.31), ("exact compiled", 0.6)),
    "training_step": table(
        "case precision path median_ms",
        ("lenet5 step", "float16", "project", 10.0), ("lenet5 step", "float16", "pytorch", 65.0),
        ("lenet5 step", "bfloat16", "project", 20.0), ("lenet5 step", "bfloat16", "pytorch", 14.0),
        ("lenet5 step", "float32", "project", 7.0), ("vgg11 layer", "float16", "project", 100.0),
        ("vgg11 layer", "float16", "pytorch", 4000.0),
    ),
    "rules": table(
        "architecture precision rule ratio",
        ("lenet5", "float16", "native", 1.0), ("lenet5", "float16", "minimal", 1.25), ("lenet5", "float32", "strided", 4.6),
        ("vgg11", "float32", "native", 1.0),
    ),
    "architectures": table(
        "architecture precision seconds",
        ("vgg11", "float32", 0.7), ("lenet5", "float32", 0.0067), ("resnet18", "float64", 15.59),
    ),
    "zones": table("pair with_replays", (2.0, 15.1), (2.7, 2.8)),
    "end_to_end": table(
        "rule program ratio_to_plain",
        ("native", "plain", 1.0), ("native", "project", 3.11), ("native", "project", 1.0), ("composed", "project", 2.0),
    ),
    "starting": table("start seconds", ("by itself", 2.3), ("forked", 0.123)),
    "planning": table(
        "run jobs what seconds",
        ("few", 112, "plan, nothing made", 1.5), ("few", 112, "run, everything made", 1.2),
        ("many", 8419, "plan, nothing made", 15.2), ("many", 8419, "run, everything made", 9.9),
    ),
    "side_by_side": table("cells images_per_second ratio_to_one", (1, 100.0, 1.0), (2, 150.0, 1.5), (4, 90.0, 0.9)),
}  # fmt: skip
SENTENCES = {
    "pooling": "as a multiple of PyTorch's own, over all inputs and types: exact 2.5, exact compiled 0.31 to 0.6.",
    "training_step": "lenet5 step 0.7 to 6.5, vgg11 layer 40.",
    "rules": "LeNet-5 4.6 (strided, float32), VGG11 1 (native, float32).",
    "architectures": "A training step takes from 6.7 ms (LeNet-5, float32) to 15,590.0 ms (ResNet-18, float64).",
    "zones": "2 to 2.7, and with the replays that separate causes 2.8 to 15.",
    "end_to_end": "native 1 to 3.1, composed 2.",
    "starting": "starts in 2.3 s by itself, and in 0.12 s forked from a process that has.",
    "planning": "takes 1.5 to 15 s, for 112 to 8,419 jobs, and finding that nothing is left to be done 1.2 to 9.9 s.",
    "side_by_side": "most with 2 cells of LeNet-5 at once, 1.5 times those of one.",
}


@pytest.mark.parametrize("name", speed.BENCHMARKS)
def test_sentences(name: str) -> None:
    assert speed.BENCHMARKS[name].sentence(TABLES[name]).endswith(SENTENCES[name])


def test_seconds_are_shown_in_milliseconds() -> None:
    table = speed.read(costs.SHIPPED / "architectures.csv")
    found, row = speed.readable("architectures", table, SOURCES), table.iloc[0]
    assert found.data.iloc[0].to_dict() == {
        "architecture": "lenet5", "precision": "float16", "parameters": 44878, "median (ms)": pytest.approx(1000 * row.seconds),
        "quartile 1 (ms)": pytest.approx(1000 * row.quartile1), "quartile 3 (ms)": pytest.approx(1000 * row.quartile3),
        "steps": row.steps, "memory (MiB)": row.peak_memory_mib,
    }  # fmt: skip
    assert found.caption.endswith(f"{row.machine}, 1 thread, torch {row.torch}, {row.date}.")
    assert found.command == "snakemake results/mine/benchmark/architectures.csv --force"


def test_milliseconds_stay() -> None:
    columns = dict.fromkeys(speed.BENCHMARKS["pooling"].headings, 3.0)
    found = speed.readable("pooling", pd.DataFrame([{**columns, **MADE}]), SOURCES)
    assert found.data["median (ms)"].tolist() == [3.0]


def test_a_machine_is_named_once() -> None:
    tables = {name: speed.read(costs.SHIPPED / f"{name}.csv").assign(**MADE) for name in costs.TABLES}
    tables["zones"] = tables["zones"].assign(device="cuda", machine="a GPU", threads=2)
    last = speed.section(tables, SOURCES).paragraphs[-1]
    processor, gpu = (
        "a processor, 1 thread, torch 2.9.0, 2026-01-31",
        "a GPU (cuda), 2 threads, torch 2.9.0, 2026-01-31",
    )
    assert last.startswith(f"Measured on {processor}; {gpu}. Not measured: Max pooling, ")


@pytest.mark.parametrize("name", costs.TABLES)
def test_shipped_tables_can_be_read(name: str) -> None:
    found = speed.read(costs.SHIPPED / f"{name}.csv")
    assert set(speed.MADE) == set(provenance.benchmark("cpu", 1)) <= set(found)


@pytest.mark.parametrize(
    ("text", "what"),
    [("cells,ratio\n1,1\n", "images_per_second, slowest_cell, ratio_to_one, cores, device"), (None, "rows")],
    ids=["another version", "no rows"],
)
def test_another_table_is_one_error(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "side_by_side.csv"
    path.write_text(text or ",".join([*speed.BENCHMARKS["side_by_side"].headings, *speed.MADE]))
    with pytest.raises(
        ValueError, match=rf"{path}: not a table of `snakemake benchmark` \(it lacks {what}.*; delete it and run"
    ):
        speed.read(path)
