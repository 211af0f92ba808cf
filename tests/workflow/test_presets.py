"""Every shipped preset can be planned, and plans exactly its cells; a command line can ask for less or for other values."""

import re

import pytest
import yaml

from nonsmooth import config as presets
from nonsmooth.cells import GROUP, GROUP_PATH, SEARCH
from nonsmooth.datasets import DATASETS
from nonsmooth.programs import PROGRAMS

from .conftest import ROOT, copy_project

FILES = ["config/config.yaml", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "config/presets").glob("*.yaml"))]
ZONE_FIGURES = {
    "proportions": ("dataset",),
    "classes": ("dataset", "architecture"),
    "differences": ("dataset", "architecture", "normalization"),
    "ties_by_layer": ("dataset", "architecture", "normalization"),
}
GROUP_FIGURES = ("maxpool_accuracy", "maxpool_loss", "maxpool_accuracy_by_epoch")


def read(file: str, **top) -> dict:
    """The checked preset, with other values at the top; or a skipped test where its data are not on this machine."""
    try:
        return presets.check({**yaml.safe_load((ROOT / file).read_text()), **top})
    except presets.ConfigError as error:
        if re.search(r"\.path: .* (lacks|is not a folder)", str(error)):
            pytest.skip(f"data not on this machine: {error}")
        raise


def searches(config: dict) -> set[str]:
    """The searches that cells of a preset wait for."""
    settings = presets.search_settings(config)
    cells = [cell for cell in presets.training_cells(config) if cell.learning_rate == SEARCH]
    return {presets.searched_cell(cell, settings).condition_path for cell in cells}


def group_of(cell) -> tuple:
    return tuple(getattr(cell, factor) for factor in GROUP)


def has_partial_program(cell) -> bool:
    """All presets have native beside it."""
    return cell.rule.startswith("hybrid") and cell.rule.rsplit("-", 1)[1] not in ("exact", "composed")


def factorials(cells) -> set[tuple]:
    """The groups in which some seed has all eight programs at a beta."""
    found: dict[tuple, set[str]] = {}
    for cell in cells:
        if cell.rule.startswith("hybrid"):
            beta, evaluation = cell.rule.removeprefix("hybrid-").rsplit("-", 1)
            found.setdefault((group_of(cell), cell.normalization, cell.seed, beta), set()).add(evaluation)
    native = {(group_of(cell), cell.normalization, cell.seed) for cell in cells if cell.rule == "native"}
    return {
        key[0] for key, evaluations in found.items() if key[:3] in native and {"native", *evaluations} >= set(PROGRAMS)
    }


def expected(config: dict) -> dict[str, int]:
    """Jobs by rule for everything of a preset, where nothing is there yet."""
    cells = presets.training_cells(config)
    groups = {group_of(cell) for cell in cells if "_" not in cell.optimizer and not has_partial_program(cell)
              and not re.match("average|norm|boltzmann|logsumexp|strided|rounded", cell.rule)}  # fmt: skip
    weights = presets.weights_cells(config)
    splits = {(cell.dataset, split) for cell in [*cells, *weights] for split in (cell.train_split, "test")}
    zones = presets.zone_cells(config)
    splits |= {(cell.dataset, "train") for cell in zones}
    if "ties" in config["maxpool"]:
        splits.add((config["maxpool"]["ties"]["dataset"], "test"))
    fetched = {name for name, _ in splits if DATASETS[name].files and "path" not in config["datasets"].get(name, {})}
    if "pooling_errors" in config["maxpool"]:
        splits.add((config["maxpool"]["pooling_errors"]["dataset"], "train"))
    partial = {group_of(cell) for cell in cells if has_partial_program(cell)}
    factorial = factorials(cells)
    counts = {
        "fetch": len(fetched),
        "prepare": len(splits),
        "maxpool_search": len(searches(config)),
        "maxpool_searches": bool(searches(config)),
        "maxpool_train": len(cells),
        "maxpool_weights": len(weights),
        **dict.fromkeys(("maxpool_weights_tables", "maxpool_weights_distance"), bool(weights)),
        "maxpool_zones": len(zones),
        **dict.fromkeys(("maxpool_zones_aggregate", "maxpool_zone_tables"), bool(zones)),
        **{
            f"maxpool_{figure}": len({tuple(getattr(cell, factor) for factor in factors) for cell in zones})
            for figure, factors in ZONE_FIGURES.items()
        },
        "maxpool_zero_function": "zero_function" in config["maxpool"],
        **dict.fromkeys(GROUP_FIGURES, len(groups)),
        **dict.fromkeys(("maxpool_programs_by_beta", "maxpool_max_activation"), len(partial)),
        "maxpool_traces": bool(partial),
        **dict.fromkeys(("maxpool_factorial", "maxpool_factorial_effects"), len(factorial)),
        "maxpool_factorial_tables": bool(factorial),
        **dict.fromkeys(("maxpool_pooling_errors", "maxpool_pooling_error"), "pooling_errors" in config["maxpool"]),
        **dict.fromkeys(("maxpool_ties", "maxpool_tie_map"), "ties" in config["maxpool"]),
        **dict.fromkeys(("claims_judge", "maxpool_mitigations"), 1),
        **dict.fromkeys(("all", "report", "maxpool_aggregate", "maxpool_accuracy_by_beta", "maxpool_tables"), 1),
    }
    return {rule: int(count) for rule, count in counts.items() if count}


