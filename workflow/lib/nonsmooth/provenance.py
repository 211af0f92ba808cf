"""What made a result: versions, machine, flags and source code state."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from nonsmooth.numerics import NUMERICS_VERSION

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "snakemake", "optuna")


def environment() -> dict[str, Any]:
    """Versions, numerics version, git state and machine, as JSON values."""
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "numerics_version": NUMERICS_VERSION,
        "git": git_state(Path(__file__).parent),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB and operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def device(name: str) -> dict[str, Any]:
    """Name and arithmetic capability of a torch device."""
    import torch

    if torch.device(name).type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(name), "cuda": torch.version.cuda,
                "capability": ".".join(map(str, torch.cuda.get_device_capability(name)))}  # fmt: skip
    return {"type": "cpu", "name": _cpu_model(), "capability": torch.backends.cpu.get_cpu_capability()}


def benchmark(device_name: str, threads: int) -> dict[str, Any]:
    """What a table of measured times says of where and when they were measured."""
    return {
        "device": device_name,
        "machine": device(device_name)["name"],
        "threads": threads,
        "torch": _version("torch"),
        "date": date.today().isoformat(),
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; commit is None outside a git work tree."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def usage(device_name: str) -> dict[str, float]:
    """What this process has used so far: seconds since its start, seconds of processors, and its largest memory in MiB, also on a GPU."""
    used = {
        "process_seconds": round(process_seconds(), 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_memory_mib": peak_memory_mib(),
    }
    if device_name.startswith("cuda"):
        import torch

        used["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated(device_name) / 2**20, 1)
    return used


def process_seconds() -> float:
    """Seconds since this process was started."""
    try:
        # In ticks of a clock; the time of day is known to the kernel in whole seconds only.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return max(0.0, time.time() - psutil.Process().create_time())


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    try:
        # Linux hands ru_maxrss on from the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10, 1)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _git(folder: Path, *arguments: str) -> str:
    # A cell may end while a person commits, and a git hook's variables name another repository.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    of_a_hook = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in of_a_hook}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
