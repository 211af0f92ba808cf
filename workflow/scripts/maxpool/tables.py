"""The tables for readers, as CSV, Markdown and LaTeX: the summary, and ours beside the published values."""

import pandas as pd

from nonsmooth import plotting
from nonsmooth.joblog import job_log
from nonsmooth.tables import write

CONDITION = {
    "dataset": "dataset",
    "architecture": "architecture",
    "normalization": "batch norm",
    "optimizer": "optimizer",
    "precision": "precision",
    "relu_derivative": "ReLU'(0)",
    "beta": "beta",
    "evaluation": "evaluation",
}
SUMMARY = CONDITION | {
    "test_accuracy_mean": "mean (%)",
    "test_accuracy_std": "std (%)",
    "test_accuracy_min": "min (%)",
    "test_accuracy_max": "max (%)",
    "runs": "runs",
    "diverged": "diverged",
}
PUBLISHED = {key: word for key, word in CONDITION.items() if key != "relu_derivative"} | {
    "ours_mean": "ours (%)",
    "ours_std": "std (%)",
    "ours_runs": "runs",
    "ours_diverged": "diverged",
    "ours_epochs": "epochs",
    "published_mean": "published (%)",
    "published_std": "published std (%)",
    "published_runs": "published runs",
    "published_diverged": "published diverged",
    "published_epochs": "published epochs",
    "difference": "difference (points)",
    "difference_low": "95 % from (points)",
    "difference_high": "to (points)",
}


def readable(table: pd.DataFrame, headings: dict[str, str]) -> pd.DataFrame:
    """The columns of `headings` under their readable names, with words for names and accuracies in percent."""
    fractions = [name for name, heading in headings.items() if heading.endswith(("(%)", "(points)"))]
    words = table.assign(
        **{name: table[name].map(plotting.word) for name in ("dataset", "architecture", "optimizer")},
        **{name: (100 * table[name].astype(float)).round(2) for name in fractions},
        normalization=table.normalization.map({"none": "no", "batch_norm": "yes"}),
        relu_derivative=table.relu_derivative.map("{:g}".format),
        beta=table.beta.map(lambda beta: "" if pd.isna(beta) else plotting.place_label(beta)),
        evaluation=table.evaluation.where(table.evaluation != "", table.rule),
    )
    return words[list(headings)].rename(columns=headings)


def read(path: str) -> pd.DataFrame:
    """A table of conditions, in which an empty evaluation is text and an empty number is NaN."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return table.astype({"evaluation": object}).fillna({"evaluation": ""})


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        for name, headings in (("summary", SUMMARY), ("published", PUBLISHED)):
            outputs = {suffix: snakemake.output[f"{name}_{suffix}"] for suffix in ("csv", "md", "tex")}
            write(readable(read(snakemake.input[name]), headings), outputs)
