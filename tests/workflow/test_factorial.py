"""The factorial experiment of a preset: planned where its programs are, and the errors of poolings run for real."""

import pandas as pd
import pytest

from nonsmooth.programs import PROGRAMS

from .conftest import copy_project

CONFIG = ("--configfile", "config/programs.yaml")
GROUP = "mnist_5k/lenet5/sgd/float16/relu-0"
ERRORS = {"dataset": "mnist_5k", "architecture": "lenet5", "precisions": ["float16", "float32"], "betas": [1, 10, 1000],
          "seeds": [0]}  # fmt: skip


@pytest.fixture
def preset(tiny: dict) -> dict:
    """The tiny preset with all programs at one beta, and one partial program with other precision."""
    (block,) = tiny["maxpool"]["train"]
    other = {**block, "precision": ["float32"], "rule": ["native", "hybrid"], "evaluation": ["forward"]}
    tiny["maxpool"]["train"] = [{**block, "evaluation": [*PROGRAMS][1:]}, other]
    tiny["maxpool"]["pooling_errors"] = ERRORS
    return tiny


def test_figures_are_planned_where_their_programs_are(planning, preset):
    planning.write_config(preset, "programs.yaml")
    planned = planning.planned(*CONFIG)
    assert planned["maxpool_train"] == 8 + 2
    assert (
        planned["maxpool_factorial"] == planned["maxpool_factorial_effects"] == planned["maxpool_factorial_tables"] == 1
    )
    assert planned["maxpool_programs_by_beta"] == planned["maxpool_max_activation"] == 2
    assert planned["maxpool_pooling_errors"] == planned["maxpool_pooling_error"] == 1
    assert planned["maxpool_accuracy"] == 2


def test_a_group_without_a_whole_factorial_has_no_figure_of_it(planning, preset):
    planning.write_config(preset, "programs.yaml")
    planned = planning.planned(f"figures/tiny/maxpool/factorial/{GROUP}.png", *CONFIG)
    assert planned["maxpool_factorial"] == 1
    other = f"figures/tiny/maxpool/factorial/{GROUP.replace('float16', 'float32')}.png"
    result = planning.snakemake(other, *CONFIG, "--dry-run", check=False)
    assert result.returncode != 0
    assert "mnist_5k/lenet5/sgd/float32/relu-0: no seed of it has all eight programs in preset tiny" in result.stdout


def test_partial_programs_alone_have_no_figure_of_whole_ones(planning, preset):
    """Nor of their own, without native beside."""
    preset["maxpool"]["train"][1]["rule"] = ["hybrid"]
    planning.write_config(preset, "programs.yaml")
    planned = planning.planned(*CONFIG)
    assert planned["maxpool_accuracy"] == planned["maxpool_loss"] == planned["maxpool_programs_by_beta"] == 1


def test_errors_of_poolings_run_and_are_drawn(tmp_path, finished, preset):
    project = copy_project(tmp_path, finished)
    project.write_config(preset, "programs.yaml")
    project.snakemake("figures/tiny/maxpool/pooling_error.png", *CONFIG)
    table = pd.read_csv(tmp_path / "results/tiny/maxpool/pooling_errors.csv")
    assert len(table) == 2 * 3 * 2
    assert (tmp_path / "figures/tiny/maxpool/pooling_error.svg").stat().st_size > 0
