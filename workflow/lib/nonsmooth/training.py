"""One training run, from seed to metrics.

The published set-up: SGD with momentum or Adam, cross-entropy, cosine annealing to the last epoch. Every
random draw comes from the cell's seed through generators on the CPU, so that all precisions and rules of
one seed start from the same weights and see the same batches.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonsmooth import architectures, provenance
from nonsmooth.cells import TrainingCell, WeightsCell, ZoneCell
from nonsmooth.datasets import DATASETS
from nonsmooth.files import content_hash
from nonsmooth.images import Images, StreamedImages
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.precision import PRECISIONS, Precision, backend_flags
from nonsmooth.rules import parse_rule
from nonsmooth.traces import PoolingTrace

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 500
# Of the schedule `step`, as published for ImageNet.
STEP_EPOCHS, STEP_FACTOR = 30, 0.1
# How PyTorch's RuntimeErrors say it, where they are not its OutOfMemoryError.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class Settings:
    """How a cell is executed, apart from what it computes.

    Attributes:
        device: `cpu`, `cuda`, or `auto`: a GPU if the process sees one.
        threads: CPU threads; sums depend on it.
        deterministic: use deterministic algorithms only.
    """

    device: str = "cpu"
    threads: int = 1
    deterministic: bool = True

    @classmethod
    def of_job(cls, wanted: dict[str, Any], threads: int) -> Settings:
        """The settings of a job that has got `threads`. Raises ValueError if these are fewer than a cell needs."""
        if threads < wanted["threads"]:
            raise ValueError(
                f"threads: {wanted['threads']} per cell, but Snakemake gave {threads}, and sums depend on it; "
                f"run with --cores {wanted['threads']} or more"
            )
        return cls(**wanted)

    def on_this_machine(self) -> Settings:
        """The settings with `auto` decided. Raises ValueError if a GPU is asked for and there is none."""
        has_gpu = torch.cuda.is_available()
        if self.device == "cuda" and not has_gpu:
            raise ValueError("device: cuda, but PyTorch sees no GPU on this machine; set device: cpu or auto")
        return replace(self, device=("cuda" if has_gpu else "cpu") if self.device == "auto" else self.device)


@dataclass
class Run:
    """A finished run: one row of metrics per epoch, its record (outcome and provenance), and what its poolings did."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    activations: list[dict[str, Any]] = field(default_factory=list)


