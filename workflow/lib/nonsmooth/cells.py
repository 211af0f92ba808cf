"""Cells, the unit of work: one condition and one seed; torch-free, so that planning is fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class TrainingCell:
    """One training run.

    The attributes in `FACTORS`, in this order, are the directories of its path; together they identify the
    cell within a preset. `adam_eps` is used by Adam only, `momentum` by SGD only.
    """

    dataset: str
    architecture: str
    normalization: str
    optimizer: str
    precision: str
    rule: str
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    adam_eps: float

    FACTORS: ClassVar[tuple[str, ...]] = (
        "dataset",
        "architecture",
        "normalization",
        "optimizer",
        "precision",
        "rule",
        "seed",
    )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingCell:
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def factors(self) -> dict[str, Any]:
        """The path factors by name."""
        return {name: getattr(self, name) for name in self.FACTORS}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is not in the path."""
        return {name: value for name, value in self.to_dict().items() if name not in self.FACTORS}

    @property
    def path(self) -> str:
        """The cell's folder below `results/<run>/maxpool/train`."""
        *factors, seed = self.factors.values()
        return "/".join([*factors, f"seed{seed}"])

    def __str__(self) -> str:
        return self.path
