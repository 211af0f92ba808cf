"""The file from which an interrupted job goes on, to the same bits as one that was not interrupted.

It is not an output of a Snakemake rule, which would be deleted with a killed job, and it is removed when the cell is done.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nonsmooth.files import atomic

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
DIGEST = hashlib.sha256().digest_size


class Checkpoint:
    """Saves the state of a job every so often, and when a signal ends it.

    As a context manager it takes over SIGTERM (of a scheduler) and SIGINT (Ctrl+C): at the next call of `after_step` or
    `after_epoch` the state is saved and the process exits with 128 + signal, as if the signal had ended it. Ctrl+C once more ends it
    at once; a scheduler may send SIGTERM several times.

    The file is the SHA-256 of the rest and what `torch.save` writes. It is read with `weights_only`, so that none can execute code.
    """

    def __init__(
        self, path: str | Path, identity: dict[str, Any], minutes: float | None = None, epochs: int | None = None
    ) -> None:
        """
        Args:
            path: of the file.
            identity: JSON values by name of which the state depends; a state of another identity is refused.
            minutes: save when so many have passed since the last time. None: never for that reason.
            epochs: save after every so many epochs. None: never for that reason.
        """
        self.path = Path(path)
        self._identity = identity
        self._seconds = float("inf") if minutes is None else 60 * minutes
        self._epochs = epochs
        self._saved_at = time.monotonic()
        self._signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Checkpoint:
        self._handlers = {number: signal.signal(number, self._interrupt) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise SystemExit(128 + number)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved; None if there is none. A damaged file is set aside, so that the job starts anew.

        Raises ValueError, which says what differs, if it was saved by a job of another identity.
        """
        for abandoned in self.path.parent.glob(f".{self.path.stem}.*{self.path.suffix}"):
            abandoned.unlink(missing_ok=True)  # of a process that was killed while it wrote
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            damaged = self.path.with_name(self.path.name + ".damaged")
            os.replace(self.path, damaged)
            logger.warning("%s: damaged, now called %s; starting from the beginning", self.path, damaged.name)
            return None
        saved = torch.load(io.BytesIO(content[DIGEST:]), map_location="cpu", weights_only=True)
        wanted, found = self._identity, saved["identity"]
        differing = [
            f"{key} {found.get(key)}, not {wanted.get(key)}"
            for key in sorted(wanted.keys() | found.keys())
            if found.get(key) != wanted.get(key)
        ]
        if differing:
            raise ValueError(
                f"{self.path}: of a run with {'; '.join(differing)}; delete it to start this cell from the beginning, or go back "
                "to that configuration to finish that run"
            )
        return saved["state"]

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file; `state` holds tensors, numbers, text, None, and lists and dictionaries of these."""
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        content = buffer.getbuffer()
        with atomic(self.path) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        self._saved_at = time.monotonic()

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state if it is time, or if a signal has come; then exit."""
        if self._signal is not None:
            self.save(state())
            message = f"interrupted by {self._signal.name}; saved in {self.path}, from where the same command goes on"
            logger.warning(message)
            print(message, file=sys.stderr)
            raise SystemExit(128 + self._signal)
        if time.monotonic() - self._saved_at >= self._seconds:
            self._try_to_save(state())

    def after_epoch(self, epoch: int, state: Callable[[], dict[str, Any]]) -> None:
        """The same, and also after every so many epochs; `epoch` counts from 1."""
        if self._epochs is not None and epoch % self._epochs == 0:
            self._try_to_save(state())
        self.after_step(state)

    def _try_to_save(self, state: dict[str, Any]) -> None:
        """A full disk is no reason to lose the run: the results are smaller, and the checkpoint before is still there."""
        try:
            self.save(state)
        except OSError as error:
            self._saved_at = time.monotonic()
            logger.warning("not saved: %s", error)

    def remove(self) -> None:
        """Of a cell that is done."""
        self.path.unlink(missing_ok=True)
