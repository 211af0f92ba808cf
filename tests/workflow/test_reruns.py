"""What a change makes stale, on a preset that has been run for real."""

import json
import os
import re
import shutil
import time

import pandas as pd
import pytest
import yaml

from nonsmooth import config as presets

from .conftest import CELL, copy_project, scripts

CONFIG = ("--configfile", "config/tiny.yaml")
GROUP_FIGURES = {"maxpool_accuracy", "maxpool_loss", "maxpool_accuracy_by_epoch"}
FIGURES = {"maxpool_accuracy_by_beta", "maxpool_tie_map", *GROUP_FIGURES}
EXPENSIVE = {"maxpool_train", "maxpool_search", "prepare", "fetch"}


def test_the_run_made_everything(finished):
    runs = pd.read_csv(finished.path / "results/tiny/maxpool/runs.csv")
    assert list(runs.rule) == ["native", "hybrid-10000-composed"]
    assert list(runs.diverged) == [False, True]
    names = set(finished.files("figures/tiny/**/*"))
    group = "mnist_5k/lenet5/sgd/float16/relu-0"
    stems = [f"{kind}/{group}" for kind in ("accuracy", "loss", "accuracy_by_epoch")]
    for stem in ("accuracy_by_beta", "tie_map", *stems):
        assert {f"figures/tiny/maxpool/{stem}.{suffix}" for suffix in ("pdf", "svg", "png", "csv")} <= names
    record = json.loads(next(finished.path.glob("results/tiny/**/native/relu-0/seed0/record.json")).read_text())
    assert record["settings"] == {"device": "cpu", "threads": 1, "deterministic": True}
    assert {
        f"figures/tiny/maxpool/{name}.{suffix}" for name in ("summary", "published") for suffix in ("csv", "md", "tex")
    } <= names
    tables = {
        f"results/tiny/maxpool/{name}.csv" for name in ("runs", "epochs", "summary", "costs", "published", "ties")
    }
    assert tables <= set(finished.files("results/tiny/**/*"))
    hidden = [path for folder in ("results", "figures", "data") for path in (finished.path / folder).rglob(".*")]
    assert not hidden, "temporary files are left"


def test_logs_mirror_results(finished):
    cells = {
        path.split("train/")[1].rsplit("/", 1)[0] for path in finished.files("results/tiny/maxpool/train/**/*.csv")
    }
    logs = {path.split("train/")[1][: -len(".log")] for path in finished.files("logs/tiny/maxpool/train/**/*")}
    assert cells == logs


def test_the_report_is_one_self_contained_file(finished):
    text = (finished.path / "figures/tiny/report.html").read_text()
    assert len(re.findall(r'<img src="data:image/svg\+xml;base64,', text)) == len(FIGURES)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "1 run of 2 reached a non-finite loss or weight" in text


def test_a_second_run_does_nothing(finished):
    before = finished.files("results/**/*") | finished.files("figures/**/*")
    assert "Nothing to be done" in finished.snakemake(*CONFIG).stdout
    assert finished.files("results/**/*") | finished.files("figures/**/*") == before


def planned_after_editing(project, *changed: str) -> set[str]:
    """The rules that a run would execute after an edit of files, which is undone."""
    before = {project.path / name: (project.path / name).read_text() for name in changed}
    times = {path: path.stat() for path in before}
    added = {".py": "\n# edited\n", ".mplstyle": "\n# edited\n", ".csv": "\n", ".rst": "\nEdited.\n"}
    try:
        for path, original in before.items():
            path.write_text(original + added[path.suffix])
        return set(project.planned(*CONFIG))
    finally:
        for path, original in before.items():
            path.write_text(original)
            os.utime(path, ns=(times[path].st_atime_ns, times[path].st_mtime_ns))