def train(
    cell: TrainingCell,
    train_set: Images | StreamedImages,
    test_set: Images | StreamedImages,
    settings: Settings = Settings(),
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Train one cell.

    A run diverges at the first step after which a weight is not finite, or whose loss is not finite unless the
    loss scaler skipped it. Updates are applied all the same; a run with non-finite weights cannot recover
    and stops at the end of its epoch.

    Args:
        cell: the condition, seed and hyperparameters.
        train_set, test_set: on the device of `settings`.
        settings: device (`cpu` or `cuda`), threads, determinism.
        on_epoch: called with each row of metrics.

    Returns:
        Metrics per epoch: `epoch` (from 1), `learning_rate`, `train_loss` and `train_accuracy` (means over the
        epoch's steps), `test_loss` and `test_accuracy` after it, `skipped_steps` (by the loss scaler),
        `seconds` of training without the test, `images_per_second`. `layers` and `activations` of a `traces.PoolingTrace`.

    Raises:
        ValueError: the device cannot do the cell's precision.
        MemoryError: the device's memory is too small; the message names the cell.
    """
    started = time.time()
    device = torch.device(settings.device)
    precision = PRECISIONS[cell.precision]
    precision.require(device)
    configure(settings)

    run = Run()
    with memory_errors(cell, device):
        for epoch in epochs(cell, train_set, test_set, precision, device, traced=True):
            run.metrics.append(epoch.row)
            if on_epoch is not None:
                on_epoch(epoch.row)
    run.record = {**epoch.outcome(), **made_by(cell, settings, started)}
    run.layers, run.activations = epoch.trace.layers, epoch.trace.activations
    return run


class Epoch(NamedTuple):
    """A run after an epoch: its row of metrics, and what goes on changing: the network, whether it diverged, and its trace."""

    row: dict[str, Any]
    model: nn.Module
    steps: _Steps
    trace: PoolingTrace | None

    def outcome(self) -> dict[str, Any]:
        """Of a run that ends with this epoch, for its record."""
        return {
            "epochs_run": self.row["epoch"],
            **self.steps.to_dict(),
            "weights_sha256": weights_hash(self.model),
        }


def epochs(
    cell: TrainingCell,
    train_set: Images | StreamedImages,
    test_set: Images | StreamedImages,
    precision: Precision,
    device: torch.device,
    traced: bool = False,
) -> Iterator[Epoch]:
    """Train `cell` epoch by epoch, as the caller asks for them; see `train`. Ends early where the weights are not finite.

    `traced` has the poolings watched, which changes no bit. Nothing global is left changed between epochs, so that two runs can take turns.
    """
    model = initial_model(cell).to(device)
    optimizer = build_optimizer(cell, model)
    schedule = build_schedule(cell, optimizer)
    scaler = precision.loss_scaler(device, always=cell.optimizer == "sgd_scaled")
    draws = torch.Generator().manual_seed(cell.seed)
    steps = _Steps(device)
    trace = None
    if traced:
        trace = PoolingTrace(model, precision, device, cell.epochs * ceil(len(train_set) / cell.batch_size))

    for epoch in range(1, cell.epochs + 1):
        clock = time.perf_counter()
        learning_rate = schedule.get_last_lr()[0]
        sums = _Sums(device)
        skipped_before = steps.skipped
        model.train()
        batches = train_set.batches(cell.batch_size, draws, cell.augmentation)
        for number, (images, labels) in enumerate(batches):
            if trace is not None:
                trace.begin_step(closely=number == 0)
            with precision.arithmetic(device):
                loss, logits, skipped = step(model, optimizer, scaler, precision, images, labels)
            if trace is not None:
                trace.end_step(epoch)
            steps.record(loss, model, skipped)
            sums.add(loss, logits, labels)
        schedule.step()
        if trace is not None:
            trace.end_epoch()
        train_loss, train_accuracy = sums.means()
        seconds = time.perf_counter() - clock
        test_loss, test_accuracy = evaluate(model, test_set, precision.evaluation)
        row = {
            "epoch": epoch,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "skipped_steps": steps.skipped - skipped_before,
            "seconds": round(seconds, 4),
            "images_per_second": round(len(train_set) / seconds, 1),
        }
        yield Epoch(row, model, steps, trace)
        if not _finite(model):
            logger.info("weights are not finite: stopping after epoch %d", epoch)
            break


def made_by(cell: TrainingCell | WeightsCell | ZoneCell, settings: Settings, started: float) -> dict[str, Any]:
    """What every record says of how it was made: the cell, settings, flags, machine, versions, time and memory."""
    device = torch.device(settings.device)
    with PRECISIONS[cell.precision].arithmetic(device):
        flags = backend_flags()
    return {
        "cell": cell.to_dict(),
        "config_hash": content_hash([cell.to_dict(), vars(settings), NUMERICS_VERSION]),
        "settings": vars(settings),
        "flags": flags,
        "device": provenance.device(settings.device),
        "seconds": round(time.time() - started, 2),
        **provenance.usage(settings.device),
        **provenance.environment(),
    }


@contextmanager
def memory_errors(cell: TrainingCell | WeightsCell | ZoneCell, device: torch.device) -> Iterator[None]:
    """Out of memory, said of the cell."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        kinds = (torch.OutOfMemoryError, MemoryError)
        if not isinstance(error, kinds) and not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        kind = "GPU memory" if device.type == "cuda" else "memory"
        used = provenance.usage(device.type)
        peak = used["peak_gpu_memory_mib" if device.type == "cuda" else "peak_memory_mib"]
        raise MemoryError(
            f"{cell}: not enough {kind} for batch_size {cell.batch_size} (this process had used {peak:,.0f} MiB); take a "
            f"machine with more {kind}, run fewer jobs on it at once, or set a smaller batch_size"
        ) from error


def configure(settings: Settings) -> None:
    """Set this process's threads and determinism."""
    torch.set_num_threads(settings.threads)
    if settings.deterministic:
        # Read by cuBLAS when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU PyTorch calls its max-pooling backward nondeterministic, which it is for overlapping windows
    # only, so that there the answer is a warning in the log.
    is_cuda = torch.device(settings.device).type == "cuda"
    mode = ("warn" if is_cuda else "error") if settings.deterministic else "default"
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.benchmark = False


def initial_model(cell: TrainingCell) -> nn.Module:
    """The cell's network before training: drawn in float32 from its seed, then rounded to its precision."""
    dataset = DATASETS[cell.dataset]
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        model = architectures.build(
            cell.architecture,
            parse_rule(cell.rule),
            cell.normalization,
            dataset.shape[0],
            dataset.num_classes,
            cell.relu_derivative,
        )
    return PRECISIONS[cell.precision].cast_model(model)


def build_optimizer(cell: TrainingCell, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, which may clip gradients, or Adam. Raises ValueError for another name."""
    match cell.optimizer:
        case "sgd" | "sgd_clipped" | "sgd_scaled":
            sgd = torch.optim.SGD(
                model.parameters(),
                lr=cell.learning_rate,
                momentum=cell.momentum,
                weight_decay=cell.weight_decay,
            )
            if cell.optimizer == "sgd_clipped":
                # After a loss scaler has unscaled the gradients, and not at steps that it skips.
                sgd.register_step_pre_hook(lambda *_: clip_gradients(model.parameters(), cell.clip_norm))
            return sgd
        case "adam":
            return torch.optim.Adam(
                model.parameters(), lr=cell.learning_rate, eps=cell.adam_eps, weight_decay=cell.weight_decay
            )
    raise ValueError(f"unknown optimizer {cell.optimizer!r}; expected 'sgd', 'adam', 'sgd_clipped' or 'sgd_scaled'")


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, bit for bit in 32 and 64 bits; of 16-bit gradients in float32, each rounded once.

    As there, a gradient that is not finite makes itself NaN, and a NaN all others, too.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    wide = [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) for gradient in gradients]
    norm = torch.nn.utils.get_total_norm(wide)
    factor = (largest_norm / (norm + 1e-6)).clamp(max=1)
    for gradient, values in zip(gradients, wide, strict=True):
        gradient.copy_(values * factor)


def build_schedule(cell: TrainingCell, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Cosine annealing to 0 after the last epoch, division by 10 every 30 epochs, or a constant rate.

    Raises ValueError for another name.
    """
    match cell.schedule:
        case "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=cell.epochs)
        case "step":
            return torch.optim.lr_scheduler.StepLR(optimizer, STEP_EPOCHS, STEP_FACTOR)
        case "constant":
            return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    raise ValueError(f"unknown schedule {cell.schedule!r}; expected 'cosine', 'step' or 'constant'")


def evaluate(model: nn.Module, data: Images | StreamedImages, precision: Precision) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` in evaluation mode; non-finite logits predict class 0."""
    device = next(model.parameters()).device
    sums = _Sums(device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for images, labels in data.batches(EVALUATION_BATCH):
            with precision.arithmetic(device):
                logits = model(precision.cast_batch(images))
            sums.add(cross_entropy(logits.double(), labels), logits, labels)
    model.train(was_training)
    return sums.means()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the bits of all parameters and buffers, in the order of `state_dict`."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def mean_loss(logits: Tensor, labels: Tensor, precision: Precision) -> Tensor:
    """Mean cross-entropy, inside `precision.arithmetic`."""
    # Autocast on a GPU computes the loss in float32; said here, so that a CPU does the same.
    return cross_entropy(logits.float() if precision.autocast is not None else logits, labels)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, bool]:
    """One update, inside `precision.arithmetic`; returns loss, logits and whether the loss scaler skipped it."""
    optimizer.zero_grad(set_to_none=True)
    logits = model(precision.cast_batch(images))
    loss = mean_loss(logits, labels, precision)
    scaler.scale(loss).backward()
    taken: list[bool] = []
    hook = optimizer.register_step_post_hook(lambda *_: taken.append(True))
    scaler.step(optimizer)
    hook.remove()
    scaler.update()
    return loss.detach(), logits.detach(), not taken


class _Sums:
    """Loss and hits summed on the device, read once."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        predicted = torch.where(logits.isfinite().all(1), logits.argmax(1), 0)
        self.loss += loss.double() * len(labels)
        self.correct += (predicted == labels).sum()
        self.count += len(labels)

    def means(self) -> tuple[float, float]:
        return self.loss.item() / self.count, self.correct.item() / self.count


class _Steps:
    """The steps taken, those that the loss scaler skipped, and the first non-finite one, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.taken = 0
        self.skipped = 0
        self.first_nonfinite = torch.zeros((), dtype=torch.int64, device=device)

    def record(self, loss: Tensor, model: nn.Module, skipped: bool) -> None:
        self.taken += 1
        self.skipped += skipped
        finite = _largest_weight(model).isfinite()
        if not skipped:
            finite = finite & loss.isfinite()
        is_first = ~finite & (self.first_nonfinite == 0)
        self.first_nonfinite += is_first * self.taken

    def to_dict(self) -> dict[str, Any]:
        step = self.first_nonfinite.item()
        return {
            "diverged": step > 0,
            "first_nonfinite_step": step or None,
            "steps": self.taken,
            "skipped_steps": self.skipped,
        }


def _largest_weight(model: nn.Module) -> Tensor:
    """The largest absolute parameter, which is not finite if any is not (no rounding, so no overflow)."""
    return torch.nn.utils.get_total_norm(model.parameters(), norm_type=float("inf"))


def _finite(model: nn.Module) -> bool:
    return bool(_largest_weight(model).isfinite())
