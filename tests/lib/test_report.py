"""The report's HTML: nothing outside the file, nothing of the data read as markup, every value as a reader expects it."""

from __future__ import annotations

import base64
import datetime
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree

from nonsmooth.files import write_json
from nonsmooth.provenance import environment
from nonsmooth.report import Figure, Section, Table, combined_provenance, render, rst, words

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = sorted(ROOT.glob("workflow/report/**/*.rst"))
HOSTILE = """<script>alert("1")</script><img src='x' onerror='y'> & 'a' "b" {{ 7 * 7 }} {% raw %} </td></table>"""
VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass
class Page(HTMLParser):
    """A parsed page: its elements in order with their attributes, and the text inside each."""

    source: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[int] = []
        self.feed(self.source)
        self.close()
        assert self.open == [], "elements left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.texts[index] += data

    def all(self, tag: str) -> list[str]:
        """The texts of all elements of a kind."""
        return [text for (name, _), text in zip(self.elements, self.texts, strict=True) if name == tag]

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


PROVENANCE = {
    "devices": ["a processor (cpu, AVX2)"],
    "machines": ["a processor, 2 cores, 4 GiB, Linux x86_64"],
    "settings": ["device cpu, threads 1"],
    "commits": ["abc", "abc with local changes"],
    "numerics_versions": ["1"],
    "versions": {"python": "3.11.7", "torch": "2.9, 2.10"},
    "remake": "snakemake",
}


@pytest.fixture
def svg(tmp_path: Path) -> Path:
    path = tmp_path / "accuracy.svg"
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><text>β</text></svg>", encoding="utf-8")
    return path


def page(text: str = "fine", figure: Path | None = None, provenance: dict | None = None) -> Page:
    """A report with `text` in every place that takes plain text."""
    table = Table(text, pd.DataFrame({text: [text], "n": [1]}), text, text, (text, "b.csv"))
    folded = Table(text, table.data, text, text, collapsed=True)
    figures = [] if figure is None else [Figure(figure, text, text, text)]
    sections = [
        Section("What was asked", ["<em>One</em>"]),
        Section("Accuracy against β", figures=figures, tables=[table, folded]),
    ]
    return Page(render(text, [text, "Second."], sections, provenance or PROVENANCE))


# --------------------------------------------------------------------------------------------------- page


def test_nothing_is_outside_the_file(svg: Path) -> None:
    found = page(figure=svg)
    references = found.attributes("src") + found.attributes("href")
    assert len(references) == 4  # a figure and three chapters
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.elements}
    assert not re.search(r"url\(|@import|https?:", "".join(found.all("style")))


def test_links_lead_somewhere(svg: Path) -> None:
    found = page(figure=svg)
    ids = found.attributes("id")
    assert len(ids) == len(set(ids)) == 3
    assert [f"#{anchor}" for anchor in ids] == found.attributes("href")
    assert not any(re.search(r"\s", anchor) for anchor in ids)


def test_the_parts_are_there_in_order(svg: Path) -> None:
    found = page(figure=svg)
    assert found.all("h1") == ["Can I trust the gradient?"]
    assert found.all("h2") == ["What was asked", "Accuracy against β", "Versions and machine"]
    text = found.all("body")[0]
    parts = ["fine", datetime.date.today().isoformat(), "Second.", "What was asked", "One", "Accuracy against β",
             "Remake: fine", str(svg.with_suffix(".csv")), "files: fine, b.csv", "fine (1 row)",
             "abc; abc with local changes", "python 3.11.7, torch 2.9, 2.10", "snakemake"]  # fmt: skip
    position = 0
    for part in parts:
        position = text.index(part, position)
    assert "One" in found.all("em")
    assert len(found.all("details")) == 1


def test_a_figure_is_in_the_page(svg: Path) -> None:
    found = page(figure=svg)
    ((_, image),) = [element for element in found.elements if element[0] == "img"]
    kind, encoded = image["src"].split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(encoded) == svg.read_bytes()
    assert Figure(svg, "", "*exact* and\n``c``  d", "").alt == "exact and c d"


