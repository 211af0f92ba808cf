"""Tables of the zones: in how many minibatches two programs' gradients differ, why, and what a fixed threshold
makes of it (arXiv 2401.02736, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtri

from nonsmooth.cells import ZONE_CONDITION, Program, ZoneCell
from nonsmooth.records import REMEDY, read_record, read_table

# What tells one cell from another.
ZONE_FACTORS = (*ZONE_CONDITION, "seed")
# What has a figure of its own.
ZONE_GROUP = ("dataset", "architecture", "normalization")
# What two programs are compared in: one sum per precision and pair.
PAIR = ("precision", "program", "reference")
# What settings of a cell the tables show.
SHOWN_SETTINGS = ("initialization", "replays")

# The published thresholds on the summed infinity norms, which are to separate rounding from other derivatives.
SIXTEEN_BITS = ("float16", "bfloat16", "mixed16")
THRESHOLDS = dict.fromkeys(SIXTEEN_BITS, 1e-3) | {"tf32": 1e-7, "float32": 1e-7, "float64": 1e-15}
# Why two gradients differ or agree, strongest first.
CLASSES = (
    "real", "rounding_induced", "compensation", "lost_tie", "masked", "identical", "undecided", "overflow",
)  # fmt: skip

# What the tables take from the files of a cell, and what is not there, or empty, where nothing was replayed.
MEASURED = (
    "minibatch", "images", "loss", "difference", "difference_l1", "difference_published", "difference_published_l1",
    "gradient", "gradient_l1", "entries_differing", "forward_overflow", "backward_overflow", "class",
)  # fmt: skip
REPLAYED = (
    "replay", "replay_l1", "replay_float32", "replay_common", "replay_routed", "real", "real_l1", "real_float32",
    "real_routed", "terms", "undecided_windows",
)  # fmt: skip
LAYER = ("layer", "name", "kind")
COUNTED = ("windows", "tied", "tied_at_zero", "tied_above_zero", "sum_of_sizes")
REPLAYS_COUNTED = ("tied_with_gradient", "tied_float64", "tied_both", "undecided_windows")
RECORDED = ("minibatches", "process_seconds", "peak_memory_mib", "seconds")
WORDS = ("replay_routed", "real_routed", "class")


def read_cells(
    cells: Iterable[ZoneCell],
    minibatch_paths: Iterable[str | Path],
    layer_paths: Iterable[str | Path],
    record_paths: Iterable[str | Path],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """One row per cell and minibatch, one per cell and layer, and one per cell, from the files of the cells, in the
    same order.

    Returns:
        minibatches: the factors, `initialization`, `replays`, and what was measured. A difference that is not finite is
            NaN or infinite; a word that is empty is "".
        layers: the same in front of the counts of every layer.
        costs: `device`, `minibatches`, `seconds_plain` (the median of one forward and backward pass), `seconds_pair`,
            `seconds_replays` (NaN without), their ratios `pair_ratio` = pair / plain and
            `replays_ratio` = (pair + replays) / plain, `process_seconds` and `peak_memory_mib`.

    Raises ValueError that names a file that cannot be read, lacks what a cell writes into it, or is of a cell that
    was measured with other settings or another numerics version; also if there is no cell.
    """
    minibatches, layers, costs = [], [], []
    for wanted, *paths in zip(cells, minibatch_paths, layer_paths, record_paths, strict=True):
        minibatch_path, layer_path, record_path = paths
        cell, record = read_record(record_path, wanted, RECORDED, made="measured")
        rows = _read_minibatches(minibatch_path, cell, record["minibatches"])
        settings = {name: getattr(cell, name) for name in SHOWN_SETTINGS}
        identity = {name: getattr(cell, name) for name in ZONE_FACTORS}
        minibatches.append(_in_front(rows, identity | settings))
        columns = (*LAYER, *COUNTED, "largest_size")
        counts = read_table(layer_path, columns).reindex(columns=[*columns, *REPLAYS_COUNTED])
        layers.append(_in_front(counts, identity | settings))
        # Without replays, their time is that of asking whether there are any.
        seconds = record["seconds"] | ({} if cell.replays else {"replays": None})
        costs.append(
            {
                **identity,
                "device": record["device"]["name"],
                "minibatches": record["minibatches"],
                **{f"seconds_{name}": seconds[name] for name in ("plain", "pair", "replays")},
                "process_seconds": record["process_seconds"],
                "peak_memory_mib": record["peak_memory_mib"],
            }
        )
    if not costs:
        raise ValueError("no cell of the zones to read")
    cost_table = pd.DataFrame(costs)
    plain, pair, replays = (
        cost_table[f"seconds_{name}"].astype(float).rename(None) for name in ("plain", "pair", "replays")
    )
    position = cost_table.columns.get_loc("process_seconds")
    cost_table.insert(position, "pair_ratio", pair / plain)
    cost_table.insert(position + 1, "replays_ratio", (pair + replays) / plain)
    return pd.concat(minibatches, ignore_index=True), pd.concat(layers, ignore_index=True), cost_table


def _read_minibatches(path: str | Path, cell: ZoneCell, number: int) -> pd.DataFrame:
    rows = with_words(read_table(path, MEASURED).reindex(columns=[*MEASURED, *REPLAYED]))
    if len(rows) != number:
        raise ValueError(f"{path}: {len(rows)} minibatches, and {number} in the cell's record; {REMEDY}")
    known = set(CLASSES) if cell.replays else {"overflow", ""}
    unknown = [name for name in rows["class"].unique() if name not in known]
    if unknown:
        raise ValueError(f"{path}: class {unknown[0]!r}, expected one of {sorted(known)}; {REMEDY}")
    return rows


def with_words(minibatches: pd.DataFrame) -> pd.DataFrame:
    """The table as it was before it was a CSV: an empty word is "", where pandas reads NaN."""
    return minibatches.astype(dict.fromkeys(WORDS, object)).fillna(dict.fromkeys(WORDS, ""))


def _in_front(table: pd.DataFrame, columns: dict[str, object]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(columns, index=table.index), table], axis="columns")


# ------------------------------------------------------------------------------------------------- proportions


def wilson(successes, n, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion (J. Am. Stat. Assoc. 22, 209, 1927), as of
    `scipy.stats.binomtest(successes, n).proportion_ci(confidence, "wilson")`, elementwise.

    Args:
        successes, n: counts, of shapes that broadcast.

    Returns:
        low, high: float64 in 0..1; NaN where n is 0.
    """
    successes, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    z = ndtri(0.5 + confidence / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = successes / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    # Rounding must not keep an interval from the proportion itself.
    low, high = np.where(successes == 0, 0.0, low), np.where(successes == n, 1.0, high)
    return np.where(n == 0, np.nan, low), np.where(n == 0, np.nan, high)


def _with_shares(table: pd.DataFrame, of: str, names: Sequence[str]) -> pd.DataFrame:
    """`table` and for each count of `names` its share of the count `of`, with Wilson's interval."""
    columns = {}
    for name in names:
        columns[f"{name}_share"] = (table[name] / table[of]).where(table[of] > 0)
        columns[f"{name}_low"], columns[f"{name}_high"] = wilson(table[name], table[of])
    return table.assign(**columns)


def proportions(minibatches: pd.DataFrame) -> pd.DataFrame:
    """In how many minibatches two programs differ, per condition over all its seeds.

    A minibatch that is smaller than its batch size, the last of a pass, is left out and counted in `incomplete`.

    Returns:
        A row per condition: `initialization`, `seeds`, `minibatches` (that are complete), `incomplete`,
        `nonfinite` (neither above nor below), `differing` (finite and not 0), `threshold` (the published one), `above`;
        `proportion` = above / minibatches with Wilson's interval `low` to `high`, and `proportion_min`, `proportion_max` of
        single seeds; `image_proportion` with `image_low` and `image_high`: the probability q of one image that gives
        1 - (1 - q)^B for a minibatch of B, of which only the lower bound is known where all are above; and medians over the
        finite, non-zero differences: `scaled_difference` (B D), `relative_difference` (D / gradient) and `terms_difference`
        (D / terms), where D leaves out the biases whose true gradient is 0.
    """
    table = _proportions(minibatches, ZONE_CONDITION)
    spread = (
        _proportions(minibatches, ZONE_FACTORS)
        .groupby(list(ZONE_CONDITION), sort=False)["proportion"]
        .agg(proportion_min="min", proportion_max="max")
        .reset_index()
    )
    position = table.columns.get_loc("high") + 1
    for offset, name in enumerate(("proportion_min", "proportion_max")):
        # Both are grouped in order of appearance.
        table.insert(position + offset, name, spread[name])
    return table


def proportions_by_seed(minibatches: pd.DataFrame) -> pd.DataFrame:
    """The columns of `proportions`, without the spread over seeds, per condition and seed."""
    return _proportions(minibatches, ZONE_FACTORS).drop(columns="seeds")


def _proportions(minibatches: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    published = minibatches.difference_published
    is_complete = minibatches.images >= minibatches.batch_size
    is_finite = is_complete & np.isfinite(published)
    size = minibatches.difference
    size = size.where(is_complete & np.isfinite(size) & (size > 0))
    threshold = minibatches.precision.map(THRESHOLDS)
    table = (
        minibatches.assign(
            seeds=minibatches.seed,
            minibatches=is_complete,
            incomplete=~is_complete,
            nonfinite=is_complete & ~is_finite,
            differing=is_finite & (published > 0),
            threshold=threshold,
            above=is_finite & (published > threshold),
            scaled_difference=size * minibatches.images,
            relative_difference=size / minibatches.gradient.where(minibatches.gradient > 0),
            terms_difference=size / minibatches.terms.where(minibatches.terms > 0),
        )
        .groupby(list(keys), sort=False)
        .agg(
            {
                "initialization": "first",
                "seeds": "nunique",
                **dict.fromkeys(("minibatches", "incomplete", "nonfinite", "differing"), "sum"),
                "threshold": "first",
                "above": "sum",
                **dict.fromkeys(("scaled_difference", "relative_difference", "terms_difference"), "median"),
            }
        )
        .reset_index()
    )
    low, high = wilson(table.above, table.minibatches)
    share = (table.above / table.minibatches).where(table.minibatches > 0)
    # Where all are above, no q below 1 is too large.
    bounded = share < 1
    found = {
        "proportion": share,
        "low": low,
        "high": high,
        "image_proportion": image_proportion(share, table.batch_size).where(bounded),
        "image_low": image_proportion(low, table.batch_size),
        "image_high": image_proportion(high, table.batch_size).where(bounded),
    }
    for offset, (name, values) in enumerate(found.items(), start=table.columns.get_loc("above") + 1):
        table.insert(offset, name, values)
    return table


def image_proportion(proportion: pd.Series | np.ndarray, batch_size: pd.Series) -> pd.Series:
    """The probability q of one image where a share 1 - (1 - q)^B of the minibatches of B has such an image."""
    with np.errstate(divide="ignore"):  # of a share of 1, which gives 1
        return -np.expm1(np.log1p(-pd.Series(proportion, index=batch_size.index, dtype=float)) / batch_size)


def compare(proportions: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Ours beside the published proportions, of minimal against native without noise.

    A condition matches if dataset, architecture, normalization, precision and batch size are the published ones and
    the initial weights are drawn as published. A condition that was published twice, with another draw of initial
    weights, has two rows.

    Returns:
        The condition, `factor` (the published panel), ours (`seeds`, `minibatches`, `proportion`, `low`, `high`,
        `proportion_min`, `proportion_max`), `published_proportion`, `difference` (ours less the published) and `note`.
    """
    ours = proportions[
        (proportions.program == "minimal")
        & (proportions.reference == "native")
        & (proportions.noise == 0)
        & (proportions.initialization == "kaiming_uniform")
    ]
    measured = ["seeds", "minibatches", "proportion", "low", "high", "proportion_min", "proportion_max"]
    keys = [*ZONE_GROUP, "precision", "batch_size"]
    theirs = published.rename(columns={"proportion": "published_proportion"})
    both = ours[[*ZONE_CONDITION, *measured]].merge(theirs, on=keys, how="inner")
    both = both.assign(difference=both.proportion - both.published_proportion)
    return both[[*ZONE_CONDITION, "factor", *measured, "published_proportion", "difference", "note"]]


# ----------------------------------------------------------------------------------------------------- classes


def classes(minibatches: pd.DataFrame) -> pd.DataFrame:
    """How many minibatches are of each class, per condition over all its seeds.

    Only cells with replays have classes; incomplete minibatches are left out, as in `proportions`.

    Returns:
        A row per condition and class, in the order of `CLASSES`, also of classes that no minibatch is of: `seeds`,
        `minibatches` (of the condition), `class`, `count`, `share` with Wilson's interval `low` to `high`.
    """
    classified = _classified(minibatches)
    counts = _count(classified, ZONE_CONDITION, {name: classified["class"] == name for name in CLASSES})
    table = counts.melt([*ZONE_CONDITION, "seeds", "minibatches"], CLASSES, "class", "count", ignore_index=False)
    # One condition after the other.
    table = table.sort_index(kind="stable", ignore_index=True)
    low, high = wilson(table["count"], table.minibatches)
    return table.assign(share=table["count"] / table.minibatches, low=low, high=high)


def magnitudes(minibatches: pd.DataFrame) -> pd.DataFrame:
    """How large the differences are, and what is left of them by recomputation, per condition over all its seeds.

    Complete minibatches whose forward pass is finite and whose causes were separated.

    Returns:
        A row per condition: `seeds`, `minibatches`, and medians of `gradient`, `difference`, `replay` (the same rounded
        values, differentiated in float64), `replay_common` (of that, what starts at windows that tie in float64, too) and
        `real` (values in float64).
    """
    classified = _classified(minibatches)
    classified = classified[classified.replay.notna()]
    measured = ("gradient", "difference", "replay", "replay_common", "real")
    return (
        classified.assign(minibatches=True)
        .groupby(list(ZONE_CONDITION), sort=False)
        .agg(
            seeds=("seed", "nunique"),
            minibatches=("minibatches", "sum"),
            **{name: (name, "median") for name in measured},
        )
        .reset_index()
    )


def misjudged(minibatches: pd.DataFrame) -> pd.DataFrame:
    """How many minibatches the published threshold misjudges, per condition and, below, per precision and pair.

    Above the threshold the paper speaks of a bifurcation, that is, of programs that differ over the reals; at or below
    it, of compensation. Recomputation says which is true: only the class `real` differs in float64, too. Overflows and
    undecided minibatches are counted apart.

    Returns:
        A row per condition, then one per precision and pair of programs, whose other factors are "all": `seeds`,
        `minibatches`, `overflow`, `undecided`, `decided` (the others), `said_bifurcation`, `wrong_bifurcation` (not real)
        and of these `rounding_induced`, `compensation` and `other`; `said_compensation`, `wrong_compensation` (real);
        `misjudged`; and for the three wrong ones `_share` of `decided` with Wilson's interval, `_low` to `_high`.
    """
    classified = _classified(minibatches)
    found = classified["class"]
    overflow = (found == "overflow") | ~np.isfinite(classified.difference_published)
    undecided = (found == "undecided") & ~overflow
    decided = ~overflow & ~undecided
    is_above = _is_above(classified)
    wrong = decided & is_above & (found != "real")
    missed = decided & ~is_above & (found == "real")
    named = ("rounding_induced", "compensation")
    counts = {
        "overflow": overflow,
        "undecided": undecided,
        "decided": decided,
        "said_bifurcation": decided & is_above,
        "wrong_bifurcation": wrong,
        **{name: wrong & (found == name) for name in named},
        "other": wrong & ~found.isin(named),
        "said_compensation": decided & ~is_above,
        "wrong_compensation": missed,
        "misjudged": wrong | missed,
    }
    table = _count_and_sum(classified, counts)
    return _with_shares(table, "decided", ["wrong_bifurcation", "wrong_compensation", "misjudged"])


def pure_rounding(minibatches: pd.DataFrame) -> pd.DataFrame:
    """What the minibatches above the published threshold are, per condition and, below, per precision and pair.

    Returns:
        A row per condition, then one per precision and pair of programs, whose other factors are "all": `seeds`,
        `minibatches`, `above` (the threshold, finite), of these `compensation` (pure rounding), `rounding_induced`, `real`,
        `undecided` and `other`; and for each the `_share` of `above` with Wilson's interval, `_low` to `_high`.
    """
    classified = _classified(minibatches)
    is_above = _is_above(classified)
    named = ("compensation", "rounding_induced", "real", "undecided")
    counts = {
        "above": is_above,
        **{name: is_above & (classified["class"] == name) for name in named},
        "other": is_above & ~classified["class"].isin(named),
    }
    return _with_shares(_count_and_sum(classified, counts), "above", [*named, "other"])


def causes_by_seed(minibatches: pd.DataFrame) -> pd.DataFrame:
    """Of the minibatches above the published threshold, how many are of which class, per condition and seed.

    Returns:
        A row per condition and seed: `initialization`, `minibatches`, `above` (the threshold, finite), and of these a column of each
        of `CLASSES`.
    """
    classified = _classified(minibatches)
    is_above = _is_above(classified)
    counts = {"above": is_above, **{name: is_above & (classified["class"] == name) for name in CLASSES}}
    return _count(classified, (*ZONE_FACTORS, "initialization"), counts).drop(columns="seeds")


def _classified(minibatches: pd.DataFrame) -> pd.DataFrame:
    """Complete minibatches whose causes were separated."""
    return minibatches[minibatches.replays & (minibatches.images >= minibatches.batch_size)]


def _is_above(minibatches: pd.DataFrame) -> pd.Series:
    """Whether a difference is finite and above the published threshold."""
    size = minibatches.difference_published
    return np.isfinite(size) & (size > minibatches.precision.map(THRESHOLDS).astype(float))


def _count(minibatches: pd.DataFrame, keys: Sequence[str], counts: dict[str, pd.Series]) -> pd.DataFrame:
    """`seeds`, `minibatches`, and how often each of `counts` is true, by `keys`."""
    marked = minibatches[list(keys)].assign(seeds=minibatches.seed, minibatches=1, **counts)
    how = {"seeds": "nunique", "minibatches": "sum", **dict.fromkeys(counts, "sum")}
    return marked.groupby(list(keys), sort=False).agg(how).reset_index()


def _count_and_sum(minibatches: pd.DataFrame, counts: dict[str, pd.Series]) -> pd.DataFrame:
    """Counts per condition, then per precision and pair of programs, whose other factors are "all"."""
    single = _count(minibatches, ZONE_CONDITION, counts)
    summed = _count(minibatches, PAIR, counts)
    others = {name: "all" for name in ZONE_CONDITION if name not in PAIR}
    rows = [single.astype(dict.fromkeys(others, object)), summed.assign(**others).astype(dict.fromkeys(others, object))]
    return pd.concat(rows, ignore_index=True)[single.columns]


# -------------------------------------------------------------------------------------------------- thresholds


def thresholds(minibatches: pd.DataFrame) -> pd.DataFrame:
    """The threshold that separates rounding from other derivatives, as it was published and as it was presumably meant.

    The published program compared ReLU'(0) = 1 with ReLU'(0) = 0 under the native rule, where the gradients differ over
    the rounded values, and took L1 norms: the smallest non-zero one in 16 bits, the largest in 32 and 64 bits. Meant was
    presumably the largest difference of minimal and native where they should agree. Only images without noise count.

    Returns:
        A row per dataset, architecture, normalization and precision that has either: `published_threshold`;
        `as_published` of `as_published_minibatches`; `largest_agreeing` of `agreeing` minibatches, in which
        recomputation finds no other derivative (neither at the rounded values nor in float64); `smallest_routed` of
        `routed` minibatches (real or rounding-induced); and `separable`: whether a threshold has the former below and the
        latter above it. Empty where no minibatch says.
    """
    clean = minibatches[minibatches.noise == 0]
    is_replayed = clean.replays & np.isfinite(clean.difference_published)
    is_main = (clean.program == "minimal") & (clean.reference == "native")
    is_swapped = (clean.program == str(Program("native", 1.0))) & (clean.reference == "native")
    agrees = is_main & is_replayed & (clean.replay_routed == "no") & (clean.real_routed == "no")
    is_routed = is_main & is_replayed & clean["class"].isin(["real", "rounding_induced"])
    norms = clean.difference_published_l1
    swapped = norms.where(is_swapped & np.isfinite(norms))
    keys = [*ZONE_GROUP, "precision"]
    table = (
        clean[is_main | is_swapped]
        .assign(
            smallest_swapped=swapped.where(swapped > 0),
            largest_swapped=swapped,
            as_published_minibatches=swapped.notna(),
            largest_agreeing=clean.difference_published.where(agrees),
            agreeing=agrees,
            smallest_routed=clean.difference_published.where(is_routed),
            routed=is_routed,
        )
        .groupby(keys, sort=False)
        .agg(
            {
                "smallest_swapped": "min",
                "largest_swapped": "max",
                "as_published_minibatches": "sum",
                "largest_agreeing": "max",
                "agreeing": "sum",
                "smallest_routed": "min",
                "routed": "sum",
            }
        )
        .reset_index()
    )
    table.insert(len(keys), "published_threshold", table.precision.map(THRESHOLDS))
    as_published = table.smallest_swapped.where(table.precision.isin(SIXTEEN_BITS), table.largest_swapped)
    table.insert(len(keys) + 1, "as_published", as_published)
    both = (table.agreeing > 0) & (table.routed > 0)
    separable = (table.largest_agreeing < table.smallest_routed).astype(object).where(both, None)
    return table.drop(columns=["smallest_swapped", "largest_swapped"]).assign(separable=separable)


# ------------------------------------------------------------------------------------------------------ layers


def layers_table(layers: pd.DataFrame) -> pd.DataFrame:
    """How many windows of each layer tie, per condition over all its seeds.

    Returns:
        A row per condition and layer (`layer`, `name`, `kind`): the counts of `COUNTED` and `REPLAYS_COUNTED` summed, `tied_by_rounding` (not tied
        in float64) and `largest_size`; `mean_size` of the tied windows; and the shares of all windows `tied_share`,
        `zero_share`, `above_zero_share`, `with_gradient_share`, `float64_share`, `by_rounding_share`. What needs replays is
        empty without.
    """
    # A sum that leaves out a cell would be a share of too many windows.
    added = dict.fromkeys((*COUNTED, *REPLAYS_COUNTED), lambda counts: counts.sum(skipna=False))
    table = (
        layers.groupby([*ZONE_CONDITION, *LAYER], sort=False)
        .agg({"seed": "nunique", **added, "largest_size": "max"})
        .rename(columns={"seed": "seeds"})
        .reset_index()
    )
    table = table.assign(
        tied_by_rounding=table.tied - table.tied_both, mean_size=(table.sum_of_sizes / table.tied).where(table.tied > 0)
    )
    shares = {
        "tied": "tied",
        "zero": "tied_at_zero",
        "above_zero": "tied_above_zero",
        "with_gradient": "tied_with_gradient",
        "float64": "tied_float64",
        "by_rounding": "tied_by_rounding",
    }
    return table.assign(**{f"{name}_share": table[count] / table.windows for name, count in shares.items()})


# ------------------------------------------------------------------------------------- what figures choose


def principal(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one pair of programs, noise and kind of kernels: minimal against native without noise under
    deterministic kernels, or the first there is of each."""
    for usual in ({"program": "minimal", "reference": "native"}, {"noise": 0.0}, {"kernels": "deterministic"}):
        chosen = pd.Series(True, index=table.index)
        for name, value in usual.items():
            chosen &= table[name] == value
        if not chosen.any() and len(table):
            first = table[list(usual)].iloc[0]
            chosen = (table[list(usual)] == first).all(axis="columns")
        table = table[chosen]
    return table
