"""The zones' part of the report: what the gradients of two programs differ by, how often, and why."""

from __future__ import annotations

import pandas as pd

from nonsmooth import plotting
from nonsmooth.report import Section, Sources, Table, words
from nonsmooth.zones.tables import layers_table, principal

GRADIENTS = (
    "Two programs of one network that differ only in the derivative they choose at ties compute the same function, and over the "
    "reals the same gradient almost everywhere. This chapter asks how often, by how much and why the gradients that they "
    "return differ. For every minibatch, at the initial weights, the gradients of two programs are subtracted; D is the "
    "infinity norm of the difference, summed over the parameter tensors."
)
ZONES = (
    "The paper distinguishes a <em>bifurcation zone</em>, where the programs differ over the reals, because values really tie, "
    "from a <em>compensation zone</em>, where they agree over the reals and only rounding tells them apart, and separates the "
    "two by a threshold on D: 1e-3 in 16 bits, 1e-7 in 32, 1e-15 in 64. A threshold cannot know why two numbers differ, so here "
    "every difference is recomputed: once from the same rounded activations, masks and ties, but differentiated in float64, "
    "and once from a forward pass in float64. If a difference is the same in float32 and float64 arithmetic, the programs "
    "send gradient to different places (it is <em>routed</em>); if it shrinks with the arithmetic, it was rounding."
)
CLASSES = (
    "That names each minibatch. <em>Real tie</em>: routed in float64, too. <em>Rounding-induced tie</em>: routed at the rounded "
    "values only, which tie where exact ones do not. <em>Rounding only</em>: not routed, and yet the computed gradients differ. "
    "<em>Identical</em>: not routed, and equal. <em>Masked</em>: routed, but the computed gradients are equal, by underflow or "
    "absorption. <em>Lost tie</em>: routed in float64 only. What no ratio decides is <em>undecided</em>, and what is not "
    "finite is counted on its own, never as a difference of 0."
)
ZERO = (
    "The smallest example: zero(t) = max1(t x) − max2(t x) is 0 for every t, and so is its derivative. max1 is a comparison loop, "
    "which gives the whole gradient to one entry, max2 the library's maximum, which shares it among ties. The published "
    "derivative in 32 bits is 5.96e-8, half a unit in the last place of 1.14."
)
TIES = (
    "Most ties change nothing. A window that ties at zero lies behind a ReLU that passes no gradient, and ties over identical "
    "patches, such as a flat background, give the same weight gradient whichever entry is chosen. The figures count ties by "
    "layer, and say at how many of them a gradient arrives."
)
WEIGHTS = (
    "What becomes of such differences in training: two networks from the same weights see the same batches, and differ in the "
    "derivative at ties only."
)


def sections(tables: dict[str, pd.DataFrame], readable: dict[str, pd.DataFrame], sources: Sources) -> list[Section]:
    """The sections of the zones that a preset has, in reading order.

    Args:
        tables: the tables of `nonsmooth.zones.tables` by name; empty if the preset has no cells of zones.
        readable: the tables for readers by the name of their file, `zero_function` among them if the preset has it.
        sources: figures, captions and commands.
    """
    found = []
    if "classes" in tables:
        found.append(
            Section(
                "Where autodiff is numerically wrong",
                [GRADIENTS, ZONES, CLASSES, *class_sentences(tables["classes"])],
                figures=[sources.figure(stem, title(stem)) for stem in sources.of("classes")],
                tables=[
                    sources.table(
                        "magnitudes", readable["magnitudes"], "How large the differences are", collapsed=True
                    ),
                    cost_table(tables["costs"], sources),
                ],
            )
        )
    if "zero_function" in readable:
        table = sources.table(
            "zero_function", readable["zero_function"], "Computed derivatives of functions that are zero"
        )
        found.append(Section("A function that is zero everywhere", [ZERO], tables=[table]))
    if "classes" not in tables:
        return found
    found += [
        Section(
            "By how much gradients differ", figures=[sources.figure(s, title(s)) for s in sources.of("differences")]
        ),
        Section(
            "How often they differ by more than the threshold",
            published_sentences(tables["published"]),
            figures=[sources.figure(stem, title(stem)) for stem in sources.of("proportions")],
            tables=[
                *published_table(tables["published"], sources),
                sources.table("zone_proportions", readable["zone_proportions"], "Every condition", collapsed=True),
            ],
        ),
        Section(
            "What a threshold misjudges",
            misjudged_sentences(tables["misjudged"], tables["pure_rounding"]),
            tables=[
                sources.table(name, readable[name], caption, collapsed=len(readable[name]) > 12)
                for name, caption in (
                    ("misjudged", "Minibatches that the published threshold misjudges"),
                    ("pure_rounding", "What is above the threshold"),
                    ("thresholds", "The threshold as published and as it was presumably meant"),
                )
            ],
        ),
        Section(
            "Ties by layer",
            [TIES, *float64_sentences(tables["classes"], tables["layers"])],
            figures=[sources.figure(stem, title(stem)) for stem in sources.of("ties_by_layer")],
        ),
    ]
    return found


