"""Assemble the report from the tables and figures of the preset; every number in it is computed here from them."""

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from nonsmooth import front_page, plotting, speed
from nonsmooth.cells import CONDITION, SETUP
from nonsmooth.files import read_json, write_text
from nonsmooth.joblog import job_log
from nonsmooth.maxpool import EXPERIMENTS
from nonsmooth.precision import PRECISIONS
from nonsmooth.report import Section, Sources, Table, combined_provenance, render, words
from nonsmooth.zones import chapter as zones_chapter

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


TESTED = (
    "Each claim has a decision rule of its own in <code>data/claims/maxpool.yaml</code>. A difference counts if it is larger than 10 % of "
    "native's error rate, unless the configuration says otherwise; a verdict needs significance, and the power to see what it says."
)
VERDICTS = (
    "Differences of final test accuracy are paired by seed. C1 to C8: published; C9: the precision law; C10: causes of differences; F, B, "
    "J: parts of the published program, with R its range and W its width; V: VGG11 with batch norm; M: mitigations."
)
PARTS = (
    "The published program differs from PyTorch's pooling in three ways: the value is composed of two rounded products (F), so is the "
    "gradient where a window has one maximum (B), and where several tie the gradient follows the hybrid Jacobian (J). Each was switched on and "
    "off, with the range of the working type and without limits of the exponent."
)
KINDS = {
    "factorial": "Programs",
    "factorial_effects": "Effects",
    "programs_by_beta": "Programs against β",
    "max_activation": "Largest values that enter a pooling",
}
LAYERS = (
    "Of every rule and layer, at the first minibatch of the first epoch and of the last one that a run began (of runs with more than one): means over "
    "runs of the largest value that enters, of the share of windows that tie above 0 and of the norm of their rows of the Jacobian, of the relative "
    "errors of the value and, where a window has one maximum, of the gradient; and how many windows overflowed, in all runs."
)
RESPONSES = {"test_accuracy": "test accuracy", "diverged": "diverged runs"}


def maxpool_sections(tables: dict[str, Any], sources: Sources) -> list[Section]:
    runs, options, run = tables["runs"], sources.options, sources.run

    def group(stem: str) -> str:
        *names, relu = stem.split("/")[1:]
        dataset, architecture, optimizer, precision = map(plotting.word, names)
        words = [f"{architecture} on {dataset}", optimizer, precision]
        return ", ".join([*words, *plotting.relu_words(float(relu.removeprefix("relu-")))])

    asked = Section("What was asked", [QUESTION, RULES])
    ran = Section("What was run", [conditions_sentence(runs)], tables=[
        Table("Cost", varying(readable_costs(tables["costs"]), runs), "Per condition: median speed of training, time summed over the "
              "jobs with their start, and the largest memory of a job, as the cells recorded them.",
              f"snakemake results/{run}/maxpool/costs.csv{options}", (f"results/{run}/maxpool/costs.csv",))])  # fmt: skip
    if tables["searches"] is not None:
        ran.tables.append(
            Table("Searches for learning rates", readable_searches(tables["searches"]),
                  "Every trial: the rate, the epochs it was trained for, and the accuracy after them on the training "
                  "images that were held out. A pruned trial was stopped because it was below the median of earlier ones.",
                  f"snakemake results/{run}/maxpool/searches.csv{options}", (f"results/{run}/maxpool/searches.csv",),
                  collapsed=True))  # fmt: skip
    whole = ["accuracy_by_beta"] if "accuracy_by_beta" in sources.figures else []
    accuracy = Section(
        "Accuracy against β", summary_sentences(runs), [sources.figure(stem, "All conditions") for stem in whole]
    )
    accuracy.figures += [sources.figure(stem, group(stem)) for stem in sources.of("accuracy")]
    accuracy.tables.append(
        sources.table("summary", tables["summary"], "Final accuracy of every condition", collapsed=True)
    )
    sections = [asked, ran, accuracy]
    if len(tables["published"]):
        sections.append(Section("Ours and published", [published_sentence(tables["published"])],
                                tables=[sources.table("published", tables["published"],
                                                      "Conditions that were published and run here", collapsed=True)]))  # fmt: skip
    sections += programs_sections(tables, sources)
    sections += [
        Section(title, figures=[sources.figure(stem, group(stem)) for stem in sources.of(kind)])
        for title, kind in (("Training loss", "loss"), ("Accuracy by epoch", "accuracy_by_epoch"))
    ]
    sections.append(diverged_section(runs, options, run))
    ties = tables["ties"]
    if ties is not None:
        sections.append(
            Section("Where the ties are", figures=[sources.figure("tie_map", "Ties in one image")], tables=[
                Table("Ties in the windows of the first pooling", ties.rename(columns=lambda c: c.replace("_", " ")),
                      "Counts over all channels of that image.", f"snakemake results/{run}/maxpool/ties.csv{options}",
                      (f"results/{run}/maxpool/ties.csv",))]))  # fmt: skip
    sections += zones_chapter.sections(tables["zones"], tables["zones_readable"], sources)
    if "weights_distance" in sources.figures:
        sections.append(zones_chapter.weights_section(sources))
    sections.append(left_out_section(runs, done_experiments(tables, sources)))
    return sections