SCRIPTS, LIBRARY = "workflow/scripts/maxpool", "workflow/lib/nonsmooth"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (f"{SCRIPTS}/accuracy.py", {"maxpool_accuracy"}),
        (f"{SCRIPTS}/accuracy_by_beta.py", {"maxpool_accuracy_by_beta"}),
        (f"{SCRIPTS}/curves.py", {"maxpool_loss", "maxpool_accuracy_by_epoch"}),
        (f"{SCRIPTS}/tables.py", {"maxpool_tables"}),
        (f"{SCRIPTS}/aggregate.py", {"maxpool_aggregate"}),
        (f"{SCRIPTS}/ties.py", {"maxpool_ties", "maxpool_tie_map"}),
        ("workflow/scripts/report/report.py", {"report"}),
        (f"{LIBRARY}/plotting.py", FIGURES | {"maxpool_tables"}),
        (f"{LIBRARY}/nonsmooth.mplstyle", FIGURES),
        (f"{LIBRARY}/datasets/__init__.py", FIGURES | {"maxpool_tables"}),
        (f"{LIBRARY}/architectures/__init__.py", FIGURES | {"maxpool_tables"}),
        (f"{LIBRARY}/published.py", {"maxpool_aggregate"}),
        (f"{LIBRARY}/ties.py", {"maxpool_ties", "maxpool_tie_map"}),
        ("workflow/report/maxpool/loss.rst", {"report"}),
        ("data/published/training.csv", {"maxpool_aggregate"}),
    ],
)
def test_editing_code_redraws_and_never_retrains(finished, changed, expected):
    planned = planned_after_editing(finished, changed)
    assert not planned & EXPENSIVE
    assert expected | {"report"} <= planned
    if "aggregate" not in planned:
        drawn = {*FIGURES, "maxpool_tables", "maxpool_mitigations", "claims_judge"}
        assert planned <= expected | {"report", "all", "maxpool_aggregate"} | drawn


WHAT_TRAINS = [
    *(f"{SCRIPTS}/{name}.py" for name in ("train", "search")),
    *(f"workflow/scripts/data/{name}.py" for name in ("prepare", "fetch")),
    *(f"{LIBRARY}/{name}.py" for name in ("training", "tuning", "traces", "activations", "precision", "images")),
    *(
        f"{LIBRARY}/pooling/{name}.py"
        for name in ("__init__", "windows", "exact", "composed", "norm", "smooth", "strided")
    ),
    *(f"{LIBRARY}/{name}.py" for name in ("architectures/lenet", "datasets/readers", "datasets/fetching")),
    "data/published/learning_rates.csv",
]


def test_editing_what_trains_does_not_train(finished):
    """A change of results is said by raising the numerics version. Words for arithmetic are in two figures and the claims."""
    planned = planned_after_editing(finished, *WHAT_TRAINS)
    assert not planned & EXPENSIVE
    assert planned <= {"all", "report", "maxpool_tie_map", "claims_judge"}


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


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 2), ("learning_rate", 0.01), ("batch_size", 64), ("schedule", "step"), ("augmentation", "crop_flip")],
)
def test_changing_a_setting_trains_its_cells_again(finished, tiny, key, value):
    tiny["maxpool"]["train"][0][key] = value
    planned = finished.planned("--configfile", finished.write_config(tiny, "other.yaml"))
    assert planned["maxpool_train"] == 2


def test_another_relu_is_another_cell(finished, tiny):
    """In a folder and with figures of its own."""
    tiny["maxpool"]["train"][0]["relu_derivative"] = [0, 1]
    planned = finished.planned("--configfile", finished.write_config(tiny, "relu.yaml"))
    assert planned["maxpool_train"] == 2
    assert all(planned[rule] == 2 for rule in GROUP_FIGURES)


def test_a_run_of_other_epochs_leaves_the_presets_results(finished):
    """Its cells are others, and it can be asked for none of the preset's."""
    before = finished.files("results/**/*") | finished.files("figures/**/*")
    record = f"maxpool/train/{CELL.format(rule='native')}/record.json"
    finished.snakemake(f"results/tiny-epochs2/{record}", *CONFIG, "--config", "epochs=2", "seeds=[0]")
    epochs = json.loads((finished.path / "results/tiny-epochs2" / record).read_text())["cell"]["epochs"]
    assert epochs == 2
    after = finished.files("results/**/*") | finished.files("figures/**/*")
    assert before.items() <= after.items()
    assert all("tiny-epochs2" in name for name in after.keys() - before.keys())
    result = finished.snakemake(f"results/tiny/{record}", *CONFIG, "--config", "epochs=2", "--dry-run", check=False)
    assert result.returncode != 0
    assert "No rule to produce" in result.stdout
    assert finished.planned(*CONFIG) == {}


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


