"""One training run, against loops written out the plain way.

The loops here use PyTorch's own data loader and loss, and check every weight after every step. Equality means
equal bits: of the weights through `weights_hash`, of the metrics through `==` or their text (NaN equals NaN).
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nonsmooth import architectures, optimizers, provenance, training
from nonsmooth.architectures import Architecture
from nonsmooth.cells import TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.images import Images, StreamedImages, draw_crops_and_flips
from nonsmooth.precision import PRECISIONS, backend_flags
from nonsmooth.rules import parse_rule
from nonsmooth.training import Settings, evaluate, initial_model, train, weights_hash

CPU = torch.device("cpu")
CLOCKS = ("seconds", "images_per_second")
MakeCell = Callable[..., TrainingCell]

every_level = pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed16", "float32", "float64"])
every_optimizer = pytest.mark.parametrize("optimizer", ["sgd", "adam"])
every_normalization = pytest.mark.parametrize("normalization", ["none", "batch_norm"])


def results(run: training.Run) -> tuple:
    """What a rerun has to repeat, as text so that NaN equals NaN."""
    outcome = ("epochs_run", "diverged", "first_nonfinite_step", "steps", "skipped_steps", "weights_sha256")
    metrics = [{key: value for key, value in row.items() if key not in CLOCKS} for row in run.metrics]
    return repr(metrics), *(run.record[key] for key in outcome)


def finite(model: nn.Module) -> bool:
    return all(p.isfinite().all().item() for p in model.parameters())


class Step(NamedTuple):
    loss: float
    weights_finite: bool
    changed: bool


class Plain(NamedTuple):
    model: nn.Module
    steps: list[Step]
    losses: list[float]
    accuracies: list[float]


def cropped(image: Tensor, top: int, left: int, flip: bool) -> Tensor:
    image = TF.crop(TF.pad(image, 4), top, left, *image.shape[1:])
    return TF.hflip(image) if flip else image


def plain_training(cell: TrainingCell, data: Images) -> Plain:
    """A training loop as in a tutorial, with the schedules written out; means per epoch."""
    precision = PRECISIONS[cell.precision]
    dataset = DATASETS[cell.dataset]
    torch.manual_seed(cell.seed)
    rule, channels, classes = parse_rule(cell.rule), dataset.shape[0], dataset.num_classes
    model = architectures.build(
        cell.architecture, rule, cell.normalization, channels, classes, relu_derivative=cell.relu_derivative
    ).to(precision.dtype)
    if cell.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=cell.momentum, weight_decay=cell.weight_decay)
    else:
        optimizer = torch.optim.Adam(model.parameters(), 1.0, eps=cell.adam_eps, weight_decay=cell.weight_decay)
    scaler = torch.amp.GradScaler("cpu", enabled=cell.precision == "mixed16")
    generator = torch.Generator().manual_seed(cell.seed)
    steps, losses, accuracies = [], [], []
    for epoch in range(cell.epochs):
        for group in optimizer.param_groups:
            factor = {
                "cosine": (1 + math.cos(math.pi * epoch / cell.epochs)) / 2,
                "step": 0.1 ** (epoch // 30),
                "constant": 1.0,
            }[cell.schedule]
            group["lr"] = cell.learning_rate * factor
        order = torch.randperm(len(data), generator=generator)
        chosen = data.images[order]
        if cell.augmentation == "crop_flip":
            draws = (draw.tolist() for draw in draw_crops_and_flips(len(data), generator))
            chosen = torch.stack([cropped(*case) for case in zip(chosen, *draws, strict=True)])
        shown = TensorDataset((chosen.float() / 255 - data.mean) / data.std, data.labels[order])
        loss_sum = correct = 0
        for images, labels in DataLoader(shown, cell.batch_size):
            before = weights_hash(model)
            with precision.arithmetic(CPU):
                logits = model(images.to(precision.dtype))
                loss = F.cross_entropy(logits.float() if cell.precision == "mixed16" else logits, labels)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            steps.append(Step(loss.item(), weights.isfinite().all().item(), weights_hash(model) != before))
            loss_sum += loss.item() * len(labels)
            correct += sum(
                (row.argmax().item() if row.isfinite().all() else 0) == label
                for row, label in zip(logits, labels.tolist(), strict=True)
            )
        losses.append(loss_sum / len(data))
        accuracies.append(correct / len(data))
        if not steps[-1].weights_finite:
            break
    return Plain(model, steps, losses, accuracies)


def first_nonfinite_step(steps: list[Step]) -> int | None:
    return next((n for n, s in enumerate(steps, 1) if not (s.weights_finite and math.isfinite(s.loss))), None)


# ------------------------------------------------------------------------------------------ seeds and bits


@every_level
@every_optimizer
@every_normalization
def test_plain_loop_gives_the_same_bits(
    precision: str,
    optimizer: str,
    normalization: str,
    make_cell: MakeCell,
    train_set: Images,
    test_set: Images,
) -> None:
    """200 images in batches of 64: the last has 8."""
    rate = 0.03 if optimizer == "sgd" else 0.003
    cell = make_cell(
        precision=precision,
        optimizer=optimizer,
        normalization=normalization,
        learning_rate=rate,
        rule="minimal",
    )
    run = train(cell, train_set, test_set)
    plain = plain_training(cell, train_set)
    assert run.record["weights_sha256"] == weights_hash(plain.model)
    assert run.record["steps"] == len(plain.steps) == 4
    assert [row["train_loss"] for row in run.metrics] == plain.losses
    assert [row["train_accuracy"] for row in run.metrics] == plain.accuracies
    assert finite(plain.model)


@pytest.mark.parametrize(
    ("precision", "optimizer", "normalization"),
    [
        ("float16", "sgd", "none"),
        ("float16", "adam", "batch_norm"),
        ("bfloat16", "adam", "none"),
        ("mixed16", "sgd", "batch_norm"),
        ("float32", "adam", "batch_norm"),
        ("float64", "sgd", "batch_norm"),
    ],
)
def test_same_seed_same_bits_and_another_seed_others(
    precision: str,
    optimizer: str,
    normalization: str,
    make_cell: MakeCell,
    train_set: Images,
    test_set: Images,
) -> None:
    cell = make_cell(
        precision=precision,
        optimizer=optimizer,
        normalization=normalization,
        rule="hybrid-10-exact",
        epochs=2,
    )
    first = results(train(cell, train_set, test_set))
    torch.rand(7)  # the state of the global generator is no matter
    assert results(train(cell, train_set, test_set)) == first
    assert results(train(replace(cell, seed=1), train_set, test_set)) != first


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@pytest.mark.parametrize(("schedule", "epochs"), [("cosine", 3), ("step", 3), ("constant", 3)])
def test_plain_loop_with_schedules_and_augmentation(
    schedule: str, epochs: int, augmentation: str, make_cell: MakeCell, digits: Callable
) -> None:
    data = digits("train", 100)
    cell = make_cell(schedule=schedule, epochs=epochs, augmentation=augmentation, batch_size=16)
    run = train(cell, data, data)
    plain = plain_training(cell, data)
    assert run.record["steps"] == len(plain.steps) == 9
    assert [row["train_loss"] for row in run.metrics] == pytest.approx(plain.losses, rel=1e-6)
    if schedule != "cosine":  # whose rates are off by roundings
        assert run.record["weights_sha256"] == weights_hash(plain.model)


def test_augmentation_is_of_training_images_only(
    make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    batches = Images.batches

    def spy(self: Images, batch_size: int, generator=None, augmentation: str = "none", **others):
        asked.append(augmentation if generator is not None else "in order")
        return batches(self, batch_size, generator, augmentation, **others)

    monkeypatch.setattr(Images, "batches", spy)
    data = digits("test", 100)
    hashes = {
        train(make_cell(epochs=2, augmentation=augmentation), data, data).record["weights_sha256"]
        for augmentation in ("none", "crop_flip")
    }
    assert asked == ["none", "in order"] * 2 + ["crop_flip", "in order"] * 2
    assert len(hashes) == 2


@pytest.fixture
def inactive(monkeypatch: pytest.MonkeyPatch, train_set: Images) -> Images:
    """Digits on a background of 0, which the first convolution of the next models leaves at 0, since it has no bias."""
    initial = training.initial_model

    def without_bias(cell: TrainingCell) -> nn.Module:
        model = initial(cell)
        nn.init.zeros_(model.conv1.bias)
        return model

    monkeypatch.setattr(training, "initial_model", without_bias)
    return replace(train_set, mean=torch.zeros(1, 1, 1))


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_the_derivative_of_relu_at_zero_is_that_of_the_cell(
    precision: str, make_cell: MakeCell, inactive: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole windows are 0 in the first layer. The loss of the first step does not see the derivative."""
    derivatives = (0.0, 0.5, 1.0, -2.0)
    cells = [make_cell(precision=precision, relu_derivative=derivative, batch_size=200) for derivative in derivatives]
    runs = [train(cell, inactive, test_set) for cell in cells]
    assert len({run.record["weights_sha256"] for run in runs}) == len(cells)
    assert len({run.metrics[0]["train_loss"] for run in runs}) == 1
    build = architectures.build

    def without_bias(*arguments, **options) -> nn.Module:
        model = build(*arguments, **options)
        nn.init.zeros_(model.conv1.bias)
        return model

    monkeypatch.setattr(architectures, "build", without_bias)
    for cell, run in zip(cells, runs, strict=True):
        assert run.record["weights_sha256"] == weights_hash(plain_training(cell, inactive).model)