def first_page(tables: dict[str, Any], sources: Sources) -> Section:
    """The claims that were tested, and the factorial figure."""
    claims, run = tables["claims"], sources.run
    paths = claims_files(run)
    front = Section("What the runs say", [TESTED])
    front.tables.append(
        Table("Claims and verdicts", front_page.verdicts(claims, tables["claims_conditions"]), VERDICTS,
              f"snakemake {paths[0]}{sources.options}", paths, wraps=True))  # fmt: skip
    left = front_page.not_tested(claims)
    if left:
        front.paragraphs.append(
            f"Not tested in this preset, which lacks their runs: {', '.join(left)} (see <a href='#all-claims'>all claims</a>)."
        )
    front.figures += [
        sources.figure(stem, "Is it the Jacobian or the arithmetic?") for stem in sources.of("factorial")[:1]
    ]
    return front


def claims_files(run: str) -> tuple[str, ...]:
    return tuple(f"figures/{run}/claims.{suffix}" for suffix in ("csv", "md", "tex"))


def programs_sections(tables: dict[str, Any], sources: Sources) -> list[Section]:
    """What lies between native and the published program, what helps, and every claim."""
    run, options = sources.run, sources.options

    def group(stem: str) -> str:
        _, dataset, architecture, optimizer, precision, _ = stem.split("/")
        return ", ".join(map(plotting.word, (architecture, dataset, optimizer, precision)))

    parts = Section("Is it the Jacobian or the arithmetic?", [PARTS])
    for kind in ("factorial", "factorial_effects", "programs_by_beta", "max_activation"):
        parts.figures += [sources.figure(stem, f"{KINDS[kind]}: {group(stem)}") for stem in sources.of(kind)]
    if "pooling_error" in sources.figures:
        parts.figures.append(sources.figure("pooling_error", "Errors of the published pooling"))
    if tables["factorial_effects"] is not None:
        path = f"results/{run}/maxpool/factorial_effects.csv"
        parts.tables.append(
            Table("Effects of the parts", readable_effects(tables["factorial_effects"]), sources.captions["factorial_effects"],
                  f"snakemake {path}{options}", (path,)))  # fmt: skip
        path = f"results/{run}/maxpool/factorial.csv"
        parts.tables.append(
            Table("Every program", readable_programs(tables["factorial"]), "Means over runs, and differences from native, paired by "
                  "seed; 95 % t intervals over seeds.", f"snakemake {path}{options}", (path,), collapsed=True))  # fmt: skip
    if tables["layers"] is not None:
        path = f"results/{run}/maxpool/layers.csv"
        parts.tables.append(
            Table("What the poolings did", readable_layers(tables["layers"]), LAYERS, f"snakemake {path}{options}", (path,),
                  collapsed=True))  # fmt: skip
    helps = Section(
        "What helps",
        tables=[sources.table("mitigations", tables["mitigations"], "Mitigations beside native and composed")],
    )
    files = claims_files(run)
    claims = Section("All claims", tables=[
        Table("Every claim, with its rule", tables["claims_readable"], sources.captions["claims"],
              f"snakemake {files[0]}{options}", files, collapsed=True, wraps=True)])  # fmt: skip
    return [*([parts] if parts.figures else []), helps, claims]


