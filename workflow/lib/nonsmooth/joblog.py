"""One log file per job: messages, warnings, and the traceback of what went wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Send logging and warnings to `path`; an exception leaves its traceback there and one line on stderr.

    Raises SystemExit(1) in place of the exception, so that a terminal shows the one line only.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    logging.captureWarnings(True)
    logging.basicConfig(
        filename=path, filemode="w", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    # It tells of every letter in a figure.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    try:
        yield
    except KeyboardInterrupt:
        logging.warning("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        logging.exception("failed")
        print(f"{type(error).__name__}: {' '.join(str(error).split())} (details: {path})", file=sys.stderr)
        raise SystemExit(1) from error
