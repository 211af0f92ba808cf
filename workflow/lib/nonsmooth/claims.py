"""Claims and what the runs say of them: a file of claims with decision rules fixed beforehand, judged on the study's tables.

A claim is judged in every condition of the preset that its `where` matches, and the verdicts are combined by its quantifier.
data/README.md documents the files, and docs/methods.md the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from math import inf, log2, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nonsmooth import published
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import SETUP, ZONE_CONDITION, Program
from nonsmooth.datasets import DATASETS
from nonsmooth.factorial import cells_of, contrasts
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import PARTS, PROGRAMS
from nonsmooth.rules import EVALUATIONS, number
from nonsmooth.schema import first_problem, strict_validator
from nonsmooth.statistics import DECISIONS, FAILS, HOLDS, UNDECIDABLE, Target, Verdict, combine, judge, judge_count

SCHEMA = Path(__file__).resolve().parents[2] / "schemas/claims.schema.yaml"

NOT_TESTED = "not tested in this preset"
VERDICTS = (HOLDS, FAILS, UNDECIDABLE, NOT_TESTED)

# The program of every rule `rounded-<bits>`, which stands at the beta whose composed pooling has so many bits.
ROUNDED = "rounded"

# A run that gets fewer images right than this has not learned; with native pooling that does not, nothing can be compared.
LEAST_ACCURACY = 0.5

# What tells one condition from another, by the table that it is in.
RUN_CONDITION = (*SETUP, "relu_derivative", "program", "beta")
FACTORIAL_CONDITION = (*SETUP, "relu_derivative", "beta")
ZONES_CONDITION = (*ZONE_CONDITION, "initialization")
ERROR_CONDITION = ("dataset", "architecture", "normalization", "precision", "beta", "layer")
IDENTITY = tuple(dict.fromkeys((*RUN_CONDITION, *ZONES_CONDITION, *ERROR_CONDITION)))

CONDITION_COLUMNS = (
    "claim", *IDENTITY, "against", "verdict", "n", "mean", "low", "high", "target_low", "target_high", "p", "p_against", "power",
    "runs_needed", "test", "diverged", "diverged_against", "note",
)  # fmt: skip
CLAIM_COLUMNS = (
    "claim", "sentence", "source", "measure", "decide", "quantifier", "verdict", "conditions", "holding", "failing", "undecided",
    "n_min", "n_max", "mean_min", "mean_max", "p", "p_against", "runs_needed", "test", "judged_on", "missing",
)  # fmt: skip


class ClaimsError(ValueError):
    """A file of claims that cannot be judged; the message names the file, the claim and the key."""


class NotTested(Exception):
    """A condition that lacks what it is compared with; the message says what."""


@dataclass(frozen=True)
class Claim:
    """One entry of a file of claims; data/README.md has the meaning of every key."""

    id: str
    sentence: str
    source: str
    measure: str
    where: dict[str, list[Any]]
    quantifier: str
    decide: str = ""
    against: dict[str, Any] = field(default_factory=lambda: {"program": "native"})
    factor: dict[str, list[Any]] = field(default_factory=dict)
    effect: str = ""
    between: tuple[float, ...] = ()
    cause: str = ""
    share: float = nan
    margin: float = nan

    @property
    def decision(self) -> str:
        """What is decided, in words."""
        if self.between:
            low, high = self.between
            return f"between {low:g} and {high:g}"
        return self.decide if np.isnan(self.share) else f"{self.decide} (share {self.share:g})"


@dataclass(frozen=True)
class Settings:
    """`claims` of a configuration: the margin as a part of native's error rate, the level, and the least power."""

    margin: float = 0.1
    alpha: float = 0.05
    power: float = 0.8


@dataclass(frozen=True)
class Tables:
    """What claims are judged on; what a preset does not make is None.

    Attributes:
        runs: as of `maxpool.read_runs`.
        zone_shares: as of `zones.tables.proportions_by_seed`.
        zone_causes: as of `zones.tables.causes_by_seed`.
        pooling_errors: relative errors of composed pooling per layer and seed (`forward_error`, and `rounded_error` of the maximum
            rounded to p - log2(2 beta) bits).
    """

    runs: pd.DataFrame
    zone_shares: pd.DataFrame | None = None
    zone_causes: pd.DataFrame | None = None
    pooling_errors: pd.DataFrame | None = None


# A condition and what finds its verdict there, as columns; it raises NotTested if there is none.
Judged = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