@pytest.mark.parametrize("file", FILES)
def test_a_dry_run_plans_every_cell_once(planning, file):
    assert planning.planned("--configfile", file) == expected(read(file))


def test_the_default_preset_is_used_on_its_own(planning):
    assert planning.planned() == planning.planned("--configfile", "config/config.yaml")


def test_imagenet_is_in_the_paper_preset_once_its_folder_is_given(planning, tmp_path):
    """And said to be left out until then."""
    paper = ("--configfile", "config/presets/paper.yaml")
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    folder = {"imagenet": {"path": str(tmp_path)}}
    wanted = expected(read(paper[1], datasets=folder))
    planned = planning.planned(*paper, "--config", f"datasets={{imagenet: {{path: {tmp_path}}}}}")
    assert planned == wanted
    assert planned["maxpool_train"] == expected(read(paper[1]))["maxpool_train"] + 14
    output = planning.snakemake("figures/paper/maxpool/tie_map.pdf", *paper, "--dry-run").stdout
    assert "imagenet is left out until datasets.imagenet.path is given" in output


def test_names_of_runs_are_distinct():
    """Two presets that shared a name would overwrite each other's results."""
    runs = [yaml.safe_load((ROOT / file).read_text())["run"] for file in FILES]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("file", FILES)
def test_the_readme_says_how_many_cells_a_preset_has(file):
    (row,) = re.findall(rf"^\| `{re.escape(file)}` \|.*\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    _, _, _, cells, *_ = (cell.strip() for cell in row.split("|"))
    assert int(cells.split(";")[0].replace(",", "")) == len(presets.training_cells(read(file)))


LOSS = "figures/default/maxpool/loss/mnist_5k/lenet5/adam/float32/relu-0"


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("figures/default/maxpool/accuracy_by_beta.pdf", {"maxpool_accuracy_by_beta": 1, "maxpool_aggregate": 1}),
        (f"{LOSS}.svg", {"maxpool_loss": 1}),
        (f"{LOSS.replace('loss', 'accuracy_by_epoch')}.csv", {"maxpool_accuracy_by_epoch": 1}),
        ("figures/default/maxpool/published.tex", {"maxpool_tables": 1, "maxpool_aggregate": 1}),
        ("figures/default/maxpool/tie_map.png", {"maxpool_tie_map": 1, "maxpool_ties": 1, "prepare": 1}),
        (
            "benchmark",
            {"benchmark": 1, "benchmark_pooling": 1, "benchmark_training_step": 1, "benchmark_pooling_figure": 1},
        ),
        ("data/raw/mnist/fetched.json", {"fetch": 1}),
    ],
)
def test_one_output_can_be_asked_for(planning, target, jobs):
    planned = planning.planned(target)
    assert jobs.items() <= planned.items()
    assert "report" not in planned


def test_a_study_is_a_target(planning):
    planned = planning.planned("maxpool")
    assert planned == {
        **{
            rule: count
            for rule, count in expected(read(FILES[0])).items()
            if rule not in ("all", "report", "claims_judge")
        },
        "maxpool": 1,
    }


