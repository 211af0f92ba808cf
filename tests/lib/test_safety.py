"""Nothing that is read can run code: no pickle, no unsafe YAML, no shell."""

from __future__ import annotations

import ast
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nonsmooth import datasets
from nonsmooth.datasets import DATASETS

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
UNPICKLING_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Calls that are unsafe always, without a keyword, and with one.
UNSAFE = {"eval", "exec", "compile", "read_pickle", "system", "popen", "getoutput", "unsafe_load", "full_load"}
NEEDED = {"torch.load": ("weights_only", True)}
FORBIDDEN = {"allow_pickle": True, "shell": True}


def unsafe_calls(code: str) -> list[str]:
    """The imports and calls of a Python source that could run what they read."""
    found = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=module):
                modules = [module or ""]
            case _:
                modules = []
        found += [module for module in modules if module.split(".")[0] in UNPICKLING_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: getattr(keyword.value, "value", ...) for keyword in node.keywords}
        is_own = isinstance(node.func, ast.Attribute) and not name.startswith(("os.", "pd.", "subprocess.", "yaml."))
        if name.rpartition(".")[2] in UNSAFE and not is_own:
            found.append(name)
        if name in NEEDED and given.get(NEEDED[name][0]) is not NEEDED[name][1]:
            found.append(name)
        found += [
            f"{name}({key}=...)" for key, value in FORBIDDEN.items() if given.get(key, False) not in (False, None)
        ]
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.open_memmap(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "yaml.full_load(text)",
        "yaml.unsafe_load(text)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
    ],
)
def test_what_could_run_code_is_found(code: str) -> None:
    assert unsafe_calls(code)


@pytest.mark.parametrize("path", sorted(WORKFLOW.rglob("*.py")), ids=lambda path: str(path.relative_to(WORKFLOW)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert unsafe_calls(path.read_text(encoding="utf-8")) == []


def test_rules_run_scripts_and_no_shell() -> None:
    rules = [WORKFLOW.parent / "Snakefile", *(WORKFLOW / "rules").glob("*.smk")]
    assert len(rules) > 5
    for path in rules:
        assert not re.search(r"^\s*(shell|run|wrapper|cwl|notebook)\s*:|\bshell\(", path.read_text(), re.MULTILINE), (
            path
        )


class Malicious:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def malicious(tmp_path: Path) -> tuple[Malicious, Path]:
    """An object whose pickle does harm, and the trace that it leaves."""
    trace = tmp_path / "pwned"
    payload = Malicious(trace)
    pickle.loads(pickle.dumps(payload))
    trace.rmdir()
    return payload, trace


def test_prepared_images_are_not_unpickled(malicious, tmp_path: Path) -> None:
    payload, trace = malicious
    path = tmp_path / "train.npy"
    for content in (np.array([payload], object), np.array([(payload, 1)], [("image", object), ("label", np.uint8)])):
        np.save(path, content, allow_pickle=True)
        with pytest.raises(ValueError, match=r"train.npy: not a prepared split of mnist_5k"):
            datasets.load("mnist_5k", path)
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match=r"train.npy: not a prepared split of mnist_5k"):
        datasets.load("mnist_5k", path)
    assert not trace.exists()


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.files])
def test_downloaded_files_are_not_unpickled(name: str, malicious, tmp_path: Path) -> None:
    payload, trace = malicious
    for file in DATASETS[name].files["test"]:
        (tmp_path / file).write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match="damaged or not"):
        DATASETS[name].read("test", tmp_path)
    assert not trace.exists()


def test_arrays_of_figures_are_not_unpickled(malicious, tmp_path: Path) -> None:
    """As the script of `tie_map` reads them."""
    payload, trace = malicious
    np.savez(tmp_path / "ties.npz", image=np.array([payload], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        dict(np.load(tmp_path / "ties.npz"))
    assert not trace.exists()


def test_weights_are_not_unpickled(malicious, tmp_path: Path) -> None:
    """`weights_only`, which the scan above asks of every `torch.load`, does refuse."""
    payload, trace = malicious
    torch.save({"model": payload}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "weights.pt", weights_only=True)
    assert not trace.exists()


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.files])
def test_every_file_that_is_downloaded_has_a_checksum(name: str) -> None:
    for split in DATASETS[name].sizes:
        files = DATASETS[name].files[split]
        assert files
        for file, checksum in files.items():
            algorithm, _, digits = checksum.partition(":")
            assert algorithm in ("md5", "sha256")
            assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", digits), file