def weights_section(sources: Sources) -> Section:
    """The distance between the weights of two programs."""
    figure = sources.figure("weights_distance", "Distance between weights, and accuracy")
    return Section("What becomes of the differences in training", [WEIGHTS], figures=[figure])


def title(stem: str) -> str:
    """The network and dataset of a figure, from its path."""
    _, dataset, *others = stem.split("/")
    names = [plotting.word(name) for name in others]
    return f"{', '.join(names)}, {plotting.word(dataset)}" if names else plotting.word(dataset)


def class_sentences(classes: pd.DataFrame) -> list[str]:
    """Per precision, the classes of the minibatches of minimal against native, over all networks."""
    chosen = principal(classes)
    sentences = []
    for precision, part in chosen.groupby("precision", sort=False):
        counts = part.groupby("class", sort=False)["count"].sum()
        total = int(counts.sum())
        phrases = [
            f"{count:,} {plotting.CLASS_WORDS[name]}"
            for name, count in counts[counts > 0].sort_values(ascending=False).items()
        ]
        sentences.append(f"{precision}: {', '.join(phrases)}, of {words(total, 'minibatch', 'minibatches')}")
    if not sentences:
        return []
    pair = plotting.pair_words(chosen.program.iloc[0], chosen.reference.iloc[0])
    return [f"{pair.capitalize()}, all networks of this preset together. {'; '.join(sentences)}."]


def published_sentences(published: pd.DataFrame) -> list[str]:
    """How ours compare with the published proportions, or that nothing can be compared."""
    if published.empty:
        return [
            "No condition of this preset was published: the published proportions are of VGG networks on CIFAR-10. The "
            "thresholds are absolute, so that on another network or dataset the size of the gradient alone decides how "
            "many minibatches are above them."
        ]
    inside = (published.low <= published.published_proportion) & (published.published_proportion <= published.high)
    return [
        f"{words(len(published), 'condition')} can be compared with the paper, which had one draw of initial weights each. The "
        f"published proportion is within the 95 % interval of ours in {int(inside.sum())} of them."
    ]


def published_table(published: pd.DataFrame, sources: Sources) -> list[Table]:
    """Ours beside the published proportions."""
    if published.empty:
        return []
    shown = pd.DataFrame(
        {
            "architecture": published.architecture.map(plotting.word),
            "batch norm": published.normalization.map({"none": "no", "batch_norm": "yes"}),
            "batch size": published.batch_size,
            "precision": published.precision,
            "minibatches": published.minibatches,
            "ours (%)": 100 * published.proportion,
            "low (%)": 100 * published.low,
            "high (%)": 100 * published.high,
            "published (%)": 100 * published.published_proportion,
            "note": published.note.fillna(""),
        }
    )
    path = f"results/{sources.run}/maxpool/zone_tables/published.csv"
    caption = (
        "Share of minibatches above the threshold, with Wilson's 95 % interval. Source: ``data/published/README.md``."
    )
    return [Table("Ours and published", shown, caption, f"snakemake {path}{sources.options}", (path,))]