@pytest.mark.parametrize(
    ("architecture", "precision"), [("resnet18", "bfloat16"), ("densenet121", "float32"), ("vgg11", "float16")]
)
def test_larger_networks_in_colour(architecture: str, precision: str, make_cell: MakeCell) -> None:
    """Two steps on random images, with everything that CIFAR-10's published cells have, against the plain loop."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = Images.on_device("cifar10", images.numpy(), np.arange(6), CPU)
    cell = make_cell(
        dataset="cifar10",
        architecture=architecture,
        normalization="batch_norm",
        precision=precision,
        rule="minimal",
        relu_derivative=0.5,
        augmentation="crop_flip",
        batch_size=3,
        learning_rate=0.001,
    )
    run = train(cell, data, data)
    plain = plain_training(cell, data)
    assert run.record["weights_sha256"] == weights_hash(plain.model)
    assert run.metrics[0]["train_loss"] == plain.losses[0]
    assert not run.record["diverged"]


def test_streamed_images_are_trained_on_like_those_in_memory(
    make_cell: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same crops, from files and from memory. Both networks see 28 of 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    labels = np.arange(20) % 10
    memory = Images.on_device("cifar10", images[..., 2:30, 2:30].numpy(), labels, CPU)
    files = StreamedImages(np.array([str(path).encode() for path in paths]), labels, 28, CPU, memory.mean, memory.std)
    cell = make_cell(dataset="cifar10", batch_size=8, epochs=2)
    assert results(train(cell, files, files)) == results(train(cell, memory, memory))


def test_training_repeats_with_default_kernels(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    settings = Settings(deterministic=False)
    run = train(make_cell(precision="float16"), train_set, test_set, settings)
    assert not torch.are_deterministic_algorithms_enabled()
    assert results(run) == results(train(make_cell(precision="float16"), train_set, test_set))
    assert torch.are_deterministic_algorithms_enabled()


@every_normalization
def test_precisions_and_rules_start_from_the_same_weights(normalization: str, make_cell: MakeCell) -> None:
    cell = make_cell(normalization=normalization, precision="float32")
    reference = initial_model(cell).state_dict()
    for precision, rule in (("float16", "native"), ("bfloat16", "minimal"), ("float64", "hybrid-10-exact")):
        state = initial_model(replace(cell, precision=precision, rule=rule)).state_dict()
        assert state.keys() == reference.keys()
        for name, tensor in state.items():
            assert tensor.dtype == (PRECISIONS[precision].dtype if tensor.is_floating_point() else torch.int64)
            assert tensor.equal(reference[name].to(tensor.dtype))
    other = initial_model(replace(cell, seed=1)).state_dict()
    assert not other["conv1.weight"].equal(reference["conv1.weight"])


def test_every_cell_of_a_seed_sees_the_same_batches(
    make_cell: MakeCell, train_set: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.step

    def seen(**values) -> list[Tensor]:
        """The labels of every step."""
        batches = []

        def spy(*arguments):
            batches.append(arguments[-1])
            return step(*arguments)

        monkeypatch.setattr(training, "step", spy)
        train(make_cell(epochs=2, **values), train_set, test_set)
        return batches

    reference = seen()
    assert [len(labels) for labels in reference] == [64, 64, 64, 8] * 2
    assert torch.equal(torch.cat(reference[:4]).sort().values, train_set.labels.sort().values)
    assert not torch.equal(torch.cat(reference[:4]), torch.cat(reference[4:]))
    for values in (
        {"precision": "float16"},
        {"rule": "hybrid-1000-composed"},
        {"optimizer": "adam", "normalization": "batch_norm"},
    ):
        assert all(map(torch.equal, seen(**values), reference))
    assert not torch.equal(seen(seed=1)[0], reference[0])


def test_global_random_state_is_left_alone(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    initial_model(make_cell())
    train(make_cell(), train_set, test_set)
    assert torch.equal(torch.get_rng_state(), state)


# ----------------------------------------------------------------------------- schedule, optimizers, metrics


def test_learning_rate_follows_the_cosine(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    """rate * (1 + cos(pi * t / T)) / 2 in epoch t from 0; PyTorch's recursion rounds a few times per epoch."""
    epochs = 5
    run = train(make_cell(epochs=epochs, batch_size=200), train_set, test_set)
    rates = [row["learning_rate"] for row in run.metrics]
    assert rates == pytest.approx(
        [0.03 * (1 + math.cos(math.pi * t / epochs)) / 2 for t in range(epochs)], rel=4 * epochs * 2**-53
    )
    assert rates[0] == 0.03
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3, 4, 5]


