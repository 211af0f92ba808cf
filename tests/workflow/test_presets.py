"""Every shipped preset can be planned, and plans exactly its cells."""

import pytest

from nonsmooth import config as presets

from .conftest import ROOT

FILES = ["config/config.yaml", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "config/presets").glob("*.yaml"))]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


@pytest.mark.parametrize("file", FILES)
def test_a_dry_run_plans_every_cell_once(planning, file):
    try:
        config = presets.read(ROOT / file, SCHEMA)
    except presets.ConfigError as error:
        if "lacks" in str(error):
            pytest.skip(f"data not on this machine: {error}")
        raise
    cells = presets.training_cells(config)
    groups = {(cell.dataset, cell.architecture, cell.optimizer, cell.precision) for cell in cells}
    datasets = {cell.dataset for cell in cells}

    assert planning.planned("--configfile", file) == {
        "all": 1,
        "report": 1,
        "prepare": 2 * len(datasets),
        "maxpool_train": len(cells),
        "maxpool_aggregate": 1,
        "maxpool_accuracy_by_beta": 1,
        "maxpool_accuracy": len(groups),
        "maxpool_loss": len(groups),
        "maxpool_summary": 1,
        "maxpool_ties": 1,
        "maxpool_tie_map": 1,
    }


def test_the_default_preset_is_used_on_its_own(planning):
    assert planning.planned() == planning.planned("--configfile", "config/config.yaml")


def test_names_of_runs_are_distinct():
    """Two presets that shared a name would overwrite each other's results."""
    import yaml

    runs = [yaml.safe_load((ROOT / file).read_text())["run"] for file in FILES]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("figures/default/maxpool/accuracy_by_beta.pdf", {"maxpool_accuracy_by_beta": 1, "maxpool_aggregate": 1}),
        ("figures/default/maxpool/loss/mnist_5k/lenet5/adam/float32.svg", {"maxpool_loss": 1}),
        ("figures/default/maxpool/tie_map.png", {"maxpool_tie_map": 1, "maxpool_ties": 1, "prepare": 1}),
        ("benchmark", {"benchmark": 1, "benchmark_training_step": 1}),
    ],
)
def test_one_figure_can_be_asked_for(planning, target, jobs):
    planned = planning.planned(target)
    assert jobs.items() <= planned.items()
    assert "report" not in planned


def test_a_study_is_a_target(planning):
    planned = planning.planned("maxpool")
    assert planned["maxpool_train"] == len(presets.training_cells(presets.read(ROOT / FILES[0], SCHEMA)))
    assert "report" not in planned
