"""Max pooling by Triton kernels, the bits of the plain paths on a GPU: exact pooling in one pass forward and one backward, and the
gradient of composed pooling in one.

Codes and their order are those of `kernels.cpp`. Nothing is left to a GPU's freedom: maxima are chosen by comparing integers,
operations are not contracted, and every input value adds up what its windows send in one order.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.exact import transposed_jacobian
from nonsmooth.pooling.windows import WIDE, Geometry

logger = logging.getLogger(__name__)

# Offsets have 32 bits.
MOST_VALUES = 2**30
BLOCK = 512
TESTED_BETA = 1000.1
# A contracted multiplication and addition would round once where the plain path rounds twice.
OPTIONS = {"enable_fp_fusion": False}
# Bits of the significand that are stored.
SIGNIFICANDS = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


# ---------------------------------------------------------------------------------------------------- kernels

# They are compiled for planes of one size and any number of them, so that the self-check below runs what pools all batches.


@triton.jit
def _key(bits, SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr):
    """Grows with the value, above the lowest integer. The same for both zeros, and the largest one for every NaN."""
    largest: tl.constexpr = 2 ** (8 * SIZE - 1) - 1
    infinity: tl.constexpr = (largest >> SIGNIFICAND) << SIGNIFICAND
    size = bits & largest
    return tl.where(size > infinity, largest, tl.where(bits < 0, -size, size))


@triton.jit(do_not_specialize=["windows"])
def forward_kernel(
    input, output, codes, windows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_HEIGHT: tl.constexpr, STRIDE_WIDTH: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, DILATION_HEIGHT: tl.constexpr, DILATION_WIDTH: tl.constexpr,
    SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The maximum of every window, and a bit for each position that holds one; of a window with NaNs that of the last one alone.

    `input` and `output` are bits, as integers of SIZE bytes.
    """
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_window = window < windows
    first_row = window // COLUMNS % ROWS * STRIDE_HEIGHT - TOP
    first_column = window % COLUMNS * STRIDE_WIDTH - LEFT
    plane = window // (ROWS * COLUMNS)

    integer: tl.constexpr = tl.int64 if SIZE == 8 else tl.int32
    largest: tl.constexpr = 2 ** (8 * SIZE - 1) - 1
    lowest = tl.full([BLOCK], -largest - 1, integer)
    best, best_key, code = tl.zeros([BLOCK], integer), lowest, tl.zeros([BLOCK], tl.int32)
    for i in tl.static_range(KERNEL_HEIGHT):
        for j in tl.static_range(KERNEL_WIDTH):
            row, column = first_row + i * DILATION_HEIGHT, first_column + j * DILATION_WIDTH
            is_value = is_window & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
            bits = tl.load(input + (plane * HEIGHT + row) * WIDTH + column, mask=is_value, other=0).to(integer)
            key = tl.where(is_value, _key(bits, SIZE, SIGNIFICAND), lowest)
            is_better = (key > best_key) | (key == largest)
            code = tl.where(is_better, 0, code) | tl.where(key >= best_key, 1 << (i * KERNEL_WIDTH + j), 0)
            best, best_key = tl.where(is_better, bits, best), tl.maximum(key, best_key)
    tl.store(output + window, best.to(output.dtype.element_ty), mask=is_window)
    tl.store(codes + window, code.to(tl.int16), mask=is_window)


