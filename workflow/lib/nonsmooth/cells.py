"""Cells, the unit of work: one condition and one seed; torch-free, so that planning is fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from nonsmooth.rules import number

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

# A learning rate that is looked for by a job before the cell is trained.
SEARCH = "search"


@dataclass(frozen=True, kw_only=True)
class TrainingCell:
    """One training run. The factors identify it within a preset; the settings say how it is trained.

    Attributes:
        dataset, architecture, normalization, optimizer, precision, rule, relu_derivative, seed: the factors.
        epochs: passes over the training images.
        learning_rate: of the first epoch, or `SEARCH`.
        schedule: `cosine` annealing to 0 after the last epoch, or `step`: divided by 10 every 30 epochs.
        batch_size: images per step; the last batch of an epoch may be smaller.
        momentum: used by SGD only.
        weight_decay: factor of the L2 penalty.
        adam_eps: used by Adam only.
        augmentation: `none`, or `crop_flip` of training images.
        train_split: the split that is trained on.
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingCell:
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def factors(self) -> dict[str, Any]:
        """The factors by name."""
        return {name: getattr(self, name) for name in FACTORS}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is not in the path."""
        return {name: value for name, value in self.to_dict().items() if name not in FACTORS}

    @property
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
