"""Downloads: each file from the first mirror that has it whole."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from nonsmooth.datasets import DATASETS, readers

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # per mirror


class FetchError(OSError):
    """Files that no mirror gave; the message lists them, their checksums, and where they can be put by hand."""


def fetch(
    name: str, splits: Iterable[str], folder: str | Path, mirrors: Iterable[str] = (), attempts: int = ATTEMPTS
) -> dict[str, str]:
    """Download what is missing of a dataset's splits into `folder`, and return all files with their checksums.

    A file is there whole and with its published checksum, or not at all. One that is already there is checked, and
    downloaded again if it is damaged. A damaged or interrupted download is tried `attempts` times per mirror.

    Args:
        name: of a dataset with published files.
        splits: whose files are wanted.
        folder: made if it is not there.
        mirrors: addresses tried in turn in place of the dataset's own.

    Raises FetchError if any file cannot be had, after all others were fetched.
    """
    dataset = DATASETS[name]
    wanted = {file: checksum for split in splits for file, checksum in dataset.files[split].items()}
    mirrors = tuple(mirrors) or dataset.mirrors
    failures: dict[str, list[str]] = {}
    for file, checksum in wanted.items():
        path = Path(folder) / file
        if path.is_file() and readers.checksum(path, checksum) == checksum:
            continue
        reasons = []
        for mirror in mirrors:
            try:
                _download(f"{mirror.rstrip('/')}/", file, checksum, Path(folder), attempts)
                break
            except Exception as error:  # requests, urllib3 and pooch raise many kinds
                reasons.append(f"{mirror}: {_first_line(error)}")
                logger.warning("%s", reasons[-1])
        else:
            failures[file] = reasons
    if failures:
        files = "; ".join(f"{file} ({wanted[file]})" for file in failures)
        reasons = "; ".join(dict.fromkeys(reason for found in failures.values() for reason in found))
        raise FetchError(
            f"dataset {name}: could not download {files}. Tried {reasons}. Put the files into {folder} by hand and run "
            f"the same command again, or give other addresses in datasets.{name}.mirrors or a folder that has them in "
            f"datasets.{name}.path"
        )
    return wanted


def _download(mirror: str, file: str, checksum: str, folder: Path, attempts: int) -> None:
    import pooch

    logger.info("downloading %s%s", mirror, file)
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    storage = pooch.create(
        path=folder, base_url=mirror, registry={file: checksum}, retry_if_failed=attempts - 1, allow_updates=True
    )
    storage.fetch(file, downloader=downloader if mirror.startswith("http") else None)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(" (Caused by")[0] or type(error).__name__