def cost_table(costs: pd.DataFrame, sources: Sources) -> Table:
    """Time per minibatch, as ratios to a plain pass of the same network, and memory."""
    keys = ["dataset", "architecture", "normalization", "precision", "batch_size"]
    shown = costs.groupby(keys, sort=False).agg(
        minibatches=("minibatches", "sum"),
        plain=("seconds_plain", "median"),
        pair=("pair_ratio", "median"),
        replays=("replays_ratio", "median"),
        memory=("peak_memory_mib", "max"),
    )
    shown = shown.reset_index().rename(
        columns={
            "normalization": "batch norm",
            "batch_size": "batch size",
            "plain": "plain pass (s)",
            "pair": "pair / plain",
            "replays": "with replays / plain",
            "memory": "memory (MiB)",
        }
    )
    shown["batch norm"] = shown["batch norm"].map({"none": "no", "batch_norm": "yes"})
    path = f"results/{sources.run}/maxpool/zone_tables/costs.csv"
    caption = (
        "Per minibatch, medians: one forward and backward pass of the network, comparing a pair of programs, and that with all "
        "replays, in passes; and the largest memory of a job, as the cells recorded them."
    )
    return Table("Cost", shown, caption, f"snakemake {path}{sources.options}", (path,), collapsed=True)


def misjudged_sentences(misjudged: pd.DataFrame, pure_rounding: pd.DataFrame) -> list[str]:
    """Per precision, over all networks: how many minibatches the threshold misjudges, and what is above it."""
    sentences = []
    above = pure_rounding[pure_rounding.dataset == "all"].set_index(["precision", "program", "reference"])
    for row in misjudged[(misjudged.dataset == "all") & (misjudged.program != misjudged.reference)].itertuples():
        pair = plotting.pair_words(row.program, row.reference)
        text = (
            f"{row.precision}, {pair}: of {words(int(row.decided), 'decided minibatch', 'decided minibatches')} the threshold "
            f"misjudges {int(row.misjudged):,}: it calls {int(row.wrong_bifurcation):,} a bifurcation that "
            f"{'is' if row.wrong_bifurcation == 1 else 'are'} none, and misses {int(row.wrong_compensation):,} real "
            f"{'one' if row.wrong_compensation == 1 else 'ones'}."
        )
        what = above.loc[(row.precision, row.program, row.reference)]
        if what.above:
            text += f" Of {int(what.above):,} above it, {int(what.compensation):,} are rounding only."
        sentences.append(text)
    return sentences


def float64_sentences(classes: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    """Where float64 itself has minibatches that are routed: the layers whose ties above zero cause it."""
    chosen = principal(classes)
    real = chosen[(chosen.precision == "float64") & (chosen["class"] == "real")]
    counted = principal(layers_table(layers))
    sentences = []
    for row in real[real["count"] > 0].itertuples():
        where = {
            name: getattr(row, name) for name in ("dataset", "architecture", "normalization", "batch_size", "noise")
        }
        mine = counted[(counted.precision == "float64") & (counted.kind == "max_pool")]
        for name, value in where.items():
            mine = mine[mine[name] == value]
        tied = "; ".join(
            f"{layer.name}: {100 * layer.above_zero_share:.3g} % of {layer.windows:,} windows tie above zero"
            for layer in mine.itertuples()
            if layer.tied_above_zero > 0
        )
        network = ", ".join(plotting.zone_words({name: where[name] for name in where}))
        sentences.append(
            f"In float64 {row.count:,} of {row.minibatches:,} minibatches have a real tie ({network}). {tied.capitalize()}."
        )
    if not sentences and len(real):
        sentences.append("In float64 no minibatch of this preset has a tie that routes gradient differently.")
    return sentences
