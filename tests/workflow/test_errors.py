"""Bad input: one clear error before anything is computed, and nothing finished is lost."""

import pytest

from .conftest import copy_project


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(sedes=[1]), "sedes: unknown key"),
        (lambda c: c["maxpool"]["train"][0].update(precision=["float17"]), "'float17' is not allowed; one of float16"),
        (lambda c: c["maxpool"]["train"][0].update(precision=["tf32"]), "'tf32' exists on NVIDIA GPUs only"),
        (lambda c: c["maxpool"]["train"][0].update(seeds=[]), "maxpool.train[0].seeds: the list is empty"),
        (lambda c: c["maxpool"]["train"][0].update(seeds=[1, 1]), "maxpool.train[0].seeds: 1 is there twice"),
        (lambda c: c["maxpool"]["train"][0].pop("learning_rate"), "maxpool.train[0].learning_rate: missing"),
        (lambda c: c.update(threads=64), "threads: 64 per cell need --cores 64 or more, got 2"),
    ],
)
def test_a_bad_config_is_one_error_that_names_the_key(planning, tiny, change, message):
    change(tiny)
    file = planning.write_config(tiny, "bad.yaml")
    result = planning.snakemake("--configfile", file, check=False)
    assert result.returncode != 0
    errors = [line for line in result.stdout.splitlines() if message in line]
    assert len(errors) == 1, result.stdout
    assert "Traceback" not in result.stdout
    assert not (planning.path / "results").exists()


def test_a_damaged_file_is_named_and_finished_cells_are_kept(tmp_path, tiny):
    project = copy_project(tmp_path)
    file = project.write_config(tiny)
    cell = "results/tiny/maxpool/train/mnist_5k/lenet5/none/sgd/float16/native/seed0/metrics.csv"
    project.snakemake(cell, "--configfile", file)
    kept = project.files("results/**/*")
    prepared = tmp_path / "data/prepared/mnist_5k/train.npy"
    content = prepared.read_bytes()
    prepared.write_bytes(content[: len(content) // 2])

    result = project.snakemake("--configfile", file, check=False)

    assert result.returncode != 0
    assert "data/prepared/mnist_5k/train.npy: not a prepared split of mnist_5k" in result.stdout
    assert "make it anew: snakemake --force data/prepared/mnist_5k/train.npy" in result.stdout
    assert "What is finished is kept" in result.stdout
    assert kept.items() <= project.files("results/**/*").items()
    log = tmp_path / "logs/tiny/maxpool/train/mnist_5k/lenet5/none/sgd/float16/hybrid-10000-composed/seed0.log"
    assert "Traceback" in log.read_text()

    project.snakemake("--force", "data/prepared/mnist_5k/train.npy", "--configfile", file)
    project.snakemake("--configfile", file)
    assert kept.items() <= project.files("results/**/*").items()
    assert (tmp_path / "figures/tiny/report.html").exists()
