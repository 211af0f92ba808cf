"""What cells cost, from made tables whose numbers are easy to multiply, and from those that come with the project."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonsmooth import config as presets
from nonsmooth import costs
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import SEARCH, TrainingCell, WeightsCell, ZoneCell
from nonsmooth.costs import Job

ROOT = Path(__file__).resolve().parents[2]
MADE = {"device": "cpu", "machine": "Machine", "threads": 1, "batch_size": 100, "torch": "2.0", "date": "2026-01-01"}
STEP, TEST_STEP, START = 2.0, 0.5, 7.0
NETWORK = {"seconds": STEP, "test_seconds": TEST_STEP, "start_seconds": START, "poolings": 2, "peak_memory_mib": 900,
           "memory_before_mib": 500}  # fmt: skip
RATIOS = {("batch_norm", "native"): 1.0, ("batch_norm", "hybrid-1000-composed"): 3.0, ("none", "native"): 0.5}
CELL = TrainingCell(dataset="mnist_5k", architecture="lenet5", normalization="batch_norm", epochs=3, learning_rate=0.1)
WEIGHTS = WeightsCell(dataset="mnist_5k", architecture="lenet5", program="hybrid-10-composed", epochs=2)
ZONES = ZoneCell(dataset="mnist_5k", architecture="lenet5", minibatches=15, batch_size=100)
IMAGES, TESTED = 4000, 1000


def write(folder: Path, **changed) -> Path:
    """Tables of LeNet-5 and of VGG11, which is four times as slow and whose ratios are twice as far from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {**MADE, **changed}
    networks, rules, zones = [], [], []
    for name, factor in (("lenet5", 1), ("vgg11", 4), ("vgg13", 8)):
        network = {"architecture": name, "precision": "float32"}
        networks.append({**network, **NETWORK, "seconds": factor * STEP, **made})
        if name == "vgg13":
            continue
        for (normalization, rule), ratio in RATIOS.items():
            rules.append(
                {**network, "normalization": normalization, "rule": rule, "ratio": ratio * factor**0.5, **made}
            )
        row = {**network, "normalization": "none", "pair": 3.0, "with_replays": 10.0 * factor, "peak_memory_mib": 1300}
        zones.append({**row, **made})
    rules = [
        {**row, "ratio": 1.0 if row["rule"] == "native" and row["normalization"] != "none" else row["ratio"]}
        for row in rules
    ]
    for name, rows in (("architectures", networks), ("rules", rules), ("zones", zones)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory) -> costs.Benchmarks:
    return costs.read(write(tmp_path_factory.mktemp("benchmarks")))


def train(cell: TrainingCell) -> Job:
    return Job("train", cell, cell.path)


def test_a_training_is_its_start_its_steps_and_its_tests(benchmarks):
    expected = START + 3 * (IMAGES / 100 * STEP + TESTED / 100 * TEST_STEP)
    assert benchmarks.seconds(train(CELL)) == pytest.approx(expected)
    assert train(CELL).images == 3 * IMAGES


@pytest.mark.parametrize(
    ("changed", "factor"),
    [
        ({"rule": "hybrid-7-composed"}, 3),
        ({"normalization": "none"}, 0.5),
        ({"normalization": "none", "rule": "hybrid-1e-05-composed"}, 1.5),
        ({"rule": "minimal"}, 3),  # not measured: as the dearest
    ],
)
def test_rules_and_normalization_multiply_the_step(benchmarks, changed, factor):
    expected = START + 3 * (IMAGES / 100 * STEP * factor + TESTED / 100 * TEST_STEP)
    assert benchmarks.seconds(train(replace(CELL, **changed))) == pytest.approx(expected)


def test_a_network_without_ratios_of_its_own_has_those_of_vgg11(benchmarks):
    cell = replace(CELL, dataset="cifar10", architecture="vgg13", rule="hybrid-10-composed", epochs=1)
    expected = START + 50000 / 100 * 8 * STEP * 6 + 10000 / 100 * TEST_STEP
    assert benchmarks.seconds(train(cell)) == pytest.approx(expected)


