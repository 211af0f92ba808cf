"""Cells, the unit of work: one condition and one seed; torch-free, so that planning is fast."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from nonsmooth.rules import Hybrid, Minimal, Native, Norm, number, parse_rule, rule_beta

# What a learning rate belongs to.
SETUP = ("dataset", "architecture", "normalization", "optimizer", "precision")
# What tells one condition from another; runs of a condition differ by their seed.
CONDITION = (*SETUP, "rule", "relu_derivative")
FACTORS = (*CONDITION, "seed")
# What has a figure of its own, with and without normalization and for all rules.
GROUP = ("dataset", "architecture", "optimizer", "precision", "relu_derivative")
GROUP_PATH = "{dataset}/{architecture}/{optimizer}/{precision}/relu-{relu_derivative}"
# The folders of a condition and of a cell, outermost factor first.
CONDITION_PATH = "{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/relu-{relu_derivative}"
PATH = f"{CONDITION_PATH}/seed{{seed}}"

# The columns of what a training run records of its poolings (`nonsmooth.traces`): per epoch and layer, and per step.
LAYERS = (
    "epoch", "step", "layer", "windows", "tied_above_zero", "jacobian_norm", "forward_error", "forward_error_max",
    "forward_nonfinite", "backward_error", "backward_error_max", "backward_nonfinite", "max_activation",
)  # fmt: skip
ACTIVATIONS = ("step", "layer", "max_activation")

# Optimizers with a safeguard, and the one without, whose decay and learning rates they have unless they are given their own.
SAFEGUARDED = {"sgd_clipped": "sgd", "sgd_scaled": "sgd"}

# A learning rate that is looked for by a job before the cell is trained.
SEARCH = "search"


def _values(cell: Any) -> dict[str, Any]:
    """The fields of a cell. `dataclasses.asdict` copies each deeply, which takes seven times as long."""
    return {field.name: getattr(cell, field.name) for field in fields(cell)}


@dataclass(frozen=True, kw_only=True)
class TrainingCell:
    """One training run. The factors identify it within a preset; the settings say how it is trained.

    Attributes:
        dataset, architecture, normalization, optimizer, precision, rule, relu_derivative, seed: the factors.
        epochs: passes over the training images.
        learning_rate: of the first epoch, or `SEARCH`.
        schedule: `cosine` annealing to 0 after the last epoch; `step`: divided by 10 every 30 epochs; or `constant`.
        batch_size: images per step; the last batch of an epoch may be smaller.
        momentum: used by SGD only.
        weight_decay: factor of the L2 penalty.
        adam_eps: used by Adam only.
        augmentation: `none`, or `crop_flip` of training images.
        train_split: the split that is trained on.
        clip_norm: largest Euclidean norm of a gradient with the optimizer `sgd_clipped`; None for the others.
    """

    dataset: str
    architecture: str
    normalization: str = "none"
    optimizer: str = "sgd"
    precision: str = "float32"
    rule: str = "native"
    relu_derivative: float = 0.0
    seed: int = 0
    epochs: int = 1
    learning_rate: float | str = SEARCH
    schedule: str = "cosine"
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 0.0
    adam_eps: float = 1e-8
    augmentation: str = "none"
    train_split: str = "train"
    clip_norm: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingCell:
        known = {"clip_norm": None, **values}
        return cls(**{field.name: known[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """All fields; `clip_norm` only if there is one, so that cells and records from before it was a setting stay the same."""
        values = _values(self)
        return values if self.clip_norm is not None else {name: values[name] for name in values if name != "clip_norm"}

    @property
    def factors(self) -> dict[str, Any]:
        """The factors by name."""
        return {name: getattr(self, name) for name in FACTORS}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is not in the path."""
        return {name: value for name, value in self.to_dict().items() if name not in FACTORS}

    @cached_property
    def wildcards(self) -> dict[str, str]:
        """The factors as they are written in paths."""
        return {name: str(value) for name, value in self.factors.items()} | {
            "relu_derivative": number(self.relu_derivative)
        }

    @property
    def setup(self) -> tuple[str, ...]:
        """What a learning rate belongs to."""
        return tuple(getattr(self, name) for name in SETUP)

    @property
    def path(self) -> str:
        """The cell's folder below `results/<run>/maxpool/train`."""
        return PATH.format(**self.wildcards)

    @property
    def condition_path(self) -> str:
        """The folder of its condition, without a seed."""
        return CONDITION_PATH.format(**self.wildcards)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Program:
    """What can differ between two programs of one network: the derivatives chosen at ties and at zeros.

    Attributes:
        rule: of every pooling.
        relu_derivative: of every ReLU at 0.
    """

    rule: str = "native"
    relu_derivative: float = 0.0

    def __str__(self) -> str:
        return self.rule if self.relu_derivative == 0 else f"{self.rule}+relu-{number(self.relu_derivative)}"

    @classmethod
    def parse(cls, name: str) -> Program:
        """The program called `name`: a rule, or `<rule>+relu-<derivative>`; the inverse of `str`.

        Raises ValueError for anything else.
        """
        match = re.fullmatch(r"(?P<rule>.+?)(?:\+relu-(?P<derivative>[-+.e0-9]+))?", name)
        if match:
            program = cls(str(parse_rule(match["rule"])), float(match["derivative"] or 0))
            if str(program) == name:
                return program
        raise ValueError(
            f"unknown program {name!r}; expected a rule, or a rule and a derivative, as in 'native+relu-1'"
        )

    @property
    def coefficients(self) -> dict[str, float] | None:
        """c of each kind of layer whose Jacobian is `J(0) + c N` (`nonsmooth.zones.kinks`); None if a rule is not of that form."""
        match rule := parse_rule(self.rule):
            case Native() | Minimal() | Hybrid(evaluation="exact"):
                return {"max_pool": rule_beta(rule), "relu": self.relu_derivative}
            case Norm(derivative, evaluation):
                kind = "norm_pool" if evaluation == "exact" else "norm_pool_composed"
                return {kind: derivative, "relu": self.relu_derivative}
        return None

    def can_be_replayed_with(self, other: Program) -> bool:
        """Whether the forward passes of both are the same and their Jacobians differ in c only."""
        ours, theirs = self.coefficients, other.coefficients
        return ours is not None and theirs is not None and ours.keys() == theirs.keys()


