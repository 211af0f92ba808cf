"""The report of a made-up preset: every number in its text recomputed from the runs, and every file in its place."""

from __future__ import annotations

import base64
import html
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from snakemake.cli import parse_config

from nonsmooth import claims, costs, factorial, front_page, maxpool, mitigations, plotting, speed
from nonsmooth.files import write_json
from nonsmooth.precision import PRECISIONS

from .conftest import OTHER, ROOT, Study, composed_diverges, load, no_cell_diverges, of_condition

report = load("report/report")
tables = load("maxpool/tables")
learning_rates = load("maxpool/learning_rates")
claims_judge = load("claims/claims_judge")
mitigations_script = load("maxpool/mitigations")
CLAIMS = claims.read(ROOT / "data/claims/maxpool.yaml")
FACTORS = {
    "precision": ["float16", "mixed16"],
    "seed": [0, 1],
    "rule": ["native", "minimal", "hybrid-10-composed", "hybrid-10000-exact", "hybrid-10000-composed"],
}
GROUPS = ["mnist_5k/lenet5/sgd/float16/relu-0", "mnist_5k/lenet5/sgd/mixed16/relu-0"]
KINDS = ("accuracy", "loss", "accuracy_by_epoch")
STEMS = ["accuracy_by_beta", *(f"{kind}/{group}" for kind in KINDS for group in GROUPS), "tie_map"]
DIGITS = plotting.word("mnist_5k")
TIES = pd.DataFrame(
    {"precision": ["float16", "float64"], "windows": [864, 864], "tied": [401, 400], "tied_at_zero": [230, 230],
     "tied_above_zero": [171, 170], "mean_size_of_ties": [3.5985, math.nan]}
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
        (found,) = re.findall(
            rf"(?:<h3>|<summary>){re.escape(title)}.*?<table[^>]*>(.*?)</table>", self.source, re.DOTALL
        )
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

    def write(
        made: Study,
        config_files: Sequence[str] = ("config/config.yaml",),
        overrides: dict | None = None,
        ties: pd.DataFrame | None = TIES,
        searches: pd.DataFrame | None = None,
        stems: Sequence[str] = STEMS,
        layers: Path | None = None,
        benchmarks: Mapping[str, pd.DataFrame] | None = None,
    ) -> Page:
        results, figures = Path("results/tiny/maxpool"), Path("figures/tiny/maxpool")
        stems = [stem for stem in stems if ties is not None or stem != "tie_map"]
        for stem in stems:
            (figures / stem).parent.mkdir(parents=True, exist_ok=True)
            (figures / f"{stem}.svg").write_text(f"<svg>{stem}</svg>")
        results.mkdir(parents=True)
        made.runs.to_csv(results / "runs.csv", index=False)
        maxpool.costs(made.runs).to_csv(results / "costs.csv", index=False)
        made.published.to_csv(results / "published.csv", index=False)
        maxpool.summarize(made.runs).to_csv(results / "summary.csv", index=False)
        for name, headings in (("summary", tables.SUMMARY), ("published", tables.PUBLISHED)):
            table = tables.readable(tables.read(str(results / f"{name}.csv")), headings)
            table.to_csv(figures / f"{name}.csv", index=False)
        judged, conditions = claims.evaluate(CLAIMS, claims.Tables(runs=made.runs), claims.Settings())
        judged.to_csv(results.parent / "claims.csv", index=False)
        conditions.to_csv(results.parent / "claims_conditions.csv", index=False)
        claims_judge.readable(judged).to_csv(figures.parent / "claims.csv", index=False)
        helped = mitigations.compare(made.runs)
        mitigations_script.readable(helped).to_csv(figures / "mitigations.csv", index=False)
        factorials = {
            "factorial": factorial.cells_table(made.runs),
            "factorial_effects": factorial.effects_table(made.runs),
        }
        for name, table in factorials.items():
            table.to_csv(results / f"{name}.csv", index=False)
        for name, table in (("ties", ties), ("searches", searches)):
            if table is not None:
                table.to_csv(results / f"{name}.csv", index=False)
        measured = Path("results/tiny/benchmark")
        drawn = [Path(f"figures/tiny/benchmark/{name}.svg") for name in benchmarks or () if name != "rules"]
        for name, table in (benchmarks or {}).items():
            measured.mkdir(parents=True, exist_ok=True)
            table.to_csv(measured / f"{name}.csv", index=False)
        for path in drawn:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<svg>benchmark {path.stem}</svg>")
        run_script(
            "report/report",
            input={
                "figures": [str(figures / f"{stem}.svg") for stem in stems],
                "runs": str(results / "runs.csv"),
                "summary": str(figures / "summary.csv"),
                "published": str(figures / "published.csv"),
                "searches": [str(results / "searches.csv")] if searches is not None else [],
                "costs": str(results / "costs.csv"),
                "ties": [str(results / "ties.csv")] if ties is not None else [],
                "claims": str(results.parent / "claims.csv"),
                "claims_conditions": str(results.parent / "claims_conditions.csv"),
                "claims_readable": str(figures.parent / "claims.csv"),
                "mitigations": str(figures / "mitigations.csv"),
                **{name: [str(results / f"{name}.csv")] if len(table) else [] for name, table in factorials.items()},
                "layers": [str(layers)] if layers is not None else [],
                "zone_results": [],
                "zone_tables": [],
                "records": made.files.records,
                "benchmarks": [str(measured / f"{name}.csv") for name in benchmarks or ()],
                "benchmark_figures": list(map(str, drawn)),
                "benchmark_captions": [str(path) for path in (ROOT / "workflow/report/benchmark").glob("*.rst")],
                "captions": [str(path) for path in (ROOT / "workflow/report").rglob("*.rst")],
            },
            output=["figures/tiny/report.html"],
            wildcards={"run": "tiny"},
            params={"config_files": list(config_files), "overrides": overrides or {}},
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
    page = write_report(made)
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
        "All rules of a set-up share one learning rate, as published: SGD float16 without batch norm 0.05; ",
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
    page = write_report(made)

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
    # No run used a GPU.
    assert header == ["precision", "runs", "epochs", "device", "images/s", "job time (s)", "memory (MiB)"]
    for row, cost in zip(rows, maxpool.costs(made.runs).itertuples(), strict=True):
        numbers = (cost.images_per_second, cost.job_seconds, cost.peak_memory_mib)
        assert row == [cost.precision, "20", "4", "a processor", *(f"{round(number):,}" for number in numbers)]

    header, *rows = page.table("Final accuracy of every condition")
    assert header == list(tables.SUMMARY.values())
    for row, values in zip(rows, maxpool.summarize(made.runs).to_dict("records"), strict=True):
        assert row[5:7] == ["0", plotting.place_label(values["beta"])]
        assert row[8:12] == [f"{100 * values[f'test_accuracy_{name}']:.2f}" for name in ("mean", "std", "min", "max")]
        assert row[12:] == ["2", str(values["diverged"])]

    header, *rows = page.table("Ties in the windows of the first pooling")
    assert header == [name.replace("_", " ") for name in TIES]
    assert rows == [["float16", "864", "401", "230", "171", "3.60"], ["float64", "864", "400", "230", "170", ""]]

    _, *rows = page.table("Published experiments not run in this preset")
    left = [name for name in maxpool.EXPERIMENTS if name not in ("accuracy", "loss", "ties")]
    assert [row[0] for row in rows] == [plotting.word(name) for name in left]


def test_figures_are_in_their_chapters_with_how_to_remake_them(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ["config/presets/my own.yaml"])
    assert [base64.b64decode(image).decode() for image in page.images] == [f"<svg>{stem}</svg>" for stem in STEMS]
    chapters = {"accuracy_by_beta": "Accuracy against β", "accuracy": "Accuracy against β", "loss": "Training loss",
                "accuracy_by_epoch": "Accuracy by epoch", "tie_map": "Where the ties are"}  # fmt: skip
    for stem in STEMS:
        chapter = plain(page.sections[chapters[stem.split("/")[0]]])
        path = f"figures/tiny/maxpool/{stem}"
        assert f"Remake: snakemake {path}.pdf --configfile 'config/presets/my own.yaml'" in chapter
        assert f"plotted data: {path}.csv" in chapter
    assert page.text.count(f"LeNet-5 on {DIGITS}, SGD, mixed16") == 3
    assert list(page.sections) == ["What the runs say", "What was asked", "What was run", "Accuracy against β", "What helps", "All claims",
                                   "Training loss", "Accuracy by epoch", "What diverged", "Where the ties are",
                                   "What this preset left out", "Speed", "Versions and machine"]  # fmt: skip
    assert "Remake everythingsnakemake --configfile 'config/presets/my own.yaml'" in page.text


def test_the_default_preset_needs_no_option(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS))
    assert "--config" not in page.text
    assert "No run of 40 reached" in page.text
    assert "Diverged runs" not in page.sections["What diverged"]


def test_what_was_not_measured_is_left_out_and_listed(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ties=None)
    assert "Where the ties are" not in page.sections
    assert "ties" in [row[0] for row in page.table("Published experiments not run in this preset")]
    assert len(page.images) == len(STEMS) - 1


def test_memory_of_a_gpu_is_shown_where_it_was_used() -> None:
    cost = {"images_per_second": 999.6, "job_seconds": 0.4, "peak_memory_mib": 700.4}
    shown = report.readable_costs(pd.DataFrame([{**cost, "peak_gpu_memory_mib": value} for value in (300.6, math.nan)]))
    assert shown["GPU memory (MiB)"].tolist() == [301, pd.NA]
    shown = report.readable_costs(pd.DataFrame([{**cost, "peak_gpu_memory_mib": math.nan}]))
    (row,) = shown.to_dict("records")
    assert row == {"images/s": 1000, "job time (s)": 0, "memory (MiB)": 700}


def test_figures_of_another_relu_say_so(study, write_report) -> None:
    made = study(relu_derivative=[0.0, 0.5], rule=["native"], seed=[0])
    stems = [
        "accuracy_by_beta",
        *(f"{kind}/mnist_5k/lenet5/sgd/float16/relu-{relu}" for kind in KINDS for relu in ("0", "0.5")),
    ]
    page = write_report(made, stems=stems, ties=None)
    assert page.text.count(f"LeNet-5 on {DIGITS}, SGD, float16, ReLU'(0) = 0.5") == 3
    assert "β = 0; ReLU'(0) = 0.5; 1 seed per condition" in page.text


# --------------------------------------------------------------------------------------------------- benchmarks


def test_without_benchmarks_the_chapter_says_how_to_run_them(study, write_report) -> None:
    page = write_report(study(no_cell_diverges, **FACTORS), ["config/presets/my own.yaml"])
    _, chapter = plain(page.sections["Speed"]).split("Speed ")
    command = "snakemake benchmark --configfile 'config/presets/my own.yaml'"
    assert chapter == f"The benchmarks were not run in this preset; {command} runs them."


def test_benchmarks_are_a_chapter(study, write_report) -> None:
    """Of those that were run; a figure for each that is drawn, and a table for each."""
    benchmarks = {name: speed.read(costs.SHIPPED / f"{name}.csv") for name in ("zones", "rules")}
    page = write_report(study(no_cell_diverges, **FACTORS), benchmarks=benchmarks)
    chapter = page.sections["Speed"]
    assert [base64.b64decode(image).decode() for image in page.images[len(STEMS) :]] == ["<svg>benchmark zones</svg>"]
    text = plain(chapter)
    for sentence in (speed.rules_sentence(benchmarks["rules"]), speed.zones_sentence(benchmarks["zones"])):
        assert sentence in text
    assert "Measured on AMD EPYC, 1 thread, torch " in text
    others = [found.title for name, found in speed.BENCHMARKS.items() if name not in benchmarks]
    assert f"Not measured: {', '.join(others)}; snakemake benchmark measures them." in text
    assert "Remake: snakemake figures/tiny/benchmark/zones.pdf" in text
    for name, table in benchmarks.items():
        assert f"Remake: snakemake results/tiny/benchmark/{name}.csv --force" in text
        header, *rows = page.table(speed.BENCHMARKS[name].title + " (")
        assert len(rows) == len(table)
        assert header == list(speed.BENCHMARKS[name].headings.values())
    first = benchmarks["zones"].iloc[0]
    numbers = (1000 * first.plain_s, first.pair, first.with_replays, first.peak_memory_mib)
    assert page.table(speed.BENCHMARKS["zones"].title + " (")[1][3:] == [f"{number:,.2f}" for number in numbers]


# -------------------------------------------------------------------------------------- published and searched


def test_what_was_published_is_a_chapter_with_every_number(study, write_report) -> None:
    made = study(composed_diverges, **FACTORS, is_published=True)
    page = write_report(made)
    assert list(page.sections)[4] == "Ours and published"
    header, *rows = page.table("Conditions that were published and run here")
    assert header == list(tables.PUBLISHED.values())
    assert len(rows) == len(made.published) == 2 * 2 * 5
    for row, values in zip(rows, made.published.to_dict("records"), strict=True):
        numbers = [values[f"ours_{name}"] for name in ("mean", "std")]
        assert row[5] == plotting.place_label(values["beta"])
        assert row[6] == (values["evaluation"] or values["rule"])
        assert row[7:9] == [f"{100 * number:.2f}" for number in numbers]
        assert row[9:12] == [str(values[f"ours_{name}"]) for name in ("runs", "diverged", "epochs")]
        assert float(row[12]) == pytest.approx(100 * values["published_mean"], abs=0.0051)
        assert row[14:17] == [str(values[f"published_{name}"]) for name in ("runs", "diverged", "epochs")]
        assert float(row[17]) == pytest.approx(100 * values["difference"], abs=0.0051)
    chapter = plain(page.sections["Ours and published"])
    for suffix in ("csv", "md", "tex"):
        assert f"figures/tiny/maxpool/published.{suffix}" in chapter
    # In mixed16 one run was published, which has no deviation.
    composed = [row for row in made.published.to_dict("records") if row["evaluation"] != "exact"]
    several = [row for row in composed if row["precision"] == "float16"]
    assert f"{len(composed)} conditions of the published program and of PyTorch's own rule can be compared." in chapter
    assert f"of the {len(several)} with several runs on both sides" in chapter
    assert f"In {len(composed)} conditions ours were trained for fewer epochs than the published runs." in chapter


def compared(*rows: tuple[float, float, float], **values) -> pd.DataFrame:
    """The readable table of conditions with these differences and two deviations."""
    usual = {"evaluation": "composed", "epochs": 100, "published epochs": 100, **values}
    return pd.DataFrame(
        {**usual, "difference (points)": difference, "std (%)": ours, "published std (%)": theirs}
        for difference, ours, theirs in rows
    )


def near(table: pd.DataFrame) -> str:
    return re.search(r"In (.*) of them the means differ", report.published_sentence(table))[1]


def test_conditions_that_agree_are_counted() -> None:
    """Within twice the root of the summed variances: 2 * (3^2 + 4^2)^(1/2) = 10."""
    assert near(compared((10, 3, 4), (-10, 4, 3), (10.01, 3, 4), (-10.01, 3, 4), (0, 0, 0))) == "3"
    assert "fewer epochs" not in report.published_sentence(compared((1, 1, 1)))
    shorter = report.published_sentence(compared((1, 1, 1), epochs=10))
    assert shorter.startswith("1 condition of ")
    assert shorter.endswith("In 1 condition ours were trained for fewer epochs than the published runs.")


def test_exact_rules_were_not_published() -> None:
    exact = compared((50, 1, 1), evaluation="exact")
    assert report.published_sentence(pd.concat([exact, compared((0, 1, 1))])).startswith("1 condition of ")


def test_conditions_without_a_deviation_are_not_said_to_differ() -> None:
    sentence = report.published_sentence(compared((0, 1, 1), (0, math.nan, 1), (0, 1, math.nan)))
    assert "In 1 of the 1 with several runs on both sides" in sentence
    assert "In 0 of the 0 with several runs" in report.published_sentence(compared((0, math.nan, 1)))


def searched(study, folder: Path, cells: list) -> pd.DataFrame:
    """The table of two trials for each of the cells, as the rule gathers them."""
    rows = [(1, 0.0123456, 10, 0.91234, False, True), (2, 0.5, 2, 0.1, True, False)]
    trials = pd.DataFrame(rows, columns=["trial", "learning_rate", "epochs", "accuracy", "pruned", "chosen"])
    folder.mkdir()
    trials.to_csv(folder / "trials.csv", index=False)
    write_json(folder / "chosen.json", {"learning_rate": 0.01235, "accuracy": 0.91234})
    count = len(cells)
    outputs = {"trials": folder / "searches.csv", "entries": folder / "searches.yaml"}
    learning_rates.gather(cells, [folder / "trials.csv"] * count, [folder / "chosen.json"] * count, outputs)
    return pd.read_csv(outputs["trials"])


def test_searches_are_shown_trial_by_trial(study, write_report, tmp_path: Path) -> None:
    made = study(no_cell_diverges, **FACTORS)
    cells = [cell for cell in made.files.cells if cell.rule == "native" and cell.seed == 0]
    page = write_report(made, searches=searched(study, tmp_path / "search", cells))
    header, *rows = page.table("Searches for learning rates")
    assert header == ["normalization", "precision", "trial", "learning rate", "epochs", "accuracy", "pruned", "chosen"]
    expected = []
    for cell in cells:
        words = [plotting.word(cell.normalization), cell.precision]
        expected += [[*words, "1", "0.01235", "10", "0.912", "", "yes"], [*words, "2", "0.5", "2", "0.100", "yes", ""]]
    assert rows == expected
    chapter = plain(page.sections["What was run"])
    assert "Remake: snakemake results/tiny/maxpool/searches.csv" in chapter


def test_without_searches_there_is_no_table_of_them(study, write_report) -> None:
    assert "Searches for learning rates" not in write_report(study(no_cell_diverges, **FACTORS)).text


def test_a_search_of_one_setup_is_shown(study, write_report, tmp_path: Path) -> None:
    """No factor varies then."""
    made = study(no_cell_diverges, **FACTORS)
    page = write_report(made, searches=searched(study, tmp_path / "search", made.files.cells[:1]))
    header, *rows = page.table("Searches for learning rates")
    assert header == ["trial", "learning rate", "epochs", "accuracy", "pruned", "chosen"]
    assert len(rows) == 2


def test_rates_of_rules_that_differ_are_not_said_to_be_shared(study) -> None:
    runs = study(seed=[0], rule=["native", "minimal"], normalization=["none"]).runs
    runs = runs.assign(learning_rate=[0.1, 0.002])
    text = report.conditions_sentence(runs)
    assert text.endswith("Learning rates: SGD float16 without batch norm 0.1, 0.002.")
    assert "share" not in text


# ------------------------------------------------------------------------------------------------- commands

OVERRIDES = {
    "nothing": {},
    "epochs": {"epochs": 2},
    "a name": {"run": "mine"},
    "texts inside brackets, as Snakemake gives them": {"seeds": ["0", "1"], "epochs": 3},
    "a folder with spaces and quotes": {
        "datasets": {"imagenet": {"path": '/my images/it\'s "here" $HOME; rm -rf x & `y`'}}
    },
    "a folder that is a number": {"datasets": {"imagenet": {"path": "1e3"}}},
    "a search": {"maxpool": {"search": {"trials": "2", "per_rule": "true"}}, "run": "mine"},
    "blocks": {"maxpool": {"train": [{"dataset": ["mnist"], "momentum": "0.5"}]}, "run": "mine"},
    "flags": {"deterministic": False},
}


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(values, id=name) for name, values in OVERRIDES.items()],
)
@pytest.mark.parametrize("files", [["config/config.yaml"], ["config/my own.yaml", "b.yaml"]], ids=len)
def test_commands_mean_the_same_to_a_shell_and_to_snakemake(files: list[str], overrides: dict) -> None:
    options = report.command_options(files, overrides)
    assert options == "" or options.startswith(" ")
    command = subprocess.run(
        ["sh", "-c", f'printf "%s\\0" snakemake target{options}'], capture_output=True, text=True, check=True
    )
    arguments = command.stdout.split("\0")[:-1]
    assert arguments[:2] == ["snakemake", "target"]
    groups: dict[str, list[str]] = {}
    for argument in arguments[2:]:
        if argument.startswith("--"):
            groups[argument] = []
        else:
            groups[list(groups)[-1]].append(argument)
    assert groups.get("--configfile", ["config/config.yaml"]) == files
    assert parse_config(groups.get("--config", [])) == overrides