def test_nothing_is_read_as_markup(svg: Path) -> None:
    """The same elements as for a harmless text, and the hostile one readable in each of its places."""
    harmless, hostile = page("fine", svg), page(HOSTILE, svg)
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert len(hostile.all("body")[0].split(HOSTILE)) == len(harmless.all("body")[0].split("fine"))
    assert HOSTILE in hostile.all("title")[0]
    assert all(attributes["alt"] == HOSTILE for tag, attributes in hostile.elements if tag == "img")


def test_provenance_is_not_read_as_markup() -> None:
    values = {key: [HOSTILE] for key in PROVENANCE}
    provenance = {**values, "versions": {HOSTILE: HOSTILE}, "remake": HOSTILE}
    found = page(provenance=provenance)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in page().elements]
    assert found.all("dl")[0].count(HOSTILE) == 8


# ------------------------------------------------------------------------------------------------- tables


def cells(data: dict) -> list[list[tuple[str, bool]]]:
    """Text, and whether it is aligned right, of the header and the rows of a table."""
    found = Page(Table("", pd.DataFrame(data), "", "").html)
    flat = [
        (text, attributes.get("class") == "number")
        for (tag, attributes), text in zip(found.elements, found.texts, strict=True)
        if tag in ("th", "td")
    ]
    return [flat[start : start + len(data)] for start in range(0, len(flat), len(data))]


@pytest.mark.parametrize(
    ("values", "shown", "is_number"),
    [
        ([1, 20000], ["1", "20,000"], True),
        ([0.125, 1234.5], ["0.12", "1,234.50"], True),
        ([1.0, None], ["1.00", ""], True),
        ([np.inf, -2.0], ["inf", "-2.00"], True),
        (pd.array([3, None], dtype="Int64"), ["3", ""], True),
        (np.array([1.5, 2.5], np.float32), ["1.50", "2.50"], True),
        (["a", None], ["a", ""], False),
        (["none", "batch_norm"], ["without batch norm", "with batch norm"], False),
        (["resnet18", "imagenet"], ["ResNet-18", "ImageNet"], False),
        (["yes", ""], ["yes", ""], False),
        (["10,000", "1"], ["10,000", "1"], False),
        (["hybrid-10-exact", ""], ["hybrid-10-exact", ""], False),
    ],
)
def test_values_of_a_table(values, shown: list[str], is_number: bool) -> None:
    header, *rows = cells({"name": ["x", "y"], "value": values})
    assert header == [("name", False), ("value", is_number)]
    assert rows == [[("x", False), (shown[0], is_number)], [("y", False), (shown[1], is_number)]]


def test_a_table_without_rows_has_its_header() -> None:
    assert cells({"dataset": np.array([], str), "runs": np.array([], int)}) == [[("dataset", False), ("runs", True)]]


# ------------------------------------------------------------------------------------------------- captions


def test_captions_are_restructuredtext() -> None:
    found = Page(rst("*exact* and ``code``, 1 < 2\n\nSecond."))
    assert found.all("p") == ["exact and code, 1 < 2", "Second."]
    assert found.all("em") == ["exact"]


def test_every_chapter_has_a_caption() -> None:
    """And every caption a chapter: the names are those that the rules know."""
    rules = (ROOT / "workflow/rules/common.smk").read_text(encoding="utf-8")
    known: dict = {}
    for name in (
        "MAXPOOL_GROUP_FIGURES",
        "FACTORIAL_FIGURES",
        "PROGRAM_FIGURES",
        "ZONE_FIGURES",
        "ZONE_TABLES",
        "MAXPOOL_CAPTIONS",
        "BENCHMARK_FIGURES",
    ):
        (listed,) = re.findall(rf"^{name} = ([\[{{].*?[\]}}])$", rules, re.MULTILINE | re.DOTALL)
        known[name] = eval(listed, known)
    names = [*known["MAXPOOL_CAPTIONS"], *known["BENCHMARK_FIGURES"], "claims"]
    assert sorted(names) == sorted(path.stem for path in CAPTIONS)