# What tells one measurement of zones from another; those of a condition differ by their seed.
ZONE_CONDITION = (
    "dataset", "architecture", "normalization", "precision", "batch_size", "program", "reference", "noise", "kernels",
)  # fmt: skip
ZONE_FACTORS = (*ZONE_CONDITION, "seed")
ZONE_PATH = (
    "{dataset}/{architecture}/{normalization}/{precision}/batch{batch_size}/{program}-vs-{reference}/"
    "noise-{noise}/{kernels}/seed{seed}"
)


@dataclass(frozen=True, kw_only=True)
class ZoneCell:
    """One measurement of how two programs' gradients differ, over the minibatches of one pass.

    Attributes:
        dataset, architecture, normalization, precision: as of a training cell.
        batch_size: images per minibatch; the last one of a pass may be smaller.
        program, reference: the names of the two programs.
        noise: standard deviation of Gaussian noise added to the normalised images; 0 for none.
        kernels: `deterministic`, or `default` for the device's default algorithms.
        seed: of the initial weights, the order of the images and the noise.
        minibatches: how many, from the beginning of the pass; None for all.
        initialization: `kaiming_uniform` as published, or `default`: as the architecture's training starts.
        replays: whether the causes are separated by recomputation.
    """

    dataset: str
    architecture: str
    normalization: str = "none"
    precision: str = "float32"
    batch_size: int = 128
    program: str = "minimal"
    reference: str = "native"
    noise: float = 0.0
    kernels: str = "deterministic"
    seed: int = 0
    minibatches: int | None = None
    initialization: str = "kaiming_uniform"
    replays: bool = True

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ZoneCell:
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return _values(self)

    @property
    def factors(self) -> dict[str, Any]:
        """The factors by name."""
        return {name: getattr(self, name) for name in ZONE_FACTORS}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is not in the path."""
        return {name: value for name, value in self.to_dict().items() if name not in ZONE_FACTORS}

    @property
    def wildcards(self) -> dict[str, str]:
        """The factors as they are written in paths."""
        return {name: str(value) for name, value in self.factors.items()} | {"noise": number(self.noise)}

    @property
    def path(self) -> str:
        """The cell's folder below `results/<run>/maxpool/zones`."""
        return ZONE_PATH.format(**self.wildcards)

    def __str__(self) -> str:
        return self.path


# What tells one comparison of weights from another; those of a condition differ by their seed.
WEIGHTS_CONDITION = ("dataset", "architecture", "normalization", "precision", "program", "reference")
WEIGHTS_FACTORS = (*WEIGHTS_CONDITION, "seed")
WEIGHTS_PATH = "{dataset}/{architecture}/{normalization}/{precision}/{program}-vs-{reference}/seed{seed}"


@dataclass(frozen=True, kw_only=True)
class WeightsCell:
    """One network trained twice, by two programs from the same weights and batches, and compared after every epoch.

    As published: plain SGD at a constant rate, without momentum or weight decay.

    Attributes:
        dataset, architecture, normalization, precision: as of a training cell.
        program, reference: the names of the two programs; equal ones are the control.
        seed: of the initial weights and the order of the images of both.
        epochs, learning_rate, batch_size, augmentation, train_split: as of a training cell, of both.
    """

    dataset: str
    architecture: str
    normalization: str = "none"
    precision: str = "float32"
    program: str = "minimal"
    reference: str = "native"
    seed: int = 0
    epochs: int = 1
    learning_rate: float = 0.01
    batch_size: int = 128
    augmentation: str = "none"
    train_split: str = "train"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WeightsCell:
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return _values(self)

    @property
    def factors(self) -> dict[str, Any]:
        """The factors by name."""
        return {name: getattr(self, name) for name in WEIGHTS_FACTORS}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is not in the path."""
        return {name: value for name, value in self.to_dict().items() if name not in WEIGHTS_FACTORS}

    @property
    def wildcards(self) -> dict[str, str]:
        """The factors as they are written in paths."""
        return {name: str(value) for name, value in self.factors.items()}

    @property
    def path(self) -> str:
        """The cell's folder below `results/<run>/maxpool/weights`."""
        return WEIGHTS_PATH.format(**self.wildcards)

    def runs(self) -> tuple[TrainingCell, TrainingCell]:
        """The training runs of the program and of the reference."""
        return self._run(Program.parse(self.program)), self._run(Program.parse(self.reference))

    def _run(self, program: Program) -> TrainingCell:
        return TrainingCell(
            dataset=self.dataset,
            architecture=self.architecture,
            normalization=self.normalization,
            optimizer="sgd",
            precision=self.precision,
            rule=program.rule,
            relu_derivative=program.relu_derivative,
            seed=self.seed,
            schedule="constant",
            momentum=0.0,
            weight_decay=0.0,
            **self.settings,
        )

    def __str__(self) -> str:
        return self.path
