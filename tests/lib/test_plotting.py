"""What the figures share: words, axes and colours that cannot be confused, and files that come out the same twice."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nonsmooth import plotting
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS
from nonsmooth.datasets import DATASETS
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import EVALUATIONS, Hybrid, Minimal, Native
from nonsmooth.zones.tables import CLASSES

BETAS = (-10.0, 0.0, 1e-7, 0.5, 1.0, 10.0, 1000.0, 10000.0, 1e20)
# Color Universal Design, Okabe and Ito 2008.
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """matplotlib's settings and open figures as they were."""
    with plt.rc_context():
        yield
    plt.close("all")


# -------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("name", [*DATASETS, *ARCHITECTURES, *NORMALIZATIONS, "sgd", "adam"])
def test_every_name_that_readers_meet_has_a_word(name: str) -> None:
    assert plotting.word(name) != name


def test_words() -> None:
    assert len(set(plotting.WORDS.values())) == len(plotting.WORDS)
    assert plotting.word("float16") == "float16"
    assert plotting.word("<none>") == "<none>"


def test_names_of_tables_have_their_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what a user registers."""
    for name, entry in {**DATASETS, **ARCHITECTURES}.items():
        assert plotting.word(name) == entry.title
    titles = [entry.title for entry in (*DATASETS.values(), *ARCHITECTURES.values())]
    assert len(set(titles)) == len(titles)
    monkeypatch.setitem(ARCHITECTURES, "toynet", dataclasses.replace(ARCHITECTURES["lenet5"], title="Toy-Net"))
    assert plotting.word("toynet") == "Toy-Net"


def test_no_name_is_of_two_things() -> None:
    names = [*DATASETS, *ARCHITECTURES, *plotting.WORDS, *PRECISIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("derivative", "text"),
    [(0, ""), (0.0, ""), (-0.0, ""), (1.0, ", ReLU'(0) = 1"), (0.5, ", ReLU'(0) = 0.5"), (-2.0, ", ReLU'(0) = -2")],
)
def test_title_of_a_condition(derivative: float, text: str) -> None:
    """PyTorch's own ReLU is not worth a word."""
    condition = {"precision": "mixed16", "optimizer": "adam", "dataset": "mnist_5k", "architecture": "lenet5"}
    title = plotting.condition_title({**condition, "relu_derivative": derivative})
    assert title == f"LeNet-5, {plotting.word('mnist_5k')}, Adam, mixed16{text}"
    assert "".join(f", {word}" for word in plotting.relu_words(derivative)) == text


@pytest.mark.parametrize(
    ("values", "text"), [([3], "3"), ([3, 3], "3"), ([10, 2, 5], "2 to 10"), ([0, 0], "0"), ([9, 10], "9 to 10")]
)
def test_span(values: list[int], text: str) -> None:
    assert plotting.span(pd.Series(values)) == text


@pytest.mark.parametrize(("counts", "text"), [([1, 1], "1 run"), ([3], "3 runs"), ([1, 2], "1 to 2 runs")])
def test_counts_of_runs(counts: list[int], text: str) -> None:
    assert plotting.run_count(pd.Series(counts)) == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, []),
        (
            {"dataset": "cifar10", "architecture": "vgg11", "normalization": "none"},
            ["CIFAR-10", "VGG11", "without batch norm"],
        ),
        ({"precision": "tf32", "batch_size": 1024}, ["tf32", "batch size 1,024"]),
        ({"program": "minimal", "reference": "native", "noise": 0.0}, ["minimal vs native"]),
        ({"program": "native", "reference": "native", "noise": 0.01}, ["native twice (control)", "noise 0.01"]),
        ({"program": "native+relu-1", "reference": "native"}, ["native, ReLU'(0) = 1 vs native"]),
        ({"program": "norm-1", "reference": "norm-0"}, ["norm pooling, 1 vs 0 at 0"]),
        (
            {"program": "norm-1-composed", "reference": "norm--0.5-composed+relu-1"},
            ["composed norm pooling, 1 vs -0.5 at 0, ReLU'(0) = 1"],
        ),
        ({"kernels": "default"}, ["default kernels"]),
    ],
)
def test_words_of_a_measurement_of_zones(values: dict, words: list[str]) -> None:
    assert plotting.zone_words(values) == words


def test_every_class_of_minibatches_has_a_colour_and_a_word() -> None:
    known = {*CLASSES, ""}
    assert set(plotting.CLASS_COLOURS) == set(plotting.CLASS_WORDS) == known
    assert set(PRECISIONS) == set(plotting.PRECISION_COLOURS)
    for table in (plotting.CLASS_COLOURS, plotting.CLASS_WORDS, plotting.PRECISION_COLOURS):
        assert len(set(table.values())) == len(table)
    assert set(plotting.PRECISION_COLOURS.values()) <= OKABE_ITO


def test_legend_of_classes_has_those_that_there_are() -> None:
    handles = plotting.class_handles(["overflow", "real", "overflow", ""])
    assert [handle.get_label() for handle in handles] == ["real tie", "not finite", "cause not looked for"]


