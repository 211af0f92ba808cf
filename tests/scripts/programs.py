"""Runs of the programs between native and the published one that never were, for the tests of their figures."""

from __future__ import annotations

from collections.abc import Iterable

from nonsmooth.cells import TrainingCell
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import Hybrid, parse_rule

UNLIMITED = tuple(f"{name}_unlimited" for name, found in PROGRAMS.items() if found.forward or found.backward)


def rules(betas: Iterable[float] = (10, 1000), names: Iterable[str] = tuple(PROGRAMS)) -> list[str]:
    """Native, if it is among the names, and hybrids of the other names at every beta."""
    names = list(names)
    return [
        *(["native"] if "native" in names else []),
        *(str(Hybrid(b, n)) for b in betas for n in names if n != "native"),
    ]


def overflow_diverges(cell: TrainingCell) -> int | None:
    """At 1,000 runs fail where F and J meet, at once, and with an unlimited range one of them later."""
    rule = parse_rule(cell.rule)
    name = getattr(rule, "evaluation", "native").removesuffix("_unlimited")
    if getattr(rule, "beta", 0) < 1000 or name not in ("forward_jacobian", "composed"):
        return None
    return 1 if not rule.evaluation.endswith("_unlimited") else (2 if cell.seed == 1 else None)


CASES: dict[str, tuple] = {
    "both ranges": (overflow_diverges, {"rule": rules((10, 100, 1000, 10000), [*PROGRAMS, *UNLIMITED])}),
    "one beta, one run": (overflow_diverges, {"rule": rules([1000]), "seed": [0], "normalization": ["none"]}),
    "none diverged": (lambda cell: None, {"rule": rules([0.5, 10]), "seed": [0, 1]}),
    "ten runs": (overflow_diverges, {"rule": rules([1000, 10000]), "seed": range(10), "normalization": ["batch_norm"]}),
}  # fmt: skip
