"""What all figures share: style, colours, words, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.datasets import DATASETS
from nonsmooth.files import atomic
from nonsmooth.programs import PROGRAMS, letters

# Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = {
    "native": "#000000",
    "minimal": "#009E73",
    "exact": "#0072B2",
    "composed": "#D55E00",
    "other": "#56B4E9",
    "accent": "#CC79A7",
    "published": "#8A8A8A",
}
WORDS = {
    "none": "without batch norm",
    "batch_norm": "with batch norm",
    "sgd": "SGD",
    "adam": "Adam",
    "sgd_clipped": "SGD with clipping",
    "sgd_scaled": "SGD with loss scaling",
}
# What was lost: values that are not finite, and what makes them.
LOST_COLOUR = "#B00020"

# Zones: real differences strong, agreement pale; neighbours in a stack differ in lightness, too.
CLASS_COLOURS = {
    "real": "#D55E00",
    "rounding_induced": "#F0B84A",
    "compensation": "#0072B2",
    "lost_tie": "#009E73",
    "masked": "#56B4E9",
    "identical": "#DADADA",
    "undecided": "#FFFFFF",
    "overflow": "#000000",
    "": "#8A8A8A",
}
CLASS_HATCHES = {"undecided": "/////"}
CLASS_WORDS = {
    "real": "real tie",
    "rounding_induced": "rounding-induced tie",
    "compensation": "rounding only",
    "lost_tie": "lost tie",
    "masked": "masked",
    "identical": "identical",
    "undecided": "undecided",
    "overflow": "not finite",
    "": "cause not looked for",
}
# 16 bits warm, 32 bits blue, 64 bits green.
PRECISION_COLOURS = {
    "float16": "#D55E00",
    "bfloat16": "#E69F00",
    "mixed16": "#CC79A7",
    "tf32": "#56B4E9",
    "float32": "#0072B2",
    "float64": "#009E73",
}

# The programs between native and the published one: hollow marks keep native's Jacobian at ties.
PROGRAM_COLOURS = {
    "native": COLOURS["native"],
    "forward": "#56B4E9",
    "backward": "#8A8A8A",
    "exact": COLOURS["exact"],
    "forward_backward": "#009E73",
    "forward_jacobian": "#CC79A7",
    "backward_jacobian": "#E69F00",
    "composed": COLOURS["composed"],
}
PROGRAM_MARKERS = {
    "native": "o",
    "forward": "^",
    "backward": "v",
    "exact": "o",
    "forward_backward": "D",
    "forward_jacobian": "^",
    "backward_jacobian": "v",
    "composed": "s",
}
PROGRAM_WORDS = {"native": "native", "exact": "J (exact)", "composed": "F+B+J (published)"}


def word(name: str) -> str:
    """How a config name is written for readers."""
    registered = DATASETS.get(name) or ARCHITECTURES.get(name)
    return registered.title if registered else WORDS.get(name, name)


def use_style() -> None:
    """Apply the project's matplotlib style."""
    plt.style.use(str(files("nonsmooth") / "nonsmooth.mplstyle"))


def rule_family(rule: str) -> str:
    """The key of a rule's colour: native, minimal, exact, composed, or other."""
    family = rule.rsplit("-", 1)[-1]
    is_known = family in ("native", "minimal", "exact", "composed") and not rule.startswith("norm-")
    return family if is_known else "other"


def condition_title(condition: dict[str, Any]) -> str:
    """Architecture, dataset, optimizer and precision of a figure, and ReLU'(0) if it is not 0, for its title."""
    words = [word(condition[factor]) for factor in ("architecture", "dataset", "optimizer", "precision")]
    return ", ".join([*words, *relu_words(condition["relu_derivative"])])


def zone_words(values: dict[str, Any]) -> list[str]:
    """What tells one measurement of zones from another, in words; `values` may have any of the factors of the zones. No noise
    is not worth a word."""
    words = [word(values[name]) for name in ("dataset", "architecture", "normalization", "precision") if name in values]
    if "batch_size" in values:
        words.append(f"batch size {values['batch_size']:,}")
    if "program" in values:
        words.append(pair_words(values["program"], values["reference"]))
    if values.get("noise"):
        words.append(f"noise {values['noise']:g}")
    if "kernels" in values:
        words.append(f"{values['kernels']} kernels")
    return words


def part_words(program: str) -> str:
    """A program between native and the published one as readers know it, by its parts."""
    return PROGRAM_WORDS.get(program) or letters(PROGRAMS[program])


def program_style(program: str) -> dict[str, Any]:
    """Colour and mark of such a program's points, which are hollow where it has native's Jacobian at ties."""
    colour = PROGRAM_COLOURS[program]
    return {
        "color": colour,
        "marker": PROGRAM_MARKERS[program],
        "markerfacecolor": colour if PROGRAMS[program].jacobian or program == "native" else "white",
    }


def pair_words(program: str, reference: str) -> str:
    """Two programs in words; a program against itself is the control."""
    if program == reference:
        return f"{program_words(program)} twice (control)"
    kind, separator, derivative = program_words(program).partition("pooling, ")
    same, _, other = program_words(reference).partition("pooling, ")
    if separator and kind == same:  # two norm poolings: said once
        return f"{kind}{separator}{derivative.removesuffix(' at 0')} vs {other}"
    return f"{program_words(program)} vs {program_words(reference)}"