def test_learning_rate_is_divided_by_10_every_30_epochs(make_cell: MakeCell) -> None:
    """Each epoch multiplies by 1 or 0.1, of which the latter rounds twice."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = optimizers.build_schedule(make_cell(schedule="step", epochs=95), optimizer)
    for epoch in range(95):
        (rate,) = schedule.get_last_lr()
        assert rate == optimizer.param_groups[0]["lr"] == pytest.approx(0.3 / 10 ** (epoch // 30), rel=8 * 2**-53)
        optimizer.step()
        schedule.step()


def test_a_constant_rate_stays_bit_for_bit(make_cell: MakeCell, digits: Callable) -> None:
    data = digits("test", 100)
    run = train(make_cell(schedule="constant", epochs=9), data, data)
    assert {row["learning_rate"] for row in run.metrics} == {0.03}


def test_a_run_follows_the_steps(make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits("test", 100)
    run = train(make_cell(schedule="step", epochs=31), data, data)
    rates = [row["learning_rate"] for row in run.metrics]
    assert rates == [0.03] * 30 + [pytest.approx(0.003, rel=2**-50)]


def test_unknown_schedule_is_refused(make_cell: MakeCell) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    with pytest.raises(ValueError, match="unknown schedule 'linear'; expected 'cosine', 'step' or 'constant'"):
        optimizers.build_schedule(make_cell(schedule="linear"), optimizer)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sgd", optimizers.SGD, {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.125, "nesterov": False}),
        ("adam", optimizers.Adam, {"lr": 0.25, "eps": 0.0625, "weight_decay": 0.125, "betas": (0.9, 0.999)}),
    ],
)
def test_optimizers_have_the_hyperparameters_of_the_cell(
    name: str, kind: type, expected: dict, make_cell: MakeCell
) -> None:
    cell = make_cell(optimizer=name, learning_rate=0.25, momentum=0.5, weight_decay=0.125, adam_eps=0.0625)
    model = initial_model(cell)
    optimizer = optimizers.build_optimizer(cell, model)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in expected} == expected
    assert group["params"] == list(model.parameters())
    assert not group.get("amsgrad")
    assert not group.get("dampening")


def test_unknown_optimizer_is_refused(make_cell: MakeCell) -> None:
    known = "'sgd', 'adam', 'sgd_clipped' or 'sgd_scaled'"
    with pytest.raises(ValueError, match=f"unknown optimizer 'lion'; expected {known}"):
        optimizers.build_optimizer(make_cell(optimizer="lion"), nn.Linear(1, 1))


# ------------------------------------------------------------------------------------ clipping and loss scaling


def with_gradients(scale: float, dtype: torch.dtype) -> list[nn.Parameter]:
    """Two parameters with random gradients of this size."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((7, 11), (5,))]
    for parameter in parameters:
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (scale * values).to(dtype)
    return [nn.Parameter(torch.zeros(1, dtype=dtype)), *parameters]  # the first has no gradient


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.1, 1.0, 1000.0])
@every_level
def test_clipped_gradients_are_those_of_a_plain_computation(precision: str, scale: float) -> None:
    """In float64 and without a loop's care. float32's norm of 82 entries is off by 82 units at most, and three roundings follow."""
    level = PRECISIONS[precision]
    parameters = with_gradients(scale, level.dtype)
    before = [p.grad.double().clone() for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(value**2 for gradient in before for value in gradient.flatten().tolist()))
    factor = min(1.0, 0.25 / (norm + 1e-6))
    with level.arithmetic(CPU):
        optimizers.clip_gradients(parameters, 0.25)
    after = [p.grad for p in parameters if p.grad is not None]
    wide = torch.float64 if precision == "float64" else torch.float32
    units = 90 * torch.finfo(wide).eps + torch.finfo(level.dtype).eps / 2
    for gradient, original in zip(after, before, strict=True):
        smallest = torch.finfo(level.dtype).smallest_normal * torch.finfo(level.dtype).eps
        assert ((gradient.double() - factor * original).abs() <= units * (factor * original).abs() + smallest / 2).all()
        if factor == 1:
            assert torch.equal(gradient.double(), original)
    clipped = math.sqrt(sum(value**2 for gradient in after for value in gradient.double().flatten().tolist()))
    assert clipped <= min(norm, 0.25) * (1 + units) + 82 * smallest


