"""What helps, beside native and composed pooling: the table of all numbers, and for readers CSV, Markdown and LaTeX."""

import pandas as pd

from nonsmooth import mitigations, plotting
from nonsmooth.joblog import job_log
from nonsmooth.tables import write, write_csv

HEADINGS = {
    "dataset": "dataset",
    "architecture": "architecture",
    "normalization": "batch norm",
    "precision": "precision",
    "relu_derivative": "ReLU'(0)",
    "mitigation": "mitigation",
    "pooling": "pooling",
    "beta": "beta",
    "runs": "runs",
    "diverged": "diverged",
    "test_accuracy_mean": "mean (%)",
    "difference": "less native (points)",
    "interval": "95 % interval (points)",
    "pairs": "pairs",
    "zone": "zone (%)",
    "cost": "cost",
}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `HEADINGS` under their readable names: words for names, accuracies and shares in percent."""
    ends = zip(table.difference_low, table.difference_high, strict=True)
    zones = zip(table.has_choice, table.zone_proportion, strict=True)
    changed = {
        **{name: table[name].map(plotting.word) for name in ("dataset", "architecture")},
        "normalization": table.normalization.map({"none": "no", "batch_norm": "yes"}),
        "relu_derivative": table.relu_derivative.map("{:g}".format),
        # Of a hybrid its evaluation, since beta has a column.
        "pooling": table.rule.where(table.beta.isna(), table.rule.str.rsplit("-", n=1).str[-1]),
        "beta": table.beta.map(lambda beta: "" if pd.isna(beta) else plotting.place_label(beta)),
        **{name: (100 * table[name].astype(float)).round(2) for name in ("test_accuracy_mean", "difference")},
        "interval": ["" if pd.isna(low) else f"{100 * low:.2f} to {100 * high:.2f}" for low, high in ends],
        "zone": [
            "no choice" if not choice else "" if pd.isna(share) else f"{100 * share:.1f}" for choice, share in zones
        ],
        "cost": table.cost.astype(float).round(2),
    }
    return table.assign(**changed)[list(HEADINGS)].rename(columns=HEADINGS)


def tabulate(runs: pd.DataFrame, proportions: pd.DataFrame | None, outputs: dict[str, str]) -> None:
    table = mitigations.compare(runs, proportions)
    write_csv(table, outputs["table"])
    write(readable(table), {suffix: outputs[f"mitigations_{suffix}"] for suffix in ("csv", "md", "tex")})


def read(path: str) -> pd.DataFrame:
    """A table in which "none" is a word."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        (proportions,) = [read(path) for path in snakemake.input.proportions] or [None]
        tabulate(read(snakemake.input.runs), proportions, dict(snakemake.output.items()))
