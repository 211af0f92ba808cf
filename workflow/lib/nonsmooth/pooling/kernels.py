"""The kernels of `kernels.cpp`, compiled by the machine's own compiler when they are first used, and kept.

They lie in the folder `nonsmooth` of the user's cache (`$XDG_CACHE_HOME`, by default `~/.cache`), a file for each source, compiler
and processor, since several machines may share a home folder. `NONSMOOTH_COMPILED=0` switches them off.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch

from nonsmooth.files import atomic

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
# A contracted multiplication and addition would round once where the plain path rounds twice.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-shared", "-fPIC")
# The first of these that the compiler takes; they change speed alone.
EXTRA_FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ())
# By the names of the compiled functions.
TYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
# A code has a bit for each of them.
MOST_POSITIONS = 16


class Shape(ctypes.Structure):
    """Planes of height x width that are pooled to rows x columns; in the order of `Shape` in `kernels.cpp`."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "planes", "height", "width", "rows", "columns", "kernel_height", "kernel_width", "stride_height", "stride_width",
            "top", "left", "dilation_height", "dilation_width", "threads",
        )
    ]  # fmt: skip


class Kernels:
    """The functions of a compiled library, by type.

    Attributes:
        forward: called with addresses of the input, of the output and of codes, 16 bits for each window, and with a `Shape`.
        backward: with addresses of the gradient, of codes and of the result, a `Shape` and beta.
        native_backward: as backward, of PyTorch's own rule, so without beta; of windows that do not overlap.
        composed: as forward, with beta; returns whether the input has a -0.
        composed_backward: as backward.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError for a file that is missing or broken."""
        content = path.read_bytes()
        # Checked first, since loading a library that is cut short ends the process.
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise OSError(f"{path} is broken; delete it")
        library = ctypes.CDLL(str(path))
        addresses_and_shape = [ctypes.c_void_p] * 3 + [ctypes.POINTER(Shape)]
        self.forward = {dtype: getattr(library, f"forward_{name}") for dtype, name in TYPES.items()}
        self.backward = {dtype: getattr(library, f"backward_{name}") for dtype, name in TYPES.items()}
        self.native_backward = {dtype: getattr(library, f"native_backward_{name}") for dtype, name in TYPES.items()}
        self.composed = {dtype: getattr(library, f"composed_{name}") for dtype, name in TYPES.items()}
        self.composed_backward = {dtype: getattr(library, f"composed_backward_{name}") for dtype, name in TYPES.items()}
        for dtype in TYPES:
            self.forward[dtype].argtypes = self.native_backward[dtype].argtypes = addresses_and_shape
            for functions in (self.backward, self.composed, self.composed_backward):
                functions[dtype].argtypes = [*addresses_and_shape, ctypes.c_double]
            self.composed[dtype].restype = ctypes.c_bool


@cache
def kernels() -> Kernels | None:
    """The kernels of this machine; None if there are none, of which the log says why, or if they are switched off."""
    if os.environ.get("NONSMOOTH_COMPILED") == "0":
        return None
    try:
        return _load()
    except (OSError, RuntimeError) as error:
        logger.warning("max pooling runs uncompiled, with the same bits but several times slower: %s", error)
        return None


def _load() -> Kernels:
    """The kernels from the cache, or newly compiled. Raises OSError or RuntimeError that says what is missing."""
    compiler = _compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    made_of = (SOURCE.read_text(encoding="utf-8"), repr((compiler, FLAGS, EXTRA_FLAGS)), version, _instructions())
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nonsmooth" / f"pooling-{key}.so"
    try:
        loaded = Kernels(path)
    except OSError:
        _compile(compiler, path)
        loaded = Kernels(path)
    if not all(_are_right(loaded, dtype) for dtype in TYPES):
        raise RuntimeError(f"{path}, made by {shlex.join(compiler)}, computes something else")
    return loaded


def _compiler() -> list[str]:
    """The command in `$CXX`, or the first compiler that is found."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise RuntimeError("no C++ compiler (c++, g++, clang++) is installed, and CXX names none")


def _instructions() -> str:
    """The instructions that this processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _compile(compiler: list[str], path: Path) -> None:
    """Write the library and its digest to `path`, whole or not at all. Raises RuntimeError with the compiler's last words."""
    with atomic(path) as temporary:
        for extra in EXTRA_FLAGS:
            command = [*compiler, *FLAGS, *extra, str(SOURCE), "-o", str(temporary)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode == 0:
                break
        else:
            raise RuntimeError(f"{shlex.join(command)}: {run.stderr.strip()[-300:]}")
        digest = hashlib.sha256(temporary.read_bytes()).digest()
        with temporary.open("ab") as file:
            file.write(digest)


def _are_right(kernels: Kernels, dtype: torch.dtype) -> bool:
    """Whether two windows with three maxima each are pooled as they should, at beta = 2.

    In NumPy, so that nothing that watches PyTorch's operations sees it.
    """

    def stored(*values: float) -> np.ndarray:
        wide = np.array(values, np.float32)
        if dtype == torch.bfloat16:
            return (wide.view(np.uint32) >> 16).astype(np.uint16)
        return wide.astype(TYPES[dtype])

    input, grad, codes = stored(1, 1, -2, 2, 1, -1, 2, 2), stored(3, 3), np.zeros(2, np.uint16)
    output, result = np.zeros_like(grad), np.zeros_like(input)
    shape = Shape(1, 2, 4, 1, 2, 2, 2, 2, 2, 0, 0, 1, 1, 1)

    pooled, to_all, to_argmax = stored(1, 2), stored(-1, 2, 0, -1, 2, 0, 2, 2), stored(3, 0, 0, 3, 0, 0, 0, 0)
    for expected, forward, backward in (
        (to_all, (kernels.forward,), (kernels.backward, 2)),
        (to_argmax, (kernels.forward,), (kernels.native_backward,)),
        (to_all, (kernels.composed, 2), (kernels.composed_backward, 2)),
    ):
        for array in (output, codes, result):
            array[:] = 0
        for (functions, *beta), arrays in ((forward, (input, output, codes)), (backward, (grad, codes, result))):
            functions[dtype](*(array.ctypes.data for array in arrays), shape, *beta)
        if not (np.array_equal(output, pooled) and np.array_equal(result, expected)):
            return False
    return True