def test_overrides_are_in_every_command(study, write_report) -> None:
    overrides = OVERRIDES["a folder with spaces and quotes"]
    page = write_report(study(no_cell_diverges, **FACTORS), overrides=overrides)
    options = report.command_options(["config/config.yaml"], overrides)
    commands = re.findall(r"snakemake (?:figures/|results/|benchmark )", page.text)
    assert len(commands) > len(STEMS)
    assert page.text.count(" ".join(options.split())) == len(commands) + 1
    assert f"Remake everythingsnakemake{' '.join(['', *options.split()])}" in page.text


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


def test_native_runs_of_another_relu_are_not_in_the_mean(study) -> None:
    """Hybrid rules ran with PyTorch's ReLU only."""
    runs = study(relu_derivative=[0.0, 1.0], rule=FACTORS["rule"]).runs
    runs = runs[(runs.relu_derivative == 0) | (runs.rule == "native")]
    (sentence,) = sentences(runs)
    assert f"native {mean_percent(of_condition(runs, {'rule': 'native', 'relu_derivative': 0.0}))};" in sentence


def test_rules_without_a_beta_are_named_alone(study) -> None:
    text = report.conditions_sentence(study(rule=[OTHER], seed=[0]).runs)
    assert f"; rule {OTHER}; 1 seed per condition" in text
    assert "β" not in text


