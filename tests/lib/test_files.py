"""Outputs that appear whole or not at all, also when writers are killed or meet."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonsmooth.files import atomic, content_hash, read_json, require_writable, write_json, write_rows, write_text
from nonsmooth.tables import write_csv

quick = settings(deadline=None, derandomize=True, max_examples=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# -------------------------------------------------------------------------------------------------- atomic


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize("name", ["table.csv", "a.tar.gz", "plain", ".hidden", "b c.json"])
def test_block_writes_beside_the_output_with_its_suffix(as_path: type, name: str, tmp_path: Path):
    path = tmp_path / "new" / "folder" / name
    with atomic(as_path(path)) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix or not path.suffix
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == [name]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [None, "half of it"])
def test_failure_changes_nothing(
    old: str | None, interruption: type[BaseException], written: str | None, tmp_path: Path
):
    path = tmp_path / "table.csv"
    if old is not None:
        path.write_text(old)

    def interrupted() -> None:
        with atomic(path) as temporary:
            if written is not None:
                temporary.write_text(written)
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert names(tmp_path) == ([path.name] if old else [])
    if old is not None:
        assert path.read_text() == old


def test_block_that_writes_nothing_fails_and_keeps_the_old(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path):
        pass
    assert path.read_text() == "old"


def test_reader_keeps_what_it_opened(tmp_path: Path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_two_writers_in_one_process(tmp_path: Path):
    """Each has its own temporary file; who finishes last wins."""
    path = tmp_path / "table.csv"
    with atomic(path) as first:
        first.write_text("first")
        with atomic(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == [path.name]


def test_concurrent_writers_and_a_reader(tmp_path: Path):
    """Whoever reads sees one writer's whole output."""
    path, size = tmp_path / "table.csv", 200_000
    write_text(path, "0" * size)
    program = (
        "import sys; from nonsmooth.files import write_text\n"
        "for _ in range(100): write_text(sys.argv[1], sys.argv[2] * int(sys.argv[3]))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), letter, str(size)]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = path.read_text()
        assert content == content[0] * size
        seen.add(content[0])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen & {"a", "b"}
    assert names(tmp_path) == [path.name]


def test_killed_writer_leaves_the_old_content(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    program = (
        "import os, signal, sys; from nonsmooth.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


# ---------------------------------------------------------------------------------------------- a full disk


def draw(path: Path) -> None:
    figure, axes = plt.subplots()
    axes.plot(range(20_000))
    with atomic(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def save_array(path: Path) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.zeros(2**17))


def compress_arrays(path: Path) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(temporary, image=np.random.default_rng(0).random(2**17))


WRITERS = {
    "text.json": lambda path: write_text(path, "0" * 2**20),
    "rows.csv": lambda path: write_rows(path, [{"epoch": number} for number in range(2**17)]),
    "table.csv": lambda path: write_csv(pd.DataFrame({"epoch": range(2**17)}), path),
    "images.npy": save_array,
    "ties.npz": compress_arrays,
    "figure.pdf": draw,
    "figure.svg": draw,
    "figure.png": draw,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("room", [0, 4096], ids=["none", "for a part"])
def test_a_full_disk_leaves_the_old_content_and_is_said_of_the_output(
    name: str, room: int, tmp_path: Path, make_disk: Callable, fill_disk: Callable
) -> None:
    path = make_disk(tmp_path / "disk", "2m") / name
    path.write_text("old")
    filler = fill_disk(path.parent)
    os.truncate(filler, filler.stat().st_size - room)

    with pytest.raises(
        OSError, match=rf"^\[Errno 28\] {path}: No space left on device.*; free some space there and run"
    ):
        WRITERS[name](path)

    assert path.read_text() == "old"
    assert names(path.parent) == sorted([name, filler.name])
    filler.unlink()
    WRITERS[name](path)
    assert path.read_bytes() != b"old"


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder" / "metrics.csv")
    assert names(tmp_path / "new" / "folder") == []


def test_a_folder_without_room_is_named(tmp_path: Path, make_disk: Callable) -> None:
    folder = make_disk(tmp_path / "disk", "1m")
    require_writable(folder / "metrics.csv", 2**19)
    with pytest.raises(OSError, match=rf"^\[Errno 28\] {folder}: nothing can be .*No space left.*; free some space"):
        require_writable(folder / "metrics.csv", 2**20 + 1)
    assert names(folder) == []


def test_a_read_only_folder_is_named(tmp_path: Path, make_disk: Callable) -> None:
    folder = make_disk(tmp_path / "disk", "1m")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(
        OSError, match=rf"^\[Errno 30\] {folder}: nothing can be .*Read-only.*; make the folder writable"
    ):
        require_writable(folder / "metrics.csv")


# ---------------------------------------------------------------------------------------------------- JSON


@quick
@given(value=values)
def test_json_round_trip(value, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_written_json_does_not_depend_on_the_order_of_keys(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 2, "c": 3}})
    write_json(tmp_path / "b.json", {"a": {"c": 3, "d": 2}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_value_that_is_not_json_keeps_the_old(tmp_path: Path):
    path = tmp_path / "value.json"
    write_json(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"path": path})
    assert read_json(path) == "old"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"text", b"{'a': 1}", b"\xff\xfe\0", b"[1]\n[2]"])
def test_what_is_not_json_is_named(content: bytes, tmp_path: Path):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: not JSON \(.*\); delete it and run snakemake again$"):
        read_json(path)


def test_missing_json_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "record.json")):
        read_json(tmp_path / "record.json")


@quick
@given(values)
def test_hash_of_a_value_is_that_of_its_json(value):
    assert content_hash(value) == content_hash(json.loads(json.dumps(value)))
    assert len(content_hash(value)) == 64


@quick
@given(st.dictionaries(st.text(), values, min_size=1), st.randoms())
def test_hash_does_not_depend_on_the_order_of_keys(value: dict, random):
    keys = list(value)
    random.shuffle(keys)
    assert content_hash([{key: value[key] for key in keys}]) == content_hash([value])


def test_hash_tells_values_apart():
    different = [None, 0, 1, 0.5, "0", "", [], [0], {}, {"a": 0}, {"a": 1}, {"b": 0}, [1, 2], [2, 1]]
    assert len({content_hash(value) for value in different}) == len(different)


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [
        {"epoch": 0, "loss": None, "what": "a, b"},
        {"epoch": 1, "loss": math.nan, "what": ""},
        {"epoch": 2, "loss": 0.1, "what": "é"},
    ]
    write_rows(tmp_path / "new" / "rows.csv", rows)
    text = (tmp_path / "new" / "rows.csv").read_bytes().decode()
    assert text == 'epoch,loss,what\n0,,"a, b"\n1,nan,\n2,0.1,é\n'
    with pytest.raises(ValueError, match="fields not in"):
        write_rows(tmp_path / "new" / "rows.csv", [{"a": 1}, {"b": 2}])
    assert (tmp_path / "new" / "rows.csv").read_bytes().decode() == text
