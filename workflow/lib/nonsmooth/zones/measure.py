"""How the gradients of two programs differ on one minibatch, and why.

Two programs of a network differ only in the derivative chosen at ties. Their gradients are compared in the working
precision; then the causes are separated by recomputation: the same backward pass from the same saved values in float64
and in float32, and from a forward pass in float64. Definitions: docs/methods.md, after arXiv 2401.02736.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nonsmooth import timing
from nonsmooth.activations import ReLU, replace_relus
from nonsmooth.cells import Program
from nonsmooth.pooling import replace_max_pools
from nonsmooth.precision import PRECISIONS, Precision
from nonsmooth.rules import parse_rule
from nonsmooth.zones.bounds import ErrorBounds
from nonsmooth.zones.convolutions import MatrixConvolutions
from nonsmooth.zones.kinks import COUNTED, Kink
from nonsmooth.zones.tape import Replay, ReplayNetwork, Tape, network_loss, record

# A difference that the programs route is the same in float32 and float64 up to rounding, one that is only rounded shrinks by
# 2^-29 with the arithmetic. Between these limits, far from both, nothing is decided.
ROUTED_RATIO = 2.0**-1, 2.0**1
ROUNDED_RATIO = 2.0**-20
# The float32 replay is scaled by a power of two, so that its gradients are at most about this.
LARGEST_REPLAYED = 2.0**100

YES, NO, UNDECIDED = "yes", "no", "undecided"
# The columns that only replays fill, of a minibatch and of a layer.
SEPARATED = (
    "replay", "replay_l1", "replay_float32", "replay_routed", "replay_common", "real", "real_l1", "real_float32",
    "real_routed", "terms", "undecided_windows",
)  # fmt: skip
SEPARATED_LAYER = ("tied_with_gradient", "tied_float64", "tied_both", "undecided_windows")


def routed(in_float64: float, in_float32: float) -> str:
    """Whether the programs route gradient differently, from one difference evaluated in two arithmetics.

    `yes` if both agree up to a factor of 2, `no` if the difference is zero or shrinks by 2^-20 or more in the wider
    arithmetic, else `undecided`, such as where one of them is not finite.
    """
    if not (math.isfinite(in_float64) and math.isfinite(in_float32)):
        return UNDECIDED
    if in_float64 == 0:
        return NO
    ratio = in_float64 / in_float32 if in_float32 else math.inf
    if ROUTED_RATIO[0] <= ratio <= ROUTED_RATIO[1]:
        return YES
    return NO if ratio <= ROUNDED_RATIO else UNDECIDED


def zone_class(difference: float, replay_routed: str, real_routed: str) -> str:
    """The named class of a minibatch (`CLASSES`), from the truth table of its difference and its two replays."""
    if not math.isfinite(difference):
        return "overflow"
    if UNDECIDED in (replay_routed, real_routed):
        return "undecided"
    if replay_routed == YES:
        if difference == 0:
            return "masked"
        return "real" if real_routed == YES else "rounding_induced"
    if real_routed == YES:
        return "lost_tie"
    return "compensation" if difference > 0 else "identical"


@dataclass
class Minibatch:
    """What was measured on one minibatch: `row` of the table of minibatches, and `layers`, a census per kinked layer."""

    row: dict[str, Any]
    layers: list[dict[str, Any]] = field(default_factory=list)


class Comparison:
    """Two programs of one network in one precision, and the networks that replay them."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        reference: Program,
        precision: Precision,
        device: torch.device,
        replays: bool = True,
    ) -> None:
        """
        Args:
            model: a float32 network with `torch.nn.MaxPool2d` and `torch.nn.ReLU` modules, in training mode, without layers
                that draw, such as dropout; it is copied.
            program, reference: the derivatives to compare.
            precision: the working precision.
            device: where everything runs.
            replays: whether the causes are separated. Only programs whose forward passes are the same can be: those of
                `native`, `minimal` and exact `hybrid` rules, of exact or of composed `norm` rules, with any derivative of ReLU.

        Raises ValueError if replays are asked for and the two programs cannot be replayed.
        """
        self.precision, self.device = precision, device
        self.clock = timing.clock(device)
        self.programs = [
            precision.cast_model(with_derivatives(copy.deepcopy(model), which)).to(device)
            for which in (program, reference)
        ]
        self.loss_scale = precision.loss_scaler(device).get_scale() if precision.uses_loss_scaler else 1.0
        self.relu_derivatives = program.relu_derivative, reference.relu_derivative
        self.replays = replays
        if not replays:
            return
        if not program.can_be_replayed_with(reference):
            raise ValueError(
                f"zones: {program} and {reference} cannot be replayed, since their forward passes differ; replays: false"
            )
        theirs = reference.coefficients
        self.coefficients = {kind: (ours, theirs[kind]) for kind, ours in program.coefficients.items()}
        self.networks = {
            arithmetic: ReplayNetwork(self.programs[1], precision, arithmetic)
            for arithmetic in (torch.float64, torch.float32)
        }
        # Over the reals nothing is rounded, neither by the precision nor by autocast.
        self.wide_networks = {
            arithmetic: ReplayNetwork(self.programs[1], PRECISIONS["float64"], arithmetic)
            for arithmetic in (torch.float64, torch.float32)
        }
        self.wide = copy.deepcopy(self.programs[1]).double()

    def plain_pass(self, images: Tensor, labels: Tensor) -> None:
        """A forward and backward pass of the reference program, for timing."""
        with self.precision.arithmetic(self.device):
            loss = network_loss(self.programs[1], self.precision.cast_batch(images), labels, self.precision)
            torch.autograd.grad(loss, list(self.programs[1].parameters()))

    def measure(self, images: Tensor, labels: Tensor) -> Minibatch:
        """Compare the programs on one minibatch.

        Args:
            images: normalised float32 (N, C, H, W). labels: int64 (N,).

        Returns:
            The row of `minibatches.csv` without its number and class's name for readers: see docs/methods.md.
        """
        started = self.clock()
        images = self.precision.cast_batch(images)
        with self.precision.arithmetic(self.device):
            program, reference = self._passes(images, labels)
        row = {"images": len(images), **_compare(program, reference)}
        paired = self.clock()
        layers = [
            {"name": kink.name, "kind": kink.kind}
            | (dict.fromkeys(COUNTED, 0) if row["forward_overflow"] else kink.census())
            | dict.fromkeys(SEPARATED_LAYER)
            for kink in self.counted(reference.tape)
        ]
        row |= dict.fromkeys(SEPARATED)
        # A ReLU can hide an infinite activation from the gradients.
        has_overflown = row["forward_overflow"] or not math.isfinite(row["difference"])
        row["class"] = "overflow" if has_overflown else ""
        if self.replays and not row["forward_overflow"]:
            with PRECISIONS["float64"].arithmetic(self.device):
                findings, more = self._separate(reference, images, labels)
            row |= findings
            layers = [layer | found for layer, found in zip(layers, more, strict=True)]
            row["class"] = zone_class(row["difference"], row["replay_routed"], row["real_routed"])
        row |= {"seconds_pair": paired - started, "seconds_replays": self.clock() - paired}
        return Minibatch(row, layers)

    def _passes(self, images: Tensor, labels: Tensor) -> tuple[_Pass, _Pass]:
        """Those of both programs; with autocast the loss is scaled as training starts, and by less where a gradient overflows."""
        scale = self.loss_scale
        while True:
            reference = self._pass(self.programs[1], images, labels, scale)
            # Programs that can be replayed have the same forward pass, bit for bit.
            program = self._pass(self.programs[0], images, labels, scale, reference.tape if self.replays else None)
            if scale == 1 or not bool(reference.tape.finite) or (program.is_finite and reference.is_finite):
                return program, reference
            scale /= 2

    def _pass(self, model: nn.Module, images: Tensor, labels: Tensor, scale: float, known: Tape | None = None) -> _Pass:
        """A forward and backward pass in the working precision of `scale` times the loss, recorded unless its tape is `known`."""
        if known is None:
            loss, tape = record(model, images, labels, self.precision, keep=self.replays)
        else:
            loss, tape = network_loss(model, images, labels, self.precision), known
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss * scale if scale != 1 else loss, parameters, materialize_grads=True)
        if scale != 1:
            gradients = [gradient / scale for gradient in gradients]
        return _Pass(loss.detach(), tape, dict(zip(names, gradients, strict=True)))

    def change(self, kink: Kink) -> float:
        """How much c differs between the programs."""
        ours, theirs = self.coefficients[kink.kind]
        return ours - theirs

    def counted(self, tape: Tape) -> list[Kink]:
        """The kinks of the census: all poolings, and ReLUs where the programs differ in them."""
        relus = self.relu_derivatives[0] != self.relu_derivatives[1]
        return [kink for kink in tape.kinks if kink.kind != "relu" or relus]

    def _separate(
        self, reference: _Pass, images: Tensor, labels: Tensor
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The replays: findings for the row, and more of the census."""
        real_tape, undecided = self._real_pass(images, labels)
        with MatrixConvolutions():
            return self._replayed(reference, real_tape, undecided, images, labels)

    def _real_pass(self, images: Tensor, labels: Tensor) -> tuple[Tape, list[Tensor]]:
        """The forward pass in float64, and which windows of the layers of the census it leaves undecided."""
        exact = PRECISIONS["float64"]
        # Where float64 is the working precision, its ties are those of the order in which that sums.
        faster = nullcontext() if self.precision is exact else MatrixConvolutions()
        with torch.no_grad(), faster, ErrorBounds() as bounds:
            _, tape = record(self.wide, images.double(), labels, exact)
            return tape, [kink.undecided(bounds.of(kink.input)) for kink in self.counted(tape)]

    def _replayed(
        self, reference: _Pass, real_tape: Tape, undecided: list[Tensor], images: Tensor, labels: Tensor
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        tape = reference.tape
        at_work = _Evaluation(self, self.networks, tape, images, labels, reference.ignored)
        at_real = at_work
        if self.precision is not PRECISIONS["float64"]:
            at_real = _Evaluation(self, self.wide_networks, real_tape, images.double(), labels, reference.ignored)
        both = [kink.tied & other.tied for kink, other in zip(tape.kinks, real_tape.kinks, strict=True)]
        findings = {
            **at_work.findings("replay"),
            "replay_common": at_work.restricted(both),
            **at_real.findings("real"),
            "terms": at_work.terms(),
            "undecided_windows": sum(int(windows.sum()) for windows in undecided),
        }
        at = [number for number, kink in enumerate(tape.kinks) if any(kink is other for other in self.counted(tape))]
        layers = [
            {
                "tied_with_gradient": int((tape.kinks[number].tied & (at_work.arriving[number] != 0)).sum()),
                "tied_float64": int(real_tape.kinks[number].tied.sum()),
                "tied_both": int(both[number].sum()),
                "undecided_windows": int(windows.sum()),
            }
            for number, windows in zip(at, undecided, strict=True)
        ]
        return findings, layers


@dataclass
class _Pass:
    """A forward and backward pass of one program in the working precision."""

    loss: Tensor
    tape: Tape
    gradients: dict[str, Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether all gradients are."""
        return math.isfinite(_norms(self.gradients.values())[0])

    @property
    def ignored(self) -> set[str]:
        """Parameters whose gradient is zero over the reals."""
        return self.tape.without_gradient


def _compare(program: _Pass, reference: _Pass) -> dict[str, Any]:
    """The columns of a minibatch that need no replay."""
    differing = torch.zeros((), dtype=torch.int64, device=reference.loss.device)
    differences: dict[str, Tensor] = {}
    for name, theirs in reference.gradients.items():
        # Exact, but for two float32 or float64 numbers far from each other.
        wide = torch.promote_types(theirs.dtype, torch.float32)
        differences[name] = program.gradients[name].to(wide) - theirs.to(wide)
        differing += (differences[name] != 0).sum()  # NaN is not 0
    kept = [name for name in differences if name not in reference.ignored]
    published, published_l1 = _norms(differences.values())
    difference, difference_l1 = (published, published_l1)
    if len(kept) < len(differences):
        difference, difference_l1 = _norms(differences[name] for name in kept)
    gradient, gradient_l1 = _norms(reference.gradients[name] for name in kept)
    forward_overflow = not (bool(program.tape.finite) and bool(reference.tape.finite))
    return {
        "loss": reference.loss.item(),
        "difference": difference,
        "difference_l1": difference_l1,
        "difference_published": published,
        "difference_published_l1": published_l1,
        "gradient": gradient,
        "gradient_l1": gradient_l1,
        "entries_differing": int(differing),
        "forward_overflow": forward_overflow,
        "backward_overflow": not forward_overflow and not (program.is_finite and reference.is_finite),
    }


def _norms(tensors: Iterator[Tensor] | Sequence[Tensor]) -> tuple[float, float]:
    """Infinity norms and L1 norms, each summed over tensors in float64; NaN or infinite if an entry is."""
    absolute = [tensor.abs() for tensor in tensors if tensor.numel()]
    if not absolute:
        return 0.0, 0.0
    largest = torch.stack([values.amax().double() for values in absolute]).sum()
    total = torch.stack([values.sum(dtype=torch.float64) for values in absolute]).sum()
    return largest.item(), total.item()


class _Evaluation:
    """The difference of the two programs at the values of one tape, in float64 and in float32.

    By linearity, the difference of the gradients is what the jumps at ties, `(J(c) - J(c'))^T g`, contribute on their way
    back through the first program, where g is the gradient of the second one. So it is exactly 0 where nothing is tied
    or no gradient arrives, and its rounding is relative to itself, not to the gradient.
    """

    def __init__(
        self,
        comparison: Comparison,
        networks: dict[torch.dtype, ReplayNetwork],
        tape: Tape,
        images: Tensor,
        labels: Tensor,
        ignored: set[str],
    ) -> None:
        self.comparison, self.tape, self.ignored = comparison, tape, ignored
        for kink in tape.kinks:
            before = None if kink.source is None else tape.kinks[kink.source]
            if before is not None and before.kind == "relu" and not any(comparison.relu_derivatives):
                kink.harmless = kink.all_zero
        self.wide = Replay(networks[torch.float64], tape, images, labels)
        self._use(self.wide, 1)
        # Where a gradient is asked for: at the layers of the census, which are also those where the programs differ.
        counted = comparison.counted(tape)
        self.asked = [any(kink is other for other in counted) for kink in tape.kinks]
        self.arriving = self._arriving(self.wide)
        largest = max((g.abs().amax().item() for g in self.arriving if g is not None and g.numel()), default=0.0)
        # Gradients grow less than this on their way to the parameters.
        self.scale = LARGEST_REPLAYED / 2.0 ** max(0, math.ceil(math.log2(largest))) if 0 < largest < math.inf else 1.0
        self.network32, self.images, self.labels = networks[torch.float32], images, labels
        self.difference, self.difference_l1 = self._difference(self.wide, self.arriving)
        self.difference_float32 = 0.0
        if self.difference != 0:
            in_float32, _ = self._difference(self.narrow, self._arriving(self.narrow, self.scale))
            self.difference_float32 = in_float32 / self.scale

    @cached_property
    def narrow(self) -> Replay:
        """In float32, which is not needed where nothing starts."""
        replay = Replay(self.network32, self.tape, self.images, self.labels)
        self._use(replay, 1)
        return replay

    def _arriving(self, replay: Replay, scale: float = 1.0) -> list[Tensor | None]:
        """The gradient of the reference at the output of every kink that is asked for."""
        self._use(replay, 1)
        wanted = [output for output, is_asked in zip(replay.outputs, self.asked, strict=True) if is_asked]
        found = iter(replay.arriving(wanted, scale))
        return [next(found) if is_asked else None for is_asked in self.asked]

    def findings(self, prefix: str) -> dict[str, Any]:
        """The columns of a minibatch, called `prefix`, `prefix_l1` and so on."""
        return {
            prefix: self.difference,
            f"{prefix}_l1": self.difference_l1,
            f"{prefix}_float32": self.difference_float32,
            f"{prefix}_routed": routed(self.difference, self.difference_float32),
        }

    def restricted(self, windows: list[Tensor]) -> float:
        """The difference, in float64, of programs that differ only where `windows` says so."""
        # Not: elsewhere no gradient of the reference arrives. A restricted program may send one there.
        if not any(
            kink.matters_outside(inside)
            for kink, inside in zip(self.tape.kinks, windows, strict=True)
            if self.comparison.change(kink) != 0
        ):
            return self.difference
        return self._difference(self.wide, self.arriving, windows)[0]

    def terms(self) -> float:
        """Sum over tensors of the largest sum of absolute terms of a gradient's entry, in float32.

        Each entry of a gradient is a sum over images and positions of products; this is the same sum of their absolute values,
        to which the rounding of the sum is relative.
        """
        names = {module: name for name, module in self.narrow.network.model.named_modules()}
        self._use(self.narrow, 1)
        gradients = self.narrow.arriving([output for _, _, output in self.narrow.layers], self.scale)
        sums: dict[str, Tensor] = {}
        for (module, input, _), gradient in zip(self.narrow.layers, gradients, strict=True):
            for parameter, terms in _absolute_terms(module, input.detach(), gradient).items():
                name = f"{names[module]}.{parameter}"
                sums[name] = sums[name] + terms if name in sums else terms  # of a layer that is used several times
        return sum(terms.amax().item() / self.scale for name, terms in sums.items() if name not in self.ignored)

    def _use(self, replay: Replay, which: int, windows: list[Tensor] | None = None) -> None:
        """Let gradients pass the kinks of `replay` as `_coefficient` says."""
        replay.coefficients[:] = [self._coefficient(number, which, windows) for number in range(len(self.tape.kinks))]

    def _jumps(self, arriving: list[Tensor], windows: list[Tensor] | None = None) -> list[Tensor | None]:
        """At the input of every kink, the difference that starts there; None where there is none.

        What starts behind a ReLU is taken through it at once, so that ties at zero that it makes harmless are not carried on.
        """
        jumps: list[Tensor | None] = [None] * len(self.tape.kinks)
        for number, kink in reversed(list(enumerate(self.tape.kinks))):
            change = self.comparison.change(kink)
            if change != 0:
                gradient = arriving[number]
                if windows is not None:
                    gradient = torch.where(windows[number], gradient, 0)
                jumps[number] = _sum(jumps[number], kink.jump(gradient, change))
            if jumps[number] is not None and kink.source is not None:
                before = self.tape.kinks[kink.source]
                passed = before.transposed(jumps[number], self._coefficient(kink.source, 0, windows))
                if bool((passed != 0).any()):
                    jumps[kink.source] = _sum(jumps[kink.source], passed)
                jumps[number] = None
        return jumps

    def _coefficient(self, number: int, which: int, windows: list[Tensor] | None) -> float | Tensor:
        """c of a kink in program 0 or 1, or in a program that is 0 inside of `windows` and 1 elsewhere."""
        ours, theirs = self.comparison.coefficients[self.tape.kinks[number].kind]
        if windows is None or ours == theirs:
            return (ours, theirs)[which]
        # `torch.where` of two numbers would round them to float32.
        return torch.full_like(windows[number], theirs, dtype=torch.float64).masked_fill_(windows[number], ours)

    def _difference(
        self, replay: Replay, arriving: list[Tensor], windows: list[Tensor] | None = None
    ) -> tuple[float, float]:
        """Norms of the difference of the gradients."""
        self._use(replay, 0, windows)
        found = replay.parameter_gradients(self._jumps(arriving, windows))
        return _norms(gradient for name, gradient in found.items() if name not in self.ignored)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _absolute_terms(module: nn.Module, input: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Of a layer's parameters: the sums of the absolute values of the products that their gradients are sums of."""
    gradient = gradient.abs()
    per_channel = [0, *range(2, gradient.dim())]
    match module:
        case nn.Conv2d():
            weight = torch.nn.grad.conv2d_weight(
                input.abs(), module.weight.shape, gradient, module.stride, module.padding, module.dilation, module.groups
            )  # fmt: skip
        case nn.Linear():
            weight = gradient.flatten(0, -2).T @ input.abs().flatten(0, -2)
            per_channel = list(range(gradient.dim() - 1))
        case _:
            variance, mean = torch.var_mean(input, per_channel, correction=0, keepdim=True)
            weight = (gradient * ((input - mean) / (variance + module.eps).sqrt()).abs()).sum(per_channel)
    found = {"weight": weight, "bias": gradient.sum(per_channel)}
    return {name: found[name] for name, parameter in module.named_parameters(recurse=False) if parameter is not None}


def with_derivatives(model: nn.Module, program: Program) -> nn.Module:
    """`model` in place, with the derivatives of `program` in every pooling and ReLU, whatever it had before."""
    model = replace_relus(replace_max_pools(model, parse_rule(program.rule)), program.relu_derivative)
    for module in model.modules():
        if isinstance(module, ReLU):
            module.derivative = program.relu_derivative
    return model
