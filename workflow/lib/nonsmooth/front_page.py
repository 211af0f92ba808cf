"""The first page of the report: what the runs say of the claims, in a table, and what a practitioner should do, in three sentences.

Everything here is read off the verdicts and their numbers (`nonsmooth.claims`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nonsmooth import plotting
from nonsmooth.claims import NOT_TESTED
from nonsmooth.statistics import FAILS, HOLDS, MAX_RUNS, UNDECIDABLE

MARKS = {HOLDS: "✓ holds", FAILS: "✗ fails", UNDECIDABLE: "? undecidable"}
# How a mean is written, by the measure of a claim: a factor, a format and a unit.
UNITS = {
    **dict.fromkeys(("accuracy", "interaction", "factorial"), (100, "+.2f", " points")),
    **dict.fromkeys(("zone_share", "zone_cause"), (100, ".3g", " % of minibatches")),
    "zone_shares_differ": (100, "+.3g", " points"),
    "error_law": (1, "+.2f", " bits"),
}
SPACE = "\N{NO-BREAK SPACE}"


def verdicts(claims: pd.DataFrame, conditions: pd.DataFrame) -> pd.DataFrame:
    """The claims that were tested, with what their verdicts rest on, in words; both tables are those of `claims.evaluate`."""
    tested = claims[claims.verdict != NOT_TESTED]
    rows = conditions[conditions.verdict != NOT_TESTED]
    return pd.DataFrame(
        {
            "claim": tested.claim,
            "sentence": tested.sentence,
            "verdict": tested.verdict.map(MARKS),
            "numbers": [_numbers(row, rows[rows.claim == row.claim]) for row in tested.itertuples()],
            "judged on": [_networks(rows[rows.claim == name]) for name in tested.claim],
        }
    )


def not_tested(claims: pd.DataFrame) -> list[str]:
    """The claims of which the preset has nothing."""
    return claims.claim[claims.verdict == NOT_TESTED].tolist()


def _numbers(claim, rows: pd.DataFrame) -> str:
    """Counts of diverged runs, or the mean or its range, with the number of runs; how many conditions say what; what is missing."""
    if claim.measure == "divergence":
        text = f"{int(rows.diverged.sum())} of {int(rows.n.sum())} runs diverged"
    else:
        factor, form, unit = UNITS[claim.measure]
        low, high = (format(factor * value, form) for value in (rows["mean"].min(), rows["mean"].max()))
        text = f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
        text += f" (n = {plotting.span(rows.n.astype(int))})"
        lost = rows.diverged.fillna(0).sum() + rows.diverged_against.fillna(0).sum()
        if lost:
            text += f"; {int(lost)} {'run' if lost == 1 else 'runs'} diverged"
    if claim.conditions > 1:
        counts = {"hold": claim.holding, "fail": claim.failing, "undecidable": claim.undecided}
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        text += f"; {claim.conditions} conditions: {said}"
    if claim.verdict == UNDECIDABLE and pd.notna(claim.runs_needed):
        is_known = np.isfinite(claim.runs_needed)
        text += f"; would take {'about' if is_known else 'more than'} {claim.runs_needed if is_known else MAX_RUNS:.0f} runs"
    return text.replace(" = ", f"{SPACE}={SPACE}")


def _networks(rows: pd.DataFrame) -> str:
    """Networks and datasets, in words; operators are judged on one network's activations."""
    pairs = rows[["architecture", "dataset"]].drop_duplicates().itertuples(index=False)
    return "; ".join(f"{plotting.word(network)} on {plotting.word(dataset)}" for network, dataset in pairs)


def advice(claims: pd.DataFrame) -> list[str]:
    """Three sentences for practitioners, each with the claims that it rests on and no more certain than they are."""
    verdict = dict(zip(claims.claim, claims.verdict, strict=True))
    return [_on_the_choice(verdict), _on_the_arithmetic(verdict), _on_differences(verdict)]


def _on_the_choice(verdict: dict[str, str]) -> str:
    match verdict["C8"]:
        case "holds":
            start = (
                "Keep your framework's derivative at ties: sharing the gradient among the maxima trained equally well in every network "
                "here (C8)"
            )
        case "fails":
            start = (
                "Choose the derivative at ties with care: in some network sharing the gradient among the maxima does not train as "
                "PyTorch's choice does (C8)"
            )
        case other:
            start = f"Keep your framework's derivative at ties: that sharing the gradient trains equally well is {_word(other)} here (C8)"
    far = [name for name in ("J1000", "J10000") if verdict[name] == HOLDS]
    if far:
        start += (
            f"; but stay inside the subdifferential, since in 16 bits a β far outside harms although it is computed exactly "
            f"({', '.join(far)})"
        )
    return f"{start}."


def _on_the_arithmetic(verdict: dict[str, str]) -> str:
    match verdict["F1000"]:
        case "holds":
            start = (
                "In 16 bits do not compute a pooling as the difference of large multiples: at β = 1,000 the rounded value alone "
                "harms training, with PyTorch's derivative (F1000)"
            )
        case "fails":
            start = (
                "In 16 bits the rounding of a pooling that is computed as the difference of large multiples did not by itself harm "
                "training at β = 1,000 (F1000)"
            )
        case other:
            harm = [name for name in ("C6a", "C6b") if verdict[name] == HOLDS]
            start = "In 16 bits avoid computing a pooling as the difference of large multiples"
            start += f", as the published program does, which harms training ({', '.join(harm)})" if harm else ""
            start += f": whether its rounding alone harms at β = 1,000 is {_word(other)} here (F1000)"
    match verdict["M-float32"]:
        case "holds":
            end = "computed in 32 bits inside the network it trains no worse than the true maximum with the same derivative (M-float32)"
        case "fails":
            end = "computed in 32 bits inside the network it still trains worse than the true maximum with the same derivative (M-float32)"
        case other:
            end = f"whether computing it in 32 bits inside the network is enough is {_word(other)} here (M-float32)"
    return f"{start}; {end}."


def _on_differences(verdict: dict[str, str]) -> str:
    match verdict["C10"]:
        case "holds":
            return (
                "Do not take a difference between two 32-bit gradients for a different derivative because it is above a threshold: some "
                "that are above the published one are rounding alone (C10); compare the gradients in 64 bits from the same ties, as "
                "'snakemake zones' does."
            )
        case "fails":
            return (
                "A difference between two 32-bit gradients above the published threshold was seldom rounding alone here (C10); still, "
                "compare the gradients in 64 bits from the same ties, as 'snakemake zones' does."
            )
        case other:
            return (
                f"Whether a difference between two 32-bit gradients above the published threshold can be rounding alone is {_word(other)} "
                "here (C10): compare the gradients in 64 bits from the same ties, as 'snakemake zones' does."
            )


def _word(verdict: str) -> str:
    return "not tested" if verdict == NOT_TESTED else "not decided"
