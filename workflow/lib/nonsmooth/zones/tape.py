"""A forward pass kept as it was, and its backward pass in another arithmetic.

`record` runs a network and keeps what every operation returned. `Replay` builds the same graph in float32 or float64 out of
those values: nothing of the forward pass is computed anew, so that activations, masks of ReLUs and ties are those of the
recorded pass, and only the arithmetic of the backward pass is another.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from nonsmooth.modules import replace_modules
from nonsmooth.precision import Precision
from nonsmooth.training import mean_loss
from nonsmooth.zones.kinks import KINKED, Kink

# Operations whose result is the recorded one without being computed, since they take nearly all of the time.
_SKIPPED = {"convolution", "addmm", "mm", "bmm"}
# Operations that copy values, or make a tensor without any.
_NOT_RECORDED = {"_to_copy", "copy", "clone", "detach", "lift_fresh", "empty", "empty_like", "zeros_like", "ones_like"}
# The types of layers whose weights and inputs autocast rounds.
_AUTOCAST = (nn.Linear, nn.Conv2d)


@dataclass
class Tape:
    """What a forward pass returned, in the order in which it ran.

    Attributes:
        values: name and result of every operation outside of the kinked layers.
        kinks: every application of a kinked layer.
        finite: a boolean on the device: is every recorded value, and the loss, finite.
        without_gradient: names of the biases whose gradient is zero over the reals, since their layer's output goes straight
            into a batch normalization with the statistics of the batch. ASSUME: and nowhere else.
    """

    values: list[tuple[str, Tensor]] = field(default_factory=list)
    kinks: list[Kink] = field(default_factory=list)
    finite: Tensor | bool = True
    without_gradient: set[str] = field(default_factory=set)


def record(
    model: nn.Module, images: Tensor, labels: Tensor, precision: Precision, keep: bool = True
) -> tuple[Tensor, Tape]:
    """The loss of `model`, inside `precision.arithmetic`, and the tape of the pass.

    Args:
        model: a program in its precision.
        images, labels: a batch; the images are already of the precision's type.
        keep: whether operations' results are kept, which a replay needs.
    """
    tape = Tape()
    recorder = _Recorder(tape, keep)
    with _watched(model, tape, recorder), recorder:
        loss = network_loss(model, images, labels, precision)
    tape.finite = recorder.finite & loss.detach().isfinite()
    return loss, tape


def network_loss(model: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
    """The loss that training minimises, inside `precision.arithmetic`."""
    return mean_loss(model(images), labels, precision)


class _Recorder(TorchDispatchMode):
    """Keeps what operations return; silent inside of kinked layers, of which programs have different ones."""

    def __init__(self, tape: Tape, keep: bool) -> None:
        super().__init__()
        self.tape, self.keep = tape, keep
        self.is_paused = False
        self.finite = torch.tensor(True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _is_in_place(func) and isinstance(args[0], Tensor):
            self.keep_what_is_overwritten(args[0])
        result = func(*args, **(kwargs or {}))
        if not self.is_paused and (value := _recorded(func, result)) is not None:
            self.watch(value)
            if self.keep:
                self.tape.values.append((_name(func), value))
        return result

    def keep_what_is_overwritten(self, written: Tensor) -> None:
        storage = written.untyped_storage().data_ptr()
        for position, (name, value) in enumerate(self.tape.values):
            if value.untyped_storage().data_ptr() == storage:
                self.tape.values[position] = (name, value.clone())
        for kink in self.tape.kinks:
            if kink.input.untyped_storage().data_ptr() == storage:
                kink.input = kink.input.clone()
            if kink.output.untyped_storage().data_ptr() == storage:
                kink.output = kink.output.clone()

    def watch(self, value: Tensor) -> None:
        """Note whether a value is finite."""
        if value.numel():
            low, high = [v.double() for v in torch.aminmax(value)]
            self.finite = self.finite.to(value.device) & low.isfinite() & high.isfinite()


@contextmanager
def _watched(model: nn.Module, tape: Tape, recorder: _Recorder) -> Iterator[None]:
    """Hooks that put kinked layers on the tape, and find biases right before a batch normalization."""
    # By the identity of an output, which is kept alive.
    biased: dict[int, tuple[Tensor, str]] = {}
    is_normalized: dict[int, bool] = {}
    sources: dict[int, tuple[Tensor, int, int]] = {}

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        recorder.is_paused = True

    def leave(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kink = Kink.of(name, module, inputs[0], output)
            _, source, version = sources.get(id(inputs[0]), (None, None, None))
            if version == inputs[0]._version:  # else it was written in place since
                kink.source = source
            sources[id(output)] = output, len(tape.kinks), output._version
            tape.kinks.append(kink)
            recorder.watch(output.detach())
            recorder.is_paused = False

        return hook

    def remember(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            biased[id(output)] = (output, f"{name}.bias")
            is_normalized[id(output)] = False

        return hook

    def normalized(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in biased and module.training:
            is_normalized[id(inputs[0])] = True

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, KINKED):
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(name))]
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            hooks.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks.append(module.register_forward_pre_hook(normalized))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    # A layer that is used several times has a bias without gradient only if each use is normalized.
    with_gradient = {name for number, (_, name) in biased.items() if not is_normalized[number]}
    tape.without_gradient = {name for _, name in biased.values()} - with_gradient


class ReplayNetwork:
    """A network made ready to be replayed in one arithmetic; it is used for every minibatch."""

    def __init__(self, model: nn.Module, precision: Precision, arithmetic: torch.dtype) -> None:
        """
        Args:
            model: a program in its precision, which is copied.
            precision: of the recorded passes.
            arithmetic: torch.float32 or torch.float64.
        """
        self.arithmetic = arithmetic
        self.model = copy.deepcopy(model)
        if precision.autocast is not None:
            for module in self.model.modules():
                if isinstance(module, _AUTOCAST):
                    for parameter in module.parameters(recurse=False):
                        parameter.data = parameter.data.to(precision.autocast).to(arithmetic)
                    module.register_forward_pre_hook(lambda _, inputs: _round_through(inputs[0], precision.autocast))
        self.model = self.model.to(arithmetic)
        for kind in KINKED:
            self.model = replace_modules(self.model, kind, lambda _: _ReplayedLayer(self))
        self.replay: Replay | None = None


class Replay:
    """The graph of a recorded pass, whose backward pass is in the arithmetic of `network`.

    Attributes:
        outputs, inputs: of every kink, in the order of the forward pass, in the graph.
        coefficients: c of every kink, read when a gradient passes it; a list to be changed in place.
        layers: every convolution, linear layer and batch normalization with its input and output in the graph.
    """

    def __init__(self, network: ReplayNetwork, tape: Tape, images: Tensor, labels: Tensor) -> None:
        self.network, self.tape = network, tape
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.coefficients: list[float | Tensor] = [0.0] * len(tape.kinks)
        self.layers: list[tuple[nn.Module, Tensor, Tensor]] = []
        network.replay = self
        hooks = [
            module.register_forward_hook(lambda m, inputs, output: self.layers.append((m, inputs[0], output)))
            for module in network.model.modules()
            if isinstance(module, nn.Conv2d | nn.Linear | nn.modules.batchnorm._BatchNorm)
        ]
        try:
            with _Replayer(tape.values) as replayer:
                logits = network.model(images.to(network.arithmetic))
                self.loss = cross_entropy(logits, labels)
            replayer.require_end()
        finally:
            network.replay = None
            for hook in hooks:
                hook.remove()

    def arriving(self, wanted: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
        """`scale` times the loss's gradient at tensors of the graph; 0 at those that no parameter reaches."""
        seed = torch.full_like(self.loss, scale)
        reached = [tensor for tensor in wanted if tensor.requires_grad]
        if not reached:
            return [torch.zeros_like(tensor) for tensor in wanted]
        found = iter(torch.autograd.grad(self.loss, reached, seed, retain_graph=True, materialize_grads=True))
        return [next(found) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in wanted]

    def parameter_gradients(self, injected: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """What `injected` at the inputs of the kinks contributes to the gradients of the parameters that it reaches."""
        sources = [(x, e) for x, e in zip(self.inputs, injected, strict=True) if e is not None and x.requires_grad]
        if not sources:
            return {}
        names, parameters = zip(*self.network.model.named_parameters(), strict=True)
        outputs, seeds = zip(*sources, strict=True)
        found = torch.autograd.grad(outputs, parameters, seeds, retain_graph=True, allow_unused=True)
        return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


class _Replayer(TorchDispatchMode):
    """Puts recorded results in the place of computed ones, in the type that was computed.

    Of an operation with several results the first is replaced. The others, such as the statistics of batch
    normalization, are computed from the recorded input.
    """

    def __init__(self, values: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.values = iter(values)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = _name(func)
        if name in _SKIPPED:
            return self.next(name).to(args[0].dtype, copy=True)
        result = func(*args, **(kwargs or {}))
        if (value := _recorded(func, result)) is None:
            return result
        if _is_in_place(func):
            return result.copy_(self.next(name))
        recorded = self.next(name).to(value.dtype, copy=True)
        return recorded if isinstance(result, Tensor) else (recorded, *result[1:])

    def next(self, name: str) -> Tensor:
        recorded, value = next(self.values, ("nothing", None))
        if recorded != name:
            raise RuntimeError(f"replay: the recorded pass has {recorded} where the graph has {name}")
        return value

    def require_end(self) -> None:
        """Raises RuntimeError if the graph ended before the recorded pass."""
        recorded, _ = next(self.values, (None, None))
        if recorded is not None:
            raise RuntimeError(f"replay: the recorded pass has {recorded} where the graph has ended")


class _ReplayedLayer(nn.Module):
    """In the place of a kinked layer: the recorded output, and the Jacobian chosen when the gradient comes."""

    def __init__(self, network: ReplayNetwork) -> None:
        super().__init__()
        self.network = [network]  # in a list, since it is no part of this module

    def forward(self, input: Tensor) -> Tensor:
        replay = self.network[0].replay
        number = len(replay.outputs)
        replay.inputs.append(input)
        output = _Replayed.apply(input, replay.tape.kinks[number], replay.coefficients, number)
        replay.outputs.append(output)
        return output


class _Replayed(torch.autograd.Function):
    # The context must not hold the replay, which holds the graph: a cycle through autograd's nodes is never collected.
    @staticmethod
    def forward(ctx, input: Tensor, kink: Kink, coefficients: list[float | Tensor], number: int) -> Tensor:
        ctx.kink, ctx.coefficients, ctx.number = kink, coefficients, number
        return kink.output.to(input.dtype, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return ctx.kink.transposed(gradient, ctx.coefficients[ctx.number]), None, None, None


class _RoundThrough(torch.autograd.Function):
    """Rounded values whose derivative is that of the unrounded ones, as a cast's is."""

    @staticmethod
    def forward(ctx, input: Tensor, dtype: torch.dtype) -> Tensor:
        return input.to(dtype).to(input.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


def _round_through(input: Tensor, dtype: torch.dtype) -> Tensor:
    return _RoundThrough.apply(input, dtype)


@cache
def _name(func: torch._ops.OpOverload) -> str:
    return func.overloadpacket.__name__.removesuffix("_")


@cache
def _is_in_place(func: torch._ops.OpOverload) -> bool:
    return func.overloadpacket.__name__.endswith("_")


@cache
def _is_recorded(func: torch._ops.OpOverload) -> bool:
    """Whether the first result of an operation belongs on a tape: it is computed, not a view of an argument."""
    if _name(func) in _NOT_RECORDED or not func._schema.returns:
        return False
    returned = func._schema.returns[0].alias_info
    return returned is None or returned.is_write


def _recorded(func: torch._ops.OpOverload, result: object) -> Tensor | None:
    """The floating tensor that belongs on a tape, if an operation returns one."""
    if not _is_recorded(func):
        return None
    value = result[0] if isinstance(result, tuple | list) and result else result
    return value if isinstance(value, Tensor) and value.is_floating_point() else None
