"""The six precision levels: how to cast, which backend flags to set, and 16-bit arithmetic on a CPU.

Half precision means: values stored in 16 bits, products accumulated in 32, one rounding per operation, as GPU
tensor cores do. PyTorch's own 16-bit CPU kernels are slow and some round more than once, so on a CPU the
operations of `OPERATIONS` are computed by float32 kernels and rounded once, forward and backward.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Precision:
    """One arithmetic of the study.

    Attributes:
        name: the level's name in configs and paths.
        dtype: type of weights, activations, gradients and optimizer state (float32 for `mixed16`, whose
            convolutions and matrix products run in float16 by autocast).
        unit_roundoff: u, the largest relative error of one rounding of a product's operands or result.
        devices: the device types that can do it.
    """

    name: str
    dtype: torch.dtype
    unit_roundoff: float
    tf32: bool = False
    autocast: torch.dtype | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")

    def cast_model(self, model: nn.Module) -> nn.Module:
        """The model with parameters and buffers in `dtype`; weights are drawn in float32 and rounded here."""
        return model.to(self.dtype)

    def cast_batch(self, batch: Tensor) -> Tensor:
        """The float32 batch rounded to `dtype`."""
        return batch.to(self.dtype)

    @property
    def uses_loss_scaler(self) -> bool:
        return self.autocast is not None

    def loss_scaler(self, device: torch.device, always: bool = False) -> torch.amp.GradScaler:
        """PyTorch's dynamic loss scaler with its defaults; one that does nothing where none is used, unless `always`."""
        return LossScaler(device.type, enabled=self.uses_loss_scaler or always)

    @property
    def evaluation(self) -> Precision:
        """The precision of the test pass: itself, but float32 for `mixed16`, as published."""
        return PRECISIONS["float32"] if self.autocast is not None else self

    def require(self, device: torch.device) -> None:
        """Raises ValueError where `device` cannot do this arithmetic."""
        if device.type not in self.devices:
            raise ValueError(f"precision {self.name} needs a device of type {self.devices}, got {device.type}")

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """Inside, operations on `device` follow this precision; backend flags are restored on leaving.

        Both the forward and the backward pass belong inside.
        """
        self.require(device)
        with ExitStack() as stack:
            stack.enter_context(_backend_flags(self.tf32))
            if device.type == "cpu" and (self.autocast or self.dtype) in SIXTEEN_BITS:
                stack.enter_context(RoundOnceOnCpu())
            if self.autocast is not None:
                stack.enter_context(torch.autocast(device.type, dtype=self.autocast))
            yield


SIXTEEN_BITS = (torch.float16, torch.bfloat16)


class LossScaler(torch.amp.GradScaler):
    """PyTorch's dynamic loss scaler, which takes gradients in float16, too: unscaled in float32 and rounded once.

    PyTorch refuses these, since unscaled they underflow as if the loss had not been scaled; what the scale protects in pure
    float16 is the backward pass up to there. FSDP's scaler takes them in the same way.
    """

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, True)


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("float16", torch.float16, 2.0**-11),
        Precision("bfloat16", torch.bfloat16, 2.0**-8),
        Precision("mixed16", torch.float32, 2.0**-11, autocast=torch.float16),
        Precision("tf32", torch.float32, 2.0**-11, tf32=True, devices=("cuda",)),
        Precision("float32", torch.float32, 2.0**-24),
        Precision("float64", torch.float64, 2.0**-53),
    )
}


def backend_flags() -> dict[str, Any]:
    """The backend settings that decide how products are rounded, for the record of a run."""
    matmul = torch.backends.cuda.matmul
    return {
        "cuda.matmul.fp32_precision": matmul.fp32_precision,
        "cudnn.conv.fp32_precision": torch.backends.cudnn.conv.fp32_precision,
        "cuda.matmul.allow_fp16_reduced_precision_reduction": matmul.allow_fp16_reduced_precision_reduction,
        "cuda.matmul.allow_bf16_reduced_precision_reduction": matmul.allow_bf16_reduced_precision_reduction,
        "cuda.matmul.allow_fp16_accumulation": matmul.allow_fp16_accumulation,
        "mkldnn.matmul.fp32_precision": torch.backends.mkldnn.matmul.fp32_precision,
        "mkldnn.conv.fp32_precision": torch.backends.mkldnn.conv.fp32_precision,
    }


