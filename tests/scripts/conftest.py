"""What the scripts' tests share: scripts as modules, cells that never ran, and the texts of a figure."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import logging
import math
import runpy
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from nonsmooth import datasets, maxpool, plotting, published, schema
from nonsmooth.cells import FACTORS, GROUP, ZONE_CONDITION, TrainingCell, ZoneCell
from nonsmooth.config import DEFAULTS
from nonsmooth.files import write_json
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.rules import SIMPLE_RULES
from nonsmooth.zones import tables as zones

ROOT = Path(__file__).resolve().parents[2]
# What the figures of one condition show.
CONDITION = {"dataset": "mnist_5k", "architecture": "lenet5", "optimizer": "sgd", "precision": "float16",
             "relu_derivative": 0.0}  # fmt: skip
assert tuple(CONDITION) == GROUP
HYBRIDS = tuple(f"hybrid-{beta}-{evaluation}" for evaluation in ("exact", "composed") for beta in (10, 1000, 10000))
RULES = ("native", "minimal", *HYBRIDS)
FORMATS = ("pdf", "png", "svg", "csv")
# What every table of a benchmark says of where it was measured.
MADE = {"device": "cpu", "machine": "a processor", "threads": 1, "torch": "2.9.0", "date": "2026-01-31"}
# A rule of a user's, which has no beta.
OTHER = "largest"


@cache
def load(name: str) -> ModuleType:
    """The script workflow/scripts/`name`.py as a module; importing it runs nothing."""
    spec = importlib.util.spec_from_file_location(f"script_{name.replace('/', '_')}", script_path(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script_path(name: str) -> Path:
    return ROOT / "workflow/scripts" / f"{name}.py"


class Named(dict):
    """Snakemake's named lists, as far as scripts use them: attributes, positions, `items()`."""

    __getattr__ = dict.__getitem__

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


