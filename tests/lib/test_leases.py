"""Leases of GPUs, by many real processes on pretended GPUs; `python tests/lib/test_leases.py 500` for more of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonsmooth import leases

UUIDS = ["GPU-11111111-a", "GPU-22222222-b", "GPU-22333333-c"]
# Holds a lease until its input ends; its output is what the log says.
HOLDER = """
import logging, os, sys, time
from nonsmooth import leases
leases.POLL_SECONDS = 0.01
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
slots, slots_per_gpu, *fork = sys.argv[1:]
with leases.lease(int(slots), int(slots_per_gpu)):
    if fork and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    sys.stdin.read()
"""
# Leases again and again, and has witnesses that it is alone: a lock per slot in files of its own. They are opened before the lease,
# since the kernel closes the files of a killed process in this order, and record locks end there (flock's a moment later).
WORKER = """
import fcntl, json, os, pathlib, random, sys, time
from nonsmooth import leases
leases.POLL_SECONDS = 0.002
folder, seed, slots, slots_per_gpu, rounds = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
draw = random.Random(seed)
def witness(path):
    try:
        fcntl.lockf(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
gpus = leases.visible_gpus()
files = {gpu: [open(folder / f"{gpu}-{slot}", "w") for slot in range(slots_per_gpu)] for gpu in gpus}
report = folder / f"{os.getpid()}.json"
report.touch()
while not (folder / "go").exists():
    time.sleep(0.01)
for number in range(rounds):
    report.write_text(json.dumps({"leases": number, "state": "waiting"}))
    with leases.lease(slots, slots_per_gpu) as gpu:
        report.write_text(json.dumps({"leases": number + 1, "state": "holding"}))
        mine = []
        for file in files[gpu]:
            if len(mine) < slots and witness(file):
                mine.append(file)
        if len(mine) < slots:
            sys.exit(f"GPU {gpu} has more leases than slots")
        time.sleep(draw.uniform(0, 0.02))
        for file in mine:
            fcntl.lockf(file, fcntl.LOCK_UN)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks of this test only, and the GPUs that it pretends to have."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen]]:
    """`hold(visible, slots, slots_per_gpu)`: a process that asks for a lease and keeps it until its input is closed."""
    holders = []

    def start(visible: str, slots: int = 1, slots_per_gpu: int = 1, *more: str) -> subprocess.Popen:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(slots), str(slots_per_gpu), *more],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        return holder

    yield start
    for holder in holders:
        with holder:  # closes its pipes
            holder.kill()


def gpu_of(holder: subprocess.Popen) -> str:
    """The GPU that the next line of a holder's log is about."""
    line = holder.stdout.readline()
    assert line.startswith("computing on GPU "), line
    return line.removeprefix("computing on GPU ").split(",")[0]


def give_back(holder: subprocess.Popen) -> None:
    holder.stdin.close()
    assert holder.wait(60) == 0


def pretend_nvidia_smi(folder: Path, uuids: list[str]) -> None:
    lines = "\n".join(f"GPU {number}: NVIDIA H100 80GB HBM3 (UUID: {uuid})" for number, uuid in enumerate(uuids))
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<END\n{lines}\n  MIG 1g.10gb Device 0: (UUID: MIG-4444)\nEND\n")
    script.chmod(0o755)


# --------------------------------------------------------------------------------------------- which GPUs


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, UUIDS),
        ("2,0", [UUIDS[2], UUIDS[0]]),
        (" 1 , GPU-11111111-a", UUIDS[1::-1]),
        ("GPU-1,GPU-223", [UUIDS[0], UUIDS[2]]),
        ("1,1,GPU-22222222-b", UUIDS[1:2]),
        ("0,3,1", UUIDS[:1]),
        ("0,-1,1", UUIDS[:1]),
        ("MIG-4444", ["MIG-4444"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_those_of_the_variable(variable, expected, folder, monkeypatch) -> None:
    pretend_nvidia_smi(folder, UUIDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert leases.visible_gpus() == expected


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans())))
def test_a_gpu_has_one_name_whether_it_is_called_by_number_or_uuid(called) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "_uuids", lambda: UUIDS)
        patch.setenv("CUDA_VISIBLE_DEVICES", ",".join(str(n) if by_number else UUIDS[n] for n, by_number in called))
        assert leases.visible_gpus() == list(dict.fromkeys(UUIDS[n] for n, _ in called))


