"""The plan of a preset: sums over its jobs, the sentences below, and finished jobs beside what was expected."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import config as presets
from nonsmooth import costs, plan
from nonsmooth.files import write_json

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = costs.read(costs.SHIPPED)


@pytest.fixture(scope="module")
def config() -> dict:
    return presets.read(ROOT / "config/config.yaml")


@pytest.fixture
def some_finished(config, tmp_path) -> tuple[Path, list[costs.Job]]:
    """The results of a run in which every third job is finished, and these jobs."""
    finished = list(costs.jobs(config))[::3]
    for job in finished:
        path = tmp_path / "maxpool" / job.part / job.path / "record.json"
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path, finished


def test_the_rows_add_up(config, tmp_path):
    jobs = plan.jobs_table(config, SHIPPED, tmp_path)
    table = plan.summary(jobs)
    every = list(costs.jobs(config))
    assert table["to run"].sum() == len(every)
    assert table.finished.sum() == 0
    assert table.hours.sum() * 3600 == pytest.approx(sum(map(SHIPPED.seconds, every)))
    assert table["longest (h)"].max() * 3600 == pytest.approx(max(map(SHIPPED.seconds, every)))
    assert table["images (millions)"].sum() * 1e6 == pytest.approx(sum(job.images for job in every))
    assert table["results (MiB)"].sum() * 2**20 == pytest.approx(sum(map(SHIPPED.size, every)))
    assert table["memory (GiB)"].max() * 1024 == pytest.approx(max(map(SHIPPED.memory_mib, every)))
    assert not table.duplicated(plan.GROUP).any()


def test_finished_jobs_cost_nothing_more(config, some_finished):
    results, finished = some_finished
    table = plan.summary(plan.jobs_table(config, SHIPPED, results))
    left = [job for job in costs.jobs(config) if job not in finished]
    assert table.finished.sum() == len(finished)
    assert table["to run"].sum() == len(left)
    assert table.hours.sum() * 3600 == pytest.approx(sum(map(SHIPPED.seconds, left)))


def test_more_epochs_take_longer_and_fewer_seeds_less(config, tmp_path):
    def hours(**top) -> float:
        return plan.summary(plan.jobs_table({**config, **top}, SHIPPED, tmp_path)).hours.sum()

    assert hours(epochs=11) > hours() > hours(epochs=9)
    assert hours(seeds=[0]) < hours()


def test_an_unknown_device_says_what_to_do_and_the_rest(config, tmp_path):
    """No number of hours is made up."""
    jobs = plan.jobs_table(config, None, tmp_path)
    table = plan.summary(jobs)
    assert table[["hours", "longest (h)"]].isna().all(axis=None)
    assert table["to run"].sum() == len(jobs)
    assert (table[["images (millions)", "memory (GiB)", "results (MiB)"]] > 0).all(axis=None)
    assert plan.write(table).splitlines()[-1].count("?") == 2
    text = " ".join(plan.sentences(config, jobs, None, "cuda", 2))
    assert "run `snakemake benchmark --config device=cuda` first" in text
    assert "hours:" not in text
    text = " ".join(plan.sentences({**config, "threads": 4}, jobs, None, "cpu", 4))
    assert "run `snakemake benchmark --config device=cpu threads=4` first" in text


def test_a_group_of_which_a_part_is_not_known_is_not_known():
    rows = [{"part": "train", "dataset": "d", "architecture": "a", "precision": "p", "finished": False, "images": 1,
             "seconds": seconds, "memory_gib": 1.0, "size_gib": 1.0} for seconds in (3600.0, None)]  # fmt: skip
    table = plan.summary(pd.DataFrame(rows))
    assert table.hours.isna().all()


@pytest.mark.parametrize(
    ("cores", "threads", "at_once", "hours"), [(2, 1, 2, 6.0), (1, 1, 1, 12.0), (8, 2, 4, 5.0), (1, 2, 1, 12.0)]
)
def test_cores_share_the_hours_but_not_those_of_one_job(config, cores, threads, at_once, hours):
    """Of jobs of 5, 4 and 3 hours."""
    jobs = pd.DataFrame(
        {
            "finished": False,
            "seconds": [5 * 3600.0, 4 * 3600.0, 3 * 3600.0],
            "memory_gib": [1.0, 2.0, 4.0],
            "size_gib": 0.5,
        }
    )
    text = " ".join(plan.sentences({**config, "threads": threads}, jobs, SHIPPED, "cpu", cores))
    assert f"{12.0 * threads} core-hours: {hours} hours with {at_once} at a time on {cores} cores" in text
    assert f"{sum([4.0, 2.0, 1.0][:at_once])} GiB of memory" in text
    assert "results take 1.5 GiB" in text


def test_nothing_left_takes_no_time(config):
    jobs = pd.DataFrame({"finished": True, "seconds": [60.0], "memory_gib": [1.0], "size_gib": 0.5})
    assert "0.0 core-hours: 0.0 hours" in " ".join(plan.sentences(config, jobs, SHIPPED, "cpu", 2))


def test_the_images_of_the_default_preset_are_as_large_as_the_files(config):
    """4,000 and 1,000 images of 28 x 28 and a label each."""
    text = " ".join(plan.sentences(config, plan.jobs_table(config, SHIPPED, Path("none")), SHIPPED, "cpu", 2))
    assert f"Prepared images take {round(5000 * 785 / 2**20)} MiB" in text


def test_what_jobs_took_is_beside_what_was_expected(config, some_finished):
    results, finished = some_finished
    finished = [job for job in finished if job.part != "search"]
    for job in finished:
        seconds = SHIPPED.seconds(job)
        write_json(job.record(results), {"process_seconds": 2 * seconds, "cpu_seconds": seconds, "git": {}})
    table = plan.check(plan.jobs_table(config, SHIPPED, results))
    assert table.jobs.tolist()[-1] == table.jobs[:-1].sum() == len(finished)
    assert table.ratio.tolist() == pytest.approx([2.0] * len(table))
    assert table["CPU (min)"].tolist() == pytest.approx(table["expected (min)"].tolist())
    assert table["expected (min)"].iloc[-1] * 60 == pytest.approx(sum(map(SHIPPED.seconds, finished)))


def test_nothing_finished_is_said(config, tmp_path):
    with pytest.raises(ValueError, match="no cell of this preset is finished"):
        plan.check(plan.jobs_table(config, SHIPPED, tmp_path))