@contextmanager
def _backend_flags(tf32: bool) -> Iterator[None]:
    """Full float32 products (or TF32 ones on a GPU) and 32-bit accumulation of 16-bit products."""
    wanted = dict.fromkeys(backend_flags(), False)
    wanted.update({name: "ieee" for name in wanted if name.endswith("fp32_precision")})
    if tf32:
        wanted["cuda.matmul.fp32_precision"] = wanted["cudnn.conv.fp32_precision"] = "tf32"
    before = backend_flags()
    try:
        _set_backend_flags(wanted)
        yield
    finally:
        _set_backend_flags(before)


def _set_backend_flags(flags: dict[str, Any]) -> None:
    for name, value in flags.items():
        *path, attribute = name.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part)
        if getattr(owner, attribute) != value:
            setattr(owner, attribute, value)


class Rounding(enum.Enum):
    """What PyTorch's CPU kernels do with an operation's 16-bit values, and so how it is computed here."""

    EXACT = "moves, compares or selects values; nothing is rounded"
    ONCE = "the 16-bit kernel computes in float32 or wider and rounds once"
    UPCAST = "computed by the float32 kernel, then rounded once"
    COMPOSED = "several operations in one kernel, each of which computes in float32 and rounds once"


# The rounding rule of every operation that the architectures, losses, optimizers and zero functions use, by ATen name; an
# in-place variant (`add_`) follows its base. Views are exact and not listed. An operation that is not here
# is refused in 16 bits on a CPU.
OPERATIONS: dict[str, Rounding] = {
    **dict.fromkeys(
        (
            "_local_scalar_dense",
            "_to_copy",
            "_unsafe_view",
            "abs",
            "amax",
            "aminmax",
            "argmax",
            "cat",
            "clone",
            "copy",
            "empty_like",
            "eq",
            "fill",
            "gather",
            "gt",
            "index",
            "isnan",
            "lt",
            "masked_fill",
            "max",
            "max_pool2d_with_codes",
            "max_pool2d_with_indices",
            "maximum",
            "native_max_pool2d_with_codes_backward",
            "ne",
            "neg",
            "new_empty",
            "new_full",
            "new_zeros",
            "ones_like",
            "relu",
            "scatter",
            "select_backward",
            "threshold_backward",
            "where",
            "zero",
            "zeros_like",
        ),
        Rounding.EXACT,
    ),
    # Not add, sub and products of lists: their 16-bit CPU kernels round a scalar operand, such as SGD's rate, to 16 bits first.
    **dict.fromkeys(
        (
            "_amp_foreach_non_finite_check_and_unscale",
            "_foreach_sqrt",
            "boltzmann_pool2d",
            "boltzmann_pool2d_backward",
            "div",
            "logsumexp_pool2d",
            "logsumexp_pool2d_backward",
            "max_pool2d_jacobian",
            "max_pool2d_transposed_jacobian",
            "max_pool2d_with_codes_backward",
            "mul",
            "norm_pool2d",
            "norm_pool2d_backward",
            "round_significand",
            "sqrt",
        ),
        Rounding.ONCE,
    ),
    **dict.fromkeys(
        ("composed_max_pool2d_with_codes", "composed_max_pool2d_with_codes_backward"),
        Rounding.COMPOSED,
    ),
    **dict.fromkeys(
        (
            "_foreach_add",
            "_foreach_addcdiv",
            "_foreach_addcmul",
            "_foreach_div",
            "_foreach_lerp",
            "_foreach_mul",
            "_log_softmax",
            "_log_softmax_backward_data",
            "add",
            "addcdiv",
            "addcmul",
            "addmm",
            "avg_pool2d",
            "avg_pool2d_backward",
            "convolution",
            "convolution_backward",
            "lerp",
            "max_pool2d_with_indices_backward",
            "mean",
            "mm",
            "native_batch_norm",
            "native_batch_norm_backward",
            "nll_loss_backward",
            "nll_loss_forward",
            "sub",
            "sum",
        ),
        Rounding.UPCAST,
    ),
}

# Results that are not stored in 16 bits: the saved statistics of batch normalization stay in float32, as on a
# GPU, and the gradients of its parameters have the type of the parameters (argument 2).
_KEPT_IN_FLOAT32 = {"native_batch_norm": (1, 2)}
_TYPED_LIKE_ARGUMENT = {"native_batch_norm_backward": {1: 2, 2: 2}}
# Arguments that an operation writes although its schema does not say so: the running mean and variance.
_WRITTEN_SILENTLY = {"native_batch_norm": (3, 4)}