def readable_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects on accuracy and on the share of diverged runs, in points, with the factors that vary."""
    estimates = {
        name: [f"{100 * row.estimate:+.2f} {_between(row.low, row.high)}".strip() for row in part.itertuples()]
        for name, part in effects.groupby("response", sort=False)
    }
    first = effects[effects.response == effects.response.iloc[0]].reset_index(drop=True)
    keys = [name for name in (*CONDITION, "beta") if name in first and first[name].nunique() > 1]
    return first[[*keys, "design", "effect", "n"]].assign(
        **{f"{RESPONSES[name]} (points)": values for name, values in estimates.items()}
    )


def readable_layers(layers: pd.DataFrame) -> pd.DataFrame:
    """Errors, overflows and Jacobians of every rule and layer at the first minibatch of the first and the last epoch that its runs began,
    means over runs, with the factors that vary."""
    layers = layers[layers.forward_error.notna()]
    keys = [name for name in CONDITION if name == "rule" or layers[name].nunique() > 1]
    last = layers.groupby([*CONDITION, "seed"]).epoch.transform("max")
    times = {"first": layers[layers.epoch == 1], "last": layers[(layers.epoch == last) & (last > 1)]}
    rows = pd.concat(found.assign(epoch=name) for name, found in times.items())
    means = rows.assign(tied=100 * rows.tied_above_zero / rows.windows).groupby([*keys, "layer", "epoch"], sort=False)
    found = means.agg(
        **{
            "runs": ("seed", "nunique"),
            "largest value": ("max_activation", "mean"),
            "tied above 0 (%)": ("tied", "mean"),
            "Jacobian's norm": ("jacobian_norm", "mean"),
            "value's error (%)": ("forward_error", "mean"),
            "gradient's error (%)": ("backward_error", "mean"),
            "overflows": ("forward_nonfinite", "sum"),
            "gradient's": ("backward_nonfinite", "sum"),
        }
    ).reset_index()
    errors = [name for name in found if name.endswith("error (%)")]
    return found.assign(**{name: 100 * found[name] for name in errors}, overflows=found.overflows.astype(int),
                        **{"gradient's": found["gradient's"].astype(int)})  # fmt: skip


def readable_programs(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every program, in percent, with the factors that vary."""
    keys = [name for name in (*CONDITION, "beta") if name in cells and name != "rule" and cells[name].nunique() > 1]
    between = [_between(*ends) for ends in zip(cells.difference_low, cells.difference_high, strict=True)]
    return cells[[*keys, "program", "runs", "diverged"]].assign(
        **{f"{name} (%)": 100 * cells[f"test_accuracy_{name}"] for name in ("mean", "min", "max")},
        **{"difference (points)": 100 * cells.difference, "95 % interval": between},
    )


def _between(low: float, high: float) -> str:
    """An interval of fractions in points; one seed has none."""
    return f"[{100 * low:+.2f}, {100 * high:+.2f}]" if pd.notna(low) else ""


def done_experiments(tables: dict[str, Any], sources: Sources) -> set[str]:
    """The published experiments of which the preset has something."""
    zones, runs = tables["zones"], tables["runs"]
    has = {
        "accuracy": True,
        "loss": True,
        "ties": tables["ties"] is not None,
        "imagenet": "imagenet" in set(runs.dataset),
        "intro": "zero_function" in tables["zones_readable"],
        "weights": "weights_distance" in sources.figures,
    }
    if "proportions" in zones:
        conditions = zones["proportions"]
        pairs = set(conditions.program)
        has |= {
            "differences": True,
            "thresholds": "native+relu-1" in pairs,
            "factors": any(conditions[name].nunique() > 1 for name in ("architecture", "batch_size", "normalization")),
            "normpool": any(name.startswith("norm-") for name in pairs),
        }
    return {name for name, is_done in has.items() if is_done}


