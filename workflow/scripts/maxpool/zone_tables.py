"""The zones' tables for readers, as CSV, Markdown and LaTeX: proportions, what a threshold misjudges, thresholds."""

import pandas as pd

from nonsmooth import plotting
from nonsmooth.joblog import job_log
from nonsmooth.tables import write

NETWORK = {
    "dataset": "dataset",
    "architecture": "architecture",
    "normalization": "batch norm",
    "precision": "precision",
}
CONDITION = NETWORK | {
    "batch_size": "batch size",
    "pair": "programs",
    "noise": "noise",
    "kernels": "kernels",
    "seeds": "seeds",
    "minibatches": "minibatches",
}
# Headings by column; what is in percent is a fraction in the tables that are read.
PROPORTIONS = CONDITION | {
    "nonfinite": "not finite",
    "differing": "differing",
    "above": "above",
    "proportion": "above (%)",
    "interval": "95 % interval (%)",
    "spread": "seeds' range (%)",
    "image_proportion": "one image",
    "scaled_difference": "B D",
    "relative_difference": "D / gradient",
    "terms_difference": "D / terms",
}
MAGNITUDES = CONDITION | {
    "gradient": "gradient",
    "difference": "difference",
    "replay": "in float64",
    "replay_common": "at float64's ties",
    "real": "float64 values",
}
MISJUDGED = CONDITION | {
    "overflow": "not finite",
    "undecided": "undecided",
    "decided": "decided",
    "said_bifurcation": "said bifurcation",
    "rounding_induced": "but rounding-induced",
    "compensation": "but rounding only",
    "other": "but other",
    "said_compensation": "said compensation",
    "wrong_compensation": "but real",
    "misjudged_share": "misjudged (%)",
    "misjudged_interval": "95 % interval (%)",
}
PURE_ROUNDING = CONDITION | {
    "above": "above",
    "compensation_share": "rounding only (%)",
    "compensation_interval": "95 % interval of rounding only (%)",
    "rounding_induced_share": "rounding-induced (%)",
    "rounding_induced_interval": "95 % interval of rounding-induced (%)",
    "real_share": "real (%)",
    "real_interval": "95 % interval of real (%)",
    "undecided_share": "undecided (%)",
    "other_share": "other (%)",
}
THRESHOLDS = NETWORK | {
    "published_threshold": "published",
    "as_published": "as published",
    "as_published_minibatches": "minibatches",
    "largest_agreeing": "largest that agrees",
    "agreeing": "agreeing",
    "smallest_routed": "smallest routed",
    "routed": "routed",
    "separable": "separable",
}
# Written with a power of ten.
SMALL = {"image_proportion", "scaled_difference", "relative_difference", "terms_difference", "published_threshold",
         "as_published", "largest_agreeing", "smallest_routed", "gradient", "difference", "replay", "replay_common",
         "real"}  # fmt: skip
TABLES = {
    "zone_proportions": ("proportions", PROPORTIONS),
    "magnitudes": ("magnitudes", MAGNITUDES),
    "misjudged": ("misjudged", MISJUDGED),
    "pure_rounding": ("pure_rounding", PURE_ROUNDING),
    "thresholds": ("thresholds", THRESHOLDS),
}


def readable(table: pd.DataFrame, headings: dict[str, str]) -> pd.DataFrame:
    """The columns of `headings` under their readable names: words for names, shares in percent, small numbers in text."""
    table = table.assign(**pairs(table), **intervals(table))
    changed = {
        **{name: table[name].map(plotting.word) for name in ("dataset", "architecture")},
        "normalization": table.normalization.replace({"none": "no", "batch_norm": "yes"}),
        **{name: as_text(table[name], "{:g}") for name in ("batch_size", "noise") if name in headings},
        **{name: as_text(table[name], "{:.2e}") for name in SMALL if name in headings},
    }
    for name, heading in headings.items():
        if heading.endswith("(%)") and not name.endswith(("interval", "spread")):
            changed[name] = (100 * table[name].astype(float)).round(2)
    if "separable" in headings:
        changed["separable"] = table.separable.astype(object).map({True: "yes", False: "no"}).fillna("")
    return table.assign(**changed)[list(headings)].rename(columns=headings)


def pairs(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The column of the two programs, if `table` has them."""
    if "program" not in table:
        return {}
    words = [plotting.pair_words(*pair) for pair in zip(table.program, table.reference, strict=True)]
    return {"pair": pd.Series(words, index=table.index, dtype=object)}


def intervals(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Both ends of each interval of shares that `table` has, as text in percent; empty where there is none."""
    ends = {"interval": ("low", "high"), "spread": ("proportion_min", "proportion_max")}
    for name in table:
        if name.endswith("_low"):
            stem = name.removesuffix("_low")
            ends[f"{stem}_interval"] = (name, f"{stem}_high")
    found = {}
    for name, (low, high) in ends.items():
        if low in table:
            texts = [
                "" if pd.isna(a) else f"{100 * a:.1f} to {100 * b:.1f}"
                for a, b in zip(table[low], table[high], strict=True)
            ]
            found[name] = pd.Series(texts, index=table.index, dtype=object)
    return found


def as_text(values: pd.Series, form: str) -> pd.Series:
    """Numbers in text, of which NaN is empty; "all" stays."""
    texts = [value if value == "all" else "" if pd.isna(value) else form.format(float(value)) for value in values]
    return pd.Series(texts, index=values.index, dtype=object)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        for name, (source, headings) in TABLES.items():
            table = pd.read_csv(getattr(snakemake.input, source), keep_default_na=False, na_values=[""])
            outputs = {suffix: snakemake.output[f"{name}_{suffix}"] for suffix in ("csv", "md", "tex")}
            write(readable(table, headings), outputs)