def test_weights_are_two_trainings_in_one_process(benchmarks):
    tests = 2 * 2 * TESTED / 100 * TEST_STEP
    expected = START + 2 * IMAGES / 100 * STEP * 0.5 * (3 + 1) + tests
    job = Job("weights", WEIGHTS, WEIGHTS.path)
    assert benchmarks.seconds(job) == pytest.approx(expected)
    assert job.images == 2 * 2 * IMAGES


def test_a_search_trains_its_trials_on_four_fifths(benchmarks):
    job = Job("search", replace(CELL, learning_rate=SEARCH), CELL.condition_path, trials=4)
    expected = START + 4 * 3 * (3200 / 100 * STEP + 800 / 100 * TEST_STEP)
    assert benchmarks.seconds(job) == pytest.approx(expected)


@pytest.mark.parametrize(("replays", "factor"), [(True, 10), (False, 3)])
def test_zones_are_multiples_of_a_step(benchmarks, replays, factor):
    cell = replace(ZONES, replays=replays)
    assert benchmarks.seconds(Job("zones", cell, cell.path)) == pytest.approx(START + 15 * STEP * 0.5 * factor)


def test_zones_of_a_whole_pass_end_with_the_images(benchmarks):
    whole = replace(ZONES, minibatches=None, batch_size=300)
    assert Job("zones", whole, whole.path).images == IMAGES
    assert Job("zones", replace(whole, minibatches=10**6), whole.path).images == IMAGES


def test_memory_grows_with_the_minibatch(benchmarks):
    assert benchmarks.memory_mib(train(replace(CELL, batch_size=100))) == pytest.approx(900)
    assert benchmarks.memory_mib(train(replace(CELL, batch_size=300))) == pytest.approx(500 + 3 * 400)
    assert benchmarks.memory_mib(Job("zones", ZONES, ZONES.path)) == pytest.approx(1300)


def test_what_was_not_measured_is_not_known(benchmarks):
    """A precision, a network, and larger images than the ones that were measured."""
    imagenet = replace(CELL, dataset="imagenet", architecture="resnet50")
    shipped = costs.read(costs.SHIPPED)
    for known, cell in (
        (benchmarks, replace(CELL, precision="float64")),
        (benchmarks, replace(CELL, architecture="vgg19")),
        (shipped, imagenet),
        (shipped, replace(CELL, precision="tf32")),
    ):
        assert known.seconds(train(cell)) is None
        assert known.memory_mib(train(cell)) is None
        assert known.size(train(cell)) > 0
    assert shipped.seconds(train(replace(imagenet, dataset="cifar10"))) > 0


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(sorted(RATIOS)))
def test_epochs_add_up_and_only_the_start_is_shared(benchmarks, first, second, case):
    cell = replace(CELL, normalization=case[0], rule=case[1])

    def seconds(epochs: int) -> float:
        return benchmarks.seconds(train(replace(cell, epochs=epochs)))

    assert seconds(first + second) == pytest.approx(seconds(first) + seconds(second) - START)
    assert seconds(first + 1) > seconds(first)
    size = [benchmarks.size(train(replace(cell, epochs=epochs))) for epochs in (first, first + second)]
    assert size[0] <= size[1]