def test_a_learning_rate_can_be_searched_for_every_setup(planning):
    """Also where the preset gives one."""
    planned = planning.planned("learning_rates")
    setups = {cell.setup for cell in presets.training_cells(read(FILES[0]))}
    assert planned == {
        "learning_rates": 1,
        "maxpool_learning_rates": 1,
        "maxpool_search": len(setups),
        "prepare": 1,
    }


def test_cells_are_started_in_the_order_of_the_blocks(tmp_path, tiny):
    """Snakemake's executor that only touches files takes jobs in the order of a run."""
    project = copy_project(tmp_path)
    (block,) = tiny["maxpool"]["train"]
    block = {**{key: block[key] for key in block if key not in ("beta", "evaluation")}, "rule": ["native"]}
    starts = (8, 2, 6, 0, 4)
    tiny["maxpool"] = {"train": [{**block, "seeds": [seed, seed + 1]} for seed in starts]}
    cells = presets.training_cells(presets.check(tiny))
    outputs = [
        f"results/tiny/maxpool/train/{cell.path}/{name}" for cell in cells for name in ("metrics.csv", "record.json")
    ]
    for name in (*outputs, *(f"data/prepared/mnist_5k/{split}.npy" for split in ("train", "test"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    file = project.write_config(tiny)
    result = project.snakemake(*sorted(outputs), "--touch", "--force", "--configfile", file, cores=1)
    seeds = [int(seed) for seed in re.findall(r"Train lenet5 .* seed (\d+)", result.stdout)]
    assert [seed - seed % 2 for seed in seeds] == [seed for start in starts for seed in (start, start)]


# ------------------------------------------------------------------------------------------ the command line


def test_seeds_and_epochs_of_a_command_line(planning):
    """In a run of its own, unless only seeds differ."""
    config = read(FILES[0], seeds=[0, 7], epochs=3)
    planned = planning.planned("--config", "seeds=[0, 7]", "epochs=3")
    assert planned == expected(config)
    output = planning.snakemake("maxpool", "--config", "seeds=[0, 7]", "epochs=3", "--dry-run").stdout
    trained = re.findall(r"Train lenet5 .* seed (\d+)", output)
    assert set(trained) == {"0", "7"}
    assert len(trained) == planned["maxpool_train"]


@pytest.mark.parametrize(
    ("overrides", "run"),
    [
        (["epochs=3"], "default-epochs3"),
        (["device=auto"], "default-deviceauto"),
        (["deterministic=False"], "default-deterministicfalse"),
        (["threads=2", "epochs=3"], "default-epochs3-threads2"),
        (["epochs=3", "run=mine"], "mine"),
        (["seeds=[3]"], "default"),
        (["run=mine", "maxpool={search: {trials: 2}}"], "mine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_run_of_other_values_has_folders_of_its_own(planning, overrides, run):
    """A figure of that run can be asked for, and none of another one."""
    figure = "figures/{}/maxpool/tie_map.pdf"
    assert planning.planned(figure.format(run), "--config", *overrides)["maxpool_tie_map"] == 1
    other = "default" if run != "default" else "other"
    result = planning.snakemake(figure.format(other), "--dry-run", "--config", *overrides, check=False)
    assert result.returncode != 0


@pytest.mark.parametrize("file", [file for file in FILES if "paper" not in file])
def test_a_quick_look_at_a_preset(planning, file):
    """One seed and one epoch of everything."""
    config = read(file, seeds=[0], epochs=1)
    planned = planning.planned("--configfile", file, "--config", "seeds=[0]", "epochs=1")
    assert planned["maxpool_train"] == len(presets.training_cells(config))
    assert planned["maxpool_train"] <= expected(read(file))["maxpool_train"]


def test_a_folder_of_a_group_says_its_relu(planning):
    """As the figures of ReLU'(0) = 1 do in the preset that has it."""
    cells = [cell for cell in presets.training_cells(read("config/presets/gpu.yaml")) if cell.relu_derivative != 0]
    folder = GROUP_PATH.format(**cells[0].wildcards)
    assert folder.endswith("/relu-1")
    target = f"figures/gpu/maxpool/accuracy/{folder}.pdf"
    assert planning.planned(target, "--configfile", "config/presets/gpu.yaml")["maxpool_accuracy"] == 1