# ----------------------------------------------------------------------------------------------------------- the file


def read(path: str | Path) -> list[Claim]:
    """The claims of a YAML file, a list of mappings, in its order.

    Raises ClaimsError for the first problem found: no YAML, no list, an unknown or missing key, a wrong type or value, an id that
    is there twice, a region without an end.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClaimsError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(entries, list) or not entries:
        raise ClaimsError(f"{path}: expected a list of claims, got {type(entries).__name__}")
    claims: dict[str, Claim] = {}
    for position, entry in enumerate(entries, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"{path}: claim {name}" if isinstance(name, str) else f"{path}: claim number {position}"
        problem = first_problem(_validator(), entry, "claim")
        if problem is None and name in claims:
            problem = "id: is there twice; each claim has its own"
        if problem is None and "between" in entry and not _is_region(*entry["between"]):
            problem = f"between: {entry['between']!r} must be in increasing order and leave something out"
        if problem is None:
            problem = _unfit_factor(entry) or _unknown_program(entry)
        if problem is not None:
            raise ClaimsError(f"{where}: {problem}")
        claims[name] = Claim(**{**entry, "between": tuple(entry.get("between", ()))})
    return list(claims.values())


@cache
def _validator() -> Any:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    for key, names in {"dataset": DATASETS, "architecture": ARCHITECTURES}.items():
        schema["$defs"][key] = {"enum": list(names)}
    return strict_validator(schema)


def _unfit_factor(entry: dict[str, Any]) -> str | None:
    """What is wrong with a factor that the runs, or the zones, do not have, or with a program where all eight are meant."""
    unfit = {"interaction": "batch_size", "zone_shares_differ": "optimizer"}.get(entry["measure"])
    if unfit in entry.get("factor", {}):
        return f"factor.{unfit}: measure {entry['measure']} has no such factor"
    if entry["measure"] == "factorial" and "program" in entry["where"]:
        return "where.program: a factorial claim uses all eight programs; leave it out"
    return None


def _unknown_program(entry: dict[str, Any]) -> str | None:
    """What is wrong with the first program that is no evaluation, no rule, no pair of a rule and a ReLU, and no pattern."""
    named = [("where.program", name) for name in entry["where"].get("program", [])]
    named += [("against.program", entry["against"]["program"])] if "program" in entry.get("against", {}) else []
    for key, name in named:
        if name in EVALUATIONS or name == ROUNDED or "*" in name:
            continue
        try:
            Program.parse(name)
        except ValueError as error:
            return f"{key}: {error}"
    return None


def _is_region(low: float, high: float) -> bool:
    return low < high and (low, high) != (0, 1)


# ------------------------------------------------------------------------------------------------------------ judging


def evaluate(claims: Iterable[Claim], tables: Tables, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the tables say of the claims.

    Returns:
        claims: a row per claim, `CLAIM_COLUMNS`: the verdict over all its conditions, how many there are and what they say, the ranges
            of n and of the means, p and p against, the runs needed if it is undecidable, what it was judged on, and which
            published conditions that it speaks about are missing.
        conditions: a row per claim and condition, `CONDITION_COLUMNS`: its verdict and the numbers behind it. Accuracies and shares are
            fractions, errors binary logarithms.
    """
    tables = Tables(**{**vars(tables), "runs": with_programs(tables.runs)})
    rows, summaries = [], []
    for claim in claims:
        judged = [
            {"claim": claim.id, **identity, **_judged(find)}
            for identity, find in MEASURES[claim.measure](claim, tables, settings)
        ]
        rows += judged
        summaries.append(_summary(claim, judged, settings))
    summary = pd.DataFrame(summaries, columns=list(CLAIM_COLUMNS))
    conditions = pd.DataFrame(rows, columns=list(CONDITION_COLUMNS))
    # Whole numbers, also in columns that have empty places.
    return (
        summary.astype({"n_min": "Int64", "n_max": "Int64"}),
        conditions.astype({"n": "Int64", "diverged": "Int64", "diverged_against": "Int64"}),
    )


