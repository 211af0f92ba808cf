"""What a change makes stale, on a preset that has been run for real."""

import json
import os
import re
import shutil

import pandas as pd
import pytest

from .conftest import copy_project

CONFIG = ("--configfile", "config/tiny.yaml")
FIGURES = {"maxpool_accuracy_by_beta", "maxpool_accuracy", "maxpool_loss", "maxpool_tie_map"}


def touch(project, name):
    os.utime(project.path / name)


def test_the_run_made_everything(finished):
    runs = pd.read_csv(finished.path / "results/tiny/maxpool/runs.csv")
    assert list(runs.rule) == ["native", "hybrid-10000-composed"]
    assert list(runs.diverged) == [False, True]
    names = set(finished.files("figures/tiny/**/*"))
    for stem in ("accuracy_by_beta", "tie_map", "accuracy/mnist_5k/lenet5/sgd/float16"):
        assert {f"figures/tiny/maxpool/{stem}.{suffix}" for suffix in ("pdf", "svg", "png", "csv")} <= names
    record = json.loads(next(finished.path.glob("results/tiny/**/native/seed0/record.json")).read_text())
    assert record["settings"] == {"device": "cpu", "threads": 1, "deterministic": True}
    assert not list(finished.path.rglob(".*.[0-9]*.csv")), "temporary files are left"


def test_logs_and_benchmarks_mirror_results(finished):
    cells = {
        path.split("train/")[1].rsplit("/", 1)[0] for path in finished.files("results/tiny/maxpool/train/**/*.csv")
    }
    logs = {path.split("train/")[1][: -len(".log")] for path in finished.files("logs/tiny/maxpool/train/**/*")}
    benchmarks = {path.split("train/")[1][: -len(".tsv")] for path in finished.files("benchmarks/tiny/**/*.tsv")}
    assert cells == logs == benchmarks


def test_the_report_is_one_self_contained_file(finished):
    text = (finished.path / "figures/tiny/report.html").read_text()
    assert len(re.findall(r'<img src="data:image/svg\+xml;base64,', text)) == 4
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "1 run of 2 reached a non-finite loss or weight" in text


