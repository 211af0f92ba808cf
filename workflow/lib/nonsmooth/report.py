"""The replication report: one HTML file with everything inside it."""

from __future__ import annotations

import base64
import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from docutils.core import publish_doctree, publish_parts

from nonsmooth import plotting

# How docutils reads captions: no messages in the text, and nothing from outside it.
CAPTIONS = {"report_level": 5, "raw_enabled": False, "file_insertion_enabled": False}


@dataclass(frozen=True)
class Figure:
    """A figure of the report: the file it shows, its caption in reStructuredText, and how to remake it."""

    path: Path
    title: str
    caption: str
    command: str

    @property
    def source(self) -> str:
        """The SVG as a data URI."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.path.read_bytes()).decode()}"

    @property
    def caption_html(self) -> str:
        return rst(self.caption)

    @property
    def alt(self) -> str:
        return " ".join(publish_doctree(self.caption, settings_overrides=CAPTIONS).astext().split())

    @property
    def data(self) -> Path:
        return self.path.with_suffix(".csv")


@dataclass(frozen=True)
class Table:
    """A table of the report, the command that remakes it (if one does) and its files."""

    title: str
    data: pd.DataFrame
    caption: str
    command: str = ""
    files: tuple[str, ...] = ()
    collapsed: bool = False
    wraps: bool = False  # for sentences in cells

    @property
    def caption_html(self) -> str:
        return rst(self.caption)

    @property
    def html(self) -> str:
        shown = self.data.copy()
        numeric = {name for name in shown if pd.api.types.is_numeric_dtype(shown[name])}
        header = "".join(
            f"<th{' class=number' if name in numeric else ''}>{jinja2.filters.escape(name)}</th>" for name in shown
        )
        rows = []
        for row in shown.itertuples(index=False):
            cells = (
                f"<td{' class=number' if name in numeric else ''}>{jinja2.filters.escape(_text(value))}</td>"
                for name, value in zip(shown, row, strict=True)
            )
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table{' class=wraps' if self.wraps else ''}><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@dataclass
class Section:
    """A part of a chapter: text (HTML paragraphs), then figures and tables."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Sources:
    """What chapters are made of: the figures and captions of a run, and what a command needs to remake them.

    Attributes:
        run: name of the preset.
        figures: the SVG of every figure, by its path below `figures/<run>/maxpool` or another folder, without the suffix.
        captions: reStructuredText by the name of the figure or table.
        options: of a snakemake command that means this preset, with a space before them.
    """

    run: str
    figures: dict[str, Path]
    captions: dict[str, str]
    options: str = ""

    def figure(self, stem: str, title: str) -> Figure:
        """The figure at a path, under a title."""
        path = self.figures[stem]
        return Figure(
            path, title, self.captions[stem.split("/")[0]], f"snakemake {path.with_suffix('.pdf')}{self.options}"
        )

    def of(self, kind: str) -> list[str]:
        """The paths of all figures of a kind, such as one per network."""
        return [stem for stem in self.figures if stem.startswith(f"{kind}/")]

    def table(self, name: str, data: pd.DataFrame, title: str, collapsed: bool = False) -> Table:
        """A table for readers, whose files are in `figures/<run>/maxpool`."""
        files = tuple(f"figures/{self.run}/maxpool/{name}.{suffix}" for suffix in ("csv", "md", "tex"))
        return Table(title, data, self.captions[name], f"snakemake {files[0]}{self.options}", files, collapsed)


def render(
    preset: str,
    summary: list[str],
    sections: list[Section],
    provenance: dict[str, Any],
    front: Section | None = None,
) -> str:
    """The report as HTML.

    Args:
        preset: name of the preset.
        summary: sentences for the top of the report.
        sections: in reading order.
        provenance: what `combined_provenance` returns, and `remake`, the command for the whole report.
        front: the rest of the first page, before the contents.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nonsmooth"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        preset=preset,
        summary=summary,
        front=front,
        sections=sections,
        provenance=provenance,
        date=datetime.date.today().isoformat(),
    )


def combined_provenance(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Versions, machines, devices, commits and settings of all cells; several values where cells differ."""

    def distinct(key) -> list[str]:
        return sorted({str(key(record)) for record in records})

    packages = dict.fromkeys(name for record in records for name in record["versions"])
    return {
        "versions": {
            name: ", ".join(distinct(lambda r, n=name: r["versions"].get(n) or "not installed")) for name in packages
        },
        "devices": distinct(lambda r: f"{r['device']['name']} ({r['device']['type']}, {r['device']['capability']})"),
        "machines": distinct(lambda r: "{cpu}, {cores} cores, {memory_gib} GiB, {system}".format(**r["machine"])),
        "commits": distinct(
            lambda r: (r["git"]["commit"] or "not in git") + (" with local changes" if r["git"]["dirty"] else "")
        ),
        "numerics_versions": distinct(lambda r: r["numerics_version"]),
        "settings": distinct(lambda r: ", ".join(f"{k} {v}" for k, v in sorted(r["settings"].items()))),
    }


def rst(text: str) -> str:
    """reStructuredText as an HTML fragment."""
    return publish_parts(text, writer="html5", settings_overrides=CAPTIONS)["fragment"]


def words(count: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun: "1 run", "3 runs"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return plotting.word(str(value)) if isinstance(value, str) else f"{value:,}"
