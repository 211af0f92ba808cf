"""What all figures share: style, colours, words, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from nonsmooth.datasets import DATASETS
from nonsmooth.files import atomic

# Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = {
    "native": "#000000",
    "minimal": "#009E73",
    "exact": "#0072B2",
    "composed": "#D55E00",
    "accent": "#CC79A7",
}
WORDS = {
    "none": "without batch norm",
    "batch_norm": "with batch norm",
    "sgd": "SGD",
    "adam": "Adam",
    "lenet5": "LeNet-5",
}


def word(name: str) -> str:
    """How a config name is written for readers."""
    return DATASETS[name].title if name in DATASETS else WORDS.get(name, name)


def use_style() -> None:
    """Apply the project's matplotlib style."""
    plt.style.use(str(files("nonsmooth") / "nonsmooth.mplstyle"))


def rule_family(rule: str) -> str:
    """The key of a rule's colour: native, minimal, exact or composed."""
    return rule.rsplit("-", 1)[-1]


def condition_title(condition: dict[str, str]) -> str:
    """Architecture, dataset, optimizer and precision of a figure, for its title."""
    return ", ".join(word(condition[factor]) for factor in ("architecture", "dataset", "optimizer", "precision"))


def span(values: pd.Series) -> str:
    """The range of integers in words: "3", or "2 to 3"."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def run_count(counts: pd.Series) -> str:
    """Numbers of runs in words: "1 run", or "2 to 3 runs"."""
    text = span(counts)
    return f"{text} {'run' if text == '1' else 'runs'}"


def beta_label(beta: float) -> str:
    """A beta as an axis label: integers without a decimal point, thousands with a comma."""
    return f"{beta:,.0f}" if float(beta).is_integer() else f"{beta:,}"


def beta_axis(betas: Iterable[float]) -> dict[float, int]:
    """Evenly spaced positions of the betas in increasing order, since they span orders of magnitude from 0."""
    return {beta: position for position, beta in enumerate(sorted(set(betas)))}


def save(figure: Figure, paths: Sequence[str | Path], data: pd.DataFrame, data_path: str | Path) -> None:
    """Save a figure in the format of each path's suffix, without a date, and the plotted data beside it."""
    for path in paths:
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(Path(path).suffix[1:], {})
        with atomic(path) as temporary:
            figure.savefig(temporary, metadata=metadata)
    with atomic(data_path) as temporary:
        data.to_csv(temporary, index=False)
    plt.close(figure)
