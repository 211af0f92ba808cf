"""The zones of a preset: planned if asked for, run for real once, and not measured again when code is edited."""

import pandas as pd
import pytest

from nonsmooth.files import read_json

from .conftest import copy_project

BLOCK = {
    "dataset": ["mnist_5k"],
    "architecture": ["lenet5"],
    "normalization": ["batch_norm"],
    "precision": ["bfloat16"],
    "compare": [["minimal", "native"], ["native", "native"], ["hybrid-10-composed", "native"]],
    "batch_size": [16],
    "noise": [0.25],
    "seeds": [3],
    "minibatches": 2,
}
ZERO_FUNCTION = {"precisions": ["float32"], "x": [[1.14, 1.14, 1.14, 1.14]], "t": [1]}
CELL = "mnist_5k/lenet5/batch_norm/bfloat16/batch16/minimal-vs-native/noise-0.25/deterministic/seed3"
CONFIG = ("--configfile", "config/zones.yaml")
TABLES = ("zone_proportions", "magnitudes", "misjudged", "pure_rounding", "thresholds", "zero_function")


@pytest.fixture
def preset(tiny: dict) -> dict:
    """The tiny preset with zones, which have factors that no training cell has."""
    tiny["maxpool"] |= {"zones": [BLOCK], "zero_function": ZERO_FUNCTION}
    return tiny


def test_zones_are_planned_with_everything_else(planning, preset):
    planning.write_config(preset, "zones.yaml")
    planned = planning.planned(*CONFIG)
    assert planned["maxpool_zones"] == 3
    assert planned["maxpool_zones_aggregate"] == planned["maxpool_zero_function"] == planned["report"] == 1
    del preset["maxpool"]["zones"], preset["maxpool"]["zero_function"]
    planning.write_config(preset, "zones.yaml")
    assert not [rule for rule in planning.planned(*CONFIG) if "zone" in rule or "zero" in rule]


def test_one_cell_of_zones_can_be_asked_for(planning, preset):
    planning.write_config(preset, "zones.yaml")
    planned = planning.planned(f"results/tiny/maxpool/zones/{CELL}/minibatches.csv", *CONFIG)
    assert planned == {"prepare": 1, "maxpool_zones": 1}
    other = CELL.replace("seed3", "seed5")
    result = planning.snakemake(f"results/tiny/maxpool/zones/{other}/layers.csv", *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert f"{other}: not a cell of preset tiny; add it to maxpool.zones in the configuration" in result.stdout


def test_a_figure_of_zones_that_the_preset_does_not_have_is_one_error(planning, preset):
    planning.write_config(preset, "zones.yaml")
    target = "figures/tiny/maxpool/classes/mnist_5k/lenet5.pdf"
    assert planning.planned(target, *CONFIG)["maxpool_classes"] == 1
    result = planning.snakemake(target.replace("mnist_5k", "svhn"), *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert "svhn/lenet5: no zones of it in preset tiny; add them to maxpool.zones" in result.stdout


def test_the_target_makes_figures_and_tables_and_nothing_more_to_do(finished, preset, tmp_path):
    project = copy_project(tmp_path / "project", prepared=finished)
    project.write_config(preset, "zones.yaml")
    project.snakemake("zones", *CONFIG)
    minibatches = pd.read_csv(project.path / "results/tiny/maxpool/zone_tables/minibatches.csv")
    assert minibatches.program.tolist() == ["minimal"] * 2 + ["native"] * 2 + ["hybrid-10-composed"] * 2
    assert minibatches.replays.tolist() == [True] * 4 + [False] * 2
    control = minibatches[minibatches.program == "native"]
    assert (control.difference == 0).all()
    assert set(control["class"]) == {"identical"}
    assert (minibatches.difference[minibatches.program == "hybrid-10-composed"] > 0).all()
    folder = f"tiny/maxpool/zones/{CELL}"
    record = read_json(project.path / f"results/{folder}/record.json")
    assert record["minibatches"] == 2
    assert set(record["seconds"]) == {"plain", "pair", "replays"}
    assert (project.path / f"logs/{folder}.log").is_file()
    made = {path.rsplit("/", 1)[1] for path in project.files("figures/tiny/maxpool/*")}
    assert made >= {f"{table}.{suffix}" for table in TABLES for suffix in ("csv", "md", "tex")}
    assert "5.96e-08 (1 u)" in (project.path / "figures/tiny/maxpool/zero_function.md").read_text()
    network = "mnist_5k/lenet5/batch_norm"
    for stem in (
        f"differences/{network}",
        f"ties_by_layer/{network}",
        "classes/mnist_5k/lenet5",
        "proportions/mnist_5k",
    ):
        for suffix in ("pdf", "svg", "png", "csv"):
            assert (project.path / f"figures/tiny/maxpool/{stem}.{suffix}").stat().st_size
    assert "Nothing to be done" in project.snakemake("zones", *CONFIG).stdout
    # An edit of the library measures nothing again, but draws what depends on it.
    for module in ("measure", "tape", "tables"):
        with (project.path / f"workflow/lib/nonsmooth/zones/{module}.py").open("a") as file:
            file.write("\n# edited\n")
    planned = project.planned("zones", *CONFIG)
    assert "maxpool_zones" not in planned
    assert planned["maxpool_zones_aggregate"] == 1
