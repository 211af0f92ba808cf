"""Fetching a dataset: the receipt is written once every file is there, and what is wrong is one line."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest

from nonsmooth import datasets

CONTENTS = {"train.bin": b"training " * 1000, "test.bin": b"testing " * 1000, "extra.bin": b"more " * 1000}
CHECKSUMS = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in CONTENTS.items()}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder of `CONTENTS` behind the address in its file `address`."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def address(served: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset `toy` of `CONTENTS`; no proxy is between it and this machine, and no pause between attempts."""
    files = {split: {f"{split}.bin": CHECKSUMS[f"{split}.bin"]} for split in ("train", "test", "extra")}
    toy = dataclasses.replace(datasets.DATASETS["mnist"], files=files, mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setitem(datasets.DATASETS, "toy", toy)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))


def arguments(folder: Path, splits: list[str], mirrors: list[str]) -> dict:
    return {
        "wildcards": {"dataset": "toy"},
        "output": [str(folder / "raw/toy/fetched.json")],
        "params": {"splits": splits},
        "config": {"datasets": {"toy": {"mirrors": mirrors}} if mirrors else {}},
        "log": [str(folder / "logs/toy.log")],
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "raw/toy").iterdir()}


def test_the_receipt_lists_the_files_of_the_splits(address: str, run_script, tmp_path: Path) -> None:
    run_script("data/fetch", **arguments(tmp_path, ["test", "train"], [address]))
    wanted = ("test.bin", "train.bin")
    assert json.loads((tmp_path / "raw/toy/fetched.json").read_text()) == {name: CHECKSUMS[name] for name in wanted}
    assert names(tmp_path) == {*wanted, "fetched.json"}
    for name in wanted:
        assert (tmp_path / "raw/toy" / name).read_bytes() == CONTENTS[name]
    assert f"downloading {address}test.bin" in (tmp_path / "logs/toy.log").read_text()


def test_mirrors_of_the_registry_without_others(address: str, run_script, tmp_path: Path, monkeypatch) -> None:
    toy = dataclasses.replace(datasets.DATASETS["toy"], mirrors=(address,))
    monkeypatch.setitem(datasets.DATASETS, "toy", toy)
    run_script("data/fetch", **arguments(tmp_path, ["test"], []))
    assert names(tmp_path) == {"test.bin", "fetched.json"}


def test_a_failed_mirror_is_in_the_log(address: str, run_script, tmp_path: Path) -> None:
    run_script("data/fetch", **arguments(tmp_path, ["test"], ["http://127.0.0.1:9/", address]))
    assert " WARNING http://127.0.0.1:9/: " in (tmp_path / "logs/toy.log").read_text()
    assert names(tmp_path) == {"test.bin", "fetched.json"}


def test_what_is_wrong_is_the_last_line_and_there_is_no_receipt(
    address: str, served: Path, run_script, tmp_path: Path, capsys
) -> None:
    (served / "train.bin").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stopped:
        run_script("data/fetch", **arguments(tmp_path, ["train", "test"], [address]))
    assert stopped.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"FetchError: dataset toy: could not download train.bin ({CHECKSUMS['train.bin']}). Tried ")
    assert f"Put the files into {tmp_path / 'raw/toy'} by hand" in error
    assert error.endswith(f"(details: {tmp_path / 'logs/toy.log'})")
    assert "Traceback" in (tmp_path / "logs/toy.log").read_text()
    assert names(tmp_path) == {"test.bin"}


def test_nothing_else_is_said(
    address: str, served: Path, run_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for handler in pooch.get_logger().handlers:
        monkeypatch.setattr(handler, "stream", sys.stderr)
    (served / "train.bin").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        run_script("data/fetch", **arguments(tmp_path, ["train", "test"], [address]))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
