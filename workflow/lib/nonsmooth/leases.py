"""Which process computes on which GPU of this machine, without torch.

Every GPU has a file with locks: byte 0 is for the whole GPU, the bytes after it for its slots, one per job that shares it. They are
record locks (`fcntl.lockf`). The kernel frees them when the process that took them ends, in whatever way, and a forked child does
not inherit them: with `flock`, a DataLoader's worker would keep the GPU of its killed parent.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
WHOLE = 0  # the byte of a job that has a whole GPU, or waits for it to become free

# Record locks do not tell the leases of one process apart.
_this_process = threading.Lock()


@contextmanager
def lease(slots: int, slots_per_gpu: int) -> Iterator[str | None]:
    """Lease a GPU, or a part of it, and make it the only one that this process sees in CUDA_VISIBLE_DEVICES.

    Waits until there is one, and says so in the log. A slot is taken on the GPU with the most free ones. A job that wants all of a
    GPU chooses one, too, and waits for its slots to become free; meanwhile nobody else gets any of them.
    To be entered before CUDA starts, which reads the variable only once.

    Args:
        slots: 1, or `slots_per_gpu` for a whole GPU; 0 for no GPU.
        slots_per_gpu: jobs that may share a GPU.

    Yields the GPU's UUID, or its number where `nvidia-smi` is not there; None, and nothing is changed, for 0 slots or where
    no GPU is visible. Raises ValueError for another number of slots, RuntimeError if this process has a lease already.
    """
    if slots not in (0, 1, slots_per_gpu):
        raise ValueError(f"slots must be 0, 1 or all {slots_per_gpu} of a GPU, got {slots}")
    gpus = visible_gpus() if slots else []
    if not gpus:
        yield None
        return
    if not _this_process.acquire(blocking=False):
        raise RuntimeError("this process has a lease of a GPU already")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        with ExitStack() as stack:
            files = {gpu: stack.enter_context(_open(gpu)) for gpu in gpus}
            mutex = stack.enter_context(_open("mutex"))
            gpu = _take(files, mutex, slots, slots_per_gpu)
            logger.info("computing on GPU %s, with %d of its %d slots", gpu, slots, slots_per_gpu)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            yield gpu
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        _this_process.release()


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may use: all, or those in CUDA_VISIBLE_DEVICES, numbered as `nvidia-smi -L` does.

    Where `nvidia-smi` is not there, numbers and names stay as they are. As in CUDA, nothing counts after an entry that is no GPU.
    An instance of a GPU that is divided (MIG) is visible if the variable names it.
    """
    uuids = _uuids()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return uuids or [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    found = (_identify(entry.strip(), uuids) for entry in visible.split(","))
    return list(dict.fromkeys(takewhile(bool, found)))


def _uuids() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[^)]+)\)", listed, re.MULTILINE)


def _identify(entry: str, uuids: list[str]) -> str | None:
    """An entry of CUDA_VISIBLE_DEVICES as all processes call that GPU; the beginning of a UUID is enough for CUDA."""
    if not re.fullmatch(r"[0-9]+|GPU-.+|MIG-.+", entry):
        return None
    if entry.startswith("MIG-") or not uuids:
        return entry
    if entry.startswith("GPU-"):
        return next((uuid for uuid in uuids if uuid.startswith(entry)), None)
    return uuids[int(entry)] if int(entry) < len(uuids) else None


def _open(name: str) -> BinaryIO:
    """A file for locks, private to the user and on this machine."""
    folder = Path(tempfile.gettempdir()) / f"nonsmooth-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name.replace("/", "_")
    path.touch()  # what is old may be cleaned away, and a new file would have no locks
    return path.open("ab")


def _take(files: dict[str, BinaryIO], mutex: BinaryIO, slots: int, slots_per_gpu: int) -> str:
    whole = slots == slots_per_gpu
    waiting = False
    while True:
        fcntl.lockf(mutex, fcntl.LOCK_EX)
        free = {gpu: _free_bytes(file, slots_per_gpu) for gpu, file in files.items()}
        gpu = max(free, key=lambda gpu: len(free[gpu]))
        chosen = free[gpu][:1] if whole else free[gpu][1:2]
        for byte in chosen:
            _lock(files[gpu], byte)
        fcntl.lockf(mutex, fcntl.LOCK_UN)
        if chosen:
            break
        if not waiting:
            logger.info("waiting for a GPU: all of %s are taken", ", ".join(files))
            waiting = True
        time.sleep(POLL_SECONDS)
    if whole and not _lock(files[gpu], WHOLE, length=0):
        logger.info("waiting until GPU %s has no other job", gpu)
        fcntl.lockf(files[gpu], fcntl.LOCK_EX)
    return gpu


def _free_bytes(file: BinaryIO, slots_per_gpu: int) -> list[int]:
    """WHOLE and the free slots; nothing if a job has the whole GPU or waits for it. Only the owner of the mutex tries locks."""
    if not _lock(file, WHOLE):
        return []
    free = [WHOLE, *(slot for slot in range(1, slots_per_gpu + 1) if _lock(file, slot))]
    fcntl.lockf(file, fcntl.LOCK_UN)
    return free


def _lock(file: BinaryIO, start: int, length: int = 1) -> bool:
    """Lock bytes, to infinity with length 0, if nobody has one of them."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return False
    return True
