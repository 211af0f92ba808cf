"""What is recorded about the code and the machine that made a result."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from nonsmooth import provenance
from nonsmooth.numerics import NUMERICS_VERSION

NO_REPOSITORY = {"commit": None, "dirty": None}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit with one file, `code/module.py`."""
    folder = tmp_path / "repository"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "module.py").write_text("1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


# ----------------------------------------------------------------------------------------------------- git


def test_commit_without_changes(repository: Path):
    commit = git(repository, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    for folder in (repository, repository / "code"):
        assert provenance.git_state(folder) == {"commit": commit, "dirty": False}


def test_changes_of_tracked_files_count_and_new_files_do_not(repository: Path):
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "code" / "new.py").touch()
    assert provenance.git_state(repository) == {"commit": commit, "dirty": False}
    (repository / "code" / "module.py").write_text("2\n")
    assert provenance.git_state(repository) == {"commit": commit, "dirty": True}
    git(repository, "add", "code/module.py")
    assert provenance.git_state(repository) == {"commit": commit, "dirty": True}
    git(repository, "commit", "--quiet", "--message", "second")
    after = provenance.git_state(repository)
    assert after["dirty"] is False
    assert after["commit"] != commit
    (repository / "code" / "module.py").unlink()
    assert provenance.git_state(repository)["dirty"] is True


def test_outside_of_a_repository(tmp_path: Path):
    assert provenance.git_state(tmp_path) == NO_REPOSITORY
    assert provenance.git_state(tmp_path / "not there") == NO_REPOSITORY


def test_repository_without_a_commit(tmp_path: Path):
    git(tmp_path, "init", "--quiet")
    assert provenance.git_state(tmp_path) == NO_REPOSITORY


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(repository))
    assert provenance.git_state(repository) == NO_REPOSITORY


def test_repository_of_the_folder_and_not_of_a_git_hook(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Git sets GIT_DIR for hooks, which may run this project's tests."""
    expected = provenance.git_state(repository)
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert provenance.git_state(repository) == expected


def test_asking_takes_no_lock(repository: Path):
    """Otherwise a cell that ends while a person commits makes the commit fail."""
    index = repository / ".git" / "index"
    later = time.time() + 5
    os.utime(repository / "code" / "module.py", (later, later))
    before = index.read_bytes()
    assert provenance.git_state(repository)["dirty"] is False
    assert index.read_bytes() == before


# ------------------------------------------------------------------------------------------------- machine


def test_environment_is_json_and_complete():
    environment = provenance.environment()
    assert json.loads(json.dumps(environment)) == environment
    assert set(environment) == {"versions", "numerics_version", "git", "machine"}
    assert set(environment["versions"]) == {"python", *provenance.PACKAGES}
    assert environment["versions"]["python"] == platform.python_version()
    assert environment["versions"]["numpy"] == version("numpy")
    assert environment["numerics_version"] == NUMERICS_VERSION
    assert isinstance(NUMERICS_VERSION, int)


def test_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "not-installed-anywhere"))
    versions = provenance.environment()["versions"]
    assert versions["not-installed-anywhere"] is None
    assert versions["numpy"] == version("numpy")


def test_machine():
    machine = provenance.machine()
    assert machine["cpu"]
    assert machine["cores"] == os.cpu_count()
    assert 0.1 < machine["memory_gib"] < 100_000
    assert machine["system"] == f"{platform.system()} {platform.machine()}"


def test_cpu_device():
    import torch

    device = provenance.device("cpu")
    assert json.loads(json.dumps(device)) == device
    assert device["type"] == "cpu"
    assert device["name"] == provenance.machine()["cpu"]
    assert device["capability"] == torch.backends.cpu.get_cpu_capability()


# ------------------------------------------------------------------------------------- time and memory


def in_a_process(program: str) -> list[float]:
    program = f"from nonsmooth.provenance import peak_memory_mib as peak, usage\n{program}"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def test_peak_memory_grows_by_what_was_used_and_never_shrinks():
    before, during, after = in_a_process(
        "print(peak()); block = bytearray(b'1') * (400 << 20); print(peak()); del block; print(peak())"
    )
    assert before > 1
    assert 399 <= during - before <= 420
    # The kernel counts pages in batches per CPU.
    assert after > during - 1


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it():
    """Linux hands `ru_maxrss` on to the program that a process starts."""
    block = bytearray(b"1") * (400 << 20)
    (peak,) = in_a_process("print(peak())")
    assert peak < 100
    assert len(block) == 400 << 20


def test_seconds_are_counted_from_the_start_of_the_process():
    """Also what passed before the library was imported, to the ticks of the kernel's clock."""
    started = time.time()
    seconds = "usage('cpu')['process_seconds']"
    program = f"import time; time.sleep(1.5); print({seconds}); time.sleep(0.5); print({seconds})"
    before, after = in_a_process(program)
    elapsed = time.time() - started
    assert before >= 1.5 - 0.02
    assert after - before >= 0.5 - 0.02
    assert after <= elapsed + 0.02


def test_seconds_without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = provenance.process_seconds()
    monkeypatch.delattr(provenance.time, "CLOCK_BOOTTIME")
    assert provenance.process_seconds() == pytest.approx(exact, abs=1.5)


def test_usage_on_a_cpu_is_json_and_says_nothing_of_a_gpu():
    used = provenance.usage("cpu")
    assert json.loads(json.dumps(used)) == used
    assert set(used) == {"process_seconds", "cpu_seconds", "peak_memory_mib"}
    assert used["process_seconds"] > 0
    assert used["peak_memory_mib"] <= provenance.peak_memory_mib()


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_usage_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {name: 3 * 2**29}[device])
    assert provenance.usage(name)["peak_gpu_memory_mib"] == 1536.0


def test_peak_memory_without_proc(monkeypatch: pytest.MonkeyPatch):
    """As on macOS, where `ru_maxrss` is in bytes, and on other systems, where it is in KiB."""
    monkeypatch.setattr(Path, "read_text", lambda path: "no such line\n")
    peak = provenance.resource.getrusage(provenance.resource.RUSAGE_SELF).ru_maxrss
    for platform_name, unit in (("linux", 2**10), ("darwin", 2**20)):
        monkeypatch.setattr(sys, "platform", platform_name)
        assert provenance.peak_memory_mib() == pytest.approx(peak / unit, abs=1 + 0.01 * peak / unit)
