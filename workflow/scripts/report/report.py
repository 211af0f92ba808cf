"""Assemble the report from the tables and figures of the preset; every number in it is computed here from them."""

import shlex
from pathlib import Path

import pandas as pd

from nonsmooth import plotting
from nonsmooth.files import read_json, write_text
from nonsmooth.joblog import job_log
from nonsmooth.maxpool import CONDITION, EXPERIMENTS
from nonsmooth.precision import PRECISIONS
from nonsmooth.report import Figure, Section, Table, combined_provenance, render, words

QUESTION = (
    "A pooling window whose largest values tie has no derivative: a program has to choose one. All choices are equally "
    "right over the reals, where ties almost never happen; on a computer they happen all the time. <em>Boustany, On the "
    "numerical reliability of nonsmooth autodiff: a MaxPool case study</em> (TMLR 2024, arXiv 2401.02736) trains the same "
    "networks with different choices and different arithmetic, and finds that the choice can destroy training in 16 bits."
)
RULES = (
    "PyTorch gives the whole gradient to one maximum (<em>native</em>, β = 0); <em>minimal</em> shares it equally (β = 1); "
    "the <em>hybrid</em> rule (1 − β) native + β minimal leaves the subdifferential for large β. The published program "
    "forms that combination from two pooled outputs in the working precision (<em>composed</em>), which also disturbs "
    "the pooled values; <em>exact</em> keeps the true maximum and changes nothing but the derivative at ties."
)


def maxpool_sections(runs, summary, costs, ties, figures, captions, options, run) -> list[Section]:
    def figure(stem: str, title: str) -> Figure:
        path = figures[stem]
        return Figure(path, title, captions[stem.split("/")[0]], f"snakemake {path.with_suffix('.pdf')}{options}")

    def group(stem: str) -> str:
        dataset, architecture, optimizer, precision = map(plotting.word, stem.split("/")[1:])
        return f"{architecture} on {dataset}, {optimizer}, {precision}"

    asked = Section("What was asked", [QUESTION, RULES])
    ran = Section("What was run", [conditions_sentence(runs)], tables=[
        Table("Cost", varying(readable_costs(costs), runs), "Per precision and optimizer: median speed of training, time summed over the "
              "jobs with their start, and the largest memory of a job, as Snakemake measured them.",
              f"snakemake results/{run}/maxpool/costs.csv{options}", (f"results/{run}/maxpool/costs.csv",))])  # fmt: skip
    accuracy = Section("Accuracy against β", figures=[figure("accuracy_by_beta", "All conditions")])
    accuracy.figures += [figure(stem, group(stem)) for stem in figures if stem.startswith("accuracy/")]
    accuracy.tables.append(
        Table("Final accuracy of every condition", summary, captions["summary"],
              f"snakemake figures/{run}/maxpool/summary.csv{options}",
              tuple(f"figures/{run}/maxpool/summary.{suffix}" for suffix in ("csv", "md", "tex")),
              collapsed=True))  # fmt: skip
    loss = Section("Training loss", figures=[figure(s, group(s)) for s in figures if s.startswith("loss/")])
    sections = [asked, ran, accuracy, loss, diverged_section(runs, options, run)]
    if ties is not None:
        sections.append(
            Section("Where the ties are", figures=[figure("tie_map", "Ties in one image")], tables=[
                Table("Ties in the windows of the first pooling", ties.rename(columns=lambda c: c.replace("_", " ")),
                      "Counts over all channels of that image.", f"snakemake results/{run}/maxpool/ties.csv{options}",
                      (f"results/{run}/maxpool/ties.csv",))]))  # fmt: skip
    sections.append(left_out_section(runs, ties is not None))
    return sections