def _judged(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return find()
    except NotTested as reason:
        return {"verdict": NOT_TESTED, "note": str(reason)}


def _summary(claim: Claim, judged: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    tested = [row for row in judged if row["verdict"] != NOT_TESTED]
    said = {
        "claim": claim.id,
        **{name: getattr(claim, name) for name in ("sentence", "source", "measure", "quantifier")},
        "decide": claim.decision,
        "conditions": len(tested),
        "missing": _missing(claim, judged),
    }
    if not tested:
        return {**said, "verdict": NOT_TESTED, "holding": 0, "failing": 0, "undecided": 0}
    verdicts = [Verdict(**{name: row[name] for name in Verdict.__dataclass_fields__}) for row in tested]
    verdict, p, p_against = combine(verdicts, claim.quantifier, settings.alpha)
    names = [each.verdict for each in verdicts]
    needed = [each.runs_needed for each in verdicts if each.verdict == UNDECIDABLE]
    most = max if claim.quantifier == "every" else min
    n, means = [each.n for each in verdicts], [each.mean for each in verdicts]
    return {
        **said,
        "verdict": verdict,
        "holding": names.count(HOLDS),
        "failing": names.count(FAILS),
        "undecided": names.count(UNDECIDABLE),
        "n_min": min(n),
        "n_max": max(n),
        "mean_min": min(means),
        "mean_max": max(means),
        "p": p,
        "p_against": p_against,
        "runs_needed": most(needed) if verdict == UNDECIDABLE and needed else nan,
        "test": ", ".join(dict.fromkeys(each.test for each in verdicts)),
        "judged_on": _in_words(tested),
    }


def _found(verdict: Verdict, target: Target, **more: Any) -> dict[str, Any]:
    return {**asdict(verdict), "target_low": target.low, "target_high": target.high, **more}


# -------------------------------------------------------------------------------------------------------- of training


def with_programs(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the column `program`: the evaluation of a hybrid rule, and the name of any other.

    A rule `rounded-<bits>` is program `rounded` with the beta, to three digits, whose composed pooling has p - log2(2 beta) bits.
    """
    evaluation = runs.evaluation.astype(object).fillna("")
    program = evaluation.where(evaluation != "", runs.rule)
    beta = runs.beta.astype(float)
    is_rounded = runs.rule.str.startswith(f"{ROUNDED}-")
    if is_rounded.any():
        chosen = runs[is_rounded]
        beta[is_rounded] = [_beta_of_rounding(*pair) for pair in zip(chosen.rule, chosen.precision, strict=True)]
        program = program.mask(is_rounded, ROUNDED)
    return runs.assign(program=program, beta=beta)


def _beta_of_rounding(rule: str, precision: str) -> float:
    bits = float(rule.removeprefix(f"{ROUNDED}-"))
    return float(f"{2 ** (-log2(PRECISIONS[precision].unit_roundoff) - bits - 1):.3g}")


def _accuracy(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """Final test accuracy less that of what it is compared with, paired by seed."""

    def find(identity: dict[str, Any]) -> dict[str, Any]:
        pair = _Pair.of(tables.runs, identity, claim.against)
        if claim.decide in ("equivalent", "not_lower") and pair.all_diverged:
            raise NotTested(f"all runs diverged, and all of {pair.against}, too")
        target = DECISIONS[claim.decide](settings.margin * pair.native_error)
        return _found(
            judge(pair.differences, target, settings.alpha, settings.power, pair.is_bimodal),
            target,
            against=pair.against,
            diverged=pair.diverged,
            diverged_against=pair.diverged_against,
        )

    for identity in _conditions(_matching(tables.runs, claim.where), RUN_CONDITION):
        yield identity, partial(find, identity)


def _interaction(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """The difference to what is compared with, at the second value of the factor less at the first, paired by seed."""
    ((name, levels),) = claim.factor.items()
    others = [column for column in RUN_CONDITION if column != name]

    def find(identity: dict[str, Any]) -> dict[str, Any]:
        first, second = (_Pair.of(tables.runs, identity | {name: level}, claim.against) for level in levels)
        differences = (second.differences - first.differences).dropna()
        if differences.empty:
            raise NotTested("no seed in common")
        target = DECISIONS[claim.decide](settings.margin * first.native_error)
        is_bimodal = first.is_bimodal or second.is_bimodal
        return _found(
            judge(differences, target, settings.alpha, settings.power, is_bimodal),
            target,
            against=f"{name} {levels[1]} and {levels[0]}, each against {first.against}",
            diverged=second.diverged,
            diverged_against=first.diverged,
        )

    for identity in _conditions(_matching(tables.runs, claim.where), others):
        yield identity, partial(find, identity)


def _divergence(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """How many runs diverged, against a share of them."""
    # A network that does not learn with native pooling has no training to lose.
    target = Target(low=claim.share) if claim.decide == "diverges" else Target(high=claim.share)

    def find(identity: dict[str, Any]) -> dict[str, Any]:
        runs = _runs(tables.runs, identity)
        _native(tables.runs, identity)
        count = int(runs.diverged.sum())
        verdict = judge_count(count, len(runs), target, settings.alpha, settings.power)
        return _found(verdict, target, diverged=count)

    for identity in _conditions(_matching(tables.runs, claim.where), RUN_CONDITION):
        yield identity, partial(find, identity)


# The programs of the factorial experiment, by the levels of F, B and J.
_PROGRAMS = {(parts.forward, parts.backward, parts.jacobian): name for name, parts in PROGRAMS.items()}


def _factorial(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """An effect on the final test accuracy, computed seed by seed from the eight programs.

    A main effect is the mean over the other factors of the change from off to on; an interaction of two is half the difference
    of the effect of one between the other on and off.
    """
    factors = list(PARTS)
    weights = dict(zip(cells_of(factors), contrasts(factors)[claim.effect], strict=True))

    def find(identity: dict[str, Any]) -> dict[str, Any]:
        programs = {}
        for levels, program in _PROGRAMS.items():
            chosen = identity | {"program": program}
            if program == "native":
                del chosen["beta"]
            programs[levels] = _runs(tables.runs, chosen)
        contrast = sum(weights[levels] * runs.test_accuracy for levels, runs in programs.items()).dropna()
        if contrast.empty:
            raise NotTested("no seed in all eight programs")
        error = 1 - _native(tables.runs, identity).test_accuracy.mean()
        target = DECISIONS[claim.decide](settings.margin * error)
        diverged = sum(int(runs.diverged[contrast.index].sum()) for runs in programs.values())
        is_bimodal = any(_has_lost(runs.loc[contrast.index]) for runs in programs.values())
        verdict = judge(contrast, target, settings.alpha, settings.power, is_bimodal)
        return _found(verdict, target, against=f"effect {claim.effect} of eight programs", diverged=diverged)

    runs = _matching(tables.runs, claim.where)
    for identity in _conditions(runs[runs.program.isin(set(_PROGRAMS.values()) - {"native"})], FACTORIAL_CONDITION):
        yield identity, partial(find, identity)


@dataclass(frozen=True)
class _Pair:
    """Accuracies of a condition less those of another, by seed."""

    differences: pd.Series
    native_error: float
    diverged: int
    diverged_against: int
    is_bimodal: bool
    against: str

    @property
    def all_diverged(self) -> bool:
        return self.diverged == self.diverged_against == len(self.differences)

    @classmethod
    def of(cls, runs: pd.DataFrame, identity: dict[str, Any], against: dict[str, Any]) -> _Pair:
        """Raises NotTested if there are no runs of one of them, no common seed, or no native runs that learn, whose error rate
        sets the margin."""
        changes = {name: value for name, value in against.items() if name != "beta_factor"}
        other = identity | changes
        if _has_beta(against["program"]):
            other["beta"] = float(f"{identity['beta'] * against.get('beta_factor', 1):.12g}")
        else:
            del other["beta"]
        ours, theirs = _runs(runs, identity), _runs(runs, other)
        native = _native(runs, other)
        seeds = ours.index.intersection(theirs.index)
        if seeds.empty:
            raise NotTested(f"no seed in common with {_condition_words(other)}")
        return cls(
            differences=ours.test_accuracy[seeds] - theirs.test_accuracy[seeds],
            native_error=1 - native.test_accuracy.mean(),
            diverged=int(ours.diverged[seeds].sum()),
            diverged_against=int(theirs.diverged[seeds].sum()),
            is_bimodal=_has_lost(ours.loc[seeds]) or _has_lost(theirs.loc[seeds]),
            against=" ".join(
                [*map(str, changes.values()), *([f"beta {number(other['beta'])}"] if "beta" in other else [])]
            ),
        )


def _native(runs: pd.DataFrame, identity: dict[str, Any]) -> pd.DataFrame:
    """Native pooling in the same condition, by seed; NotTested if there is none, or if it does not learn."""
    found = _runs(runs, {name: value for name, value in identity.items() if name != "beta"} | {"program": "native"})
    if found.test_accuracy.mean() < LEAST_ACCURACY:
        raise NotTested(f"native pooling does not learn there: {found.test_accuracy.mean():.1%} right")
    return found


def _has_lost(runs: pd.DataFrame) -> bool:
    """Whether one of the runs diverged or, finite, did not learn, so that differences are not nearly normal."""
    return bool((runs.diverged | (runs.test_accuracy < LEAST_ACCURACY)).any())


def _has_beta(program: str) -> bool:
    return program in EVALUATIONS or program == ROUNDED


def _runs(runs: pd.DataFrame, identity: dict[str, Any]) -> pd.DataFrame:
    """The runs of one condition by their seed."""
    chosen = runs[_is_of(runs, identity)].set_index("seed").sort_index()
    if chosen.empty:
        raise NotTested(f"no runs of {_condition_words(identity)}")
    return chosen


# ----------------------------------------------------------------------------------------------------------- of zones


def _between(claim: Claim) -> Target:
    low, high = claim.between
    # No share is further outside than this.
    room = min(low, 1 - high) if low > 0 and high < 1 else min(high - low, 1 - (high - low))
    return Target(low if low > 0 else -inf, high if high < 1 else inf, room)


def _zone_share(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """The share of minibatches above the published threshold; the unit is the seed, that is, the initial weights."""
    target = _between(claim)

    def find(rows: pd.DataFrame) -> dict[str, Any]:
        return _found(_judge_shares(rows.above, rows.minibatches, target, settings), target)

    for identity, rows in _groups(tables.zone_shares, claim.where, ZONES_CONDITION):
        yield identity, partial(find, rows)


def _zone_cause(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """Of the minibatches above the published threshold, the share of one class; the unit is the seed."""
    target = _between(claim)

    def find(rows: pd.DataFrame) -> dict[str, Any]:
        return _found(_judge_shares(rows[claim.cause], rows.above, target, settings), target)

    for identity, rows in _groups(tables.zone_causes, claim.where, ZONES_CONDITION):
        yield identity, partial(find, rows)


def _judge_shares(counts: pd.Series, of: pd.Series, target: Target, settings: Settings) -> Verdict:
    """By the shares of the seeds; where these are all 0 or all 1, and do not vary, by all minibatches."""
    counts, of = counts[of > 0], of[of > 0]
    if of.empty:
        raise NotTested("no minibatch of which there is a share")
    if counts.sum() in (0, of.sum()):
        return judge_count(counts.sum(), of.sum(), target, settings.alpha, settings.power)
    return judge(counts / of, target, settings.alpha, settings.power)


def _zone_shares_differ(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """The share of minibatches above the threshold at the second value of the factor less at the first, paired by seed."""
    ((name, levels),) = claim.factor.items()
    target = DECISIONS[claim.decide](claim.margin)

    def find(rows: pd.DataFrame) -> dict[str, Any]:
        first, second = (rows[rows[name] == level].set_index("seed").proportion for level in levels)
        differences = (second - first).dropna()
        if differences.empty:
            raise NotTested(f"no seed with {name} {levels[0]} and {levels[1]}")
        return _found(
            judge(differences, target, settings.alpha, settings.power),
            target,
            against=f"{name} {levels[1]} and {levels[0]}",
        )

    for identity, rows in _groups(
        tables.zone_shares, claim.where, [column for column in ZONES_CONDITION if column != name]
    ):
        yield identity, partial(find, rows)


# ------------------------------------------------------------------------------------------------------ of operators


def _error_law(claim: Claim, tables: Tables, settings: Settings) -> Iterator[Judged]:
    """log2 of the error of composed pooling over that of the rounded maximum, per layer; the unit is the seed."""
    target = DECISIONS[claim.decide](claim.margin)

    def find(rows: pd.DataFrame) -> dict[str, Any]:
        ratios = np.log2((rows.forward_error / rows.rounded_error).to_numpy(float))
        if not np.isfinite(ratios).all():
            raise NotTested("an error that is 0, not finite or not there")
        return _found(
            judge(ratios, target, settings.alpha, settings.power), target, against="rounded to p - log2(2 beta) bits"
        )

    for identity, rows in _groups(tables.pooling_errors, claim.where, ERROR_CONDITION):
        yield identity, partial(find, rows)


MEASURES: dict[str, Callable[[Claim, Tables, Settings], Iterator[Judged]]] = {
    "accuracy": _accuracy,
    "divergence": _divergence,
    "interaction": _interaction,
    "factorial": _factorial,
    "zone_share": _zone_share,
    "zone_cause": _zone_cause,
    "zone_shares_differ": _zone_shares_differ,
    "error_law": _error_law,
}


# --------------------------------------------------------------------------------------------------------- conditions


def _matching(table: pd.DataFrame, where: dict[str, list[Any]]) -> pd.DataFrame:
    """The rows whose columns have one of the values; a text may end with `*`. A column that `table` lacks is not looked at."""
    chosen = pd.Series(True, index=table.index)
    for column, allowed in where.items():
        if column in table:
            known = [value for value in table[column].unique() if any(_is_meant(value, pattern) for pattern in allowed)]
            chosen &= table[column].isin(known)
    return table[chosen]


def _is_meant(value: Any, pattern: Any) -> bool:
    return fnmatchcase(value, pattern) if isinstance(value, str) else value == pattern


def _conditions(table: pd.DataFrame, columns: Iterable[str]) -> list[dict[str, Any]]:
    return table[list(columns)].drop_duplicates().to_dict("records")


def _groups(
    table: pd.DataFrame | None, where: dict[str, list[Any]], columns: Iterable[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if table is None:
        return
    chosen = _matching(table, where)
    for identity in _conditions(chosen, columns):
        yield identity, chosen[_is_of(chosen, identity)]


def _is_of(table: pd.DataFrame, identity: dict[str, Any]) -> pd.Series:
    chosen = pd.Series(True, index=table.index)
    for column, value in identity.items():
        chosen &= table[column].isna() if value != value else table[column] == value
    return chosen


def _missing(claim: Claim, judged: list[dict[str, Any]]) -> str:
    """The published conditions that the claim speaks about and that were not judged, in words; if it speaks about none, and none
    was judged, what it speaks about."""
    theirs = _published(claim)
    ours = [row for row in judged if row["verdict"] != NOT_TESTED]
    columns = [name for name in IDENTITY if name in theirs and name not in claim.factor]
    known = {tuple(row.get(name) for name in columns) for row in ours}
    for name, levels in claim.factor.items():  # conditions that were published at both
        theirs = theirs.groupby(columns, sort=False).filter(
            lambda rows, name=name, levels=levels: {*levels} <= {*rows[name]}
        )
    missing = [row for row in _conditions(theirs, columns) if tuple(row.values()) not in known]
    if missing or ours:
        return _in_words(missing)
    notes = dict.fromkeys(row["note"] for row in judged)
    return "; ".join(notes) or "no runs of " + ", ".join(
        f"{name} {' or '.join(number(v) if isinstance(v, float | int) else v for v in values)}"
        for name, values in claim.where.items()
    )


def _published(claim: Claim) -> pd.DataFrame:
    """The published conditions that `claim` speaks about, with the names of columns here."""
    if claim.measure == "error_law":
        return pd.DataFrame()
    if claim.measure.startswith("zone_"):
        return _matching(published.zones(), claim.where)
    table = published.training()
    table["program"] = table.beta.map({0: "native", 1: "minimal"}).fillna("composed")
    # Of the factorial experiment one program was published.
    return table.head(0) if claim.measure == "factorial" else _matching(table, claim.where)


def _in_words(conditions: list[dict[str, Any]]) -> str:
    """Conditions as text, those that differ in one number only together: `cifar10 vgg11 sgd float16 beta 1000, 10000; ...`."""
    found: dict[str, list[str]] = {}
    for row in conditions:
        varied = next(
            (name for name in ("beta", "batch_size") if row.get(name) == row.get(name) and row.get(name) is not None),
            None,
        )
        words = _condition_words({name: value for name, value in row.items() if name in IDENTITY and name != varied})
        if varied:
            words = f"{words} {varied.replace('_', ' ')}"
        values = found.setdefault(words, [])
        if varied and (text := number(row[varied])) not in values:
            values.append(text)
    return "; ".join(f"{words} {', '.join(values)}".strip() for words, values in found.items())


def _condition_words(identity: dict[str, Any]) -> str:
    """The names of a condition; numbers that are usual, or that a rule does not have, are left out."""
    words = []
    for name, value in identity.items():
        if isinstance(value, str):
            words.append({"none": "without batch norm", "batch_norm": "with batch norm"}.get(value, value))
        elif name in ("relu_derivative", "noise"):
            words += [f"{name.replace('_', ' ')} {number(value)}"] if value else []
        elif value == value:
            words.append(f"{name.replace('_', ' ')} {number(value)}")
    return " ".join(words)