def test_a_cell_trained_otherwise_is_an_error_when_snakemake_has_forgotten(finished, tmp_path, tiny):
    project = copy_project(tmp_path, finished)
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
    target = "figures/tiny/maxpool/accuracy/mnist_5k/lenet5/adam/float16/relu-0.pdf"
    result = finished.snakemake(target, *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert "maxpool_train" not in result.stdout


def test_switching_presets_deletes_nothing(finished, tiny):
    before = finished.files("results/tiny/**/*")
    tiny["run"] = "second"
    tiny["maxpool"]["train"][0]["rule"] = ["native"]
    del tiny["maxpool"]["train"][0]["beta"], tiny["maxpool"]["train"][0]["evaluation"]
    file = finished.write_config(tiny, "second.yaml")
    finished.snakemake("results/second/maxpool/runs.csv", "--configfile", file)
    assert finished.files("results/second/**/*")
    assert finished.files("results/tiny/**/*") == before
    assert finished.planned(*CONFIG) == {}


def test_two_runs_of_a_cell_give_the_same_bits(finished, tiny):
    record = f"results/{{}}/maxpool/train/{CELL.format(rule='native')}/record.json"
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


# -------------------------------------------------------------------------------- a preset that searches its rates

SEARCH = "results/searched/maxpool/search/mnist_5k/lenet5/none/sgd/float32/native/relu-0"
SEARCHED = ("--configfile", "config/searched.yaml")
TRIALS = 3


def kill_a_search(project) -> str:
    """`snakemake learning_rates`, whose job is killed in the middle of its second trial; what Snakemake says."""
    process = project.start("learning_rates", *SEARCHED)
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        journals = list((project.path / SEARCH).glob("*.journal"))
        if journals and journals[0].read_bytes().count(b'"intermediate_value"') > 2:
            (job,) = scripts(process, "search.py")
            job.kill()
            break
        time.sleep(0.02)
    output, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, None), output
    return output


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """A project with a preset that searches its rate, run after a search that was killed. Tests leave it finished."""
    project = copy_project(tmp_path_factory.mktemp("searched"), finished)
    block = {
        "dataset": ["mnist_5k"], "architecture": ["lenet5"], "normalization": ["none"], "optimizer": ["sgd"],
        "precision": ["float32"], "rule": ["minimal", "hybrid"], "beta": [10], "evaluation": ["exact"],
        "relu_derivative": [0.5], "seeds": [3], "epochs": 1, "learning_rate": "search",
    }  # fmt: skip
    project.config = {"run": "searched", "maxpool": {"train": [block], "search": {"trials": TRIALS, "epochs": 2}}}
    project.write_config(project.config, "searched.yaml")
    project.killed = kill_a_search(project)
    project.kept = project.files("results/**/*")
    (journal,) = project.path.glob(f"{SEARCH}/*.journal")
    project.half = journal.read_bytes()
    project.snakemake(*SEARCHED)
    return project


def test_a_killed_search_keeps_its_journal_and_nothing_else(searched):
    assert "What is finished is kept" in searched.killed
    assert [name.rsplit(".", 1)[1] for name in searched.kept if not name.endswith(".lock")] == ["journal"]
    assert searched.half.count(b'"state":') == 1


