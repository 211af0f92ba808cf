"""The summary table for readers: CSV, Markdown and LaTeX."""

import pandas as pd

from nonsmooth import plotting
from nonsmooth.files import atomic, write_text
from nonsmooth.joblog import job_log

HEADINGS = {
    "dataset": "dataset",
    "architecture": "architecture",
    "normalization": "batch norm",
    "optimizer": "optimizer",
    "precision": "precision",
    "beta": "beta",
    "evaluation": "evaluation",
    "test_accuracy_mean": "mean (%)",
    "test_accuracy_std": "std (%)",
    "test_accuracy_min": "min (%)",
    "test_accuracy_max": "max (%)",
    "runs": "runs",
    "diverged": "diverged",
}


def table(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with readable names, and accuracies of the last epoch in percent."""
    percent = [name for name in HEADINGS if name.startswith("test_accuracy")]
    readable = summary.assign(
        **{name: summary[name].map(plotting.word) for name in ("dataset", "architecture", "optimizer")},
        **{name: (100 * summary[name]).round(2) for name in percent},
        normalization=summary.normalization.map({"none": "no", "batch_norm": "yes"}),
        beta=summary.beta.map(plotting.beta_label),
        evaluation=summary.evaluation.where(summary.evaluation != "", summary.rule),
    )
    return readable[list(HEADINGS)].rename(columns=HEADINGS)


def write(summary: pd.DataFrame, outputs: dict[str, str]) -> None:
    readable = table(summary)
    with atomic(outputs["csv"]) as temporary:
        readable.to_csv(temporary, index=False)
    # tabulate writes a NaN as "nan", and would read the betas as numbers with two decimals.
    markdown = (
        readable.astype(object)
        .where(readable.notna(), None)
        .to_markdown(index=False, floatfmt=".2f", missingval="", disable_numparse=[list(HEADINGS).index("beta")])
    )
    write_text(outputs["md"], markdown + "\n")
    latex = readable.style.hide(axis="index").format(precision=2, na_rep="", escape="latex")
    latex = latex.format_index(escape="latex", axis="columns").to_latex(hrules=True, environment="longtable")
    write_text(outputs["tex"], latex)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        write(
            pd.read_csv(snakemake.input.summary, keep_default_na=False, na_values={"test_accuracy_std": [""]}),
            dict(snakemake.output.items()),
        )
