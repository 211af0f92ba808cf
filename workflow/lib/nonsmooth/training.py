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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonsmooth import architectures, provenance
from nonsmooth.cells import TrainingCell, WeightsCell, ZoneCell
from nonsmooth.checkpoints import Checkpoint
from nonsmooth.datasets import DATASETS
from nonsmooth.files import content_hash
from nonsmooth.images import Images, StreamedImages
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.optimizers import build_optimizer, build_schedule
from nonsmooth.precision import PRECISIONS, Precision, backend_flags
from nonsmooth.rules import parse_rule
from nonsmooth.traces import PoolingTrace

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 500
# Of the states of `Trainer` and of what is saved beside them; raised when these change.
CHECKPOINT_VERSION = 1
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
    checkpoint: Checkpoint | None = None,
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
        checkpoint: where the run goes on if it was interrupted, and is saved; None saves nothing.

    Returns:
        Metrics per epoch: `epoch` (from 1), `learning_rate`, `train_loss` and `train_accuracy` (means over the
        epoch's steps), `test_loss` and `test_accuracy` after it, `skipped_steps` (by the loss scaler),
        `seconds` of training without the test, `images_per_second`. `layers` and `activations` of a `traces.PoolingTrace`.

    Raises:
        ValueError: the device cannot do the cell's precision; the checkpoint is of another run.
        MemoryError: the device's memory is too small; the message names the cell.
    """
    device = torch.device(settings.device)
    precision = PRECISIONS[cell.precision]
    precision.require(device)
    configure(settings)

    run, parts = Run(), Parts(settings)
    with memory_errors(cell, device):
        trainer = Trainer(cell, train_set, test_set, precision, device, traced=True)

        def state() -> dict[str, Any]:
            return {"trainer": trainer.state_dict(), "metrics": run.metrics, "parts": parts.so_far(trainer.steps.taken)}

        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            trainer.load_state_dict(saved["trainer"])
            run.metrics = saved["metrics"]
            parts.go_on_after(saved["parts"])
        for row in trainer.epochs(after_step=checkpoint and (lambda: checkpoint.after_step(state))):
            run.metrics.append(row)
            if on_epoch is not None:
                on_epoch(row)
            if checkpoint is not None:
                checkpoint.after_epoch(row["epoch"], state)
    run.record = {**trainer.outcome(), **made_by(cell, settings, parts)}
    run.layers, run.activations = trainer.trace.layers, trainer.trace.activations
    return run


def checkpoint_identity(cell: TrainingCell | WeightsCell, settings: Settings) -> dict[str, Any]:
    """All that the bits of a run depend on, but the machine and the versions of libraries; and what its state consists of."""
    versions = {"numerics_version": NUMERICS_VERSION, "checkpoint_version": CHECKPOINT_VERSION}
    return {**cell.to_dict(), **vars(settings), **versions}


class Parts:
    """The parts that a run was trained in, of which an uninterrupted one has none but the last.

    Attributes:
        before: of each interrupted part its `seconds`, the `steps` taken at its end, and its `device` and version of `torch`.
        seconds: since the beginning of this part, and of those before.
    """

    def __init__(self, settings: Settings) -> None:
        self.before: list[dict[str, Any]] = []
        self._made = {"device": provenance.device(settings.device)["name"], "torch": str(torch.__version__)}
        self._started = time.time()

    def so_far(self, steps: int) -> list[dict[str, Any]]:
        """The parts, if this one ends now."""
        return [*self.before, {"seconds": round(time.time() - self._started, 2), "steps": steps, **self._made}]

    def go_on_after(self, parts: list[dict[str, Any]]) -> None:
        """Those before this one. Says so in the log, and whether they were made elsewhere, so that the bits may be others."""
        self.before = parts
        logger.info("going on after %d steps", parts[-1]["steps"])
        for name, value in self._made.items():
            if parts[-1][name] != value:
                logger.warning("until now with %s %s, from here with %s", name, parts[-1][name], value)

    @property
    def seconds(self) -> float:
        return sum((part["seconds"] for part in self.before), start=time.time() - self._started)


class Trainer:
    """A run in progress: the network, and all else that changes while it is trained.

    Nothing global is left changed between epochs, so that two runs can take turns.

    Attributes:
        model: the network. steps: what became of the steps. trace: what its poolings did, if it is `traced`, which changes no bit.
        epochs_run: how many are over.
    """

    def __init__(
        self,
        cell: TrainingCell,
        train_set: Images | StreamedImages,
        test_set: Images | StreamedImages,
        precision: Precision,
        device: torch.device,
        traced: bool = False,
    ) -> None:
        self._cell, self._precision, self._device = cell, precision, device
        self._train_set, self._test_set = train_set, test_set
        self.model = initial_model(cell).to(device)
        self._optimizer = build_optimizer(cell, self.model)
        self._schedule = build_schedule(cell, self._optimizer)
        self._scaler = precision.loss_scaler(device, always=cell.optimizer == "sgd_scaled")
        self._draws = torch.Generator().manual_seed(cell.seed)
        self.steps = _Steps(device)
        self.trace = None
        if traced:
            self.trace = PoolingTrace(
                self.model, precision, device, cell.epochs * ceil(len(train_set) / cell.batch_size)
            )
        self.epochs_run = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._batches, self._seconds = 0, 0.0
        self._sums = _Sums(self._device)
        self._skipped_before = self.steps.skipped
        # Of the order of the epoch's images.
        self._drawn_from = self._draws.get_state()

    def epochs(self, after_step: Callable[[], None] | None = None) -> Iterator[dict[str, Any]]:
        """Train epoch by epoch, as the caller asks for the rows of metrics; see `train`. Ends early where weights are not finite.

        `after_step` is called after every step, when the run is in a state that can be saved.
        """
        while self.epochs_run < self._cell.epochs:
            if self.epochs_run > 0 and not _finite(self.model):
                logger.info("weights are not finite: stopping after epoch %d", self.epochs_run)
                return
            yield self._finish_epoch(after_step)

    def _finish_epoch(self, after_step: Callable[[], None] | None) -> dict[str, Any]:
        """Train what is left of an epoch."""
        cell, trace, epoch = self._cell, self.trace, self.epochs_run + 1
        seconds_before, clock = self._seconds, time.perf_counter()
        learning_rate = self._schedule.get_last_lr()[0]
        self.model.train()
        self._draws.set_state(self._drawn_from)
        batches = self._train_set.batches(cell.batch_size, self._draws, cell.augmentation, skip=self._batches)
        for images, labels in batches:
            if trace is not None:
                trace.begin_step(closely=self._batches == 0)
            with self._precision.arithmetic(self._device):
                loss, logits, skipped = step(self.model, self._optimizer, self._scaler, self._precision, images, labels)
            if trace is not None:
                trace.end_step(epoch)
            self.steps.record(loss, self.model, skipped)
            self._sums.add(loss, logits, labels)
            self._batches += 1
            if after_step is not None:
                self._seconds = seconds_before + time.perf_counter() - clock
                after_step()
        self._schedule.step()
        if trace is not None:
            trace.end_epoch()
        train_loss, train_accuracy = self._sums.means()
        seconds = seconds_before + time.perf_counter() - clock
        test_loss, test_accuracy = evaluate(self.model, self._test_set, self._precision.evaluation)
        row = {
            "epoch": epoch,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "skipped_steps": self.steps.skipped - self._skipped_before,
            "seconds": round(seconds, 4),
            "images_per_second": round(len(self._train_set) / seconds, 1),
        }
        self.epochs_run = epoch
        self._begin_epoch()
        return row

    def outcome(self) -> dict[str, Any]:
        """Of a run that ends here, for its record."""
        return {"epochs_run": self.epochs_run, **self.steps.to_dict(), "weights_sha256": weights_hash(self.model)}

    def state_dict(self) -> dict[str, Any]:
        """All that changes, after a step or an epoch, for `load_state_dict` of a new trainer of the same cell."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps": vars(self.steps),
            "sums": vars(self._sums),
            "trace": None if self.trace is None else self.trace.state_dict(),
            "drawn_from": self._drawn_from,
            "epochs_run": self.epochs_run,
            "batches": self._batches,
            "seconds": self._seconds,
            "skipped_before": self._skipped_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, to the same bits."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        if self.trace is not None:
            self.trace.load_state_dict(state["trace"])
        _restore(self.steps, state["steps"])
        _restore(self._sums, state["sums"])
        self._drawn_from = state["drawn_from"]
        self.epochs_run, self._batches = state["epochs_run"], state["batches"]
        self._seconds, self._skipped_before = state["seconds"], state["skipped_before"]


def made_by(cell: TrainingCell | WeightsCell | ZoneCell, settings: Settings, parts: Parts) -> dict[str, Any]:
    """What every record says of how it was made: the cell, settings, flags, machine, versions, time and memory, interruptions."""
    device = torch.device(settings.device)
    with PRECISIONS[cell.precision].arithmetic(device):
        flags = backend_flags()
    return {
        "cell": cell.to_dict(),
        "config_hash": content_hash([cell.to_dict(), vars(settings), NUMERICS_VERSION]),
        "settings": vars(settings),
        "flags": flags,
        "device": provenance.device(settings.device),
        "seconds": round(parts.seconds, 2),
        "interrupted": parts.before,
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
    # It would write NaN into every new tensor, to show reads of what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False


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


def _restore(counts: _Sums | _Steps, values: dict[str, Any]) -> None:
    """Set the attributes, tensors where the present ones are."""
    for name, value in values.items():
        here = getattr(counts, name)
        setattr(counts, name, value.to(here.device) if isinstance(here, Tensor) else value)


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


@torch.no_grad()
def _largest_weight(model: nn.Module) -> Tensor:
    """The largest absolute parameter, which is not finite if any is not (no rounding, so no overflow)."""
    parameters = list(model.parameters())
    if parameters[0].device.type == "cpu":  # where a norm takes value by value
        return torch.stack([extreme for values in parameters for extreme in torch.aminmax(values)]).abs().max()
    return torch.nn.utils.get_total_norm(parameters, norm_type=float("inf"))


def _finite(model: nn.Module) -> bool:
    return bool(_largest_weight(model).isfinite())
