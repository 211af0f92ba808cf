"""Downloads from servers on this machine that misbehave as asked."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from test_readers import files_below

from nonsmooth.datasets import DATASETS, fetching
from nonsmooth.datasets.fetching import FetchError, fetch

SPLITS = ("train", "test")


def noise(seed: int) -> bytes:
    """More than is sent or buffered at once."""
    return np.random.default_rng(seed).bytes(200_000)


CONTENTS = {"train-images.gz": gzip.compress(noise(1)), "train-labels.gz": noise(2), "test.bin": noise(3)}
FILES = {"train": ("train-images.gz", "train-labels.gz"), "test": ("test.bin",)}
CHECKSUMS = {
    "train-images.gz": f"md5:{hashlib.md5(CONTENTS['train-images.gz']).hexdigest()}",
    "train-labels.gz": f"sha256:{hashlib.sha256(CONTENTS['train-labels.gz']).hexdigest()}",
    "test.bin": f"md5:{hashlib.md5(CONTENTS['test.bin']).hexdigest()}",
}


# ----------------------------------------------------------------------------- servers, and how they misbehave

Answer = Callable[["Handler", bytes], None]


def good(handler: Handler, content: bytes) -> None:
    handler.reply(200, content)


def corrupt(handler: Handler, content: bytes) -> None:
    handler.reply(200, content[:1000] + b"?" + content[1001:])


def empty(handler: Handler, content: bytes) -> None:
    handler.reply(200, b"")


def page_to_log_in(handler: Handler, content: bytes) -> None:
    handler.reply(200, b"<!DOCTYPE html><p>Log in to this network</p>")


def cut(handler: Handler, content: bytes) -> None:
    """The connection ends in the middle."""
    handler.reply(200, content[: len(content) // 2], {"Content-Length": len(content)})


def cut_unnoticed(handler: Handler, content: bytes) -> None:
    """The same from a server that does not say how much will come."""
    handler.reply(200, content[: len(content) // 2], {"Content-Length": None})


def hangs_up(handler: Handler, content: bytes) -> None:
    """The connection ends before an answer."""


def not_found(handler: Handler, content: bytes) -> None:
    handler.reply(404, b"<h1>Not found</h1>")


def broken(handler: Handler, content: bytes) -> None:
    handler.reply(500, b"<h1>Internal server error</h1>")


def redirects_to_itself(handler: Handler, content: bytes) -> None:
    handler.reply(302, b"", {"Location": handler.path})


def slow(handler: Handler, content: bytes) -> None:
    """No answer before the test ends."""
    handler.server.mirror.closing.wait(20)


def slow_in_the_middle(handler: Handler, content: bytes) -> None:
    handler.reply(200, content[: len(content) // 2], {"Content-Length": len(content)})
    slow(handler, content)


def unpacked_on_the_way(handler: Handler, content: bytes) -> None:
    """Many servers are set up to send a .gz file so, and clients that believe it save what is inside."""
    handler.reply(200, content, {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"})


def under_another_name(handler: Handler, content: bytes) -> None:
    """Where a downloader could be led to write elsewhere."""
    name = "../../hostile"
    if "hostile" in handler.path:
        handler.reply(200, content, {"Content-Disposition": f'attachment; filename="{name}"'})
    else:
        handler.reply(302, b"", {"Location": f"/{name.replace('.', '%2e')}?{handler.path[1:]}"})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror = self.server.mirror
        name = re.split("[/?]", self.path)[-1]
        with mirror.lock:
            mirror.requests.append(self.path)
            planned = mirror.plan.get(name, [])
            answer = planned.pop(0) if planned else mirror.usual
        if name in CONTENTS:
            answer(self, CONTENTS[name])
        else:
            not_found(self, b"")

    def reply(self, status: int, content: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **(headers or {})}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *arguments) -> None:
        pass


class Mirror:
    """A server of `CONTENTS` that answers as in `plan` by file, and then as `usual`."""

    def __init__(self, usual: Answer, plan: dict[str, list[Answer]]) -> None:
        self.usual, self.plan = usual, plan
        self.requests: list[str] = []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.mirror = self
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def make_mirror() -> Iterator[Callable[..., Mirror]]:
    """`make_mirror(usual, {file: [first answer, second answer, ...]})`."""
    mirrors: list[Mirror] = []

    def make(usual: Answer = good, plan: dict[str, list[Answer]] | None = None) -> Mirror:
        mirrors.append(Mirror(usual, plan or {}))
        return mirrors[-1]

    yield make
    for mirror in mirrors:
        mirror.close()


@pytest.fixture
def closed_port() -> str:
    """The address of a server that is not running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset `toy` of `CONTENTS`, without mirrors of its own; no proxy is between it and this machine."""
    files = {split: {name: CHECKSUMS[name] for name in names} for split, names in FILES.items()}
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["mnist"], files=files, mirrors=()))
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder to download into. Everything else below the test's folder, home and temporary files, stays empty."""
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    yield tmp_path / "raw" / "toy"
    outside = {name for name in files_below(tmp_path) if not name.startswith("raw/toy/")}
    assert outside == set()


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are not made."""
    seconds: list[float] = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def requested(mirror: Mirror) -> dict[str, int]:
    """How often each file was asked for."""
    names = [path.split("/")[-1] for path in mirror.requests]
    return {name: names.count(name) for name in names}


# ------------------------------------------------------------------------------------------------ what is there


def test_files_are_fetched_as_published(make_mirror, folder: Path):
    mirror = make_mirror()
    assert fetch("toy", SPLITS, folder, [mirror.address]) == CHECKSUMS
    assert files_below(folder) == CONTENTS
    assert requested(mirror) == dict.fromkeys(CONTENTS, 1)


def test_only_files_of_the_splits_are_fetched(make_mirror, folder: Path):
    mirror = make_mirror()
    assert fetch("toy", ["test"], folder, [mirror.address]) == {"test.bin": CHECKSUMS["test.bin"]}
    assert set(files_below(folder)) == {"test.bin"}


def test_a_file_that_splits_share_is_fetched_once(make_mirror, folder: Path, monkeypatch: pytest.MonkeyPatch):
    shared = {"test.bin": CHECKSUMS["test.bin"]}
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["toy"], files={"train": shared, "test": shared}))
    mirror = make_mirror(corrupt)
    with pytest.raises(FetchError) as caught:
        fetch("toy", SPLITS, folder, [mirror.address], attempts=1)
    assert str(caught.value).count("test.bin (") == 1
    mirror.usual = good
    assert fetch("toy", SPLITS, folder, [mirror.address]) == shared
    assert requested(mirror) == {"test.bin": 2}


def test_mirrors_of_the_dataset_are_used_unless_others_are_given(
    make_mirror, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    own, other = make_mirror(), make_mirror()
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["toy"], mirrors=(own.address,)))
    fetch("toy", ["test"], folder)
    assert (requested(own), requested(other)) == ({"test.bin": 1}, {})
    fetch("toy", ["train"], folder, [other.address])
    assert requested(own) == {"test.bin": 1}
    assert requested(other) == dict.fromkeys(FILES["train"], 1)


@pytest.mark.parametrize("path", ["", "/", "/some/where", "/some/where/", "/some/where//"])
def test_address_with_and_without_a_slash_at_its_end(make_mirror, path: str, folder: Path):
    mirror = make_mirror()
    fetch("toy", ["test"], folder, [mirror.address.rstrip("/") + path])
    assert mirror.requests == [f"{path.rstrip('/')}/test.bin"]


def test_folder_relative_to_the_working_directory(make_mirror, tmp_path: Path, folder: Path):
    folder.mkdir(parents=True)
    os.chdir(tmp_path)
    fetch("toy", ["test"], "raw/toy", [make_mirror().address])
    assert set(files_below(folder)) == {"test.bin"}


def test_what_is_there_and_right_needs_no_network(closed_port: str, folder: Path):
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    before = {path: path.stat() for path in folder.iterdir()}
    assert fetch("toy", SPLITS, folder, [closed_port]) == CHECKSUMS
    assert {path: path.stat() for path in folder.iterdir()} == before


def test_only_what_is_missing_is_asked_for(make_mirror, folder: Path):
    mirror = make_mirror()
    fetch("toy", SPLITS, folder, [mirror.address])
    (folder / "train-labels.gz").unlink()
    mirror.requests.clear()
    assert fetch("toy", SPLITS, folder, [mirror.address]) == CHECKSUMS
    assert requested(mirror) == {"train-labels.gz": 1}
    assert files_below(folder) == CONTENTS


@pytest.mark.parametrize("content", [b"", b"404 not found", CONTENTS["test.bin"][:-1], CONTENTS["test.bin"] + b"\0"])
def test_damaged_file_is_downloaded_again(make_mirror, content: bytes, folder: Path):
    folder.mkdir(parents=True)
    (folder / "test.bin").write_bytes(content)
    mirror = make_mirror()
    fetch("toy", ["test"], folder, [mirror.address])
    assert files_below(folder) == {"test.bin": CONTENTS["test.bin"]}
    assert requested(mirror) == {"test.bin": 1}


def test_other_files_in_the_folder_are_left_alone(make_mirror, folder: Path):
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    fetch("toy", ["test"], folder, [make_mirror().address])
    assert files_below(folder) == {"notes.txt": b"mine", "test.bin": CONTENTS["test.bin"]}


def test_others_may_read_what_was_downloaded(make_mirror, folder: Path):
    """As after a copy by hand: a project's folder can belong to a group."""
    fetch("toy", ["test"], folder, [make_mirror().address])
    (folder / "plain").touch()
    assert stat.filemode((folder / "test.bin").stat().st_mode) == stat.filemode((folder / "plain").stat().st_mode)


