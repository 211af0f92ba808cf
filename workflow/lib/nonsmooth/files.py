"""Outputs that appear whole or not at all, and one canonical JSON."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

# Error numbers of a full disk and an exceeded quota, and what to do then.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
REMEDY = "free some space there and run the same command again, which keeps what is finished"


def no_space(path: str | Path, error: OSError) -> OSError:
    """What to raise in place of the error of a full disk: it names the file, and says what to do."""
    reason = error.strerror or f"No space left on device ({error})"
    return OSError(error.errno or errno.ENOSPC, f"{path}: {reason}; {REMEDY}")


def require_writable(path: str | Path, size: int = 2**20) -> None:
    """Find out before hours of work whether `size` bytes can be written beside `path`. Raises OSError if not."""
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
    except OSError as error:
        remedy = REMEDY if error.errno in NO_SPACE else "make the folder writable"
        raise OSError(error.errno, f"{folder}: nothing can be written there ({error.strerror}); {remedy}") from error


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same suffix, that replaces it when the block succeeds.

    What was written is on the disk before: a node that loses power leaves the old file or the new one.
    Raises OSError that names `path` and says what to do if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        # Matplotlib stumbles over its own clean-up then; NumPy's error of an array that was written in part has no number.
        while error is not None:
            if isinstance(error, OSError) and error.errno in (*NO_SPACE, None):
                raise no_space(path, error) from error
            error = error.__context__
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows with the same keys as CSV, atomically; None is empty, and a NaN is "nan". `columns` for rows that may be none."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value in `path`. Raises ValueError that names the file if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and run snakemake again") from error


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
