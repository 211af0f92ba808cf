"""Replacing layers of a model: each once, wherever it is, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nonsmooth.modules import replace_modules


class Marked(nn.Module):
    """What an original was replaced by."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.originals = [original]  # in a list, so that it is no submodule

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return -input


def mark(model: nn.Module) -> nn.Module:
    return replace_modules(model, nn.ReLU, Marked)


def test_nested_modules_are_replaced_in_place_and_in_order() -> None:
    inner = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model = nn.Sequential(nn.ModuleDict({"block": inner}), nn.Tanh(), nn.ModuleList([nn.ReLU()]), nn.ReLU())
    originals = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    kept = [inner, inner[0], model[0], model[1], model[2]]
    names = [name for name, _ in model.named_modules()]
    assert mark(model) is model
    assert [module.originals[0] for module in model.modules() if isinstance(module, Marked)] == originals
    assert [inner, inner[0], model[0], model[1], model[2]] == kept
    assert [name for name, _ in model.named_modules()] == names


def test_a_model_that_is_one_is_replaced_by_its_replacement() -> None:
    original = nn.ReLU()
    replaced = mark(original)
    assert type(replaced) is Marked
    assert replaced.originals == [original]


def test_a_model_without_any_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential())
    before = list(model.modules())
    assert mark(model) is model
    assert list(model.modules()) == before


def test_subclasses_are_replaced_too() -> None:
    class Special(nn.ReLU):
        pass

    assert type(mark(nn.Sequential(Special()))[0]) is Marked


@pytest.mark.parametrize("nested", [False, True])
def test_a_module_used_in_several_places_stays_one(nested: bool) -> None:
    shared = nn.ReLU()
    model = nn.Sequential(shared, nn.Linear(1, 1), shared)
    if nested:
        model = nn.Sequential(nn.Sequential(shared), nn.Sequential(nn.Sequential(shared)), model)
    replaced: list[nn.Module] = []
    replace_modules(model, nn.ReLU, lambda module: replaced.append(module) or Marked(module))
    assert replaced == [shared]
    marked = [m for _, m in model.named_modules(remove_duplicate=False) if isinstance(m, Marked)]
    assert len(marked) == (4 if nested else 2)
    assert len(set(marked)) == 1


def test_a_block_used_in_several_places_stays_one() -> None:
    block = nn.Sequential(nn.ReLU())
    model = mark(nn.Sequential(block, block))
    assert model[0] is model[1] is block
    assert type(block[0]) is Marked


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training: bool) -> None:
    """Each by its own original: one is in the other mode than its model."""
    model = nn.Sequential(nn.ReLU(), nn.ReLU()).train(training)
    model[1].train(not training)
    assert [module.training for module in mark(model)] == [training, not training]


def test_the_replacement_computes_and_parameters_are_untouched() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    input = torch.ones(1, 2)
    expected = -model[0](input)
    assert mark(model)(input).equal(expected)
    assert model.state_dict().keys() == state.keys()
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
