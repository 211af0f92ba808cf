"""From a server to a trained cell: a dataset added to the registry as docs/extending.md says, with mirrors on this machine."""

import functools
import gzip
import hashlib
import http.server
import json
import shutil
import struct
import threading
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from .conftest import Project, copy_project

SIZES = {"train": 512, "test": 128, "extra": 256}
DEAD = "http://127.0.0.1:9/"
CONFIG = ("--configfile", "config/small.yaml")
CELL = "maxpool/train/small/lenet5/none/sgd/float32/native/relu-0/seed0/metrics.csv"
# The report shows the configuration.
REPORT = {"report", "all"}
ENTRY = """

def _read_small(split, folder):
    return readers.idx({{name: name for name in {sizes}}}, split, folder)


DATASETS["small"] = Dataset(
    title="Small",
    num_classes=10,
    sizes={sizes},
    shape=(1, 28, 28),
    mean=(0.5,),
    std=(0.5,),
    read=_read_small,
    files={files},
    mirrors=({dead!r},),
    hint="made by a test",
)
"""


def make_files() -> dict[str, dict[str, bytes]]:
    """Bars that depend on the label, in MNIST's format: images and labels of every split."""
    draws = np.random.default_rng(0)
    made = {}
    for split, size in SIZES.items():
        labels = (np.arange(size) % 10).astype(np.uint8)
        images = draws.integers(0, 60, (size, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label + 3 : 2 * label + 7] = 255
        made[split] = {
            f"{split}-{kind}-ubyte.gz": gzip.compress(struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes())
            for kind, magic, array in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels))
        }  # fmt: skip
    return made


FILES = make_files()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()


@dataclass
class Site:
    """A project that knows the dataset, and a server of its files."""

    project: Project
    server: http.server.ThreadingHTTPServer
    requests: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def configure(self, *mirrors: str, path: str | None = None, run: str = "small", **block) -> None:
        """The preset `small`, or `run`: one cell and one epoch, images from mirrors or from a folder."""
        values = {
            "dataset": ["small"], "architecture": ["lenet5"], "normalization": ["none"], "optimizer": ["sgd"],
            "precision": ["float32"], "rule": ["native"], "seeds": [0], "epochs": 1, "learning_rate": 0.05,
        }  # fmt: skip
        source = {"path": path} if path else {"mirrors": list(mirrors)} if mirrors else None
        datasets = {"small": source} if source else {}
        config = {"run": run, "datasets": datasets, "maxpool": {"train": [{**values, **block}]}}
        self.project.write_config(config, "small.yaml")

    def results(self) -> dict[str, int]:
        return self.project.files("results/**/*")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for files in FILES.values():
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def make_site(served, tmp_path_factory):
    """`make_site()`: a new project and its server."""
    servers = []

    def make() -> Site:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        site = Site(copy_project(tmp_path_factory.mktemp("site")), server)
        server.requests = site.requests
        library = site.project.path / "workflow/lib/nonsmooth/datasets"
        checksums = {
            split: {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in files.items()}
            for split, files in FILES.items()
        }
        with (library / "__init__.py").open("a") as file:
            file.write(ENTRY.format(sizes=SIZES, files=checksums, dead=DEAD))
        # Attempts and the pauses between them are tested with the library.
        fetching = (library / "fetching.py").read_text()
        assert fetching.count("\nATTEMPTS = 3") == 1
        (library / "fetching.py").write_text(fetching.replace("\nATTEMPTS = 3", "\nATTEMPTS = 1"))
        return site

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield make
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def finished_site(make_site):
    """The preset, run with a dead first mirror. Tests leave it finished."""
    site = make_site()
    site.configure(DEAD, site.address)
    site.first_run = site.project.snakemake(*CONFIG).stdout
    site.first_requests = site.requests[:]
    site.requests.clear()
    return site


def the_error(output: str, log: str) -> str:
    """The one line about a failed job."""
    (line,) = [line for line in output.splitlines() if line.endswith(f"({log})")]
    return line


# --------------------------------------------------------------------------------------- from server to report


def test_files_are_fetched_prepared_and_trained_on(finished_site):
    """The first mirror is dead."""
    folder = finished_site.project.path
    wanted = FILES["train"] | FILES["test"]
    assert sorted(finished_site.first_requests) == sorted(f"/{name}" for name in wanted)
    raw = {path.name: path.read_bytes() for path in (folder / "data/raw/small").iterdir()}
    receipt = json.loads(raw.pop("fetched.json"))
    assert raw == wanted
    assert receipt == {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in wanted.items()}
    for split in ("train", "test"):
        records = np.load(folder / f"data/prepared/small/{split}.npy")
        images, labels = (gzip.decompress(content) for content in FILES[split].values())
        assert records["image"].tobytes() == images[16:]
        assert records["label"].tobytes() == labels[8:]
    assert len(pd.read_csv(folder / "results/small" / CELL)) == 1
    assert (folder / "figures/small/report.html").exists()
    assert set(finished_site.project.files("data/prepared/**/*")) == {
        f"data/prepared/small/{split}.npy" for split in ("train", "test")
    }


def test_the_dead_mirror_is_in_the_log(finished_site):
    log = (finished_site.project.path / "logs/data/fetch/small.log").read_text()
    assert f"WARNING {DEAD}: " in log
    assert finished_site.first_run.count("Download small") == 1


def test_a_second_run_does_nothing(finished_site):
    before = finished_site.results()
    assert "Nothing to be done" in finished_site.project.snakemake(*CONFIG).stdout
    assert finished_site.results() == before
    assert finished_site.requests == []