def published_sentence(published: pd.DataFrame) -> str:
    """How many conditions can be compared, and how many of those with several runs are within the spread of both."""
    composed = published[published.evaluation != "exact"]
    several = composed.dropna(subset=["std (%)", "published std (%)"])
    both = (several["std (%)"] ** 2 + several["published std (%)"] ** 2) ** 0.5
    near = several["difference (points)"].abs() <= 2 * both
    which = "them" if len(several) == len(composed) else f"the {len(several)} with several runs on both sides"
    shorter = composed[composed.epochs < composed["published epochs"]]
    sentence = (
        f"{words(len(composed), 'condition')} of the published program and of PyTorch's own rule can be compared. In "
        f"{int(near.sum())} of {which} the means differ by at most twice the root of the summed variances of the runs."
    )
    if len(shorter):
        sentence += (
            f" In {words(len(shorter), 'condition')} ours were trained for fewer epochs than the published runs."
        )
    return sentence


def readable_searches(searches: pd.DataFrame) -> pd.DataFrame:
    """Every trial, with the factors that vary and words for flags."""
    words = {True: "yes", False: ""}
    constant = [name for name in CONDITION if searches[name].nunique() == 1]
    return searches.assign(
        learning_rate=searches.learning_rate.map("{:.4g}".format),
        accuracy=searches.accuracy.map("{:.3f}".format),
        pruned=searches.pruned.map(words),
        chosen=searches.chosen.map(words),
    ).drop(columns=constant).rename(columns={"learning_rate": "learning rate", "relu_derivative": "ReLU'(0)"})  # fmt: skip


def conditions_sentence(runs: pd.DataFrame) -> str:
    def values(name: str) -> str:
        return ", ".join(plotting.word(value) for value in runs[name].unique())

    epochs = ", ".join(map(str, sorted(runs.epochs.unique())))
    seeds = plotting.span(runs.groupby(list(CONDITION)).seed.nunique())
    betas = ", ".join(map(plotting.place_label, sorted(runs.beta.dropna().unique())))
    others = [f"rule {rule}" for rule in runs.rule[runs.beta.isna()].unique()]
    relus = [words for derivative in sorted(runs.relu_derivative.unique()) for words in plotting.relu_words(derivative)]
    betas = [f"β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{betas}"] if betas else []
    rules = "; ".join([*betas, *others, *relus])
    return (
        f"{words(len(runs), 'training run')}: {values('architecture')} on {values('dataset')}; "
        f"{values('normalization')}; {values('optimizer')}; {values('precision')}; {rules}; "
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} per condition; {epochs} {'epoch' if epochs == '1' else 'epochs'}, "
        f"batch size {', '.join(map(str, runs.batch_size.unique()))}. "
        "Runs with one seed start from the same weights and see the same batches, whatever their rule and precision. "
        + ("All rules of a set-up share one learning rate, as published: " if shares_rates(runs) else "Learning rates: ")
        + "; ".join(rate_sentences(runs)) + "."
    )  # fmt: skip


def shares_rates(runs: pd.DataFrame) -> bool:
    return bool((runs.groupby(list(SETUP)).learning_rate.nunique() == 1).all())


def rate_sentences(runs: pd.DataFrame):
    keys = ["optimizer", "precision", "normalization", "architecture", "dataset"]
    several = runs.groupby(["architecture", "dataset"]).ngroups > 1
    for condition, rates in runs.groupby(keys, sort=False).learning_rate:
        optimizer, precision, normalization, architecture, dataset = map(plotting.word, condition)
        where = f" {architecture} on {dataset}" if several else ""
        listed = ", ".join(f"{rate:g}" for rate in rates.unique())
        yield f"{optimizer} {precision} {normalization}{where} {listed}"