def test_rules_without_a_beta_are_named_after_the_betas(study) -> None:
    text = report.conditions_sentence(study(rule=[OTHER, "native", "hybrid-10-exact"], seed=[0]).runs)
    assert f"; β = 0, 10; rule {OTHER}; 1 seed" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_rates_are_told_apart(study) -> None:
    runs = study(seed=[0], dataset=["mnist_5k", "fashion_mnist"], rule=["native", "minimal"]).runs
    runs.loc[(runs.dataset == "fashion_mnist") & (runs.normalization == "none"), "learning_rate"] = 0.001234
    assert sorted(report.rate_sentences(runs)) == sorted(
        f"SGD float16 {plotting.word(normalization)} LeNet-5 on {plotting.word(dataset)} "
        + ("0.001234" if (dataset, normalization) == ("fashion_mnist", "none") else "0.05")
        for dataset in ("mnist_5k", "fashion_mnist")
        for normalization in ("none", "batch_norm")
    )


PROGRAMS = ["native", *(f"hybrid-1000-{name}" for name in ("exact", "composed", "forward", "backward", "forward_backward",
                                                           "forward_jacobian", "backward_jacobian"))]  # fmt: skip


def test_the_first_page_has_the_verdicts_the_figure_and_three_sentences(study, write_report) -> None:
    stems = [
        *STEMS,
        "factorial/mnist_5k/lenet5/sgd/float16/relu-0",
        "factorial_effects/mnist_5k/lenet5/sgd/float16/relu-0",
    ]
    made = study(lambda cell: 2 if cell.rule == "hybrid-1000-composed" else None, precision=["float16"], seed=range(6),
                 rule=PROGRAMS)  # fmt: skip
    page = write_report(made, stems=stems)
    judged, _ = claims.evaluate(CLAIMS, claims.Tables(runs=made.runs), claims.Settings())
    before = page.source[: page.source.index("<nav")]
    header, *rows = page.table("Claims and verdicts")
    tested = judged[judged.verdict != claims.NOT_TESTED]
    assert header == ["claim", "sentence", "verdict", "numbers", "judged on"]
    assert [(row[0], row[2]) for row in rows] == [
        (claim, front_page.MARKS[verdict]) for claim, verdict in zip(tested.claim, tested.verdict, strict=True)
    ]
    assert {"C6b", "F1000", "FJ1000"} <= {row[0] for row in rows}
    (diverging,) = [row for row in rows if row[0] == "C6b"]
    assert diverging[2:] == ["✓ holds", "12 of 12 runs diverged; 2 conditions: 2 hold", f"LeNet-5 on {DIGITS}"]
    left = judged.claim[judged.verdict == claims.NOT_TESTED]
    assert f"Not tested in this preset, which lacks their runs: {', '.join(left)} (see all claims)." in plain(before)
    assert all(plain(sentence) in plain(before) for sentence in front_page.advice(judged))
    assert base64.b64encode(f"<svg>{stems[-2]}</svg>".encode()).decode() in before

    header, *rows = page.table("Effects of the parts")
    effects = factorial.effects_table(made.runs)
    assert header == ["normalization", "design", "effect", "n", "test accuracy (points)", "diverged runs (points)"]
    assert len(rows) == len(effects) / 2 == 2 * 7
    chosen = effects[(effects.normalization == "none") & (effects.effect == "F:J")].set_index("response")
    (shown,) = [row for row in rows if row[0] == "without batch norm" and row[2] == "F:J"]
    for column, response in ((4, "test_accuracy"), (5, "diverged")):
        found = 100 * chosen.loc[response, ["estimate", "low", "high"]].astype(float)
        assert shown[column] == f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    _, *rows = page.table("Every program")
    assert len(rows) == 2 * 8