def conditions_sentence(runs: pd.DataFrame) -> str:
    def values(name: str) -> str:
        return ", ".join(plotting.word(value) for value in runs[name].unique())

    epochs = ", ".join(map(str, sorted(runs.epochs.unique())))
    seeds = plotting.span(runs.groupby(list(CONDITION)).seed.nunique())
    betas = ", ".join(map(plotting.beta_label, sorted(runs.beta.unique())))
    return (
        f"{words(len(runs), 'training run')}: {values('architecture')} on {values('dataset')}; "
        f"{values('normalization')}; {values('optimizer')}; {values('precision')}; β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{betas}; "
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} per condition; {epochs} {'epoch' if epochs == '1' else 'epochs'}, "
        f"batch size {', '.join(map(str, runs.batch_size.unique()))}. "
        "Runs with one seed start from the same weights and see the same batches, whatever their rule and precision. "
        "All rules of a condition share one learning rate, as published: "
        + "; ".join(rate_sentences(runs)) + "."
    )  # fmt: skip


def rate_sentences(runs: pd.DataFrame):
    keys = ["optimizer", "precision", "normalization", "architecture", "dataset"]
    several = runs.groupby(["architecture", "dataset"]).ngroups > 1
    for condition, rates in runs.groupby(keys, sort=False).learning_rate:
        optimizer, precision, normalization, architecture, dataset = map(plotting.word, condition)
        where = f" {architecture} on {dataset}" if several else ""
        listed = ", ".join(f"{rate:g}" for rate in rates.unique())
        yield f"{optimizer} {precision} {normalization}{where} {listed}"


def readable_costs(costs: pd.DataFrame) -> pd.DataFrame:
    return costs.assign(
        # Snakemake has no memory for a job that ended before its first look.
        **{
            name: costs[name].round().astype("Int64")
            for name in ("images_per_second", "job_seconds", "peak_memory_mib")
        }
    ).rename(
        columns={"images_per_second": "images/s", "job_seconds": "job time (s)", "peak_memory_mib": "memory (MiB)"}
    )