@triton.jit
def _widen(bits, SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr):
    """The float64 value of bits."""
    if SIZE == 8:
        return bits.to(tl.float64, bitcast=True)
    elif SIGNIFICAND == 10:
        return bits.to(tl.float16, bitcast=True).to(tl.float64)
    elif SIGNIFICAND == 7:  # the upper half of a float32
        return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True).to(tl.float64)
    else:
        return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _narrow(value, SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr):
    """The bits of a float64 value rounded once. To 16 bits by integers, as in `kernels.cpp`, since a conversion may go through
    float32 and round twice."""
    if SIZE == 8:
        return value.to(tl.int64, bitcast=True)
    elif SIZE == 4:
        return value.to(tl.float32).to(tl.int32, bitcast=True)
    else:
        one: tl.constexpr = 1 << 52  # in the exponent
        shift: tl.constexpr = 52 - SIGNIFICAND
        largest: tl.constexpr = (1 << (15 - SIGNIFICAND)) - 1  # exponent, that of infinities
        bias: tl.constexpr = 1023 - largest // 2
        bits = value.to(tl.int64, bitcast=True)
        size = bits & 0x7FFFFFFFFFFFFFFF
        clamped = tl.minimum(size, (bias + largest) * one)
        exponent = tl.maximum((clamped >> 52) - bias, 1)
        # The sum with it has no bit below the last one of the 16-bit number.
        power = (exponent + bias + shift) * one
        total = clamped.to(tl.float64, bitcast=True) + power.to(tl.float64, bitcast=True)
        number = total.to(tl.int64, bitcast=True) - power + ((exponent - 1) << SIGNIFICAND)
        number = tl.where(size > 2047 * one, (size >> shift) & 0x7FFF, number)
        return (number | tl.where(bits < 0, 0x8000, 0)).to(tl.int16)


@triton.jit
def _count(code, POSITIONS: tl.constexpr):
    """The maxima in a code."""
    maxima = code & 1
    for position in tl.static_range(1, POSITIONS):
        maxima += (code >> position) & 1
    return maxima