def program_words(program: str) -> str:
    """A program as readers know it: `native+relu-1` is native with ReLU'(0) = 1, `norm-1` is norm pooling with 1 at 0."""
    rule, separator, derivative = program.partition("+relu-")
    if rule.startswith("norm-"):
        composed = "composed " if rule.endswith("-composed") else ""
        rule = f"{composed}norm pooling, {rule.removeprefix('norm-').removesuffix('-composed')} at 0"
    return f"{rule}, ReLU'(0) = {derivative}" if separator else rule


def class_handles(names: Iterable[str]) -> list[Patch]:
    """The legend's entries of classes of minibatches, in the order of `CLASS_COLOURS`."""
    present = set(names)
    return [
        Patch(facecolor=colour, edgecolor="0.3", linewidth=0.5, hatch=CLASS_HATCHES.get(name), label=CLASS_WORDS[name])
        for name, colour in CLASS_COLOURS.items()
        if name in present
    ]


def relu_words(derivative: float) -> list[str]:
    """ReLU'(0) in words, where it is not PyTorch's 0."""
    return [f"ReLU'(0) = {derivative:g}"] if derivative != 0 else []


def span(values: pd.Series) -> str:
    """The range of integers in words: "3", or "2 to 3"."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def run_count(counts: pd.Series) -> str:
    """Numbers of runs in words: "1 run", or "2 to 3 runs"."""
    text = span(counts)
    return f"{text} {'run' if text == '1' else 'runs'}"


def places(runs: pd.DataFrame) -> pd.Series:
    """Where each run stands on the axis of rules: its beta, or the name of a rule that has none."""
    return runs.beta.astype(object).where(runs.beta.notna(), runs.rule)


def place_axis(places: Iterable[float | str]) -> dict[float | str, int]:
    """Evenly spaced positions: betas in increasing order, since they span orders of magnitude from 0, then names."""
    ordered = sorted(set(places), key=lambda place: (isinstance(place, str), place))
    return {place: position for position, place in enumerate(ordered)}


def place_label(place: float | str) -> str:
    """The label of a place: a beta without a decimal point if it is an integer, thousands with a comma; or a name."""
    if isinstance(place, str):
        return place
    return f"{place:,.0f}" if float(place).is_integer() else f"{place:,}"


# In the order in which they are preferred.
ACCURACY_TICKS = (
    90,
    99,
    50,
    80,
    95,
    98,
    70,
    10,
    99.5,
    99.9,
    60,
    97,
    85,
    30,
    96,
    99.8,
    92,
    0,
    75,
    94,
    98.5,
    99.2,
    88,
    65,
    40,
    20,
)


def scale_errors(axes: Iterable[Axes], accuracies: Iterable[float]) -> None:
    """Give axes of accuracies in percent a logarithmic scale of the error, on which 80 to 90 is as long as 98 to 99.

    So a run that learned nothing and a loss of one point in a hundred are both seen. The limits hold all of `accuracies`.
    To every error 0.01 points are added, so that none has its place, too.
    """

    def forward(accuracy):
        return -np.log10(100.01 - np.asarray(accuracy, float))

    def inverse(position):
        return 100.01 - 10.0 ** -np.asarray(position, float)

    low, high = forward([min(accuracies), max(accuracies)])
    margin = max(0.07 * (high - low), 0.02)
    limits = low - margin, high + margin
    ticks: list[float] = []
    for tick in ACCURACY_TICKS:
        place = float(forward(tick))
        is_apart = all(abs(place - float(forward(other))) > 0.1 * (limits[1] - limits[0]) for other in ticks)
        if limits[0] <= place <= limits[1] and is_apart:
            ticks.append(tick)
    for axis in axes:
        axis.set_yscale("function", functions=(forward, inverse))
        axis.set_yticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
        axis.yaxis.set_minor_locator(plt.NullLocator())
        axis.set_ylim(*inverse(limits))


def legend_columns(handles: Sequence[Any], figure: Figure) -> int:
    """As many entries of a legend side by side as fit into the figure, by the length of their labels."""
    characters = 13 * figure.get_figwidth()  # at the style's size of letters
    lengths = [len(handle.get_label()) + 6 for handle in handles]
    if sum(lengths) <= characters:
        return len(handles)
    return max(1, min(len(handles), int(characters // max(lengths))))


def set_title(figure: Figure, text: str) -> None:
    """The title of a figure, each line of it in as many lines as the figure's width needs."""
    lines = [fill(line, int(11 * figure.get_figwidth())) for line in text.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=10)


def save(figure: Figure, paths: Sequence[str | Path], data: pd.DataFrame, data_path: str | Path) -> None:
    """Save a figure in the format of each path's suffix, without a date, and the plotted data beside it."""
    for path in paths:
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(Path(path).suffix[1:], {})
        with atomic(path) as temporary:
            figure.savefig(temporary, metadata=metadata)
    with atomic(data_path) as temporary:
        data.to_csv(temporary, index=False)
    plt.close(figure)