# ------------------------------------------------------------------------------- what fails, and is tried again

FAILURES = [corrupt, empty, page_to_log_in, cut, cut_unnoticed, hangs_up, not_found, broken, redirects_to_itself]


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_once_then_good(make_mirror, failure: Answer, folder: Path, sleeps: list[float]):
    mirror = make_mirror(plan={"test.bin": [failure, good] if failure is not redirects_to_itself else [failure] * 31})
    fetch("toy", ["test"], folder, [mirror.address])
    assert files_below(folder) == {"test.bin": CONTENTS["test.bin"]}
    assert len(sleeps) == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("failure", [corrupt, cut])
def test_attempts_are_counted(make_mirror, failure: Answer, attempts: int, folder: Path, sleeps: list[float]):
    mirror = make_mirror(failure)
    with pytest.raises(FetchError):
        fetch("toy", ["test"], folder, [mirror.address], attempts=attempts)
    assert requested(mirror) == {"test.bin": attempts}
    assert sleeps == list(range(1, attempts))
    assert files_below(folder) == {}


@pytest.mark.parametrize("failure", FAILURES)
def test_first_mirror_fails_and_the_second_is_good(make_mirror, failure: Answer, folder: Path):
    first, second = make_mirror(failure), make_mirror()
    assert fetch("toy", SPLITS, folder, [first.address, second.address]) == CHECKSUMS
    assert files_below(folder) == CONTENTS
    assert requested(second) == dict.fromkeys(CONTENTS, 1)
    assert set(requested(first)) == set(CONTENTS)


