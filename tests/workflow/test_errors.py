"""Bad input: one clear error before anything is computed, and nothing finished is lost."""

import pytest

from .conftest import CELL, copy_project


def assert_one_error(result, message):
    assert result.returncode != 0
    errors = [line for line in result.stdout.splitlines() if message in line]
    assert len(errors) == 1, result.stdout
    assert "Traceback" not in result.stdout


BLOCK = "maxpool.train[0]"


# What is wrong in which way is tested with the library.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(sedes=[1]), "config/bad.yaml: sedes: unknown key, did you mean 'seeds'?"),
        (lambda c: c["maxpool"]["train"][0].update(precision=["float17"]), "'float17' is not allowed; one of float16"),
        (lambda c: c["maxpool"]["train"][0].update(dataset=["svhn"]), f"{BLOCK}: lenet5 on svhn: LeNet-5 takes images"),
        (lambda c: c["maxpool"]["train"][0].pop("learning_rate"), f"{BLOCK}.learning_rate: missing"),
        (lambda c: c.update(threads=64), "threads: 64 per cell need --cores 64 or more, got 2"),
    ],
)
def test_a_bad_config_is_one_error_that_names_the_key(planning, tiny, change, message):
    change(tiny)
    file = planning.write_config(tiny, "bad.yaml")
    assert_one_error(planning.snakemake("--configfile", file, check=False), message)
    assert not (planning.path / "results").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epochs=0"], "config/config.yaml + --config: epochs: 0 must be at least 1"),
        (["seeds=[0, one]"], "seeds[1]: expected an integer, got 'one'"),
        (["deterministic=no"], "deterministic: expected true or false, got 'no'"),
        (["run=a/b"], "run: 'a/b' must be letters, digits, _ and -"),
        (
            ["maxpool={search: {trials: 2}}"],
            "--config maxpool: would replace the results of run 'default'; give a name",
        ),
        (["datasets={mnist_5k: {path: /}}"], "datasets.mnist_5k: unknown key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_override_is_one_error_that_names_the_key(planning, overrides, message):
    assert_one_error(planning.snakemake("--config", *overrides, check=False), message)
    assert not (planning.path / "results").exists()


def test_a_damaged_file_is_named_and_finished_cells_are_kept(finished, tmp_path, tiny):
    project = copy_project(tmp_path, finished)
    file = project.write_config(tiny)
    cell = f"results/tiny/maxpool/train/{CELL.format(rule='native')}/metrics.csv"
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
    log = tmp_path / f"logs/tiny/maxpool/train/{CELL.format(rule='hybrid-10000-composed')}.log"
    assert "Traceback" in log.read_text()

    project.snakemake("--force", "data/prepared/mnist_5k/train.npy", "--configfile", file)
    project.snakemake("--configfile", file)
    assert kept.items() <= project.files("results/**/*").items()
    assert (tmp_path / "figures/tiny/report.html").exists()
