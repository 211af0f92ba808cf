"""A shell for Snakemake: sends the command `python script` to the server of `nonsmooth.preloading`, and any other to Bash.

Started for every job, hence without site-packages and with few imports.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import sys

# As Snakemake has Bash run commands.
BASH = ("bash", "-c", "set -euo pipefail; {}")


def send(server: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        server.send(bytes([number]))


def run(arguments: list[str]) -> int | None:
    """The exit status of a Python script, negative for a signal as in `subprocess`; None if the server does not run it."""
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.environ["NONSMOOTH_PRELOADED"])
        socket.send_fds(server, [b"\n"], [0, 1, 2])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        server.sendall(json.dumps(request).encode() + b"\n")
        answers = server.makefile("r")
        is_accepted = answers.readline() == "accepted\n"
    except (OSError, KeyError):
        is_accepted = False
    if not is_accepted:
        return None
    signal.signal(signal.SIGTERM, lambda number, frame: send(server, number))
    # From a terminal the script has it, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = ""
    with contextlib.suppress(OSError):
        status = answers.readline()
    if not status:
        print("the process that runs scripts has ended", file=sys.stderr)
        return 1
    return int(status)


if __name__ == "__main__":
    command = sys.argv[-1]
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    status = run(words[1:]) if len(words) == 2 and words[0] == sys.executable else None
    if status is None:
        os.execvp(BASH[0], [*BASH[:2], BASH[2].format(command)])
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