def test_first_server_is_not_running(make_mirror, closed_port: str, folder: Path):
    assert fetch("toy", SPLITS, folder, [closed_port, make_mirror().address]) == CHECKSUMS


def test_a_server_that_is_not_running_costs_little_time(closed_port: str, folder: Path, sleeps: list[float]):
    """Without a network all of them are, and a person waits for the message."""
    with pytest.raises(FetchError):
        fetch("toy", SPLITS, folder, [closed_port])
    assert sum(sleeps) <= 3


@pytest.fixture
def silent_port() -> Iterator[str]:
    """The address of a server that takes no connections and refuses none, as behind a firewall."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_a_firewall_without_an_answer_costs_one_timeout(
    make_mirror, silent_port: str, folder: Path, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    started = time.monotonic()
    assert fetch("toy", SPLITS, folder, [silent_port, make_mirror().address]) == CHECKSUMS
    assert sleeps == []
    assert time.monotonic() - started < len(CONTENTS) * fetching.ATTEMPTS * 0.3


@pytest.mark.parametrize("address", ["http://no-such-host.invalid/", "ftp://127.0.0.1:{port}/", "gopher://127.0.0.1/"])
def test_first_address_leads_nowhere(make_mirror, closed_port: str, address: str, folder: Path):
    first = address.format(port=closed_port.strip("/").split(":")[-1])
    assert fetch("toy", SPLITS, folder, [first, make_mirror().address]) == CHECKSUMS


@pytest.mark.parametrize("failure", [slow, slow_in_the_middle])
def test_slow_mirror_is_given_up(make_mirror, failure: Answer, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    first, second = make_mirror(failure), make_mirror()
    started = time.monotonic()
    fetch("toy", ["test"], folder, [first.address, second.address])
    assert files_below(folder) == {"test.bin": CONTENTS["test.bin"]}
    assert requested(first) == {"test.bin": fetching.ATTEMPTS}
    assert time.monotonic() - started < 5


def test_each_file_comes_from_the_first_mirror_that_has_it(make_mirror, folder: Path):
    first = make_mirror(not_found, {"train-labels.gz": [good]})
    second = make_mirror(corrupt, {"test.bin": [good]})
    third = make_mirror()
    fetch("toy", SPLITS, folder, [mirror.address for mirror in (first, second, third)])
    assert files_below(folder) == CONTENTS
    assert requested(third) == {"train-images.gz": 1}


def test_gzip_file_that_the_server_calls_an_encoding(make_mirror, folder: Path):
    fetch("toy", ["train"], folder, [make_mirror(plan={"train-images.gz": [unpacked_on_the_way] * 3}).address])
    assert files_below(folder) == {name: CONTENTS[name] for name in FILES["train"]}


def test_names_come_from_the_registry_only(make_mirror, folder: Path):
    """Not from the network; see also the fixture `folder`."""
    mirror = make_mirror(under_another_name)
    fetch("toy", ["test"], folder, [mirror.address])
    assert files_below(folder) == {"test.bin": CONTENTS["test.bin"]}
    assert [path.partition("?")[2] for path in mirror.requests] == ["", "test.bin"]


# ------------------------------------------------------------------------------------------------- what is said


def test_all_mirrors_fail_for_all_files(make_mirror, folder: Path):
    first, second = make_mirror(not_found), make_mirror(corrupt)
    with pytest.raises(FetchError) as caught:
        fetch("toy", SPLITS, folder, [first.address, second.address])
    message = str(caught.value)
    assert message.startswith("dataset toy: could not download ")
    for name, checksum in CHECKSUMS.items():
        assert f"{name} ({checksum})" in message
    assert "404" in message
    assert "does not match" in message
    for text in (first.address, second.address, f"Put the files into {folder} by hand", "run the same command again",
                 "datasets.toy.mirrors", "datasets.toy.path"):  # fmt: skip
        assert text in message
    assert "\n" not in message
    assert files_below(folder) == {}


def test_one_file_fails_after_all_others_were_fetched(make_mirror, folder: Path):
    """It is the first that fails."""
    mirror = make_mirror(plan={"train-images.gz": [not_found] * 3})
    with pytest.raises(FetchError) as caught:
        fetch("toy", SPLITS, folder, [mirror.address])
    assert "train-images.gz (" in str(caught.value)
    assert "train-labels.gz (" not in str(caught.value)
    assert "test.bin (" not in str(caught.value)
    assert files_below(folder) == {name: CONTENTS[name] for name in ("train-labels.gz", "test.bin")}
    mirror.requests.clear()
    assert fetch("toy", SPLITS, folder, [mirror.address]) == CHECKSUMS
    assert requested(mirror) == {"train-images.gz": 1}


def test_files_put_there_by_hand_are_taken(make_mirror, folder: Path):
    mirror = make_mirror(broken)
    with pytest.raises(FetchError):
        fetch("toy", SPLITS, folder, [mirror.address])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    mirror.requests.clear()
    assert fetch("toy", SPLITS, folder, [mirror.address]) == CHECKSUMS
    assert mirror.requests == []


def test_what_was_there_stays_where_nothing_better_can_be_had(make_mirror, folder: Path):
    folder.mkdir(parents=True)
    (folder / "test.bin").write_bytes(b"damaged")
    with pytest.raises(FetchError):
        fetch("toy", ["test"], folder, [make_mirror(corrupt).address])
    assert files_below(folder) == {"test.bin": b"damaged"}


def test_wrong_file_put_there_by_hand_is_called_wrong(make_mirror, folder: Path):
    """Otherwise a person who did as told would read the same message again."""
    folder.mkdir(parents=True)
    (folder / "test.bin").write_bytes(b"of another version")
    with pytest.raises(FetchError) as caught:
        fetch("toy", ["test"], folder, [make_mirror(broken).address])
    assert str(folder / "test.bin") in str(caught.value)
    assert hashlib.md5(b"of another version").hexdigest() in str(caught.value)


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("{closed}", "refused"),
        ("http://no-such-host.invalid/", "resol|not known"),
    ],
    ids=["not running", "no such host"],
)
def test_the_cause_of_a_failed_connection_is_said(closed_port: str, address: str, cause: str, folder: Path):
    with pytest.raises(FetchError, match=re.compile(cause, re.IGNORECASE)):
        fetch("toy", ["test"], folder, [address.format(closed=closed_port)])


def test_only_what_failed_is_called_wrong(make_mirror, folder: Path):
    """A file that could be downloaded again is right by now."""
    folder.mkdir(parents=True)
    (folder / "test.bin").write_bytes(b"damaged")
    with pytest.raises(FetchError) as caught:
        fetch("toy", SPLITS, folder, [make_mirror(not_found, {"test.bin": [good]}).address])
    assert (folder / "test.bin").read_bytes() == CONTENTS["test.bin"]
    assert "test.bin" not in str(caught.value)


def test_every_failed_mirror_is_logged(make_mirror, folder: Path, caplog: pytest.LogCaptureFixture):
    mirror = make_mirror(plan={"test.bin": [not_found] * 3})
    fetch("toy", ["test"], folder, [mirror.address, make_mirror().address])
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.message.startswith(f"{mirror.address}: ")
    assert "404" in warning.message


def test_a_file_in_place_of_the_folder(make_mirror, tmp_path: Path, folder: Path):
    folder.mkdir(parents=True)
    (folder / "file").touch()
    with pytest.raises(FetchError, match=str(folder / "file")):
        fetch("toy", ["test"], folder / "file", [make_mirror().address])


def test_progress_is_shown_in_a_terminal(make_mirror, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch("toy", ["test"], folder, [make_mirror().address])
    assert "100%" in capfd.readouterr().err


def test_no_progress_is_shown_in_a_file(make_mirror, folder: Path, capfd):
    fetch("toy", ["test"], folder, [make_mirror().address])
    assert "%" not in capfd.readouterr().err


# --------------------------------------------------------------------------------- processes, killed and in parallel

PROGRAM = f"""
import sys
from dataclasses import replace
from nonsmooth.datasets import DATASETS
from nonsmooth.datasets.fetching import fetch