def test_sizes_are_those_of_a_real_cell(tmp_path):
    """Of files of the numbers of rows that a cell of ten epochs writes, by block."""
    rows = {"metrics": 10, "layers": 20, "activations": 2 * 320, "record": 20, "log": 10}
    for name, count in rows.items():
        (tmp_path / name).write_bytes(b"x" * (count * costs.ROW[name]))
    size = sum(-(-file.stat().st_size // 4096) * 4096 for file in tmp_path.iterdir())
    shipped = costs.read(costs.SHIPPED)
    assert shipped.size(train(replace(CELL, epochs=10))) == size


# ------------------------------------------------------------------------------------------ a preset's jobs


@pytest.mark.parametrize("preset", ["config.yaml", "presets/paper.yaml"])
def test_the_jobs_of_a_preset_are_its_cells(preset):
    config = presets.read(ROOT / "config" / preset)
    jobs = list(costs.jobs(config))
    by_part = {part: [job for job in jobs if job.part == part] for part in ("search", "train", "weights", "zones")}
    assert [job.cell for job in by_part["train"]] == presets.training_cells(config)
    assert [job.cell for job in by_part["weights"]] == presets.weights_cells(config)
    assert [job.cell for job in by_part["zones"]] == presets.zone_cells(config)
    waiting = {
        presets.searched_cell(job.cell, presets.search_settings(config)).condition_path
        for job in by_part["train"]
        if job.cell.learning_rate == SEARCH
    }
    assert {job.path for job in by_part["search"]} == waiting
    assert len(jobs) == len({(job.part, job.path) for job in jobs})


def test_every_job_of_the_shipped_presets_has_a_cost_on_a_cpu():
    """But ImageNet."""
    shipped = costs.read(costs.SHIPPED)
    for preset in ("config.yaml", "presets/paper.yaml"):
        for job in costs.jobs(presets.read(ROOT / "config" / preset)):
            assert shipped.seconds(job) > 0
            assert shipped.memory_mib(job) > 0


def test_a_job_is_finished_once_its_last_file_is_there(tmp_path):
    for job, last in ((train(CELL), "record.json"), (Job("search", CELL, CELL.condition_path), "chosen.json")):
        folder = tmp_path / "maxpool" / job.part / job.path
        folder.mkdir(parents=True)
        (folder / "metrics.csv").touch()
        assert not job.record(tmp_path).is_file()
        (folder / last).touch()
        assert job.record(tmp_path).is_file()


# ------------------------------------------------------------------------------------------ whose tables


def test_own_benchmarks_come_before_those_of_the_project(tmp_path):
    assert costs.find(tmp_path, "cpu", 1).is_shipped
    for age, run in enumerate(("newest", "older")):
        folder = write(tmp_path / run / "benchmark", machine=run)
        os.utime(folder / "rules.csv", (1e9 - age, 1e9 - age))
    found = costs.find(tmp_path, "cpu", 1)
    assert (found.machine, found.is_shipped) == ("newest", False)
    write(tmp_path / "gpu" / "benchmark", device="cuda", machine="GPU")
    assert costs.find(tmp_path, "cuda", 1).machine == "GPU"
    assert costs.find(tmp_path, "cpu", 1).machine == "newest"


def test_another_device_or_number_of_threads_is_not_known(tmp_path):
    write(tmp_path / "mine" / "benchmark")
    assert costs.find(tmp_path, "cuda", 1) is None
    assert costs.find(tmp_path, "cpu", 2) is None


def test_half_of_the_benchmarks_is_none(tmp_path):
    folder = write(tmp_path / "mine" / "benchmark")
    (folder / "zones.csv").unlink()
    assert costs.find(tmp_path, "cpu", 1).is_shipped


@pytest.mark.parametrize(
    ("table", "damage"),
    [
        ("architectures", lambda text: ""),
        ("architectures", lambda text: text.replace("test_seconds", "other")),
        ("rules", lambda text: text.replace(",3.0,", ",nan,")),
        ("rules", lambda text: text.splitlines()[0] + "\n"),
        ("zones", lambda text: text[: len(text) // 2]),
        ("zones", lambda text: text.replace("vgg11", "vgg12")),
        ("zones", lambda text: text.replace("10.0", "ten")),
        ("zones", lambda text: "\0\0\0"),
    ],
)
def test_a_broken_table_is_named(tmp_path, table, damage):
    path = write(tmp_path / "mine" / "benchmark") / f"{table}.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=f"{table}.csv: not a table of `snakemake benchmark`.*delete it") as error:
        costs.find(tmp_path, "cpu", 1)
    assert str(path) in str(error.value)


def test_planning_needs_neither_torch_nor_pandas():
    code = "import sys; from nonsmooth import costs; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_shipped_tables_have_every_network():
    shipped = costs.read(costs.SHIPPED)
    assert {name for name, _ in shipped.tables["architectures"]} == set(ARCHITECTURES)
    assert (shipped.device, shipped.threads) == ("cpu", 1)