def readable_costs(costs: pd.DataFrame) -> pd.DataFrame:
    return (
        costs.assign(
            **{
                name: costs[name].round().astype("Int64")
                for name in ("images_per_second", "job_seconds", "peak_memory_mib", "peak_gpu_memory_mib")
            }
        )
        .dropna(axis="columns", how="all")
        .rename(
            columns={
                "images_per_second": "images/s",
                "job_seconds": "job time (s)",
                "peak_memory_mib": "memory (MiB)",
                "peak_gpu_memory_mib": "GPU memory (MiB)",
            }
        )
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


def read_sources(run: str, folder: str, figures: list[str], captions: list[str], options: str) -> Sources:
    """What chapters are made of whose figures are in a folder below `figures/<run>`."""
    root = Path(f"figures/{run}/{folder}")
    return Sources(
        run,
        {str(Path(path).relative_to(root).with_suffix("")): Path(path) for path in figures},
        {Path(path).stem: Path(path).read_text() for path in captions},
        options,
    )


def read_readable(path: str | Path) -> pd.DataFrame:
    """A table for readers as it was written: numbers with an exponent stay text, which would lose it otherwise."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    plain = [name for name in table if table[name].dropna().str.fullmatch(r"-?[0-9]+(\.[0-9]+)?").all()]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in plain})


def left_out_section(runs: pd.DataFrame, done: set[str]) -> Section:
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
            lost = [plotting.place_label(beta) for beta in sorted(hybrid.beta[hybrid.diverged].unique())]
            when = (
                f"runs diverge at β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{', '.join(lost)}"
                if lost
                else "no run diverges"
            )
            if len(at_largest):
                beta = plotting.place_label(hybrid.beta.max())
                phrases.append(
                    f"{evaluation} hybrid {percent(at_largest)} at β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{beta} ({when})"
                )
        if phrases:
            sentences.append(f"{precision}, {plotting.word(optimizer)}: {'; '.join(phrases)}.")
    return sentences


def alike(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of those datasets, architectures, normalizations and ReLUs in which all of their rules ran.

    A mean over these factors compares rules only where each of them is in it.
    """
    rules = runs.groupby(["dataset", "architecture", "normalization", "relu_derivative"]).rule.transform("nunique")
    return runs[rules == runs.rule.nunique()]


def percent(runs: pd.DataFrame) -> str:
    """Mean test accuracy, with a space that does not break."""
    return f"{100 * runs.test_accuracy.mean():.1f}\N{NO-BREAK SPACE}%"


def command_options(config_files: list[str], overrides: dict[str, Any]) -> str:
    """What a snakemake command needs to mean this preset, with a space before it."""
    options = [] if config_files == ["config/config.yaml"] else ["--configfile", *config_files]
    if overrides:
        # Snakemake reads Python's words for flags, and YAML inside brackets.
        values = (
            f"{key}={json.dumps(value) if isinstance(value, dict | list) else value}"
            for key, value in overrides.items()
        )
        options += ["--config", *values]
    return f" {shlex.join(options)}" if options else ""


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        run = snakemake.wildcards.run
        # A target comes first, since --configfile takes any number of files.
        options = command_options(snakemake.params.config_files, snakemake.params.overrides)
        sources = read_sources(run, "maxpool", snakemake.input.figures, snakemake.input.captions, options)
        speed_sources = read_sources(
            run, "benchmark", snakemake.input.benchmark_figures, snakemake.input.benchmark_captions, options
        )
        benchmarks = {Path(path).stem: speed.read(path) for path in snakemake.input.benchmarks}
        runs = pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=["", "nan"])
        runs = runs.astype({"evaluation": object, "first_nonfinite_step": "Int64"}).fillna({"evaluation": ""})
        records = [read_json(path) for path in snakemake.input.records]
        tables = {
            "runs": runs,
            "costs": pd.read_csv(snakemake.input.costs),
            "ties": pd.read_csv(snakemake.input.ties[0]) if snakemake.input.ties else None,
            "searches": pd.read_csv(snakemake.input.searches[0]) if snakemake.input.searches else None,
            "zones": {
                Path(path).stem: pd.read_csv(path, keep_default_na=False, na_values=[""])
                for path in snakemake.input.zone_results
            },
            "zones_readable": {Path(path).stem: read_readable(path) for path in snakemake.input.zone_tables},
            **{name: pd.read_csv(snakemake.input[name], dtype={"beta": str}) for name in ("summary", "published")},
            **{
                name: pd.read_csv(snakemake.input[name], keep_default_na=False, na_values=[""])
                for name in ("claims", "claims_conditions", "mitigations")
            },
            "claims_readable": read_readable(snakemake.input.claims_readable),
            **{
                name: pd.read_csv(snakemake.input[name][0], keep_default_na=False, na_values=[""])
                if snakemake.input[name]
                else None
                for name in ("factorial", "factorial_effects", "layers")
            },
        }
        text = render(
            run,
            front_page.advice(tables["claims"]),
            [*maxpool_sections(tables, sources), speed.section(benchmarks, speed_sources)],
            {**combined_provenance(records), "remake": f"snakemake{options}"},
            first_page(tables, sources),
        )
        write_text(snakemake.output[0], text)