def test_a_second_run_does_nothing(finished):
    before = finished.files("results/**/*") | finished.files("figures/**/*")
    assert "Nothing to be done" in finished.snakemake(*CONFIG).stdout
    assert finished.files("results/**/*") | finished.files("figures/**/*") == before


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("workflow/scripts/maxpool/accuracy.py", {"maxpool_accuracy"}),
        ("workflow/lib/nonsmooth/plotting.py", FIGURES | {"maxpool_summary"}),
        ("workflow/lib/nonsmooth/nonsmooth.mplstyle", FIGURES),
        ("workflow/scripts/maxpool/aggregate.py", {"maxpool_aggregate"}),
        ("workflow/lib/nonsmooth/datasets.py", FIGURES | {"maxpool_summary"}),
        ("workflow/lib/nonsmooth/ties.py", {"maxpool_ties", "maxpool_tie_map"}),
        ("workflow/scripts/maxpool/ties.py", {"maxpool_ties", "maxpool_tie_map"}),
        ("workflow/report/maxpool/loss.rst", set()),
        ("workflow/scripts/maxpool/train.py", None),
        ("workflow/lib/nonsmooth/training.py", None),
        ("workflow/lib/nonsmooth/pooling.py", None),
    ],
)
def test_editing_code_redraws_and_never_retrains(finished, changed, expected):
    path = finished.path / changed
    original, times = path.read_text(), path.stat()
    path.write_text(original + ("\n# edited\n" if changed.endswith((".py", ".mplstyle")) else "\nEdited.\n"))
    try:
        planned = set(finished.planned(*CONFIG))
    finally:
        path.write_text(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not planned & {"maxpool_train", "prepare"}
    if expected is None:
        assert planned == set()
    else:
        assert expected <= planned
        assert "report" in planned


def test_a_deleted_figure_is_redrawn_alone(finished):
    (finished.path / "figures/tiny/maxpool/tie_map.png").unlink()
    assert finished.planned("figures/tiny/maxpool/tie_map.png", *CONFIG) == {"maxpool_tie_map": 1}
    finished.snakemake(*CONFIG)


def test_adding_a_seed_trains_only_that_seed(finished, tiny):
    tiny["maxpool"]["train"][0]["seeds"] = [0, 1]
    output = finished.snakemake("--configfile", finished.write_config(tiny, "more.yaml"), "--dry-run").stdout
    trained = re.findall(r"Train lenet5 .*", output)
    assert len(trained) == 2
    assert all(line.endswith("seed 1") for line in trained)


@pytest.mark.parametrize(("key", "value"), [("epochs", 2), ("learning_rate", 0.01), ("batch_size", 64)])
def test_changing_a_setting_trains_its_cells_again(finished, tiny, key, value):
    tiny["maxpool"]["train"][0][key] = value
    planned = finished.planned("--configfile", finished.write_config(tiny, "other.yaml"))
    assert planned["maxpool_train"] == 2


def test_raising_the_numerics_version_retrains(finished):
    path = finished.path / "workflow/lib/nonsmooth/numerics.py"
    original = path.read_text()
    path.write_text(original.replace("NUMERICS_VERSION = ", "NUMERICS_VERSION = 1000 + "))
    try:
        planned = finished.planned(*CONFIG)
    finally:
        path.write_text(original)
    assert planned["maxpool_train"] == 2
    assert planned["maxpool_ties"] == 1


def test_a_cell_trained_otherwise_is_an_error_when_snakemake_has_forgotten(tmp_path, tiny):
    project = copy_project(tmp_path)
    tiny["maxpool"]["train"][0].update(rule=["native"])
    del tiny["maxpool"]["train"][0]["beta"], tiny["maxpool"]["train"][0]["evaluation"]
    table = "results/tiny/maxpool/runs.csv"
    project.snakemake(table, "--configfile", project.write_config(tiny))
    shutil.rmtree(tmp_path / ".snakemake")
    tiny["maxpool"]["train"][0]["epochs"] = 2
    (tmp_path / table).unlink()
    result = project.snakemake(table, "--configfile", project.write_config(tiny), check=False)
    assert result.returncode != 0
    assert "the cell was trained with epochs 1, not 2" in result.stdout


def test_a_figure_that_the_preset_does_not_have_is_refused(finished):
    target = "figures/tiny/maxpool/accuracy/mnist_5k/lenet5/adam/float16.pdf"
    result = finished.snakemake(target, *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert "maxpool_train" not in result.stdout


def test_switching_presets_deletes_nothing(finished, tiny):
    before = finished.files("results/tiny/**/*")
    tiny["run"] = "second"
    tiny["maxpool"]["train"][0]["rule"] = ["native"]
    del tiny["maxpool"]["train"][0]["beta"], tiny["maxpool"]["train"][0]["evaluation"]
    finished.snakemake("maxpool", "--configfile", finished.write_config(tiny, "second.yaml"))
    assert finished.files("results/second/**/*")
    assert finished.files("results/tiny/**/*") == before
    assert finished.planned(*CONFIG) == {}


def test_two_runs_of_a_cell_give_the_same_bits(finished, tiny):
    record = "results/{}/maxpool/train/mnist_5k/lenet5/none/sgd/float16/native/seed0/record.json"
    tiny["run"] = "repeated"
    finished.snakemake(record.format("repeated"), "--configfile", finished.write_config(tiny, "repeated.yaml"))
    first, second = (json.loads((finished.path / record.format(run)).read_text()) for run in ("tiny", "repeated"))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["config_hash"] == second["config_hash"]


def test_snakemakes_own_report(finished):
    finished.snakemake("--report", "snakemake-report.html", *CONFIG)
    text = (finished.path / "snakemake-report.html").read_text()
    for word in ("accuracy_by_beta", "tie_map", "maxpool"):
        assert word in text
