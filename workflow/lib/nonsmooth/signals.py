"""Signals of a process that its children should have, too."""

from __future__ import annotations

import os
import signal
import threading

import psutil


def pass_on(number: signal.Signals) -> None:
    """Send `number` on to all descendants of this process whenever it comes, beside what a handler does with it.

    The handler may be set later; without one the signal does what it does by default. Call it in the main thread, once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes the number of every signal that has a handler there.
    signal.set_wakeup_fd(writer)

    def watch() -> None:
        while True:
            if number in os.read(reader, 64):
                for child in psutil.Process().children(recursive=True):
                    try:
                        child.send_signal(number)
                    except psutil.NoSuchProcess:
                        pass

    threading.Thread(target=watch, name="pass_on", daemon=True).start()