def test_a_search_goes_on_where_it_was_killed(searched):
    """With the trials of a search that was not."""
    from nonsmooth import images, training, tuning

    (journal,) = searched.path.glob(f"{SEARCH}/*.journal")
    assert journal.read_bytes().startswith(searched.half)
    config = presets.check(searched.config)
    (cell,) = presets.search_cells(presets.training_cells(config), presets.search_settings(config)).values()
    data = images.load(
        "mnist_5k", "lenet5", searched.path / "data/prepared/mnist_5k/train.npy", training.torch.device("cpu")
    )
    expected = tuning.trial_table(tuning.search(cell, data, training.Settings(), TRIALS))
    found = pd.read_csv(searched.path / SEARCH / "trials.csv")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_cells_are_trained_with_the_rate_that_was_found(searched):
    chosen = json.loads((searched.path / SEARCH / "chosen.json").read_text())
    trials = pd.read_csv(searched.path / SEARCH / "trials.csv")
    (best,) = trials[trials.chosen].to_dict("records")
    assert chosen["learning_rate"] == float(f"{best['learning_rate']:.4g}")
    runs = pd.read_csv(searched.path / "results/searched/maxpool/runs.csv")
    assert runs.learning_rate.tolist() == [chosen["learning_rate"]] * 2
    assert runs.rule.tolist() == ["minimal", "hybrid-10-exact"]
    assert runs.relu_derivative.tolist() == [0.5] * 2


def test_the_report_shows_every_trial(searched):
    table = pd.read_csv(searched.path / "results/searched/maxpool/searches.csv")
    assert table.trial.tolist() == list(range(1, TRIALS + 1))
    report = (searched.path / "figures/searched/report.html").read_text()
    assert f"Searches for learning rates ({TRIALS} rows)" in report
    for rate in table.learning_rate:
        assert f">{rate:.4g}<" in report
    assert "snakemake results/searched/maxpool/searches.csv --configfile config/searched.yaml" in report


def test_a_search_that_is_there_is_only_gathered(searched):
    """And its entries are what a configuration takes: with them, nothing is searched."""
    assert searched.planned(*SEARCHED) == {}
    assert searched.planned("learning_rates", *SEARCHED) == {"learning_rates": 1, "maxpool_learning_rates": 1}
    searched.snakemake("learning_rates", *SEARCHED)
    entries = yaml.safe_load((searched.path / "results/searched/maxpool/learning_rates.yaml").read_text())
    (block,) = searched.config["maxpool"]["train"]
    block = {key: value for key, value in block.items() if key != "learning_rate"}
    config = {"run": "copied", **entries, "maxpool": {"train": [block]}}
    rate = json.loads((searched.path / SEARCH / "chosen.json").read_text())["learning_rate"]
    assert {cell.learning_rate for cell in presets.training_cells(presets.check(config))} == {rate}
    planned = searched.planned("--configfile", searched.write_config(config, "copied.yaml"))
    assert planned["maxpool_train"] == 2
    assert "maxpool_search" not in planned


@pytest.mark.parametrize(("key", "value"), [("trials", TRIALS + 1), ("epochs", 3), ("seed", 1)])
def test_another_search_is_made_anew_and_its_cells_follow(searched, key, value):
    config = yaml.safe_load(yaml.safe_dump(searched.config))
    config["maxpool"]["search"][key] = value
    planned = searched.planned("--configfile", searched.write_config(config, "other.yaml"))
    assert (planned["maxpool_search"], planned["maxpool_train"]) == (1, 2)


def test_more_trials_go_on_after_those_that_are_there(searched):
    """And without them the search is the one before, whatever the journal has."""
    config = yaml.safe_load(yaml.safe_dump(searched.config))
    config["maxpool"]["search"]["trials"] = TRIALS + 1
    before = pd.read_csv(searched.path / SEARCH / "trials.csv")
    target = f"{SEARCH}/trials.csv"
    searched.snakemake(target, "--configfile", searched.write_config(config, "other.yaml"))
    after = pd.read_csv(searched.path / target)
    log = (searched.path / "logs/searched" / f"{SEARCH.removeprefix('results/searched/')}.log").read_text()
    assert re.findall(r"trial (\d+) of (\d+)", log) == [("4", "4")]
    columns = [name for name in before if name != "chosen"]
    pd.testing.assert_frame_equal(after[columns][:TRIALS], before[columns], check_exact=True)
    searched.snakemake(target, *SEARCHED)
    pd.testing.assert_frame_equal(pd.read_csv(searched.path / target), before, check_exact=True)
    # What was chosen is as before, so that no cell is trained again.
    assert "maxpool_train" not in searched.planned(*SEARCHED)