def test_without_nvidia_smi_names_stay_as_they_are(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1")
    assert leases.visible_gpus() == ["3", "GPU-1"]


def test_a_driver_that_does_not_answer_has_no_gpus(folder, monkeypatch) -> None:
    pretend_nvidia_smi(folder, [])
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'Failed to initialize NVML'; exit 9\n")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert leases.visible_gpus() == []


# ------------------------------------------------------------------------------------------- one process


@pytest.mark.parametrize("before", ["5,7", None])
def test_the_process_sees_its_gpu_only_and_then_what_it_saw_before(before, folder, monkeypatch) -> None:
    pretend_nvidia_smi(folder, UUIDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        (folder / "nvidia-smi").unlink()
    with leases.lease(1, 1) as gpu:
        assert gpu == (UUIDS[0] if before is None else "5")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.parametrize(("visible", "slots"), [("", 1), ("0", 0)])
def test_without_a_gpu_nothing_is_leased_and_nothing_changed(visible, slots, folder, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with leases.lease(slots, 2) as gpu:
        assert gpu is None
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert list(folder.iterdir()) == []


def test_a_part_of_a_gpu_is_one_slot() -> None:
    with pytest.raises(ValueError, match="slots must be 0, 1 or all 4 of a GPU, got 2"), leases.lease(2, 4):
        pass


def test_a_process_has_one_lease_at_a_time(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with leases.lease(1, 2):
        with pytest.raises(RuntimeError, match="has a lease of a GPU already"), leases.lease(1, 2):
            pass
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    with leases.lease(1, 2):
        pass


def test_the_files_are_private(folder, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-1/2/3")
    with leases.lease(1, 1):
        (locks,) = folder.iterdir()
        assert locks.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in locks.iterdir()} == {"MIG-GPU-1_2_3", "mutex"}


# ------------------------------------------------------------------------------------------ many processes


def test_jobs_go_where_most_slots_are_free(hold) -> None:
    holders = [hold("0,1,2", 1, 2) for _ in range(6)]
    by_gpu = {}
    for holder in holders:
        by_gpu.setdefault(gpu_of(holder), []).append(holder)
    assert {gpu: len(found) for gpu, found in by_gpu.items()} == {"0": 2, "1": 2, "2": 2}
    for holder in by_gpu["2"]:
        give_back(holder)
    give_back(by_gpu["0"][1])
    assert [gpu_of(hold("0,1,2", 1, 2)) for _ in range(2)] == ["2", "0"]


def test_a_waiting_job_says_so_once_and_gets_the_slot_that_becomes_free(hold) -> None:
    first = hold("0")
    assert gpu_of(first) == "0"
    second = hold("0")
    assert second.stdout.readline() == "waiting for a GPU: all of 0 are taken\n"
    give_back(first)
    assert gpu_of(second) == "0"


def test_a_whole_gpu_waits_for_its_slots_and_nobody_overtakes(hold) -> None:
    small = hold("0", 1, 2)
    assert gpu_of(small) == "0"
    large = hold("0", 2, 2)
    assert large.stdout.readline() == "waiting until GPU 0 has no other job\n"
    late = hold("0", 1, 2)
    assert late.stdout.readline() == "waiting for a GPU: all of 0 are taken\n"
    give_back(small)
    assert gpu_of(large) == "0"
    give_back(large)
    assert gpu_of(late) == "0"


def test_a_whole_gpu_is_taken_where_it_is_free(hold) -> None:
    assert gpu_of(hold("0,1", 1, 2)) == "0"
    assert gpu_of(hold("0,1", 2, 2)) == "1"
    assert gpu_of(hold("0,1", 1, 2)) == "0"


def test_a_killed_waiter_keeps_nobody_away(hold) -> None:
    assert gpu_of(hold("0", 1, 2)) == "0"
    large = hold("0", 2, 2)
    large.stdout.readline()
    large.kill()
    large.wait()
    assert gpu_of(hold("0", 1, 2)) == "0"


def test_the_forked_child_of_a_killed_process_does_not_keep_its_lease(hold) -> None:
    holder = hold("0", 1, 1, "fork")
    assert gpu_of(holder) == "0"
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        assert gpu_of(hold("0")) == "0"
        os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_end_of_a_forked_child_does_not_end_the_lease(hold) -> None:
    holder = hold("0", 1, 1, "fork")
    assert gpu_of(holder) == "0"
    child = int(holder.stdout.readline())
    os.kill(child, signal.SIGKILL)
    assert hold("0").stdout.readline() == "waiting for a GPU: all of 0 are taken\n"


def test_processes_that_call_a_gpu_differently_agree_on_it(hold, folder) -> None:
    pretend_nvidia_smi(folder, UUIDS)
    assert gpu_of(hold("1,2")) == UUIDS[1]
    assert gpu_of(hold("GPU-2222,GPU-2233")) == UUIDS[2]
    assert hold("2").stdout.readline() == f"waiting for a GPU: all of {UUIDS[2]} are taken\n"
    assert gpu_of(hold("2,0")) == UUIDS[0]


ENDLESS = 10**9


def work(folder: Path, visible: str, seed: int, slots: int, slots_per_gpu: int, rounds: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, (folder, seed, slots, slots_per_gpu, rounds))],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )


def start(folder: Path, workers: list[subprocess.Popen]) -> None:
    """Let the workers begin once all of them are there."""
    while not all((folder / f"{worker.pid}.json").exists() for worker in workers):
        time.sleep(0.01)
    (folder / "go").touch()


def read_report(folder: Path, worker: subprocess.Popen) -> dict:
    """What a worker was last doing, and its number of leases."""
    try:
        return json.loads((folder / f"{worker.pid}.json").read_text())
    except json.JSONDecodeError:  # it is being written
        return {"leases": 0, "state": "starting"}


def storm(processes: int, seed: int, folder: Path, gpus: int = 4, slots: int = 3) -> dict[str, int]:
    """Many processes lease, whole GPUs and slots, of all GPUs or some; a third of them are killed at random moments."""
    draw = random.Random(seed)
    workers = []
    for number in range(processes):
        visible = draw.sample(range(gpus), draw.choice([gpus, gpus, draw.randint(1, gpus)]))
        rounds = ENDLESS if number % 3 == 0 else 10
        names = ",".join(map(str, visible))
        workers.append(work(folder, names, seed + number, draw.choice([1, 1, 1, slots]), slots, rounds))
    start(folder, workers)
    killed = Counter()
    victims = workers[::3]
    while victims:
        time.sleep(draw.uniform(0, 0.05))
        state = draw.choice(["holding", "waiting"])
        victim = next((victim for victim in victims if read_report(folder, victim)["state"] == state), None)
        if victim is not None:
            victim.kill()
            victims.remove(victim)
            killed[state] += 1
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    return {
        "processes": processes,
        "leases": sum(read_report(folder, worker)["leases"] for worker in workers),
        "killed holding": killed["holding"],
        "killed waiting": killed["waiting"],
        "violations": sum("has more leases than slots" in error for error in errors),
        "other failures": sum(worker.returncode not in (0, -signal.SIGKILL) for worker in workers),
    }


def slots_that_can_be_leased(folder: Path, gpus: int = 4, slots: int = 3) -> int:
    """At the same time, by as many processes as there are slots: none of them says that it has to wait."""
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, "1", str(slots)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))), "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(gpus * slots)
    ]
    found = sum(holder.stdout.readline().startswith("computing") for holder in holders)
    for holder in holders:
        holder.communicate()
    return found


