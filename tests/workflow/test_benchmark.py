"""Benchmarks in the report: a run takes those that were made, and makes none, whatever changes."""

import shutil

import pytest

from .test_reruns import CONFIG, planned_after_editing

TABLES = "results/tiny/benchmark"


def benchmarks(planned: dict[str, int]) -> set[str]:
    """The benchmarks that a run would measure."""
    return {rule for rule in planned if rule.startswith("benchmark_") and not rule.endswith("_figure")}


@pytest.fixture(scope="module")
def measured(finished):
    """The finished project with two benchmarks, as if Snakemake had made them, one of which is drawn. Tests leave it so."""
    folder = finished.path / TABLES
    folder.mkdir()
    for name in ("rules", "zones"):
        shutil.copy(finished.path / f"data/benchmarks/{name}.csv", folder)
    finished.snakemake(f"{TABLES}/rules.csv", f"{TABLES}/zones.csv", "--touch", "--force", *CONFIG)
    finished.first = finished.planned(*CONFIG)
    finished.snakemake(*CONFIG)
    yield finished
    shutil.rmtree(folder)
    shutil.rmtree(finished.path / "figures/tiny/benchmark")
    finished.snakemake(*CONFIG)


def test_a_run_draws_them_and_writes_the_chapter(measured) -> None:
    assert measured.first == {"benchmark_zones_figure": 1, "report": 1, "all": 1}
    names = measured.files("figures/tiny/benchmark/*")
    assert set(names) == {f"figures/tiny/benchmark/zones.{suffix}" for suffix in ("pdf", "svg", "png", "csv")}
    _, chapter = (measured.path / "figures/tiny/report.html").read_text().split('<h2 id="speed">')
    assert chapter.count("<img ") == 1
    assert "Comparing two programs (" in chapter
    assert measured.planned(*CONFIG) == {}


@pytest.mark.parametrize("changed", [{"threads": 2}, {"deterministic": False}, {"device": "auto"}], ids=str)
def test_other_settings_repeat_no_benchmark(measured, tiny, changed) -> None:
    """Though they train again."""
    planned = measured.planned("--configfile", measured.write_config({**tiny, **changed}, "other.yaml"))
    assert planned["maxpool_train"] == 2
    assert benchmarks(planned) == set()


def test_fewer_cores_repeat_no_benchmark(measured) -> None:
    output = measured.snakemake(*CONFIG, "--dry-run", cores=1).stdout
    assert "Nothing to be done" in output


def test_the_others_are_measured_by_their_target_alone(measured) -> None:
    planned = measured.planned("benchmark", *CONFIG)
    names = {"pooling", "training_step", "architectures", "end_to_end", "side_by_side"}
    assert {f"benchmark_{name}" for name in names} <= benchmarks(planned)
    assert not {"benchmark_rules", "benchmark_zones"} & benchmarks(planned)
    assert "report" not in planned


def test_a_benchmark_has_no_input(planning) -> None:
    """That could be made again, and it with it."""
    planned = planning.planned("benchmark")
    assert {rule for rule in planned if not rule.startswith("benchmark")} == set()
    assert len(benchmarks(planned)) >= 7


def test_another_measurement_is_drawn(measured) -> None:
    table = f"{TABLES}/zones.csv"
    assert planned_after_editing(measured, table) == {"benchmark_zones_figure", "report", "all"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("workflow/scripts/benchmark/zones_figure.py", {"benchmark_zones_figure", "report", "all"}),
        ("workflow/scripts/benchmark/zones.py", set()),
        ("workflow/lib/nonsmooth/speed.py", {"benchmark_zones_figure", "report", "all"}),
        ("workflow/report/benchmark/zones.rst", {"report", "all"}),
    ],
)
def test_editing_code_measures_nothing(measured, changed, expected) -> None:
    assert planned_after_editing(measured, changed) == expected


def test_without_them_the_report_is_written_again(measured, tmp_path) -> None:
    shutil.move(measured.path / TABLES, tmp_path / "benchmark")
    try:
        assert measured.planned(*CONFIG) == {"report": 1, "all": 1}
    finally:
        shutil.move(tmp_path / "benchmark", measured.path / TABLES)