# ---------------------------------------------------------------------------------------- betas and rules


@pytest.mark.parametrize(
    ("place", "text"),
    [(0, "0"), (1, "1"), (10.0, "10"), (np.float64(1e4), "10,000"), (1e6, "1,000,000"), (-10, "-10"),
     (0.5, "0.5"), (-2.5, "-2.5"), (1e-3, "0.001"), (1e-7, "1e-07"), (1234.5, "1,234.5"), ("largest", "largest")],
)  # fmt: skip
def test_label_of_a_place(place: float | str, text: str) -> None:
    assert plotting.place_label(place) == text


def test_labels_tell_places_apart() -> None:
    """Box plots are grouped by them."""
    places = {*BETAS, 0.1234567, 0.12345678, 1000.001, 1000.0012, 1 + 2.0**-52, "largest", "other"}
    assert len({plotting.place_label(place) for place in places}) == len(places)


def test_places_are_spaced_evenly_betas_first_in_increasing_order() -> None:
    axis = plotting.place_axis([1e4, "other", 0.0, 10.0, 1.0, 1e4, "largest", 0.0, -3.0, 0.5])
    expected = [(-3.0, 0), (0.0, 1), (0.5, 2), (1.0, 3), (10.0, 4), (1e4, 5), ("largest", 6), ("other", 7)]
    assert list(axis.items()) == expected
    assert plotting.place_axis(pd.Series([1.0, 0.0])) == {0.0: 0, 1.0: 1}
    assert plotting.place_axis([]) == {}


def test_a_rule_without_a_beta_has_a_place_of_its_own() -> None:
    runs = pd.DataFrame(
        {
            "rule": ["native", "other", "hybrid-10-exact", "largest", "other"],
            "beta": [0.0, np.nan, 10.0, np.nan, np.nan],
        },
        index=[3, 1, 4, 5, 9],
    )
    found = plotting.places(runs)
    assert found.tolist() == [0.0, "other", 10.0, "largest", "other"]
    assert list(found.index) == list(runs.index)
    assert plotting.place_axis(found) == {0.0: 0, 10.0: 1, "largest": 2, "other": 3}
    # All have one, or none has.
    assert plotting.places(runs[runs.beta.isna()]).tolist() == ["other", "largest", "other"]
    assert plotting.places(runs[runs.beta.notna()]).tolist() == [0.0, 10.0]


def test_family_of_every_rule() -> None:
    assert [plotting.rule_family(str(rule)) for rule in (Native(), Minimal())] == ["native", "minimal"]
    for beta, evaluation in itertools.product(BETAS, EVALUATIONS):
        family = evaluation if evaluation in ("exact", "composed") else "other"
        assert plotting.rule_family(str(Hybrid(beta, evaluation))) == family
    assert {plotting.rule_family(name) for name in ("largest", "my-rule", "exactly")} == {"other"}
    assert {"native", "minimal", "other", "exact", "composed"} <= set(plotting.COLOURS)


def test_colours_are_distinct_and_for_any_colour_vision() -> None:
    """What is not ours is grey."""
    assert len(set(plotting.COLOURS.values())) == len(plotting.COLOURS)
    ours = {name: colour for name, colour in plotting.COLOURS.items() if name != "published"}
    assert set(ours.values()) <= OKABE_ITO
    red, green, blue = (plotting.COLOURS["published"][start : start + 2] for start in (1, 3, 5))
    assert red == green == blue


def test_programs_can_be_told_apart_with_any_colour_vision() -> None:
    """By colour, or by mark and whether it is filled."""
    assert list(plotting.PROGRAM_COLOURS) == list(plotting.PROGRAM_MARKERS) == list(PROGRAMS)
    assert len(set(plotting.PROGRAM_COLOURS.values())) == len(PROGRAMS)
    assert set(plotting.PROGRAM_COLOURS.values()) <= OKABE_ITO | {plotting.COLOURS["published"]}
    for name in ("native", "exact", "composed"):
        assert plotting.PROGRAM_COLOURS[name] == plotting.COLOURS[name]
    styles = {name: plotting.program_style(name) for name in PROGRAMS if name != "native"}  # which is a level
    marks = {(style["marker"], style["markerfacecolor"] == "white") for style in styles.values()}
    assert len(marks) == len(styles)
    assert {name for name, style in styles.items() if style["markerfacecolor"] == "white"} == {
        "forward", "backward", "forward_backward",
    }  # fmt: skip
    assert [plotting.part_words(name) for name in PROGRAMS] == [
        "native", "F", "B", "J (exact)", "F+B", "F+J", "B+J", "F+B+J (published)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "accuracies", [(10, 90), (9.8, 99.2), (97.5, 98.1), (99.9, 100), (0, 100), (10, 10), (50, 50.01), (88, 89.5)]
)
def test_scale_of_errors(accuracies: tuple[float, float]) -> None:
    plotting.use_style()
    figure, axes = plt.subplots(1, 2)
    plotting.scale_errors(axes, accuracies)
    for axis in axes:
        low, high = axis.get_ylim()
        ticks = axis.get_yticks()
        assert sorted(ticks) == list(ticks)
        assert all(low <= tick <= high for tick in ticks)
        assert [label.get_text() for label in axis.get_yticklabels()] == [f"{tick:g}" for tick in ticks]
        figure.draw_without_rendering()
        ends = axis.transAxes.inverted().transform(axis.transData.transform([(0, end) for end in accuracies]))
        assert 0 < ends[0, 1] <= ends[1, 1] < 1
        heights = axis.transData.transform([(0, tick) for tick in (80, 90, 98, 99)])[:, 1]
        # log(20/10) and log(2/1), but for 0.01 that are added.
        assert heights[1] - heights[0] == pytest.approx(heights[3] - heights[2], rel=0.01)
        places = axis.transAxes.inverted().transform(axis.transData.transform([(0, tick) for tick in ticks]))
        assert (np.diff(places[:, 1]) > 0.09).all()


