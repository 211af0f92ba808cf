"""Scripts of a run on this machine, forked from one process that has imported PyTorch, which otherwise takes longer than many cells.

Snakemake runs a script as `python script` in a shell. `start` gives it another shell (`preloading.shell`), which sends such a
command to a server (`preloading.server`). The server imports what the script imports, forks, and runs the script in the child as
Python would: with the same arguments, environment, folder, files, signals and exit status. It ends with the run, and its children with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Where the server listens, for the shell; "0" from a user switches it off.
VARIABLE = "NONSMOOTH_PRELOADED"
# What libraries of numerics read only when they are loaded, and Snakemake sets for every job.
THREADS = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def start(threads: int) -> str | None:
    """Start the server for scripts of so many threads; the shell that uses it, or None where scripts have to run by themselves.

    Scripts of another number of threads, and all other commands, the shell runs as Bash does. Call it once in a process.
    """
    if sys.platform != "linux" or os.environ.get(VARIABLE) == "0":
        return None
    try:
        folder = Path(tempfile.mkdtemp(prefix="nonsmooth-"))  # for this user only
    except OSError:
        return None
    try:
        shell = _write_shell(folder)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
            listener.listen(128)
            _start_server(listener, folder, threads)
    except (OSError, subprocess.CalledProcessError):  # its path is too long, or no programs may run there
        shutil.rmtree(folder, ignore_errors=True)
        return None
    os.environ[VARIABLE] = str(folder / "socket")
    return str(shell)


def _write_shell(folder: Path) -> Path:
    shell = folder / "shell"
    client = [sys.executable, "-I", "-S", str(Path(__file__).with_name("shell.py"))]
    shell.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    shell.chmod(0o700)
    subprocess.run([shell, "-c", "true"], check=True)
    return shell


def _start_server(listener: socket.socket, folder: Path, threads: int) -> None:
    # Its standard input ends with this process, however that ends.
    standard_input, _ = os.pipe()
    subprocess.Popen(
        [sys.executable, "-P", "-m", "nonsmooth.preloading.server", str(listener.fileno()), str(folder)],
        stdin=standard_input,
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
    )
    os.close(standard_input)
