"""The figures of whole programs are the same with and without runs of partial ones beside."""

from __future__ import annotations

import pandas as pd
import pytest

from .conftest import CONDITION, composed_diverges, draw, legend, load
from .programs import rules

WHOLE = ["native", "minimal", *rules([10, 1000], ["exact", "composed"])]
PARTIAL = rules([10, 1000, 5], ["forward", "composed_unlimited", "composed_float32"])


@pytest.mark.parametrize("name", ["accuracy_by_beta", "accuracy", "loss", "accuracy_by_epoch"])
def test_partial_programs_are_not_in_the_figures_of_whole_ones(name: str, study) -> None:
    found = []
    for named in (WHOLE, [*WHOLE, *PARTIAL]):
        made = study(composed_diverges, rule=named, seed=[0, 1])
        assert set(made.runs.rule) == set(named)
        match name:
            case "accuracy_by_beta":
                drawn = draw(load("maxpool/accuracy_by_beta").plot, made.runs, made.published)
            case "accuracy":
                drawn = draw(load("maxpool/accuracy").plot, made.runs, made.published, CONDITION)
            case _:
                quantity = {"loss": "train_loss", "accuracy_by_epoch": "test_accuracy"}[name]
                drawn = draw(load("maxpool/curves").plot, made.epochs, CONDITION, quantity)
        found.append(drawn)
    (plain, data), (beside, other) = found
    pd.testing.assert_frame_equal(data.reset_index(drop=True), other.reset_index(drop=True))
    assert legend(plain) == legend(beside)
    assert plain.get_suptitle() == beside.get_suptitle()