files = {{"test": {{"test.bin": {CHECKSUMS["test.bin"]!r}}}}}
DATASETS["toy"] = replace(DATASETS["mnist"], files=files)
fetch("toy", ["test"], sys.argv[1], [sys.argv[2]])
print("fetched")
"""


def start(folder: Path, mirror: Mirror) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(folder), mirror.address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_full_disk_is_said_and_no_other_mirror_is_tried(make_mirror, folder: Path, make_disk, fill_disk):
    first, second = make_mirror(), make_mirror()
    filler = fill_disk(make_disk(folder, "1m"))
    with pytest.raises(OSError, match=rf"^\[Errno 28\] {folder}/test.bin: No space left on device; free some space"):
        fetch("toy", ["test"], folder, [first.address, second.address])
    assert second.requests == []
    assert list(files_below(folder)) == [filler.name]
    filler.unlink()
    fetch("toy", ["test"], folder, [first.address])
    assert (folder / "test.bin").read_bytes() == CONTENTS["test.bin"]


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_download_leaves_no_half_file(make_mirror, kill: signal.Signals, folder: Path):
    half_sent = threading.Event()

    def half(handler: Handler, content: bytes) -> None:
        handler.reply(200, content[: len(content) // 2], {"Content-Length": len(content)})
        half_sent.set()
        slow(handler, content)

    mirror = make_mirror(plan={"test.bin": [half]})
    process = start(folder, mirror)
    assert half_sent.wait(20)
    deadline = time.monotonic() + 10
    while not any(files_below(folder).values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(kill)
    assert process.wait(20) != 0
    assert process.stdout.read() == ""
    process.stdout.close()
    assert not (folder / "test.bin").exists()
    if kill == signal.SIGINT:
        assert files_below(folder) == {}
    fetch("toy", ["test"], folder, [mirror.address])
    assert (folder / "test.bin").read_bytes() == CONTENTS["test.bin"]


def test_two_processes_fetch_the_same_file(make_mirror, folder: Path):
    """Each is answered only once both have asked."""
    both = threading.Barrier(2)

    def together(handler: Handler, content: bytes) -> None:
        both.wait(20)
        good(handler, content)

    mirror = make_mirror(together)
    processes = [start(folder, mirror) for _ in range(2)]
    assert [process.communicate(timeout=30)[0] for process in processes] == ["fetched\n"] * 2
    assert files_below(folder) == {"test.bin": CONTENTS["test.bin"]}
    assert requested(mirror) == {"test.bin": 2}
