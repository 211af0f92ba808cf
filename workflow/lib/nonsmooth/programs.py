"""The programs between native pooling and the published one, by the parts of the published one that they keep.

Torch- and pandas-free, so that the workflow can be planned without importing either.
"""

from __future__ import annotations

from collections.abc import Iterable

from nonsmooth.cells import GROUP_PATH, SAFEGUARDED, TrainingCell
from nonsmooth.rules import EVALUATIONS, Evaluation, Hybrid, Native, Norm, Rule, has_choice, parse_rule

# What the published program changes, by the letter that stands for it in tables and figures.
PARTS = {"F": "forward value", "B": "gradient, one maximum", "J": "Jacobian at ties"}
# The same, and what can be changed beside.
FACTORS = {**PARTS, "R": "overflow possible", "W": "float32 backward"}

# The eight programs, from none of the parts to all of them. They are named as the evaluations of the hybrid rule.
PROGRAMS: dict[str, Evaluation] = {
    "native": Evaluation(),
    **{
        name: EVALUATIONS[name]
        for name in (
            "forward",
            "backward",
            "exact",
            "forward_backward",
            "forward_jacobian",
            "backward_jacobian",
            "composed",
        )
    },
}
# Evaluations whose results are in the figures of this experiment only.
PARTIAL = frozenset(EVALUATIONS) - {"exact", "composed"}


def program_of(rule: Rule) -> str | None:
    """The name of a rule's program: `native`, or a hybrid's evaluation; None for a rule that is neither."""
    match rule:
        case Native():
            return "native"
        case Hybrid(evaluation=evaluation):
            return evaluation
    return None


def levels(evaluation: Evaluation) -> dict[str, int]:
    """The factors of a program as 0 and 1.

    F, B and J: whether the part is the published program's. R: whether its range is the working type's, so that it can
    overflow. W: whether the arithmetic of the backward pass is in float32 in place of the working type.
    """
    return {
        "F": int(evaluation.forward),
        "B": int(evaluation.backward),
        "J": int(evaluation.jacobian),
        "R": int(not evaluation.unlimited),
        "W": int(evaluation.wide),
    }


def at(F: int, B: int, J: int, R: int = 1, W: int = 0) -> Evaluation:
    """The program with these levels, the inverse of `levels`.

    Without F and B nothing can overflow, and without B there is no backward arithmetic: such a program is the same at both
    levels of R, or of W.
    """
    return Evaluation(
        forward=bool(F), backward=bool(B), jacobian=bool(J), unlimited=not R and bool(F or B), wide=bool(W and B)
    )


def letters(evaluation: Evaluation) -> str:
    """The parts of a program, as in `F+J`; `none` for native."""
    return "+".join(name for name, level in levels(evaluation).items() if level and name in PARTS) or "none"


def is_against_beta(rule: str, optimizer: str) -> bool:
    """Whether runs of a rule are in the figures of accuracy against beta and by epoch.

    Partial programs have figures of their own, and what may help has a table: norms and poolings without a choice of a derivative
    in place of maxima, and optimizers with a safeguard.
    """
    parsed = parse_rule(rule)
    is_maximum = has_choice(parsed) and not isinstance(parsed, Norm)
    return optimizer not in SAFEGUARDED and is_maximum and program_of(parsed) not in PARTIAL


def groups_against_beta(cells: Iterable[TrainingCell]) -> list[str]:
    """The groups of conditions, as their figures' paths have them, in which a run `is_against_beta`."""
    return list(dict.fromkeys(_group(cell) for cell in cells if is_against_beta(cell.rule, cell.optimizer)))


def groups_with_partial_programs(cells: Iterable[TrainingCell]) -> list[str]:
    """The groups in which a partial program of `PROGRAMS` is trained beside native, from the same seed."""
    return [
        group for group, found in _trained(cells).items() if any(PARTIAL & set(PROGRAMS) & found[key] for key in found)
    ]


def groups_with_whole_factorials(cells: Iterable[TrainingCell]) -> list[str]:
    """The groups in which a seed of some normalization and beta is trained with all of `PROGRAMS`."""
    return [
        group for group, found in _trained(cells).items() if any(set(PROGRAMS) <= names for names in found.values())
    ]


def _trained(cells: Iterable[TrainingCell]) -> dict[str, dict[tuple, set[str]]]:
    """The programs that are trained by group, and therein by normalization, seed and beta; native is at every beta."""
    cells = [(cell, parse_rule(cell.rule)) for cell in cells]
    natives = {(_group(cell), cell.normalization, cell.seed) for cell, rule in cells if isinstance(rule, Native)}
    found: dict[str, dict[tuple, set[str]]] = {}
    for cell, rule in cells:
        if isinstance(rule, Hybrid):
            block = (_group(cell), cell.normalization, cell.seed)
            if block in natives:
                programs = found.setdefault(block[0], {}).setdefault((*block[1:], rule.beta), {"native"})
                programs.add(rule.evaluation)
    return found


def _group(cell: TrainingCell) -> str:
    return GROUP_PATH.format(**cell.wildcards)