def test_what_the_poolings_did_is_a_table(study, write_report, tmp_path: Path) -> None:
    """The first epoch and the last one of every run; rules that are no max pooling have no errors, and no row."""
    made = study(no_cell_diverges, precision=["float16"], normalization=["none"], seed=range(2), rule=PROGRAMS)
    identity = [
        "dataset",
        "architecture",
        "normalization",
        "optimizer",
        "precision",
        "rule",
        "relu_derivative",
        "beta",
        "seed",
    ]
    rows = [
        {**run, "epoch": epoch, "step": 1, "layer": layer, "windows": 200, "tied_above_zero": 20 * epoch, "jacobian_norm": 7.0,
         "forward_error": 0.01 * epoch + 0.02 * run["seed"], "forward_error_max": 1.0, "forward_nonfinite": epoch,
         "backward_error": 0.5, "backward_error_max": 1.0, "backward_nonfinite": 0, "max_activation": 10.0 * epoch}
        for run in made.runs[identity].to_dict("records")
        for epoch in (1, 2, 3)
        for layer in ("pool1", "pool2")
    ]  # fmt: skip
    rows += [{**rows[0], "rule": "average", "forward_error": math.nan}]
    pd.DataFrame(rows).to_csv(tmp_path / "layers.csv", index=False)
    stems = [*STEMS, "factorial/mnist_5k/lenet5/sgd/float16/relu-0"]
    header, *found = write_report(made, stems=stems, layers=tmp_path / "layers.csv").table("What the poolings did")
    assert header == ["rule", "layer", "epoch", "runs", "largest value", "tied above 0 (%)", "Jacobian's norm", "value's error (%)",
                      "gradient's error (%)", "overflows", "gradient's"]  # fmt: skip
    assert len(found) == len(PROGRAMS) * 2 * 2
    assert [row for row in found if row[:3] == ["native", "pool1", "last"]] == [
        ["native", "pool1", "last", "2", "30.00", "30.00", "7.00", "4.00", "50.00", "6", "0"]
    ]