def test_wide_ranges_have_several_ticks() -> None:
    axis = plt.figure().add_subplot()
    for accuracies in ((10, 90), (9.8, 99.2), (60, 98), (0, 100)):
        plotting.scale_errors([axis], accuracies)
        assert 4 <= len(axis.get_yticks()) <= 10


def test_a_long_title_has_lines_that_fit() -> None:
    plotting.use_style()
    text = "Fashion-MNIST, DenseNet-121, without batch norm, batch size 1,024: 10 draws of initial weights"
    for width, lines in ((3, 4), (5, 2), (12, 1)):
        figure = plt.figure(figsize=(width, 2))
        plotting.set_title(figure, text)
        found = figure.get_suptitle()
        assert found.split() == text.split()
        assert found.count("\n") + 1 == lines
        figure.draw_without_rendering()
        assert figure._suptitle.get_window_extent().width < figure.bbox.width


# --------------------------------------------------------------------------------------- style and saving


def test_style_is_valid_and_applied() -> None:
    path = str(files("nonsmooth") / "nonsmooth.mplstyle")
    wanted = matplotlib.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
    lines = [line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    assert len(wanted) == len(lines)
    plt.rcdefaults()
    plotting.use_style()
    assert {key: matplotlib.rcParams[key] for key in wanted} == dict(wanted)
    assert matplotlib.get_backend().lower() == "agg"


DATA = pd.DataFrame({"x": [1, 2, 3], "y": [0.1, None, 1 / 3], "word": ["a, b", "none", ""]})


def make_figure() -> Figure:
    """Some of everything that our figures have: lines, an area, clipping, an image, text, a legend."""
    plotting.use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(4, 2))
    left.plot(DATA.x, DATA.y, "o-", label="β = 10,000")
    left.fill_between(DATA.x, 0, DATA.x, alpha=0.2)
    right.imshow(np.eye(4))
    left.set_yscale("log")
    figure.legend(loc="outside lower center")
    figure.suptitle("mean ± std")
    return figure


def save(folder: Path) -> dict[str, bytes]:
    plotting.save(make_figure(), [folder / f"f.{suffix}" for suffix in ("pdf", "png", "svg")], DATA, folder / "f.csv")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_writes_every_format_and_the_data(tmp_path: Path) -> None:
    """And nothing else, into a folder that is made."""
    found = save(tmp_path / "new" / "folder")
    assert set(found) == {"f.pdf", "f.png", "f.svg", "f.csv"}
    assert found["f.pdf"].startswith(b"%PDF-")
    assert found["f.png"].startswith(b"\x89PNG\r\n")
    assert found["f.svg"].startswith(b"<?xml")
    assert "β = 10,000" in found["f.svg"].decode()  # text stays text
    again = pd.read_csv(tmp_path / "new/folder/f.csv", keep_default_na=False, na_values={"y": [""]})
    pd.testing.assert_frame_equal(again, DATA, check_exact=True, check_dtype=False)
    assert plt.get_fignums() == []


def test_a_figure_has_the_same_bytes_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SOURCE_DATE_EPOCH` is the time that matplotlib takes for now."""
    contents = []
    for number, date in enumerate(("0", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        contents.append(save(tmp_path / str(number)))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("failing", ["pdf", "svg", "csv"])
def test_a_failure_leaves_no_half_of_a_file(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"f.{suffix}" for suffix in ("pdf", "svg")]
    for path in (*paths, tmp_path / "f.csv"):
        path.write_text("old")

    def half(path: str | os.PathLike, *_, **__) -> None:
        Path(path).write_text("half")
        if Path(path).suffix == f".{failing}":
            raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", lambda _, path, **options: half(path))
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda _, path, **options: half(path))
    with pytest.raises(OSError, match="disk full"):
        plotting.save(plt.figure(), paths, DATA, tmp_path / "f.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"f.pdf", "f.svg", "f.csv"}
    assert (tmp_path / f"f.{failing}").read_text() == "old"
