"""The weights of a preset: planned if asked for, from its own conditions, and run for real once."""

import pandas as pd
import pytest

from .conftest import copy_project

BLOCK = {
    "dataset": ["mnist_5k"],
    "architecture": ["lenet5"],
    "normalization": ["batch_norm"],
    "precision": ["float32"],
    "compare": [["native+relu-1", "native"], ["native", "native"]],
    "seeds": [0],
    "epochs": 1,
}
CELL = "mnist_5k/lenet5/batch_norm/float32/native+relu-1-vs-native/seed0"
CONFIG = ("--configfile", "config/weights.yaml")


@pytest.fixture
def preset(tiny: dict) -> dict:
    """The tiny preset with weights, which have factors that no training cell has."""
    tiny["maxpool"]["weights"] = [BLOCK]
    return tiny


def test_weights_are_planned_with_everything_else(planning, preset):
    planning.write_config(preset, "weights.yaml")
    planned = planning.planned(*CONFIG)
    assert planned["maxpool_weights"] == 2
    assert planned["maxpool_weights_tables"] == planned["maxpool_weights_distance"] == planned["report"] == 1
    del preset["maxpool"]["weights"]
    planning.write_config(preset, "weights.yaml")
    assert not [rule for rule in planning.planned(*CONFIG) if "weights" in rule]


def test_one_cell_of_weights_can_be_asked_for(planning, preset):
    planning.write_config(preset, "weights.yaml")
    planned = planning.planned(f"results/tiny/maxpool/weights/{CELL}/epochs.csv", *CONFIG)
    assert planned == {"prepare": 2, "maxpool_weights": 1}
    other = CELL.replace("seed0", "seed5")
    result = planning.snakemake(f"results/tiny/maxpool/weights/{other}/epochs.csv", *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert f"{other}: not a cell of preset tiny; add it to maxpool.weights in the configuration" in result.stdout


def test_the_target_makes_the_figure_and_nothing_more_to_do(finished, preset, tmp_path):
    project = copy_project(tmp_path / "project", prepared=finished)
    project.write_config(preset, "weights.yaml")
    project.snakemake("weights", *CONFIG)
    table = pd.read_csv(project.path / "results/tiny/maxpool/weights.csv")
    assert table.program.tolist() == ["native+relu-1"] * 2 + ["native"] * 2
    assert (table.distance_l1[table.program == table.reference] == 0).all()
    names = {f"figures/tiny/maxpool/weights_distance.{suffix}" for suffix in ("pdf", "svg", "png", "csv")}
    assert set(project.files("figures/tiny/**/*")) == names
    folder = f"tiny/maxpool/weights/{CELL}"
    assert (project.path / f"logs/{folder}.log").is_file()
    assert "Nothing to be done" in project.snakemake("weights", *CONFIG).stdout
    # An edit of the library trains nothing again.
    with (project.path / "workflow/lib/nonsmooth/weights.py").open("a") as file:
        file.write("\n# edited\n")
    assert "maxpool_weights" not in project.planned("weights", *CONFIG)
