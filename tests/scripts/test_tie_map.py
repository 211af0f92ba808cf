"""The map of ties: every tied pixel has a colour, and the counts are those of the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from nonsmooth import plotting
from nonsmooth.ties import find_ties, tie_counts

from .conftest import FORMATS, assert_readable, draw, legend, load

tie_map = load("maxpool/tie_map")
SETTINGS = {"dataset": "mnist_5k", "architecture": "lenet5", "image": 0, "seed": 0}
PRECISIONS = ["float16", "float64", "float32"]
COLOURS = {"at zero": "exact", "above zero": "composed", "by rounding": "accent"}


def measure(channels: int, precisions: list[str]) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Ties of made-up activations: thousandths round in 16 bits, and the last channel has no ties."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(4, (channels, 12, 12), generator=generator).float()
    image += torch.randint(3, image.shape, generator=generator) * 2.0**-11 * (image > 1)
    image[-1] = torch.arange(144.0).view(12, 12)
    found = {name: find_ties(image, nn.Sequential(nn.MaxPool2d(2)), name) for name in precisions}
    arrays = {f"{name}/{key}": array for name, ties in found.items() for key, array in ties.items()}
    return {"image": np.linspace(-1, 1, 144).reshape(1, 12, 12), **arrays}, tie_counts(found)


def painted(axes) -> dict[str, np.ndarray]:
    """The pixels of each colour."""
    found = {}
    for image in axes.images[1:]:
        assert image.get_alpha() in (None, 1)
        found[to_hex(image.cmap(0))] = ~np.ma.getmaskarray(image.get_array())
    return found


@pytest.mark.parametrize("channels", [1, 6, 8])
def test_every_tie_is_painted_once(channels: int) -> None:
    arrays, counts = measure(channels, PRECISIONS)
    figure, data = draw(tie_map.plot, arrays, counts, SETTINGS)
    pd.testing.assert_frame_equal(data, counts)
    shown = min(channels, 6)
    axes = np.array(figure.axes).reshape(len(PRECISIONS), shown + 1)
    for (row, column), panel in np.ndenumerate(axes):
        if column == 0:
            np.testing.assert_array_equal(panel.images[0].get_array(), arrays["image"][0])
            continue
        activations, tied, tied_in_float64 = (
            arrays[f"{precision}/{key}"][column - 1]
            for precision, key in ((PRECISIONS[row], "activations"), (PRECISIONS[row], "tied"), ("float64", "tied"))
        )
        np.testing.assert_array_equal(panel.images[0].get_array(), activations)
        expected = {
            "at zero": tied & tied_in_float64 & (activations == 0),
            "above zero": tied & tied_in_float64 & (activations > 0),
            "by rounding": tied & ~tied_in_float64,
        }
        found = painted(panel)
        for name, mask in expected.items():
            np.testing.assert_array_equal(found[plotting.COLOURS[COLOURS[name]].lower()], mask, err_msg=name)
        np.testing.assert_array_equal(sum(mask.astype(int) for mask in found.values()), tied)
    assert (channels == 1) == (not arrays["float16/tied"].any())


def test_the_figure_says_what_it_shows() -> None:
    arrays, counts = measure(6, PRECISIONS)
    figure, _ = draw(tie_map.plot, arrays, counts, SETTINGS)
    rows = figure.axes[:: 6 + 1]
    for axes, precision in zip(rows, PRECISIONS, strict=True):
        tied = arrays[f"{precision}/count"] > 1
        above = tied & (arrays[f"{precision}/maxima"] > 0)
        assert axes.get_ylabel() == f"{precision}\n{tied.sum()} of 216 tied,\n{above.sum()} above zero"
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["input", *(f"channel {n}" for n in range(1, 7)), *[""] * 14]
    assert figure.get_suptitle().startswith(f"LeNet-5, {plotting.word('mnist_5k')}: ")
    assert "of 6 channels" not in figure.get_suptitle()
    assert legend(figure) == ["tied at zero", "tied above zero", "tied by rounding (not in float64)"]
    assert_readable(figure)


def test_a_part_of_the_channels_is_said_to_be_one() -> None:
    figure, _ = draw(tie_map.plot, *measure(8, ["float32"]), SETTINGS)
    assert "6 of 8 channels" in figure.get_suptitle()
    assert legend(figure) == ["tied at zero", "tied above zero"]
    assert_readable(figure)


def test_the_script_reads_the_arrays(run_script, tmp_path) -> None:
    arrays, counts = measure(2, PRECISIONS)
    np.savez_compressed(tmp_path / "ties.npz", **arrays)
    counts.to_csv(tmp_path / "ties.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/tie_map",
        input={"arrays": tmp_path / "ties.npz", "counts": tmp_path / "ties.csv"},
        output=output,
        params={"ties": SETTINGS},
        log=[str(tmp_path / "job.log")],
    )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "ties.csv").read_bytes()
    # Letters are outlines, and each text stands beside them as a comment.
    assert f"<!-- {counts.tied[0]} of 72 tied, -->" in (tmp_path / "a.svg").read_text()