class RoundOnceOnCpu(TorchDispatchMode):
    """While active, 16-bit operations on CPU tensors follow `OPERATIONS`, in the backward pass, too.

    Raises NotImplementedError for a 16-bit operation that has no rule.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapped for PyTorch's compiler, which would be imported for that, in a second, and asked at every operation."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operation = _operation(func)
        if operation.rounding is Rounding.UPCAST:
            return _upcast(func, operation, args, kwargs)
        if operation.rounding is None and _sixteen_bit_type(args) is not None:
            raise NotImplementedError(
                f"16-bit arithmetic on a CPU: no rounding rule for {func}; add {operation.name!r} to OPERATIONS in "
                f"{__name__} (exact, rounds once, or upcast) and to its test"
            )
        return func(*args, **kwargs)


class _Operation(NamedTuple):
    """What is to be known of an operation; looked up once, since a schema is slow to read.

    Attributes:
        name: in `OPERATIONS`. rounding: its rule there; views are exact.
        written: positions of the arguments that it writes.
        in_place: whether it returns the first of them.
    """

    name: str
    rounding: Rounding | None
    written: tuple[int, ...]
    in_place: bool


@cache
def _operation(func: torch._ops.OpOverload) -> _Operation:
    packet = func.overloadpacket.__name__
    name = packet.removesuffix("_")
    aliases = [argument.alias_info for argument in func._schema.arguments]
    written = [position for position, alias in enumerate(aliases) if alias is not None and alias.is_write]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    rounding = Rounding.EXACT if is_view else OPERATIONS.get(name)
    return _Operation(name, rounding, (*written, *_WRITTEN_SILENTLY.get(name, ())), packet.endswith("_"))


def _sixteen_bit_type(args: tuple[Any, ...]) -> torch.dtype | None:
    """The type of the first 16-bit CPU tensor among the arguments."""
    for arg in args:
        if isinstance(arg, Tensor):
            if arg.dtype in SIXTEEN_BITS and arg.device.type == "cpu":
                return arg.dtype
        elif isinstance(arg, list | tuple):
            dtype = _sixteen_bit_type(tuple(arg))
            if dtype is not None:
                return dtype
    return None


def _widen(arg: Any) -> Any:
    """A 16-bit tensor, several of them, or the name of a 16-bit type, in float32."""
    if isinstance(arg, Tensor):
        return arg.float() if arg.dtype in SIXTEEN_BITS else arg
    if isinstance(arg, list):
        return [_widen(value) for value in arg]
    return torch.float32 if isinstance(arg, torch.dtype) and arg in SIXTEEN_BITS else arg


def _upcast(func, operation: _Operation, args, kwargs):
    """`func` by its float32 kernel: operands widened, results and mutated operands rounded once."""
    dtype = _sixteen_bit_type(args)
    if dtype is None:
        return func(*args, **kwargs)
    if any(isinstance(value, Tensor) for value in kwargs.values()):
        raise NotImplementedError(f"16-bit arithmetic on a CPU: {func} with a tensor given by keyword, such as `out`")
    name = operation.name
    if name in ("_foreach_add", "add", "sub"):
        a, b = (arg[0] if isinstance(arg, list) else arg for arg in args[:2])
        dtype = torch.result_type(a, b)  # of a 16-bit and a 32-bit tensor it is float32
    dtype = kwargs.get("dtype") or dtype
    widened = [_widen(arg) for arg in args]
    results = func(*widened, **{key: _widen(value) for key, value in kwargs.items()})
    for position in operation.written:
        if isinstance(args[position], list):
            torch._foreach_copy_(args[position], widened[position])
        elif args[position] is not widened[position]:
            args[position].copy_(widened[position])
    if operation.in_place:
        return None if isinstance(args[0], list) else args[0]
    if isinstance(results, Tensor):
        return results.to(dtype) if results.dtype == torch.float32 else results
    kept = _KEPT_IN_FLOAT32.get(name, ())
    like = _TYPED_LIKE_ARGUMENT.get(name, {})
    rounded = []
    for position, result in enumerate(results):
        if isinstance(result, Tensor) and result.dtype == torch.float32 and position not in kept:
            model = args[like[position]] if position in like else None
            result = result.to(dtype if model is None else model.dtype)
        rounded.append(result)
    return type(results)(rounded)