@pytest.mark.parametrize("scale", [0.01, 1000.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_clipping_is_pytorchs_in_32_and_64_bits(dtype: torch.dtype, scale: float) -> None:
    ours, theirs = with_gradients(scale, dtype), with_gradients(scale, dtype)
    optimizers.clip_gradients(ours, 0.25)
    torch.nn.utils.clip_grad_norm_(theirs, 0.25)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0, equal_nan=True)


def test_a_norm_beyond_float16_is_clipped() -> None:
    """PyTorch's own norm of these would be infinite in float16, and the gradients 0."""
    parameters = with_gradients(0.0, torch.float16)
    parameters[1].grad.fill_(60000.0)
    optimizers.clip_gradients(parameters, 1.0)
    assert parameters[1].grad.eq(torch.tensor(1 / math.sqrt(77)).half()).all()


@pytest.mark.parametrize("precision", ["float16", "mixed16", "float32"])
def test_clipped_sgd_steps_by_the_clipped_gradient(precision: str, make_cell: MakeCell, train_set: Images) -> None:
    """After the loss scaler has unscaled it: the weights move by rate * norm at most, without momentum and decay."""
    cell = make_cell(optimizer="sgd_clipped", clip_norm=0.125, precision=precision, momentum=0.0, weight_decay=0.0)
    level = PRECISIONS[precision]
    model = initial_model(cell)
    before = [parameter.detach().double().clone() for parameter in model.parameters()]
    optimizer = optimizers.build_optimizer(cell, model)
    scaler = level.loss_scaler(CPU)
    with level.arithmetic(CPU):
        training.step(model, optimizer, scaler, level, *train_set.batch(slice(64)))
    gradients = torch.cat([parameter.grad.flatten().double() for parameter in model.parameters()])
    assert gradients.norm().item() == pytest.approx(0.125, rel=0.001)
    moved = torch.cat(
        [(p.detach() - old).flatten().double() for p, old in zip(model.parameters(), before, strict=True)]
    )
    rounding = 2 * level.unit_roundoff * torch.cat([old.flatten() for old in before]).abs().max()
    assert ((moved + 0.03 * gradients).abs() <= rounding).all()


def test_clipping_at_a_large_norm_changes_nothing(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    for precision in ("float16", "float32"):
        plain = results(train(make_cell(precision=precision), train_set, test_set))
        clipped = make_cell(precision=precision, optimizer="sgd_clipped", clip_norm=1e6)
        assert results(train(clipped, train_set, test_set)) == plain
        assert results(train(replace(clipped, clip_norm=0.1), train_set, test_set)) != plain


@every_normalization
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_scaled_loss_gives_the_same_bits_where_nothing_under_or_overflows(
    precision: str, normalization: str, make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    """The scale is a power of two."""
    cell = make_cell(precision=precision, normalization=normalization, epochs=2)
    scaled = train(replace(cell, optimizer="sgd_scaled"), train_set, test_set)
    assert results(scaled) == results(train(cell, train_set, test_set))
    assert scaled.record["skipped_steps"] == 0


def test_mixed16_has_a_loss_scaler_anyway(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    cell = make_cell(precision="mixed16")
    assert results(train(replace(cell, optimizer="sgd_scaled"), train_set, test_set)) == results(
        train(cell, train_set, test_set)
    )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_scaled_loss_in_16_bits(precision: str, make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    """float16 cannot hold the first scale, 65,536, which is the gradient of the loss: the first step is skipped."""
    cell = make_cell(precision=precision, optimizer="sgd_scaled", epochs=2)
    run = train(cell, train_set, test_set)
    assert run.record["skipped_steps"] == (1 if precision == "float16" else 0)
    assert not run.record["diverged"]
    assert run.metrics[-1]["train_loss"] < run.metrics[0]["train_loss"]


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved(
    make_cell: MakeCell, train_set: Images
) -> None:
    """At the largest scale whose gradients float16 holds, the weights are those of a step from gradients in float32, rounded."""
    cell = make_cell(precision="float16", optimizer="sgd_scaled", momentum=0.0, weight_decay=0.0)
    level = PRECISIONS["float16"]
    model = initial_model(cell)
    optimizer = optimizers.build_optimizer(cell, model)
    scaler = level.loss_scaler(CPU, always=True)
    batch = train_set.batch(slice(64))
    scale = 65536.0
    while True:
        before = weights_hash(model)
        with level.arithmetic(CPU):
            _, _, skipped = training.step(model, optimizer, scaler, level, *batch)
        assert skipped == (weights_hash(model) == before)
        if not skipped:
            break
        scale /= 2
        assert scaler.get_scale() == scale
    assert 2 <= scale < 65536
    assert scaler.get_scale() == scale
    again = initial_model(cell)
    with level.arithmetic(CPU):
        loss = training.mean_loss(again(batch[0].half()), batch[1], level)
        gradients = torch.autograd.grad(scale * loss.float(), list(again.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, (gradient.float() / scale).half())


def test_small_gradients_survive_where_the_loss_is_scaled(make_cell: MakeCell) -> None:
    """A factor of 2^-14 between two layers makes the gradient before it 0 in float16, unless the loss is scaled."""

    class Attenuated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images) * 2.0**-14) * 2.0**-6

    level = PRECISIONS["float16"]
    found = {}
    for always in (False, True):
        torch.manual_seed(0)
        model = Attenuated().half()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        scaler = level.loss_scaler(CPU, always=always)
        for _ in range(3):
            with level.arithmetic(CPU):
                training.step(
                    model, optimizer, scaler, level, torch.full((64, 1), 256.0), torch.zeros(64, dtype=torch.int64)
                )
        found[always] = model.first.weight.grad
    assert found[True].abs().min() > 0
    # Of the gradients of single images, 2^-20 / 64 at most, nothing is left.
    assert found[False].abs().max() < found[True].abs().max()


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize(
    "rule",
    ["average", "norm-0", "boltzmann-0.1", "logsumexp-0.1", "rounded-3.5", "strided", "hybrid-1000-composed_float32"],
)
def test_every_pooling_trains(
    rule: str, precision: str, make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    cell = make_cell(rule=rule, precision=precision, epochs=2)
    run = train(cell, train_set, test_set)
    assert not run.record["diverged"]
    assert run.metrics[-1]["train_loss"] < run.metrics[0]["train_loss"]
    assert run.record["weights_sha256"] == weights_hash(plain_training(cell, train_set).model)


def test_strided_convolutions_start_beside_the_same_weights(make_cell: MakeCell) -> None:
    reference = initial_model(make_cell()).state_dict()
    state = initial_model(make_cell(rule="strided")).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in reference.items())
    assert state.keys() - reference.keys() == {"pool1.weight", "pool1.bias", "pool2.weight", "pool2.bias"}


@every_level
def test_evaluation_is_recomputed_image_by_image(precision: str, make_cell: MakeCell, test_set: Images) -> None:
    """mixed16 is evaluated in float32, as published."""
    cell = make_cell(precision=precision, normalization="batch_norm")
    level = PRECISIONS[precision].evaluation
    model = initial_model(cell)
    loss, accuracy = evaluate(model, test_set, level)
    assert model.training
    model.eval()
    with torch.no_grad(), level.arithmetic(CPU):
        logits = model(test_set.batch(slice(None))[0].to(level.dtype)).double()
    assert logits.equal(logits.to(level.dtype).double())
    losses = [row.logsumexp(0).item() - row[label].item() for row, label in zip(logits, test_set.labels, strict=True)]
    assert loss == pytest.approx(math.fsum(losses) / len(losses), rel=len(losses) * 2**-52)
    hits = [row.argmax().item() == label for row, label in zip(logits, test_set.labels.tolist(), strict=True)]
    assert accuracy == sum(hits) / len(hits)


def test_test_metrics_are_those_of_the_final_weights(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    for precision in ("float16", "mixed16"):
        cell = make_cell(precision=precision, normalization="batch_norm")
        row = train(cell, train_set, test_set).metrics[-1]
        model = plain_training(cell, train_set).model
        assert (row["test_loss"], row["test_accuracy"]) == evaluate(model, test_set, PRECISIONS[precision].evaluation)


class Fixed(nn.Module):
    """Gives the rows of `logits` in turn, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.given = nn.Parameter(logits), 0

    def forward(self, images: Tensor) -> Tensor:
        rows = self.logits[self.given : self.given + len(images)]
        self.given += len(images)
        return rows


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_nonfinite_logits_predict_class_0(broken: float, test_set: Images) -> None:
    """Row by row: one broken number changes its own image's prediction only."""
    data = replace(test_set, labels=torch.arange(100) % 10)
    logits = F.one_hot(data.labels, 10).half()
    logits[15, 3] = broken  # of class 5: would be right or wrong, now class 0 and wrong
    logits[20, 7] = broken  # of class 0: right
    logits[21, 1] = broken  # of class 1
    loss, accuracy = evaluate(Fixed(logits), data, PRECISIONS["float16"])
    assert accuracy == 98 / 100
    assert not math.isfinite(loss) or broken == -math.inf


def test_evaluation_counts_every_image_once(test_set: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 33)
    logits = torch.randn(100, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss, accuracy = evaluate(Fixed(logits), test_set, PRECISIONS["float64"])
    assert loss == pytest.approx(F.cross_entropy(logits, test_set.labels).item(), rel=100 * 2**-53)
    assert accuracy == (logits.argmax(1) == test_set.labels).sum().item() / 100


# ------------------------------------------------------------------------------------ divergence and skips


@pytest.mark.parametrize("rate", [10.0, 1000.0])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_divergence_is_flagged_at_its_step_and_stops_the_run(
    precision: str, rate: float, make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    cell = make_cell(precision=precision, learning_rate=rate, epochs=8, batch_size=20)
    run = train(cell, train_set, test_set)
    plain = plain_training(cell, train_set)
    step = first_nonfinite_step(plain.steps)
    assert step is not None
    assert run.record["diverged"] is True
    assert run.record["first_nonfinite_step"] == step
    assert run.record["steps"] == len(plain.steps)
    assert run.record["epochs_run"] == len(run.metrics) == math.ceil(len(plain.steps) / 10) < 8
    assert run.record["weights_sha256"] == weights_hash(plain.model)
    last = run.metrics[-1]
    assert math.isnan(last["train_loss"])
    assert math.isnan(last["test_loss"])
    # Every prediction is class 0, which a tenth of the digits are.
    assert last["test_accuracy"] == (test_set.labels == 0).sum().item() / len(test_set) == 0.1
    assert [row["train_accuracy"] for row in run.metrics] == plain.accuracies


def test_weights_that_overflow_after_a_finite_loss_are_flagged(
    make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    """The only step of the run has a finite loss, and its update overflows float16."""
    cell = make_cell(precision="float16", learning_rate=6e4, weight_decay=100.0, batch_size=len(train_set))
    run = train(cell, train_set, test_set)
    assert math.isfinite(run.metrics[0]["train_loss"])
    assert run.record["steps"] == run.record["first_nonfinite_step"] == 1
    assert run.record["diverged"] is True
    assert [s.weights_finite for s in plain_training(cell, train_set).steps] == [False]


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_poked_weight_is_flagged(
    poison: float,
    precision: str,
    make_cell: MakeCell,
    train_set: Images,
    test_set: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of the fifth step was finite; the run ends with its epoch, the second."""
    build = training.build_optimizer

    def build_poking(cell: TrainingCell, model: nn.Module) -> torch.optim.Optimizer:
        steps = count(1)

        def poke(*_) -> None:
            if next(steps) == 5:
                model.linear5.bias.detach()[3].fill_(poison)

        optimizer = build(cell, model)
        optimizer.register_step_post_hook(poke)
        return optimizer

    monkeypatch.setattr(training, "build_optimizer", build_poking)
    run = train(make_cell(precision=precision, epochs=4), train_set, test_set)
    assert run.record["first_nonfinite_step"] == 5
    assert run.record["epochs_run"] == 2
    assert run.record["diverged"] is True


def test_nonfinite_loss_alone_is_flagged_and_does_not_stop(
    make_cell: MakeCell, train_set: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = training.step, count(1)

    def spoiling(*arguments):
        loss, *rest = step(*arguments)
        return loss * math.inf if next(steps) == 3 else loss, *rest

    monkeypatch.setattr(training, "step", spoiling)
    run = train(make_cell(epochs=2), train_set, test_set)
    assert run.record["first_nonfinite_step"] == 3
    assert run.record["epochs_run"] == 2
    assert math.isinf(run.metrics[0]["train_loss"])
    assert math.isfinite(run.metrics[1]["train_loss"])


def test_a_good_run_is_not_flagged(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    record = train(make_cell(epochs=2), train_set, test_set).record
    assert record["diverged"] is False
    assert record["first_nonfinite_step"] is None
    assert (record["steps"], record["skipped_steps"], record["epochs_run"]) == (8, 0, 2)


def test_skipped_steps_are_counted_and_are_not_divergence(
    make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    """Images scaled by 64 give gradients that overflow float16 until the scaler has backed off."""
    cell = make_cell(precision="mixed16", batch_size=10, learning_rate=1e-4)
    bright = replace(train_set, std=train_set.std / 64)
    run = train(cell, bright, test_set)
    plain = plain_training(cell, bright)
    # With momentum and weight decay every applied step changes the weights.
    skipped = sum(not s.changed for s in plain.steps)
    assert 0 < skipped < 20
    assert not plain.steps[0].changed
    assert run.record["skipped_steps"] == run.metrics[0]["skipped_steps"] == skipped
    assert run.record["diverged"] is False
    assert run.record["first_nonfinite_step"] is None
    assert run.record["weights_sha256"] == weights_hash(plain.model)


def test_skipped_steps_are_counted_per_epoch(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    bright = replace(train_set, std=train_set.std / 64)
    cell = make_cell(precision="mixed16", batch_size=50, learning_rate=1e-4, epochs=2)
    run = train(cell, bright, test_set)
    skipped = [not s.changed for s in plain_training(cell, bright).steps]
    assert [row["skipped_steps"] for row in run.metrics] == [sum(skipped[:4]), sum(skipped[4:])]
    assert run.record["skipped_steps"] == sum(skipped) > 0


def test_nonfinite_loss_of_a_skipped_step_is_not_divergence(
    make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    cell = make_cell(precision="mixed16", learning_rate=1000.0)
    run = train(cell, train_set, test_set)
    plain = plain_training(cell, train_set)
    assert any(not math.isfinite(s.loss) and not s.changed for s in plain.steps)
    assert run.record["skipped_steps"] == sum(not s.changed for s in plain.steps)
    assert run.record["diverged"] is False


# --------------------------------------------------------------------------------------- hash and record


def test_weights_hash_sees_one_bit_the_sign_of_zero_names_and_buffers() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()
        for value, parameter in enumerate(model.parameters()):
            nn.init.constant_(parameter, value / 3)
        return model

    def changed(change: Callable[[nn.Module], object]) -> str:
        model = build()
        with torch.no_grad():
            change(model)
        return weights_hash(model)

    reference = weights_hash(build())
    assert reference == weights_hash(build())
    assert len(reference) == 64
    changes = [
        lambda m: m[0].weight.view(torch.int16)[1, 2].bitwise_xor_(1),
        lambda m: m[0].weight[0, 0].copy_(torch.tensor(-0.0)),  # +0 before
        lambda m: m[1].running_mean[1].add_(1),
        lambda m: m[1].num_batches_tracked.add_(1),
        lambda m: m.float(),
        lambda m: m.append(nn.Linear(1, 1)),
    ]
    hashes = [reference, *map(changed, changes), weights_hash(nn.Sequential(build()))]
    assert len(set(hashes)) == len(hashes)
    # The layout in memory is no matter.
    assert changed(lambda m: m[0].weight.set_(m[0].weight.t().contiguous().t())) == reference


def test_record_has_provenance_and_is_json(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    settings = Settings(threads=1)
    cell = make_cell(precision="float16", learning_rate=1000.0, batch_size=20)
    record = train(cell, train_set, test_set, settings).record
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text)["cell"] == cell.to_dict()
    assert TrainingCell.from_dict(record["cell"]) == cell
    assert set(record) == {
        *("cell", "config_hash", "epochs_run", "diverged", "first_nonfinite_step", "steps", "skipped_steps"),
        *(
            "weights_sha256",
            "settings",
            "flags",
            "device",
            "seconds",
            "process_seconds",
            "cpu_seconds",
            "peak_memory_mib",
        ),
        *("versions", "numerics_version", "git", "machine", "interrupted"),
    }
    # PyTorch alone takes a hundred MiB and a second; times are rounded to hundredths.
    assert record["peak_memory_mib"] > 100
    assert 0 < record["seconds"] <= record["process_seconds"] + 0.02
    assert record["process_seconds"] > 1
    assert record["settings"] == {"device": "cpu", "threads": 1, "deterministic": True}
    assert record["flags"]["cuda.matmul.fp32_precision"] == "ieee"
    assert record["flags"].keys() == backend_flags().keys()
    assert record["device"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_config_hash_sees_every_field_setting_and_version(
    make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits("test", 500)
    own = Architecture("Another", "nonsmooth.architectures.lenet:lenet5", 28)
    monkeypatch.setitem(architectures.ARCHITECTURES, "other", own)
    other = {
        "dataset": "fashion_mnist",
        "architecture": "other",
        "normalization": "batch_norm",
        "optimizer": "adam",
        "precision": "float64",
        "rule": "minimal",
        "relu_derivative": 0.5,
        "seed": 1,
        "epochs": 2,
        "learning_rate": 0.01,
        "schedule": "step",
        "batch_size": 2,
        "momentum": 0.8,
        "weight_decay": 1e-4,
        "adam_eps": 1e-8,
        "augmentation": "crop_flip",
        "train_split": "extra",
        "clip_norm": 0.5,
    }
    assert list(other) == [field.name for field in fields(TrainingCell)]

    def config_hash(cell: TrainingCell, settings: Settings = Settings()) -> str:  # noqa: B008 (frozen)
        return train(cell, data, data, settings).record["config_hash"]

    reference = config_hash(make_cell())
    assert config_hash(make_cell()) == reference
    hashes = [config_hash(make_cell(**{name: value})) for name, value in other.items()]
    hashes += [
        config_hash(make_cell(), Settings(threads=2)),
        config_hash(make_cell(), Settings(deterministic=False)),
    ]
    monkeypatch.setattr(training, "NUMERICS_VERSION", training.NUMERICS_VERSION + 1)
    hashes.append(config_hash(make_cell()))
    assert len({reference, *hashes}) == 1 + len(hashes)


def test_settings_are_applied(make_cell: MakeCell, digits: Callable) -> None:
    data = digits("test", 500)
    seen = []
    settings = Settings(threads=2, deterministic=False)
    train(make_cell(), data, data, settings, on_epoch=lambda _: seen.append(torch.get_num_threads()))
    assert seen == [torch.get_num_threads()] == [2]
    assert not torch.are_deterministic_algorithms_enabled()
    training.configure(Settings())
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_on_epoch_gets_each_row(make_cell: MakeCell, train_set: Images, test_set: Images) -> None:
    rows: list[dict] = []
    run = train(make_cell(epochs=2), train_set, test_set, on_epoch=lambda row: rows.append(dict(row)))
    assert rows == run.metrics
    assert all(row["seconds"] > 0 and row["images_per_second"] > 0 for row in rows)


def test_precision_that_the_device_lacks_is_refused_before_training(
    make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    rows: list[dict] = []
    with pytest.raises(ValueError, match="tf32"):
        train(make_cell(precision="tf32"), train_set, test_set, on_epoch=rows.append)
    assert not rows


# ------------------------------------------------------------------------------------- devices and memory


@pytest.mark.parametrize(
    ("asked", "has_gpu", "expected"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cuda", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
    ],
)
def test_settings_on_this_machine(asked: str, has_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    settings = Settings(asked, threads=3, deterministic=False)
    assert settings.on_this_machine() == Settings(expected, threads=3, deterministic=False)
    assert settings.device == asked


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"PyTorch sees no GPU on this machine; set device: cpu or auto"):
        Settings("cuda").on_this_machine()


def failing(error: BaseException) -> Callable:
    def fail(*arguments):
        raise error

    return fail


CPU_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


MEMORY_ERRORS = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
    "CPU": RuntimeError(CPU_MEMORY),
    "CPU of Windows": RuntimeError("[...] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
}
# As PyTorch says it outside of its own allocators.
OTHER_MEMORY_ERRORS = {
    "driver": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "C++": MemoryError("std::bad_alloc"),
}


@pytest.mark.parametrize(
    ("error", "where"),
    [
        *(pytest.param(error, "step", id=name) for name, error in MEMORY_ERRORS.items()),
        pytest.param(MEMORY_ERRORS["CPU"], "evaluate", id="CPU, in the test"),
        pytest.param(MEMORY_ERRORS["GPU"], "initial_model", id="GPU, before the first step"),
        *(pytest.param(error, "step", id=name) for name, error in OTHER_MEMORY_ERRORS.items()),
    ],
)
def test_too_little_memory_names_the_cell(
    error: Exception, where: str, make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, where, failing(error))
    cell = make_cell(precision="float16", rule="minimal", batch_size=77)
    data = digits("test", 100)
    message = rf"^{re.escape(str(cell))}: not enough memory for batch_size 77 \(.* [0-9,]+ MiB\).*smaller batch_size$"
    with pytest.raises(MemoryError, match=message) as raised:
        train(cell, data, data)
    assert raised.value.__cause__ is error


def test_the_allocator_of_the_cpu_is_recognised(
    make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its true message, for more than a process can address."""
    monkeypatch.setattr(training, "step", lambda *_: torch.empty(2**55, dtype=torch.uint8))
    with pytest.raises(MemoryError, match=r"lenet5.*: not enough memory for batch_size 64"):
        train(make_cell(), digits("test", 100), digits("test", 100))


def test_memory_of_a_gpu_is_called_so(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"process_seconds": 9.0, "peak_memory_mib": 1.0, "peak_gpu_memory_mib": 76543.2}
    monkeypatch.setattr(provenance, "usage", lambda device: used if device == "cuda" else {})
    message = (
        r"not enough GPU memory for batch_size 64 \(this process had used 76,543 MiB\); take a machine with more GPU"
    )
    with pytest.raises(MemoryError, match=message), training.memory_errors(make_cell(), torch.device("cuda")):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        NotImplementedError("no rounding rule"),
        ValueError("damaged file"),
        KeyboardInterrupt(),
    ],
    ids=str,
)
def test_other_errors_pass_unchanged(
    error: BaseException, make_cell: MakeCell, digits: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "step", failing(error))
    with pytest.raises(type(error)) as raised:
        train(make_cell(), digits("test", 100), digits("test", 100))
    assert raised.value is error


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(data: Images) -> Images:
    return Images(*(tensor.cuda() for tensor in (data.images, data.labels, data.mean, data.std)))


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gpu_training_repeats_and_records_its_memory(
    precision: str, make_cell: MakeCell, train_set: Images, test_set: Images
) -> None:
    """On random crops; the loss of the first step, whose weights are the CPU's, is that of the CPU up to rounding."""
    cell = make_cell(precision=precision, rule="hybrid-10-exact", augmentation="crop_flip", batch_size=200)
    settings = Settings("auto").on_this_machine()
    runs = [train(cell, on_gpu(train_set), on_gpu(test_set), settings) for _ in range(2)]
    assert results(runs[0]) == results(runs[1])
    record = runs[0].record
    assert record["settings"]["device"] == record["device"]["type"] == "cuda"
    assert record["device"]["capability"].count(".") == 1
    assert record["peak_gpu_memory_mib"] > 0
    here = train(replace(cell, precision="float64"), train_set, test_set).metrics[0]["train_loss"]
    # A dozen roundings of numbers below 10 in size.
    slack = 12 * 10 * PRECISIONS[precision].unit_roundoff + 2**-20
    assert runs[0].metrics[0]["train_loss"] == pytest.approx(here, abs=slack)


@needs_gpu
def test_gpu_memory_that_does_not_suffice(
    make_cell: MakeCell, train_set: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "step", lambda *_: torch.empty(2**45, dtype=torch.uint8, device="cuda"))
    with pytest.raises(MemoryError, match="not enough GPU memory for batch_size 64"):
        train(make_cell(), on_gpu(train_set), on_gpu(test_set), Settings("cuda"))


WITHOUT_COMPILER = """
import sys, torch
from nonsmooth import optimizers, training
from nonsmooth.cells import TrainingCell
from nonsmooth.precision import PRECISIONS

rules = ("hybrid-10-exact", "hybrid-10-composed", "norm-0", "logsumexp-0.1")
for name, rule in zip(("sgd", "adam", "sgd_clipped", "sgd_scaled"), rules):
    precision = PRECISIONS["float16"]
    cell = TrainingCell(
        dataset="mnist_5k", architecture="lenet5", precision="float16", optimizer=name, clip_norm=1.0, learning_rate=0.1, rule=rule
    )
    model = training.initial_model(cell)
    optimizer = optimizers.build_optimizer(cell, model)
    scaler = precision.loss_scaler(torch.device("cpu"), always=name == "sgd_scaled")
    schedule = optimizers.build_schedule(cell, optimizer)
    with precision.arithmetic(torch.device("cpu")):
        training.step(model, optimizer, scaler, precision, torch.rand(2, 1, 28, 28), torch.tensor([0, 1]))
    schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""


def test_pytorchs_compiler_is_not_imported() -> None:
    """It takes a second, of the few that most cells take."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimizers_are_pytorchs(name: str) -> None:
    """Bit for bit, in 50 steps, with the state that is saved and whatever hooks on them."""
    weights = []
    for optimizer_class in (getattr(optimizers, name), getattr(torch.optim, name)):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(7, 5, generator=generator).half().requires_grad_()
        optimizer = optimizer_class(
            [weight], lr=0.1, weight_decay=0.01, **({"momentum": 0.9} if name == "SGD" else {"eps": 1e-4})
        )
        calls = []
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        for _ in range(50):
            optimizer.zero_grad()
            (weight * torch.randn(7, 5, generator=generator).half()).sum().backward()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        assert len(calls) == 50
        assert weight.requires_grad
        weights.append(weight.detach())
    assert torch.equal(*weights)