def varying(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`table` without the factors that have one value in the whole preset, since the text says it."""
    return table.drop(columns=[name for name in CONDITION if name in table and runs[name].nunique() == 1])


def diverged_section(runs: pd.DataFrame, options: str, run: str) -> Section:
    lost = runs[runs.diverged]
    skipped = runs[(runs.skipped_steps > 0)]
    section = Section("What diverged")
    if lost.empty:
        section.paragraphs.append(f"No run of {len(runs)} reached a non-finite loss or weight.")
    else:
        section.paragraphs.append(
            f"{words(len(lost), 'run')} of {len(runs)} reached a non-finite loss or weight. They are results: each keeps "
            "the accuracy that its weights score (non-finite outputs predict class 0) and is in every mean."
        )
    if len(skipped):
        section.paragraphs.append(
            f"The loss scaler skipped steps in {words(len(skipped), 'run')} "
            f"({int(skipped.skipped_steps.sum()):,} of {int(skipped.steps.sum()):,} steps there); skipping is not divergence."
        )
    if len(lost):
        keys = list(CONDITION)
        totals = runs.groupby(keys, sort=False).size()
        found = lost.groupby(keys, sort=False).first_nonfinite_step.agg(["size", "min", "max"])
        steps = [plotting.span(pd.Series([low, high])) for low, high in zip(found["min"], found["max"], strict=True)]
        table = pd.DataFrame({"diverged": found["size"], "runs": totals[found.index], "first at step": steps})
        table = varying(table.reset_index(), runs)
        caption = "Conditions in which runs diverged, and the training step at which that happened."
        path = f"results/{run}/maxpool/runs.csv"
        section.tables.append(Table("Diverged runs", table, caption, f"snakemake {path}{options}", (path,)))
    return section


def left_out_section(runs: pd.DataFrame, has_ties: bool) -> Section:
    done = {"accuracy", "loss"} | ({"ties"} if has_ties else set())
    left = pd.DataFrame(
        [{"experiment": name, "what it shows": what} for name, what in EXPERIMENTS.items() if name not in done]
    )
    precisions = [name for name in PRECISIONS if name not in set(runs.precision)]
    section = Section("What this preset left out", tables=[
        Table("Published experiments not run in this preset", left, "Nothing is filled in for them.")])  # fmt: skip
    if precisions:
        section.paragraphs.append(f"No network was trained in: {', '.join(precisions)}.")
    return section


def summary_sentences(runs: pd.DataFrame) -> list[str]:
    """Per optimizer and precision: accuracy of native and of the largest betas, and at which betas runs diverge."""
    seconds = runs.job_seconds.sum()
    time = words(round(seconds / 60), "minute") if seconds >= 60 else words(round(seconds), "second")
    sentences = [
        f"{words(len(runs), 'run')}, of which {len(runs[runs.diverged])} diverged; {time} of jobs. Mean test accuracy "
        "after the last epoch:"
    ]
    for (optimizer, precision), part in runs.groupby(["optimizer", "precision"], sort=False):
        hybrids = {
            name: part[part.evaluation == name] for name in ("exact", "composed") if name in set(part.evaluation)
        }
        largest = {name: hybrid[hybrid.beta == hybrid.beta.max()] for name, hybrid in hybrids.items()}
        compared = alike(pd.concat([part[part.rule == "native"], *largest.values()]))
        native = compared[compared.rule == "native"]
        phrases = [f"native {percent(native)}"] if len(native) else []
        if native.diverged.any():
            phrases[0] += f" ({native.diverged.sum()} of {words(len(native), 'run')} diverged)"
        for evaluation, hybrid in hybrids.items():
            at_largest = compared[compared.evaluation == evaluation]
            lost = [plotting.beta_label(beta) for beta in sorted(hybrid.beta[hybrid.diverged].unique())]
            when = (
                f"runs diverge at β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{', '.join(lost)}"
                if lost
                else "no run diverges"
            )
            if len(at_largest):
                beta = plotting.beta_label(hybrid.beta.max())
                phrases.append(
                    f"{evaluation} hybrid {percent(at_largest)} at β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{beta} ({when})"
                )
        if phrases:
            sentences.append(f"{precision}, {plotting.word(optimizer)}: {'; '.join(phrases)}.")
    return sentences


def alike(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of those datasets, architectures and normalizations in which all of their rules ran.

    A mean over these factors compares rules only where each of them is in it.
    """
    rules = runs.groupby(["dataset", "architecture", "normalization"]).rule.transform("nunique")
    return runs[rules == runs.rule.nunique()]


def percent(runs: pd.DataFrame) -> str:
    """Mean test accuracy, with a space that does not break."""
    return f"{100 * runs.test_accuracy.mean():.1f}\N{NO-BREAK SPACE}%"


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        run = snakemake.wildcards.run
        files = snakemake.params.config_files
        # A target comes first, since --configfile takes any number of files.
        options = "" if files == ["config/config.yaml"] else f" --configfile {shlex.join(files)}"
        root = Path(f"figures/{run}/maxpool")
        runs = pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=["", "nan"])
        runs = runs.fillna({"evaluation": ""}).astype({"first_nonfinite_step": "Int64"})
        records = [read_json(path) for path in snakemake.input.records]
        text = render(
            run,
            summary_sentences(runs),
            maxpool_sections(
                runs,
                pd.read_csv(snakemake.input.summary, dtype={"beta": str}),
                pd.read_csv(snakemake.input.costs),
                pd.read_csv(snakemake.input.ties[0]) if snakemake.input.ties else None,
                {str(Path(p).relative_to(root).with_suffix("")): Path(p) for p in snakemake.input.figures},
                {Path(path).stem: Path(path).read_text() for path in snakemake.input.captions},
                options,
                run,
            ),
            {**combined_provenance(records), "remake": f"snakemake{options}"},
        )
        write_text(snakemake.output[0], text)