def test_many_processes_of_which_a_third_are_killed(folder) -> None:
    counts = storm(48, seed=0, folder=folder)
    assert counts["violations"] == counts["other failures"] == 0
    assert counts["killed holding"] > 0
    assert counts["killed waiting"] > 0
    assert counts["leases"] >= 32 * 10
    assert slots_that_can_be_leased(folder) == 12


def test_the_witnesses_see_two_leases_of_one_slot(folder, monkeypatch) -> None:
    """Processes that have different locks, as if there were none."""
    elsewhere = f"import tempfile; tempfile.tempdir = tempfile.mkdtemp(dir='{folder}')\n"
    monkeypatch.setattr(sys.modules[__name__], "WORKER", elsewhere + WORKER)
    workers = [work(folder, "0", seed, 1, 1, rounds=200) for seed in range(4)]
    start(folder, workers)
    errors = [worker.communicate()[1] for worker in workers]
    assert any("has more leases than slots" in error for error in errors), errors


def test_a_stream_of_small_jobs_does_not_keep_a_large_one_waiting_forever(folder, hold) -> None:
    """Six processes lease the two slots in turns until they are stopped: some slot is always taken."""
    endless = [work(folder, "0", seed, 1, 2, ENDLESS) for seed in range(6)]
    try:
        start(folder, endless)
        while any(read_report(folder, worker)["leases"] < 3 for worker in endless):
            time.sleep(0.01)
        large = hold("0", 2, 2)
        while not (line := large.stdout.readline()).startswith("computing"):
            assert line.startswith("waiting")
        assert all(worker.poll() is None for worker in endless)
    finally:
        for worker in endless:
            with worker:
                worker.kill()


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        print(storm(int(sys.argv[1]), seed=int.from_bytes(os.urandom(4)), folder=Path(name)))
        print(slots_that_can_be_leased(Path(name)), "of 12 slots can be leased")
