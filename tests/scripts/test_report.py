"""The report of a made-up preset: every number in its text recomputed from the runs, and every file in its place."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import maxpool, plotting
from nonsmooth.precision import PRECISIONS

from .conftest import ROOT, Study, composed_diverges, load, no_cell_diverges, of_condition

report = load("report/report")
summary = load("maxpool/summary")
FACTORS = {
    "precision": ["float16", "mixed16"],
    "seed": [0, 1],
    "rule": ["native", "minimal", "hybrid-10-composed", "hybrid-10000-exact", "hybrid-10000-composed"],
}
GROUPS = ["mnist_5k/lenet5/sgd/float16", "mnist_5k/lenet5/sgd/mixed16"]
STEMS = ["accuracy_by_beta", *(f"{kind}/{group}" for kind in ("accuracy", "loss") for group in GROUPS), "tie_map"]
DIGITS = plotting.word("mnist_5k")
TIES = pd.DataFrame(
    {"precision": ["float16", "float64"], "windows": [864, 864], "tied": [401, 400], "tied_at_zero": [230, 230],
     "tied_above_zero": [171, 170], "mean_size_of_ties": [3.5985, float("nan")]}
)  # fmt: skip


class Page:
    """The text and tables of a report."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        self.text = plain(self.source[self.source.index("<body>") :])
        self.images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]*)"', self.source)
        self.sections = {
            plain(section.split("</h2>")[0]): section for section in re.split(r"<h2[^>]*>", self.source)[1:]
        }

    def table(self, title: str) -> list[list[str]]:
        """Header and rows of the table with a title."""
        (found,) = re.findall(rf"(?:<h3>|<summary>){re.escape(title)}.*?<table>(.*?)</table>", self.source, re.DOTALL)
        return [
            [plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr>(.*?)</tr>", found)
        ]


def plain(source: str) -> str:
    """Text without markup, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", source)).split())


@pytest.fixture
def write_report(tmp_path: Path, run_script, monkeypatch):
    """`write_report(study)`: the report that the rule makes of a study's files, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def write(made: Study, config_files: list[str], ties: pd.DataFrame | None = TIES) -> Page:
        results, figures = Path("results/tiny/maxpool"), Path("figures/tiny/maxpool")
        stems = STEMS if ties is not None else STEMS[:-1]
        for stem in stems:
            (figures / stem).parent.mkdir(parents=True, exist_ok=True)
            (figures / f"{stem}.svg").write_text(f"<svg>{stem}</svg>")
        results.mkdir(parents=True)
        made.runs.to_csv(results / "runs.csv", index=False)
        maxpool.costs(made.runs).to_csv(results / "costs.csv", index=False)
        summary.table(maxpool.summarize(made.runs)).to_csv(figures / "summary.csv", index=False)
        if ties is not None:
            ties.to_csv(results / "ties.csv", index=False)
        run_script(
            "report/report",
            input={
                "figures": [str(figures / f"{stem}.svg") for stem in stems],
                "runs": str(results / "runs.csv"),
                "summary": str(figures / "summary.csv"),
                "costs": str(results / "costs.csv"),
                "ties": [str(results / "ties.csv")] if ties is not None else [],
                "records": made.files.records,
                "captions": [str(path) for path in (ROOT / "workflow/report/maxpool").glob("*.rst")],
            },
            output=["figures/tiny/report.html"],
            wildcards={"run": "tiny"},
            params={"config_files": config_files},
            log=["logs/report.log"],
        )
        return Page(Path("figures/tiny/report.html"))

    return write


def mean_percent(rows: list[dict]) -> str:
    return f"{100 * sum(row['test_accuracy'] for row in rows) / len(rows):.1f} %"


def diverged(rows: list[dict]) -> int:
    return sum(row["diverged"] for row in rows)


def expected_sentence(runs: pd.DataFrame, precision: str) -> str:
    native, exact, composed = (
        of_condition(runs, {"precision": precision, "rule": rule})
        for rule in ("native", "hybrid-10000-exact", "hybrid-10000-composed")
    )
    assert diverged(exact) == 0 < diverged(composed)
    return (
        f"{precision}, SGD: native {mean_percent(native)}; exact hybrid {mean_percent(exact)} at β = 10,000 (no run "
        f"diverges); composed hybrid {mean_percent(composed)} at β = 10,000 (runs diverge at β = 10,000)."
    )


def test_the_text_says_what_the_runs_say(study, write_report) -> None:
    made = study(composed_diverges, **FACTORS)
    rows = made.runs.to_dict("records")
    page = write_report(made, ["config/config.yaml"])
    lost = diverged(rows)
    minutes = round(sum(row["job_seconds"] for row in rows) / 60)
    scaled = [row for row in rows if row["skipped_steps"]]
    left = [name for name in PRECISIONS if name not in FACTORS["precision"]]
    assert (len(rows), lost) == (40, 8)
    for sentence in (
        "Preset tiny, ",
        f"40 runs, of which 8 diverged; {minutes} minutes of jobs.",
        expected_sentence(made.runs, "float16"),
        expected_sentence(made.runs, "mixed16"),
        f"40 training runs: LeNet-5 on {DIGITS}; without batch norm, with batch norm; SGD; float16, mixed16; "
        "β = 0, 1, 10, 10,000; 2 seeds per condition; 4 epochs, batch size 128.",
        *(
            f"SGD {precision} {normalization} batch norm 0.05"
            for precision in ("float16", "mixed16")
            for normalization in ("without", "with")
        ),
        "8 runs of 40 reached a non-finite loss or weight.",
        f"The loss scaler skipped steps in {len(scaled)} runs ({sum(row['skipped_steps'] for row in scaled):,} of "
        f"{sum(row['steps'] for row in scaled):,} steps there)",
        f"No network was trained in: {', '.join(left)}.",
    ):
        assert sentence in page.text


def test_the_tables_hold_the_numbers(study, write_report) -> None:
    made = study(composed_diverges, **FACTORS)
    page = write_report(made, ["config/config.yaml"])

    # Factors of one value are in the text.
    header, *rows = page.table("Diverged runs")
    assert header == ["normalization", "precision", "rule", "diverged", "runs", "first at step"]
    keys = ["normalization", "precision", "rule"]
    expected = []
    for values in made.runs[keys].drop_duplicates().itertuples(index=False, name=None):
        members = of_condition(made.runs, dict(zip(keys, values, strict=True)))
        steps = [int(row["first_nonfinite_step"]) for row in members if row["diverged"]]
        if steps:
            low, high = min(steps), max(steps)
            step = f"{low}" if low == high else f"{low} to {high}"
            expected.append([*map(plotting.word, values), str(len(steps)), str(len(members)), step])
    assert rows == expected

    header, *rows = page.table("Cost")
    assert header == ["precision", "runs", "epochs", "device", "images/s", "job time (s)", "memory (MiB)"]
    for row, cost in zip(rows, maxpool.costs(made.runs).itertuples(), strict=True):
        numbers = (cost.images_per_second, cost.job_seconds, cost.peak_memory_mib)
        assert row == [cost.precision, "20", "4", "a processor", *(f"{round(number):,}" for number in numbers)]

    header, *rows = page.table("Final accuracy of every condition")
    assert header == list(summary.HEADINGS.values())
    for row, values in zip(rows, maxpool.summarize(made.runs).to_dict("records"), strict=True):
        assert row[5] == plotting.beta_label(values["beta"])
        assert row[7:11] == [f"{100 * values[f'test_accuracy_{name}']:.2f}" for name in ("mean", "std", "min", "max")]
        assert row[11:] == ["2", str(values["diverged"])]

    header, *rows = page.table("Ties in the windows of the first pooling")
    assert header == [name.replace("_", " ") for name in TIES]
    assert rows == [["float16", "864", "401", "230", "171", "3.60"], ["float64", "864", "400", "230", "170", ""]]

    _, *rows = page.table("Published experiments not run in this preset")
    assert [row[0] for row in rows] == [name for name in maxpool.EXPERIMENTS if name not in ("accuracy", "loss", "ties")]  # fmt: skip


def test_figures_are_in_their_chapters_with_how_to_remake_them(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ["config/presets/my own.yaml"])
    assert [base64.b64decode(image).decode() for image in page.images] == [f"<svg>{stem}</svg>" for stem in STEMS]
    chapters = {"accuracy_by_beta": "Accuracy against β", "accuracy": "Accuracy against β", "loss": "Training loss",
                "tie_map": "Where the ties are"}  # fmt: skip
    for stem in STEMS:
        chapter = plain(page.sections[chapters[stem.split("/")[0]]])
        path = f"figures/tiny/maxpool/{stem}"
        assert f"Remake: snakemake {path}.pdf --configfile 'config/presets/my own.yaml'" in chapter
        assert f"plotted data: {path}.csv" in chapter
    assert page.text.count(f"LeNet-5 on {DIGITS}, SGD, mixed16") == 2
    assert "Remake everythingsnakemake --configfile 'config/presets/my own.yaml'" in page.text


def test_the_default_preset_needs_no_option(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ["config/config.yaml"])
    assert "--configfile" not in page.text
    assert "No run of 40 reached" in page.text
    assert "Diverged runs" not in page.sections["What diverged"]


def test_what_was_not_measured_is_left_out_and_listed(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ["config/config.yaml"], ties=None)
    assert "Where the ties are" not in page.sections
    assert "ties" in [row[0] for row in page.table("Published experiments not run in this preset")]
    assert len(page.images) == len(STEMS) - 1


def test_a_memory_that_snakemake_could_not_see_is_empty() -> None:
    cost = {"images_per_second": 999.6, "job_seconds": 0.4, "peak_memory_mib": float("nan")}
    (row,) = report.readable_costs(pd.DataFrame([cost])).to_dict("records")
    assert (row["images/s"], row["job time (s)"], pd.isna(row["memory (MiB)"])) == (1000, 0, True)


# ------------------------------------------------------------------------------------------------ sentences


def sentences(runs: pd.DataFrame) -> list[str]:
    """The summary without the counts, which are its first."""
    return [" ".join(sentence.split()) for sentence in report.summary_sentences(runs)[1:]]


def test_counts_have_their_noun(study) -> None:
    runs = study(rule=["native"], seed=[0], normalization=["none"]).runs.assign(job_seconds=65.0)
    assert report.summary_sentences(runs)[0].startswith("1 run, of which 0 diverged; 1 minute of jobs.")


def test_what_was_not_run_is_not_in_the_summary(study) -> None:
    one = {"seed": [0], "normalization": ["none"]}
    runs = study(rule=["native", "minimal"], **one).runs
    assert sentences(runs) == [f"float16, SGD: native {mean_percent(of_condition(runs, {'rule': 'native'}))}."]
    assert sentences(study(rule=["minimal"], **one).runs) == []
    runs = study(rule=["minimal", "hybrid-0.5-composed"], **one).runs
    composed = mean_percent(of_condition(runs, {"evaluation": "composed"}))
    assert sentences(runs) == [f"float16, SGD: composed hybrid {composed} at β = 0.5 (no run diverges)."]


def test_diverged_native_runs_are_said(study) -> None:
    runs = study(lambda cell: 1 if cell.seed == 0 else None, rule=["native"], normalization=["none"]).runs
    assert sentences(runs)[0].endswith("(1 of 3 runs diverged).")


def test_betas_at_which_runs_diverge_are_listed(study) -> None:
    """Not all above the first need to."""
    runs = study(
        lambda cell: 2 if cell.rule in ("hybrid-10-exact", "hybrid-10000-exact") and cell.seed == 0 else None
    ).runs
    (sentence,) = sentences(runs)
    assert re.findall(r"(exact|composed) hybrid [\d.]+ % at β = 10,000 \(([^)]*)\)", sentence) == [
        ("exact", "runs diverge at β = 10, 10,000"), ("composed", "no run diverges")
    ]  # fmt: skip


def test_like_is_compared_with_like(study) -> None:
    """Hybrid ran without batch norm only, and composed on one dataset only: native elsewhere does not count."""
    runs = study(seed=[0, 1], dataset=["mnist_5k", "fashion_mnist"], rule=FACTORS["rule"]).runs
    is_kept = (runs.evaluation == "exact") | (runs.dataset == "mnist_5k")
    runs = runs[(runs.evaluation == "") | ((runs.normalization == "none") & is_kept)]
    expected = [
        mean_percent(of_condition(runs, {"rule": rule, "dataset": "mnist_5k", "normalization": "none"}))
        for rule in ("native", "hybrid-10000-exact", "hybrid-10000-composed")
    ]
    (sentence,) = sentences(runs)
    assert re.findall(r"[\d.]+ %", sentence) == expected


def test_numbers_of_seeds_and_epochs_that_differ_are_said(study) -> None:
    runs = study(precision=["float16", "float32"]).runs
    runs = runs[(runs.precision == "float16") | (runs.seed < 2)].assign(epochs=1)
    text = report.conditions_sentence(runs)
    assert "; 2 to 3 seeds per condition; 1 epoch, batch size 128." in text
    runs.loc[runs.precision == "float32", "epochs"] = 10
    assert "1, 10 epochs, " in report.conditions_sentence(runs)


def test_rates_are_told_apart(study) -> None:
    runs = study(seed=[0], dataset=["mnist_5k", "fashion_mnist"], rule=["native", "minimal"]).runs
    runs.loc[(runs.dataset == "fashion_mnist") & (runs.normalization == "none"), "learning_rate"] = 0.001234
    assert sorted(report.rate_sentences(runs)) == sorted(
        f"SGD float16 {plotting.word(normalization)} LeNet-5 on {plotting.word(dataset)} "
        + ("0.001234" if (dataset, normalization) == ("fashion_mnist", "none") else "0.05")
        for dataset in ("mnist_5k", "fashion_mnist")
        for normalization in ("none", "batch_norm")
    )
