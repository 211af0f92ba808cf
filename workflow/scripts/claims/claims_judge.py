"""Judge the claims on the study's tables: a row per claim, a row per claim and condition, and a table for readers."""

import pandas as pd

from nonsmooth import claims
from nonsmooth.joblog import job_log
from nonsmooth.tables import write, write_csv
from nonsmooth.zones.tables import causes_by_seed, with_words


def read(paths) -> pd.DataFrame | None:
    """The table of an input that the preset may not have; "none" is a word in it."""
    paths = [paths] if isinstance(paths, str) else paths
    return pd.read_csv(paths[0], keep_default_na=False, na_values=[""]) if paths else None


def tables(inputs) -> claims.Tables:
    minibatches = read(inputs.minibatches)
    return claims.Tables(
        runs=read(inputs.runs),
        zone_shares=read(inputs.zone_shares),
        zone_causes=None if minibatches is None else causes_by_seed(with_words(minibatches)),
        pooling_errors=read(inputs.pooling_errors),
    )


def readable(judged: pd.DataFrame) -> pd.DataFrame:
    """A claim in a row, in words; numbers are those of its conditions."""

    def span(row: pd.Series, stem: str, form: str) -> str:
        low, high = (
            format(row[f"{stem}_{end}"], form) if pd.notna(row[f"{stem}_{end}"]) else "" for end in ("min", "max")
        )
        return low if low == high else f"{low} to {high}"

    needed = judged.runs_needed.map(lambda n: "" if pd.isna(n) else "many" if n == float("inf") else f"{n:.0f}")
    return pd.DataFrame(
        {
            "claim": judged.claim,
            "sentence": judged.sentence,
            "source": judged.source,
            "verdict": judged.verdict,
            "rule": [
                f"{decide}, {quantifier}" for decide, quantifier in zip(judged.decide, judged.quantifier, strict=True)
            ],
            "conditions": judged.conditions,
            "hold": judged.holding,
            "fail": judged.failing,
            "undecidable": judged.undecided,
            "n": judged.apply(span, axis="columns", args=("n", ".0f")),
            "n needed": needed,
            "means": judged.apply(span, axis="columns", args=("mean", ".3g")),
            "test": judged.test.astype(object).fillna(""),
            "judged on": judged.judged_on.astype(object).fillna(""),
            "not run here": judged.missing,
        }
    )


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        judged, conditions = claims.evaluate(
            claims.read(snakemake.input.claims), tables(snakemake.input), claims.Settings(**snakemake.params.settings)
        )
        write_csv(judged, snakemake.output.results)
        write_csv(conditions, snakemake.output.conditions)
        write(readable(judged), {suffix: snakemake.output[suffix] for suffix in ("csv", "md", "tex")})