@pytest.fixture(scope="module", autouse=True)
def other_rule() -> Iterator[None]:
    """The rule `OTHER` is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIMPLE_RULES, OTHER, type("Other", (), {"__str__": lambda _: OTHER}))
        schema.validator.cache_clear()
        yield
    schema.validator.cache_clear()


@pytest.fixture
def run_script() -> Iterator[Callable[..., None]]:
    """`run_script(name, input=..., output=..., ...)`: a script as Snakemake runs it; logging is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(name: str, **attributes) -> None:
        attributes = {
            "resources": {"gpu_slots": 0},
            **attributes,
            "config": {**DEFAULTS, **attributes.get("config", {})},
        }
        attributes = {key: Named(value) if isinstance(value, dict) else value for key, value in attributes.items()}
        runpy.run_path(str(script_path(name)), {"snakemake": SimpleNamespace(**attributes)}, run_name="__main__")

    yield run
    logging.captureWarnings(False)
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def write_split(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_split("train", 256)`: a prepared split of mnist_5k with this many noisy bars that depend on the label.

    Sorted by label, as the digits are."""
    folder = tmp_path_factory.mktemp("prepared")

    def write(split: str, number: int) -> Path:
        known = datasets.DATASETS["mnist_5k"]
        sizes = {**known.sizes, split: number}
        monkeypatch.setitem(datasets.DATASETS, "mnist_5k", dataclasses.replace(known, sizes=sizes, sha256={}))
        generator = np.random.default_rng(0)
        records = np.empty(number, [("image", np.uint8, known.shape), ("label", np.uint8)])
        records["label"] = np.arange(number) * known.num_classes // number
        records["image"] = generator.integers(60, size=records["image"].shape)
        for image, label in zip(records["image"], records["label"], strict=True):
            image[:, 2 * label + 3 : 2 * label + 7] = 255
        np.save(folder / f"{split}.npy", records)
        return folder / f"{split}.npy"

    return write


# --------------------------------------------------------------------------------------------------- cells


def cells(**factors: Iterable) -> list[TrainingCell]:
    """The product of the given factors; what is not given has one usual value, and rules are all of `RULES`."""
    usual = {**{name: (value,) for name, value in CONDITION.items()}, "rule": RULES, "seed": (0, 1, 2)}
    values = {"normalization": ("none", "batch_norm"), **usual, **factors}
    settings = {"epochs": 4, "batch_size": 128, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4,
                "adam_eps": 1e-4}  # fmt: skip
    products = itertools.product(*(values[name] for name in FACTORS))
    return [TrainingCell(**dict(zip(FACTORS, product, strict=True)), **settings) for product in products]


def no_cell_diverges(cell: TrainingCell) -> None:
    return None


def composed_diverges(cell: TrainingCell) -> int | None:
    """As in the published runs, somewhat: every run at 10,000 at once, some at 1,000, later; batch norm delays it."""
    late = cell.normalization == "batch_norm"
    if cell.rule == "hybrid-10000-composed":
        return 1 + late
    if cell.rule == "hybrid-1000-composed" and cell.seed < 2:
        return 2 + late
    return None


@dataclass(frozen=True)
class Files:
    """The files of cells, as the rule that gathers them lists them."""

    cells: list[TrainingCell]
    metrics: list[str]
    records: list[str]


def write_cells(folder: Path, made: list[TrainingCell], diverges: Callable[[TrainingCell], int | None]) -> Files:
    """Files of runs that never were. `diverges` gives the epoch whose loss is NaN, after which a run stops."""
    files = Files(made, [], [])
    for cell in made:
        last = diverges(cell)
        generator = np.random.default_rng(zlib.crc32(cell.path.encode()))
        rows = [
            {
                "epoch": epoch,
                "learning_rate": cell.learning_rate,
                "train_loss": math.nan if epoch == last else generator.uniform(0.8, 1.2) * 2 / epoch**2,
                "train_accuracy": 1 - 0.5 / epoch,
                "test_loss": math.nan if epoch == last else generator.uniform(0.8, 1.2) * 2.2 / epoch,
                "test_accuracy": 0.1 if epoch == last else 1 - generator.uniform(0.3, 0.5) / epoch,
                "skipped_steps": 0,
                "seconds": 2.0,
                "images_per_second": generator.uniform(1000, 2000),
            }
            for epoch in range(1, (last or cell.epochs) + 1)
        ]
        record = {
            "cell": cell.to_dict(),
            "epochs_run": len(rows),
            "diverged": last is not None,
            "first_nonfinite_step": None if last is None else 32 * last - 5,
            "steps": 32 * len(rows),
            "skipped_steps": 7 if cell.precision == "mixed16" else 0,
            "process_seconds": generator.uniform(20, 40),
            "peak_memory_mib": generator.uniform(600, 700),
            "device": {"name": "a processor", "type": "cpu", "capability": "AVX2"},
            "machine": {"cpu": "a processor", "cores": 2, "memory_gib": 23.5, "system": "Linux x86_64"},
            "versions": {"python": "3.11.7", "torch": "2.9.0"},
            "settings": {"threads": 1, "device": "cpu", "deterministic": True},
            "numerics_version": NUMERICS_VERSION,
            "git": {"commit": "abc", "dirty": False},
            "weights_sha256": "ab" * 32,
            "config_hash": "cd" * 32,
        }
        # In one folder, since thousands of them are slow to make and to delete.
        metrics, recorded = folder / f"{len(files.metrics)}.csv", folder / f"{len(files.metrics)}.json"
        write_json(recorded, record)
        pd.DataFrame(rows).to_csv(metrics, index=False)
        files.metrics.append(str(metrics))
        files.records.append(str(recorded))
    return files


@dataclass(frozen=True)
class Study:
    """The tables of a study in memory, as figures read them, and the folder where they lie."""

    folder: Path
    files: Files
    runs: pd.DataFrame
    epochs: pd.DataFrame
    published: pd.DataFrame


def read_table(path: Path | str) -> pd.DataFrame:
    table = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    return table.astype({"evaluation": object}).fillna({"evaluation": ""}) if "evaluation" in table else table


def as_if_published(runs: pd.DataFrame) -> pd.DataFrame:
    """The comparison with the published runs, as if MNIST's had been of our datasets."""
    of_mnist = published.training().query("dataset == 'mnist'")
    return maxpool.compare(runs, pd.concat([of_mnist.assign(dataset=name) for name in runs.dataset.unique()]))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """`study(diverges, normalization=["none"], ...)`: tables of the cells with these factors, made once.

    Nothing was published of them, or with `is_published=True` what was of MNIST."""
    made: dict = {}

    def make(
        diverges: Callable[[TrainingCell], int | None] = no_cell_diverges,
        is_published: bool = False,
        **factors: Iterable,
    ) -> Study:
        key = (diverges, is_published, tuple((name, tuple(values)) for name, values in factors.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("study")
            files = write_cells(folder / "train", cells(**factors), diverges)
            runs, epochs = maxpool.read_runs(files.cells, files.metrics, files.records)
            compared = as_if_published(runs) if is_published else maxpool.compare(runs, published.training())
            tables = {"runs": runs, "epochs": epochs, "published": compared}
            for name, table in tables.items():
                table.to_csv(folder / f"{name}.csv", index=False)
            made[key] = Study(folder, files, *(read_table(folder / f"{name}.csv") for name in tables))
        return made[key]

    return make


def only_float16_diverges(cell: TrainingCell) -> int | None:
    return composed_diverges(cell) if cell.precision == "float16" else None


# What presets can be like: how runs diverge, and the factors.
CASES: dict[str, tuple[Callable, dict]] = {
    "some diverged": (composed_diverges, {}),
    "one run": (composed_diverges, {"seed": [0]}),
    "none diverged": (no_cell_diverges, {"seed": [3, 4]}),
    "only native": (no_cell_diverges, {"rule": ["native"]}),
    "only exact": (no_cell_diverges, {"rule": ["native", "minimal", "hybrid-0.5-exact", "hybrid-10000-exact"]}),
    "one normalization": (composed_diverges, {"normalization": ["batch_norm"]}),
    "several conditions": (
        only_float16_diverges,
        {
            "dataset": ["fashion_mnist", "mnist_5k"],
            "precision": ["float32", "float16"],
            "rule": ["native", "hybrid-1000-composed", "hybrid-10000-composed"],
        },
    ),
    "published": (composed_diverges, {"is_published": True}),
    "a rule without a beta": (composed_diverges, {"rule": [OTHER, "native", "hybrid-10-exact"], "is_published": True}),
    "only such a rule": (no_cell_diverges, {"rule": [OTHER], "seed": [0]}),
    "two ReLUs": (
        no_cell_diverges,
        {"relu_derivative": [0.0, 1.0], "rule": ["native", "minimal"], "is_published": True},
    ),
}


def of_condition(table: pd.DataFrame, condition: dict[str, str] | None = None) -> list[dict]:
    """The rows of a table that belong to a figure's condition, one by one."""
    wanted = (condition or CONDITION).items()
    return [row for row in table.to_dict("records") if all(row[name] == value for name, value in wanted)]


# ----------------------------------------------------------------------------------------------- zones' cells

# What the zones' figures of one group show.
ZONE_GROUP = {"dataset": "cifar10", "architecture": "vgg11", "normalization": "none"}
ALL_PRECISIONS = ("float16", "bfloat16", "mixed16", "tf32", "float32", "float64")
# Decades of the differences of two rules, and the share of minibatches of each class.
DECADES = {"float16": (-3, 0), "bfloat16": (-2, 1), "mixed16": (-3.5, -0.5), "tf32": (-5, -2), "float32": (-6, -2)}
SHARES = {
    **{name: {"rounding_induced": 0.8, "real": 0.1, "undecided": 0.1} for name in ("float16", "bfloat16", "mixed16")},
    "tf32": {"rounding_induced": 0.4, "real": 0.4, "compensation": 0.2},
    "float32": {"real": 0.3, "rounding_induced": 0.2, "compensation": 0.5},
    "float64": {"identical": 0.9, "compensation": 0.1},
}
ROUTED = {"real": ("yes", "yes"), "rounding_induced": ("yes", "no"), "compensation": ("no", "no"),
          "identical": ("no", "no"), "masked": ("yes", "yes"), "lost_tie": ("no", "yes"),
          "undecided": ("undecided", "no"), "overflow": ("", "")}  # fmt: skip


def zone_cells(**factors: Iterable) -> list[ZoneCell]:
    """The product of the given factors; what is not given has one usual value, but two seeds."""
    usual = {name: (getattr(ZoneCell(dataset="cifar10", architecture="vgg11"), name),) for name in ZONE_CONDITION}
    values = {**usual, "seed": range(2), **factors}
    return [ZoneCell(**dict(zip(values, product, strict=True))) for product in itertools.product(*values.values())]


def usual_difference(cell: ZoneCell, generator: np.random.Generator) -> tuple[float, str]:
    """A difference of a size as in the published figures, and its class; programs that are equal do not differ."""
    if cell.program == cell.reference:
        return 0.0, "identical"
    shares = SHARES[cell.precision]
    name = str(generator.choice(list(shares), p=list(shares.values())))
    if name == "identical":
        return 0.0, name
    if name == "compensation":
        unit = {"float64": 1e-17, "float32": 3e-8}.get(cell.precision, 1e-4)
        return unit * generator.uniform(0.5, 3), name
    low, high = DECADES[cell.precision]
    return 10 ** generator.uniform(low, high), name


def no_difference(cell: ZoneCell, generator: np.random.Generator) -> tuple[float, str]:
    return 0.0, "identical"


def never_finite(cell: ZoneCell, generator: np.random.Generator) -> tuple[float, str]:
    return (math.nan if generator.random() < 0.5 else math.inf), "overflow"


def zone_rows(cell: ZoneCell, number: int, measure: Callable) -> list[dict]:
    """The minibatches of a cell that was never measured, the last one of which is smaller."""
    generator = np.random.default_rng(zlib.crc32(cell.path.encode()))
    rows = []
    for minibatch in range(number):
        size, name = measure(cell, generator)
        overflows = name == "overflow"
        row = {
            "minibatch": minibatch,
            "images": cell.batch_size if minibatch < number - 1 else cell.batch_size // 2,
            "loss": math.nan if overflows else 2.3,
            **dict.fromkeys(("difference", "difference_published"), size),
            **dict.fromkeys(("difference_l1", "difference_published_l1"), 40 * size),
            "gradient": 2.0,
            "gradient_l1": 80.0,
            "entries_differing": 0 if size == 0 else 1000,
            "forward_overflow": overflows,
            "backward_overflow": False,
        }
        routed = ROUTED[name]
        for level, is_routed in zip(("replay", "real"), routed, strict=True):
            value = size if is_routed in ("yes", "undecided") else 0.0
            row |= {level: value, f"{level}_l1": 40 * value, f"{level}_float32": value, f"{level}_routed": is_routed}
        row |= {"replay_common": 0.0, "terms": 5.0, "undecided_windows": 3, "class": name}
        if not cell.replays or overflows:
            empty = [column for column in row if column.startswith(("replay", "real"))]
            row |= dict.fromkeys((*empty, "terms", "undecided_windows"), "")
            row["class"] = "overflow" if overflows else ""
        rows.append(row)
    return rows


def zone_layers(cell: ZoneCell, number: int, layers: int) -> list[dict]:
    """The pooling layers, of which deeper ones have fewer windows and fewer ties; coarser arithmetic ties more."""
    digits = {"float16": 11, "mixed16": 11, "tf32": 11, "bfloat16": 8, "float32": 24, "float64": 53}[cell.precision]
    rows = []
    for layer in range(1, layers + 1):
        windows = number * 2 ** (22 - 2 * layer)
        at_zero = int(windows * 0.4 / layer)
        both = int(windows * 1e-5 * layer)
        above = both + int(windows * 2.0 ** (-digits) * 3)
        row = {
            "layer": layer,
            "name": f"features.{3 * layer - 1}",
            "kind": "max_pool",
            "windows": windows,
            "tied": at_zero + above,
            "tied_at_zero": at_zero,
            "tied_above_zero": above,
            "sum_of_sizes": 3 * at_zero + 2 * above,
            "largest_size": 4,
            "tied_with_gradient": above,
            "tied_float64": at_zero + both,
            "tied_both": at_zero + both,
            "undecided_windows": 2,
        }
        empty = ("tied_with_gradient", "tied_float64", "tied_both", "undecided_windows")
        rows.append(row if cell.replays else row | dict.fromkeys(empty, ""))
    return rows


@dataclass(frozen=True)
class ZoneFiles:
    """The files of zones' cells, as the rule that gathers them lists them."""

    cells: list[ZoneCell]
    minibatches: list[str]
    layers: list[str]
    records: list[str]

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        return zones.read_cells(self.cells, self.minibatches, self.layers, self.records)


def write_zone_cells(
    folder: Path, made: list[ZoneCell], number: int = 12, measure: Callable = usual_difference, layers: int = 5
) -> ZoneFiles:
    """Files of cells that never were measured, with this many minibatches."""
    files = ZoneFiles(made, [], [], [])
    for cell in made:
        position = len(files.minibatches)
        paths = [folder / f"{position}-{name}" for name in ("minibatches.csv", "layers.csv", "record.json")]
        record = {
            "cell": cell.to_dict(),
            "minibatches": number,
            "device": {"name": "a processor", "type": "cpu", "capability": "AVX2"},
            "git": {"commit": "abc", "dirty": False},
            "numerics_version": NUMERICS_VERSION,
            "config_hash": "cd" * 32,
            "process_seconds": 20.5,
            "peak_memory_mib": 700.5,
            "seconds": {"plain": 0.5, "pair": 1.25, "replays": 4.0 if cell.replays else None},
        }
        write_json(paths[2], record)
        pd.DataFrame(zone_rows(cell, number, measure)).to_csv(paths[0], index=False, na_rep="nan")
        pd.DataFrame(zone_layers(cell, number, layers)).to_csv(paths[1], index=False)
        for listed, path in zip((files.minibatches, files.layers, files.records), paths, strict=True):
            listed.append(str(path))
    return files


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ZoneFiles]:
    """`measured(precision=["float16"], ...)`: files of the zones' cells with these factors; `number`, `measure` and
    `layers` as in `write_zone_cells`."""

    def make(number: int = 12, measure: Callable = usual_difference, layers: int = 5, **factors: Iterable) -> ZoneFiles:
        return write_zone_cells(tmp_path_factory.mktemp("zones"), zone_cells(**factors), number, measure, layers)

    return make


# -------------------------------------------------------------------------------------------------- figures


def draw(plot: Callable, *arguments) -> tuple[Figure, pd.DataFrame]:
    """The figure, laid out, and the data that a script's function would save."""
    saved = []
    with plt.rc_context(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "save", lambda figure, paths, data, path: saved.append((figure, data)))
        plot(*arguments, {suffix: f"figure.{suffix}" for suffix in FORMATS})
        ((figure, data),) = saved
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="constrained_layout not applied")
            figure.draw_without_rendering()
        plt.close(figure)
    return figure, data


@dataclass(frozen=True)
class Drawn:
    """A figure of one of `CASES`."""

    study: Study
    figure: Figure
    data: pd.DataFrame


def legend(figure: Figure) -> list[str]:
    """The entries of all legends."""
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def visible_texts(figure: Figure) -> list[Text]:
    hidden = set()
    for axes in figure.axes:
        if not axes.get_visible():
            hidden.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    shown = (text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip())
    return [text for text in shown if text not in hidden]


def corners(text: Text) -> np.ndarray:
    """The corners (4, 2) of a text's rectangle in pixels, which may be rotated."""
    box = text.get_window_extent()
    angle = text.get_rotation()
    text.set_rotation(0)
    flat = text.get_window_extent()
    text.set_rotation(angle)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [flat.width / 2, flat.height / 2]
    turn = math.radians(angle)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return half @ rotation + [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two rectangles share more than a border: no side of either separates them."""
    sides = (first[1] - first[0], first[3] - first[0], second[1] - second[0], second[3] - second[0])
    for side in sides:
        one, other = first @ side, second @ side
        if min(one.max(), other.max()) <= max(one.min(), other.min()) + 1e-6 * (side @ side):
            return False
    return True


def overlapping_texts(figure: Figure) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), corners(text)) for text in visible_texts(figure)]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if overlap(one, other)]


def texts_outside(figure: Figure) -> list[str]:
    """Texts that reach over the edge of the figure."""
    (left, bottom), (right, top) = figure.bbox.min - 1, figure.bbox.max + 1
    edges = ((text.get_text(), corners(text).T) for text in visible_texts(figure))
    return [text for text, (x, y) in edges if x.min() < left or x.max() > right or y.min() < bottom or y.max() > top]


def assert_readable(figure: Figure) -> None:
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []
