"""Signals of a process that the programs it waits for should have, too."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import psutil

SHELLS = {"sh", "bash", "dash"}


def pass_on(number: signal.Signals) -> None:
    """Send `number` on to the programs that this process started whenever it comes, beside what a handler does with it.

    The handler may be set later; without one the signal does what it does by default. Call it in the main thread, once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes the number of every signal that has a handler there.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            if number in os.read(reader, 64):
                for program in _programs(psutil.Process()):
                    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                        program.send_signal(number)

    threading.Thread(target=watch, name="pass_on", daemon=True).start()


def _programs(process: psutil.Process) -> Iterator[psutil.Process]:
    """The children of a process, and in place of a shell those of the shell, which would end without waiting for them.

    Not what they started: a program that saves its work may need its workers.
    """
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if child.name() in SHELLS:
                yield from _programs(child)
            else:
                yield child