def test_without_the_downloads_nothing_is_done_again(finished_site):
    """They can be deleted to free space."""
    project, raw = finished_site.project, finished_site.project.path / "data/raw"
    before = finished_site.results()
    raw.rename(raw.with_name("away"))
    try:
        assert project.planned(*CONFIG) == {}
        assert "Nothing to be done" in project.snakemake(*CONFIG).stdout
        assert not raw.exists()
    finally:
        shutil.rmtree(raw, ignore_errors=True)
        raw.with_name("away").rename(raw)
    assert finished_site.results() == before
    assert finished_site.requests == []


def test_other_mirrors_matter_only_if_something_is_to_be_downloaded(finished_site):
    raw = finished_site.project.path / "data/raw"
    raw.rename(raw.with_name("away"))
    finished_site.configure(DEAD)
    try:
        assert set(finished_site.project.planned(*CONFIG)) <= REPORT
    finally:
        finished_site.configure(DEAD, finished_site.address)
        raw.with_name("away").rename(raw)


def test_other_mirrors_download_and_train_nothing_again(finished_site):
    before = finished_site.results()
    finished_site.configure(DEAD)
    try:
        assert set(finished_site.project.planned(*CONFIG)) <= {"fetch", *REPORT}
        finished_site.project.snakemake(*CONFIG)
    finally:
        finished_site.configure(DEAD, finished_site.address)
    finished_site.project.snakemake(*CONFIG)
    assert finished_site.results() == before
    assert finished_site.requests == []


def test_another_split_is_fetched_and_what_was_trained_stays(finished_site):
    """Presets can need different splits of a dataset."""
    project = finished_site.project
    before = finished_site.results()
    raw = project.files("data/raw/small/*.gz")
    finished_site.configure(finished_site.address, train_split="extra", run="other")
    try:
        project.snakemake("data/prepared/small/extra.npy", *CONFIG)
        assert sorted(finished_site.requests) == sorted(f"/{name}" for name in FILES["extra"])
        assert raw.items() <= project.files("data/raw/small/*.gz").items()
    finally:
        finished_site.requests.clear()
        finished_site.configure(DEAD, finished_site.address)
    assert not {"maxpool_train", "prepare"} & set(project.planned(*CONFIG))
    project.snakemake(*CONFIG)
    assert before.items() <= finished_site.results().items()
    assert finished_site.requests == []


# ---------------------------------------------------------------------------------------------- no mirror at all


def test_without_any_mirror_files_can_be_put_there_by_hand(make_site):
    site = make_site()
    site.configure()
    project, raw = site.project, site.project.path / "data/raw/small"
    result = project.snakemake(f"results/small/{CELL}", *CONFIG, check=False)
    assert result.returncode != 0
    message = the_error(result.stdout, "details: logs/data/fetch/small.log")
    assert message.startswith("FetchError: dataset small: could not download ")
    for name, content in (FILES["train"] | FILES["test"]).items():
        assert f"{name} (md5:{hashlib.md5(content).hexdigest()})" in message
    for text in (DEAD, "Put the files into data/raw/small by hand"):
        assert text in message
    assert FILES["extra"].keys().isdisjoint(message.split())
    assert "What is finished is kept" in result.stdout
    carried = ("benchmarks", "claims", "published")
    assert set(project.files("data/**/*")) == {file for name in carried for file in project.files(f"data/{name}/*")}
    assert site.results() == {}

    raw.mkdir(parents=True, exist_ok=True)
    for name, content in (FILES["train"] | FILES["test"]).items():
        (raw / name).write_bytes(content)
    project.snakemake(f"results/small/{CELL}", *CONFIG)
    assert len(pd.read_csv(project.path / "results/small" / CELL)) == 1
    assert (raw / "fetched.json").exists()


def test_what_can_be_had_is_kept_when_a_file_cannot(make_site, served):
    site = make_site()
    site.configure(site.address)
    missing = next(iter(FILES["train"]))
    (served / missing).rename(served / "away")
    try:
        result = site.project.snakemake("data/prepared/small/train.npy", *CONFIG, check=False)
    finally:
        (served / "away").rename(served / missing)
    assert result.returncode != 0
    got = set(FILES["train"] | FILES["test"]) - {missing}
    assert {path.name for path in (site.project.path / "data/raw/small").iterdir()} == got
    assert not (site.project.path / "data/prepared").exists()

    site.requests.clear()
    site.project.snakemake("data/prepared/small/train.npy", *CONFIG)
    assert site.requests == [f"/{missing}"]


def test_a_folder_of_ones_own_needs_no_server(make_site):
    """And a damaged file in it is named before anything is trained."""
    site = make_site()
    folder = site.project.path / "mine"
    folder.mkdir()
    for files in FILES.values():
        for name, content in files.items():
            (folder / name).write_bytes(content)
    damaged = next(iter(FILES["train"]))
    (folder / damaged).write_bytes(b"damaged")
    site.configure(path="mine")

    result = site.project.snakemake("data/prepared/small/train.npy", *CONFIG, check=False)
    assert result.returncode != 0
    message = the_error(result.stdout, "details: logs/data/prepare/small/train.log")
    assert message.startswith(f"ValueError: mine/{damaged}: the checksum of the file is md5:")
    assert site.results() == {}

    (folder / damaged).write_bytes(FILES["train"][damaged])
    site.project.snakemake("data/prepared/small/train.npy", *CONFIG)
    assert not (site.project.path / "data/raw").exists()
    assert site.requests == []
