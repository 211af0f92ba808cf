"""Downloads: each file from the first mirror that has it whole."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pooch
import requests

from nonsmooth.datasets import DATASETS, readers
from nonsmooth.files import NO_SPACE, no_space

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # per mirror


class FetchError(OSError):
    """Files that no mirror gave; the message lists them, their checksums, and where they can be put by hand."""


class _Unreachable(Exception):
    """A server that does not answer at all, which is not tried again."""


def fetch(
    name: str, splits: Iterable[str], folder: str | Path, mirrors: Iterable[str] = (), attempts: int = ATTEMPTS
) -> dict[str, str]:
    """Download what is missing of a dataset's splits into `folder`, and return all files with their checksums.

    A file is there whole and with its published checksum, or not at all. One that is already there is checked, and
    downloaded again if it is damaged. A damaged or interrupted download is tried `attempts` times per mirror; a server that
    cannot be reached, once.

    Args:
        name: of a dataset with published files.
        splits: whose files are wanted.
        folder: made if it is not there.
        mirrors: addresses tried in turn in place of the dataset's own.

    Raises FetchError if any file cannot be had, after all others were fetched, and another OSError if the disk is full.
    """
    dataset = DATASETS[name]
    wanted = {file: checksum for split in splits for file, checksum in dataset.files[split].items()}
    mirrors = tuple(mirrors) or dataset.mirrors
    reasons: dict[str, None] = {}  # in order, each once
    unreachable: set[str] = set()
    failed: list[str] = []
    for file, checksum in wanted.items():
        path = Path(folder) / file
        found = readers.checksum(path, checksum) if path.is_file() else None
        if found == checksum:
            continue
        for mirror in mirrors:
            if mirror in unreachable:
                continue
            try:
                _download(f"{mirror.rstrip('/')}/", file, checksum, Path(folder), attempts)
                break
            except Exception as error:  # requests, urllib3 and pooch raise many kinds
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    raise no_space(path, error) from error  # which no other mirror changes
                if isinstance(error, _Unreachable):
                    unreachable.add(mirror)
                reasons[f"{mirror}: {_first_line(error)}"] = None
                logger.warning("%s: %s: %s", mirror, file, _first_line(error))
        else:
            failed.append(file)
            if found:
                reasons[f"{path}, which has the checksum {found}"] = None
    if failed:
        files = "; ".join(f"{file} ({wanted[file]})" for file in failed)
        raise FetchError(
            f"dataset {name}: could not download {files}. Tried {'; '.join(reasons)}. Put the files into {folder} by hand "
            f"and run the same command again, or give other addresses in datasets.{name}.mirrors or a folder that has them "
            f"in datasets.{name}.path"
        )
    return wanted


def _download(mirror: str, file: str, checksum: str, folder: Path, attempts: int) -> None:
    logger.info("downloading %s%s", mirror, file)
    storage = pooch.create(path=folder, base_url=mirror, registry={file: checksum}, retry_if_failed=attempts - 1)
    said = pooch.get_logger()
    level = said.level
    said.setLevel(logging.CRITICAL)  # what it says is said here
    try:
        storage.fetch(file, downloader=_http if mirror.startswith("http") else None)
    finally:
        said.setLevel(level)
    # pooch leaves the permissions of a temporary file.
    mask = os.umask(0)
    os.umask(mask)
    (folder / file).chmod(0o666 & ~mask)


def _http(url: str, output: str, storage: pooch.Pooch) -> None:
    """pooch's download over HTTP: bytes as they are, and no second try at a server that is not there."""
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=TIMEOUT,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": _keep_packed},
    )
    try:
        download(url, output, storage)
    except requests.exceptions.ConnectionError as error:
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        if type(reason).__name__ in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError"):
            raise _Unreachable(str(reason).rpartition(": ")[2] or str(reason)) from error
        raise


def _keep_packed(response: requests.Response, **_) -> None:
    """Some servers call a .gz file's packing an encoding, which requests would undo."""
    response.raw.headers.pop("Content-Encoding", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(" (Caused by")[0] or type(error).__name__