@triton.jit(do_not_specialize=["values"])
def backward_kernel(
    grad, codes, result, beta, values,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_HEIGHT: tl.constexpr, STRIDE_WIDTH: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, DILATION_HEIGHT: tl.constexpr, DILATION_WIDTH: tl.constexpr,
    SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The transposed hybrid Jacobian times `grad`, every value gathering what the windows that see it send.

    First come those of which it is a maximum beside the argmax, in the order of its position in them, then, in reverse, those of
    which it is the argmax: the order of `exact.transposed_jacobian`. `beta` points to a float64.
    """
    value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_value = value < values
    row, column = value // WIDTH % HEIGHT + TOP, value % WIDTH + LEFT
    plane = value // (HEIGHT * WIDTH)
    factor = tl.load(beta)

    # How many windows can see a value, down and across, in the order of its position in them.
    down: tl.constexpr = (KERNEL_HEIGHT - 1) * DILATION_HEIGHT // STRIDE_HEIGHT + 1
    across: tl.constexpr = (KERNEL_WIDTH - 1) * DILATION_WIDTH // STRIDE_WIDTH + 1
    sums = tl.zeros([BLOCK], tl.float64)
    to_argmax = ()
    for number in tl.static_range(down * across):
        window_row, window_column = row // STRIDE_HEIGHT - number // across, column // STRIDE_WIDTH - number % across
        y, x = row - window_row * STRIDE_HEIGHT, column - window_column * STRIDE_WIDTH
        i, j = y // DILATION_HEIGHT, x // DILATION_WIDTH
        sees = is_value & (y % DILATION_HEIGHT == 0) & (i < KERNEL_HEIGHT) & (window_row >= 0) & (window_row < ROWS)
        sees &= (x % DILATION_WIDTH == 0) & (j < KERNEL_WIDTH) & (window_column >= 0) & (window_column < COLUMNS)
        window = (plane * ROWS + window_row) * COLUMNS + window_column
        code = tl.load(codes + window, mask=sees, other=0).to(tl.int32) & 0xFFFF
        gradient = _widen(tl.load(grad + window, mask=sees, other=0), SIZE, SIGNIFICAND)
        count = _count(code, KERNEL_HEIGHT * KERNEL_WIDTH).to(tl.float64)
        here = code & (1 << tl.where(sees, i * KERNEL_WIDTH + j, 0))
        is_argmax = here == (code & -code)
        weight = tl.where(is_argmax, count - factor * (count - 1.0), factor)
        # Adding +0 turns -0 into +0, which is what PyTorch's accumulation into zeros gives.
        share = tl.where(here != 0, weight * gradient / count + 0.0, 0.0)
        sums += tl.where(is_argmax, 0.0, share)
        to_argmax += (tl.where(is_argmax, share, 0.0),)
    for number in tl.static_range(down * across):
        sums += to_argmax[down * across - 1 - number]
    tl.store(result + value, _narrow(sums, SIZE, SIGNIFICAND), mask=is_value)


@triton.jit
def _rounded(value, SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr):
    """The float32 result of an operation in 16 bits, or one that is rounded already."""
    if SIZE == 2:
        return _widen(_narrow(value.to(tl.float64), SIZE, SIGNIFICAND), SIZE, SIGNIFICAND).to(tl.float32)
    else:
        return value


@triton.jit(do_not_specialize=["values"])
def composed_backward_kernel(
    grad, codes, result, beta, values,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_HEIGHT: tl.constexpr, STRIDE_WIDTH: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, DILATION_HEIGHT: tl.constexpr, DILATION_WIDTH: tl.constexpr,
    SIZE: tl.constexpr, SIGNIFICAND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What autodiff makes of the composition of two poolings, in windows that tile the input; the operations of `Composed` in
    `kernels.cpp`."""
    value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_value = value < values
    row, column = value // WIDTH % HEIGHT, value % WIDTH
    window = (value // (HEIGHT * WIDTH) * ROWS + row // KERNEL_HEIGHT) * COLUMNS + column // KERNEL_WIDTH
    code = tl.load(codes + window, mask=is_value, other=0).to(tl.int32) & 0xFFFF
    here = code & (1 << (row % KERNEL_HEIGHT * KERNEL_WIDTH + column % KERNEL_WIDTH))

    wide: tl.constexpr = tl.float64 if SIZE == 8 else tl.float32
    factor = tl.load(beta)
    gradient = _widen(tl.load(grad + window, mask=is_value, other=0), SIZE, SIGNIFICAND).to(wide)
    count = _count(code, KERNEL_HEIGHT * KERNEL_WIDTH).to(wide)
    # Without a maximum 0 / 0.
    total = _rounded(factor.to(wide) * gradient, SIZE, SIGNIFICAND) * tl.where(count > 0, 1.0, 0.0).to(wide)
    share = _rounded(total / count if SIZE == 8 else tl.div_rn(total, count), SIZE, SIGNIFICAND)
    alone = _rounded((1.0 - factor).to(wide) * gradient, SIZE, SIGNIFICAND)
    to_minimal = tl.where(here != 0, share, share * 0.0)
    to_native = tl.where((here != 0) & (here == (code & -code)), alone, 0.0) + 0.0
    tl.store(result + value, _narrow((to_minimal + to_native).to(tl.float64), SIZE, SIGNIFICAND), mask=is_value)


# ---------------------------------------------------------------------------------------------------- launches


def forward(input: Tensor, output: Tensor, codes: Tensor, geometry: Geometry) -> None:
    """Write the maxima, and an int16 for every window with a bit for each position that holds one; all tensors are contiguous."""
    _launch(forward_kernel, output.numel(), _bits(input), _bits(output), codes, **constants(input, output, geometry))


def backward(grad: Tensor, codes: Tensor, result: Tensor, geometry: Geometry, beta: float) -> None:
    """Write the transposed hybrid Jacobian times `grad`, shaped like the input; all tensors are contiguous."""
    _launch_backward(backward_kernel, grad, codes, result, geometry, beta)


def composed_backward(grad: Tensor, codes: Tensor, result: Tensor, geometry: Geometry, beta: float) -> None:
    """The same of composed pooling, for windows that tile the input; codes are 0 where a window has a NaN."""
    _launch_backward(composed_backward_kernel, grad, codes, result, geometry, beta)


def _launch_backward(kernel, grad: Tensor, codes: Tensor, result: Tensor, geometry: Geometry, beta: float) -> None:
    factor = _on_device(beta, grad.device)
    _launch(kernel, result.numel(), _bits(grad), codes, _bits(result), factor, **constants(result, grad, geometry))


def _launch(kernel, number: int, *tensors: Tensor, **constants: int) -> None:
    with torch.cuda.device_of(tensors[0]):
        kernel[(triton.cdiv(number, BLOCK),)](*tensors, number, **constants, **OPTIONS)


def constants(input: Tensor, output: Tensor, geometry: Geometry) -> dict[str, int]:
    """What a kernel is compiled for."""
    (height, width), (rows, columns) = input.shape[-2:], output.shape[-2:]
    kernel, stride, padding, dilation, _ = geometry
    return {
        "HEIGHT": height, "WIDTH": width, "ROWS": rows, "COLUMNS": columns,
        "KERNEL_HEIGHT": kernel[0], "KERNEL_WIDTH": kernel[1], "STRIDE_HEIGHT": stride[0], "STRIDE_WIDTH": stride[1],
        "TOP": padding[0], "LEFT": padding[1], "DILATION_HEIGHT": dilation[0], "DILATION_WIDTH": dilation[1],
        "SIZE": input.element_size(), "SIGNIFICAND": SIGNIFICANDS[input.dtype], "BLOCK": BLOCK,
    }  # fmt: skip


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(INTEGERS[tensor.element_size()])


@lru_cache(maxsize=1024)
def _on_device(number: float, device: torch.device) -> Tensor:
    """A float64, which as an argument of a kernel would become a float32."""
    return torch.tensor(number, dtype=WIDE, device=device)


# ---------------------------------------------------------------------------------------------------- self-check


@lru_cache(maxsize=1024)
def are_right(
    device: torch.device, dtype: torch.dtype, size: tuple[int, int], geometry: Geometry, is_composed: bool = False
) -> bool:
    """Whether the kernels pool planes of this `size` to the bits of the plain path; if not, the log says so once.

    In a thread of its own, so that nothing that watches PyTorch's operations sees it.
    """
    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(_error, device, dtype, size, geometry, is_composed).result()
    if error is not None:
        logger.warning(
            "%s max pooling of %s, %s on %s in %s runs without Triton, with the same bits but several times slower: %s",
            "composed" if is_composed else "exact", dtype, size, device, geometry, error,
        )  # fmt: skip
    return error is None


def _error(
    device: torch.device, dtype: torch.dtype, size: tuple[int, int], geometry: Geometry, is_composed: bool
) -> str | None:
    """What is wrong, of planes of few values, zeros of both signs and NaN among them, and planes and gradients of any bits."""
    generator = torch.Generator().manual_seed(0)

    def any_bits(shape: torch.Size | tuple[int, ...]) -> Tensor:
        integer = INTEGERS[dtype.itemsize]
        limits = torch.iinfo(integer)
        return torch.randint(limits.min, limits.max, shape, dtype=integer, generator=generator).view(dtype)

    shape = (2, max(2, 2**15 // (size[0] * size[1])), *size)
    few = torch.tensor([-1.0, -0.0, 0.0, 1.0, 1.0, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    input = any_bits(shape)
    input[0] = few[torch.randint(len(few), shape[1:], generator=generator)]
    input[0, 0] = -torch.inf
    try:
        input = input.to(device)
        with torch.cuda.device_of(input):
            output, indices = torch.ops.aten.max_pool2d_with_indices(input, *geometry)
            grad = any_bits(output.shape).to(device)
            pooled, codes = torch.empty_like(output), torch.empty_like(output, dtype=torch.int16)
            result = torch.empty_like(input)
            forward(input, pooled, codes, geometry)
            if is_composed:
                codes.masked_fill_(pooled.isnan(), 0)
                composed_backward(grad, codes, result, geometry, TESTED_BETA)
                leaf = input.requires_grad_()
                (plain,) = torch.autograd.grad(composed_max_pool2d(leaf, geometry, TESTED_BETA), leaf, grad)
            else:
                backward(grad, codes, result, geometry, TESTED_BETA)
                plain = transposed_jacobian(grad, input, output, indices, *geometry[:4], TESTED_BETA)
            if not (_same_bits(pooled, output) and _same_bits(result, plain)):
                return "another result on this machine"
    except Exception as error:  # whatever Triton raises where it cannot compile
        return f"{type(error).__name__}: {error}"
    return None


def _same_bits(actual: Tensor, expected: Tensor) -> bool:
    """But of a NaN it is open which of the many it is."""
    return bool(((_bits(actual) == _bits(expected)) | (actual.isnan() & expected.isnan())).all())