@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: path.stem)
def test_the_projects_captions_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    publish_doctree(text, settings_overrides={"halt_level": 1, "report_level": 5})
    assert "*" not in "".join(Page(rst(text)).all("p"))


def test_a_wrong_caption_leaves_no_message_of_docutils() -> None:
    assert "system-message" not in rst("*unfinished and `odd")


@pytest.mark.parametrize("directive", ["raw:: html\n\n   <b>raw</b>", "include:: {path}", "csv-table::\n   :file: {path}"])  # fmt: skip
def test_a_caption_brings_in_no_file_and_no_html(directive: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("raw")
    assert "raw</" not in rst(f".. {directive.format(path=path)}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((1, "run"), "1 run"), ((0, "run"), "0 runs"), ((2500, "run"), "2,500 runs"), ((1, "box", "boxes"), "1 box"),
     ((2, "box", "boxes"), "2 boxes")],
)  # fmt: skip
def test_counts_have_their_noun(arguments: tuple, text: str) -> None:
    assert words(*arguments) == text


# ----------------------------------------------------------------------------------------------- provenance


def record(**changes) -> dict:
    """What a cell records, with other values where given (`git__dirty=True` is that of `git`)."""
    values = {
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "device": {"name": "a processor", "type": "cpu", "capability": "AVX2"},
        "machine": {"cpu": "a processor", "cores": 2, "memory_gib": 23.5, "system": "Linux x86_64"},
        "git": {"commit": "abc", "dirty": False},
        "numerics_version": 1,
        "settings": {"threads": 1, "device": "cpu", "deterministic": True},
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        values[part] = {**values[part], name: value} if name else value
    return values


def test_cells_that_agree_give_one_value() -> None:
    assert combined_provenance([record(), record(), record()]) == {
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "devices": ["a processor (cpu, AVX2)"],
        "machines": ["a processor, 2 cores, 23.5 GiB, Linux x86_64"],
        "commits": ["abc"],
        "numerics_versions": ["1"],
        "settings": ["deterministic True, device cpu, threads 1"],
    }


def test_cells_that_differ_give_all_values() -> None:
    gpu = {"name": "NVIDIA H100", "type": "cuda", "cuda": "12.8", "capability": "9.0"}
    found = combined_provenance(
        [
            record(),
            record(git__dirty=True, versions__torch="2.10.0"),
            record(git={"commit": None, "dirty": None}, machine__cores=64, numerics_version=2),
            record(device=gpu, settings__device="cuda", versions={"python": "3.11.7", "torch": "2.9.0", "scipy": "1"}),
        ]
    )
    assert found["commits"] == ["abc", "abc with local changes", "not in git"]
    assert found["devices"] == ["NVIDIA H100 (cuda, 9.0)", "a processor (cpu, AVX2)"]
    assert [machine.split(", ")[1] for machine in found["machines"]] == ["2 cores", "64 cores"]
    assert found["numerics_versions"] == ["1", "2"]
    assert [setting.split(", ")[1] for setting in found["settings"]] == ["device cpu", "device cuda"]
    assert set(found["versions"]["torch"].split(", ")) == {"2.9.0", "2.10.0"}
    # A package that only some cells had is listed, whichever cell comes first.
    assert found["versions"]["python"] == "3.11.7"
    assert "1" in found["versions"]["scipy"].split(", ")


def test_what_cells_record_can_be_combined(tmp_path: Path) -> None:
    real = {**record(), **environment()}
    found = combined_provenance([real])
    assert found["versions"] == {name: str(version) for name, version in real["versions"].items()}
    write_json(tmp_path / "provenance.json", found)
