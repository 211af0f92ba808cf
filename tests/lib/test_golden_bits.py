"""Bits that may change only together with NUMERICS_VERSION.

Expensive results depend on the library through that number alone, so a change of bits that did not raise it would
mix old and new results. Portable bits (IEEE operations one by one) are compared everywhere; the weights after a
short training depend on the processor and the version of PyTorch, and are compared where they were recorded.

    python tests/lib/test_golden_bits.py --record

writes `golden_bits.json`, or refuses if bits changed and the version did not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nonsmooth import datasets, provenance
from nonsmooth.cells import TrainingCell
from nonsmooth.files import read_json, write_json
from nonsmooth.images import Images
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.pooling import max_pool2d
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import parse_rule
from nonsmooth.training import train

GOLDEN = Path(__file__).with_name("golden_bits.json")
RECORD = "`python tests/lib/test_golden_bits.py --record`"
CPU = torch.device("cpu")

TILING, OVERLAPPING = {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}
POOLINGS = [
    *((rule, TILING) for rule in ("native", "minimal", "hybrid-10-exact", "hybrid-10000-exact")),
    *((rule, TILING) for rule in ("hybrid-1-composed", "hybrid-10-composed", "hybrid-10000-composed")),
    *((rule, OVERLAPPING) for rule in ("native", "minimal", "hybrid-1000-exact")),
]
# One short run each; together every precision of a CPU, both optimizers and normalizations, all kinds of rules.
TRAININGS = [
    ("float16", "native", "none", "sgd"),
    ("float16", "minimal", "batch_norm", "sgd"),
    ("bfloat16", "hybrid-10-exact", "none", "adam"),
    ("mixed16", "hybrid-100-composed", "batch_norm", "adam"),
    ("float32", "hybrid-10000-composed", "batch_norm", "sgd"),
    ("float64", "hybrid-1000-exact", "none", "adam"),
]


# ---------------------------------------------------------------------------------------------- the bits


def sha256(*arrays: np.ndarray | Tensor) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        if isinstance(array, Tensor):
            array = array.detach().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def sevenths(levels: int, *shape: int) -> Tensor:
    """Multiples of 1/7 in float64, from integers: few levels make many ties."""
    numbers = torch.arange(torch.Size(shape).numel()) * 7919 % 104729 % levels - levels // 2
    return numbers.view(shape) / torch.tensor(7.0, dtype=torch.float64)


def pooling_bits(rule: str, geometry: dict, precision: str) -> str:
    """Output and gradient of one pooling."""
    dtype = PRECISIONS[precision].dtype
    input = sevenths(5, 3, 2, 12, 12).to(dtype).requires_grad_()
    with PRECISIONS[precision].arithmetic(CPU):
        output = max_pool2d(input, **geometry, rule=parse_rule(rule))
        output.backward(sevenths(31, *output.shape).to(dtype))
    return sha256(output, input.grad)


def portable_bits(prepared: Path) -> dict[str, str]:
    """Bits that do not depend on the machine."""
    bits = {
        f"pooling/{rule}/{'tiling' if geometry is TILING else 'overlapping'}/{precision}": pooling_bits(
            rule, geometry, precision
        )
        for rule, geometry in POOLINGS
        for precision in ("float16", "bfloat16", "float32", "float64")
    }
    for split in datasets.DATASETS["mnist_5k"].sizes:
        images, labels = datasets.load("mnist_5k", prepared / f"{split}.npy")
        bits[f"data/mnist_5k/{split}"] = sha256(images, labels)
        bits[f"batches/mnist_5k/{split}"] = sha256(
            *Images.on_device("mnist_5k", images[::50], labels[::50], CPU).batch(slice(None))
        )
    return bits


def training_bits(prepared: Path) -> dict[str, str]:
    """Hashes of the weights after one epoch on every eighth digit (the split is sorted by class)."""
    images, labels = datasets.load("mnist_5k", prepared / "train.npy")
    train_set = Images.on_device("mnist_5k", images[::8], labels[::8], CPU)
    test_set = Images.on_device("mnist_5k", images[:10], labels[:10], CPU)
    bits = {}
    for precision, rule, normalization, optimizer in TRAININGS:
        cell = TrainingCell(
            dataset="mnist_5k",
            architecture="lenet5",
            normalization=normalization,
            optimizer=optimizer,
            precision=precision,
            rule=rule,
            seed=0,
            epochs=1,
            batch_size=64,
            learning_rate={"sgd": 0.01, "adam": 0.001}[optimizer],
            momentum=0.9,
            weight_decay=5e-4,
            adam_eps=1e-4,
        )
        record = train(cell, train_set, test_set).record
        assert not record["diverged"], f"{cell}: choose a cell whose weights stay finite"
        # The names of the golden file; paths of cells have more folders since.
        bits[f"mnist_5k/lenet5/{normalization}/{optimizer}/{precision}/{rule}/seed0"] = record["weights_sha256"]
    return bits


def fingerprint() -> dict[str, str]:
    """What the weights depend on besides the code: kernels are chosen by version and instruction set."""
    features = getattr(torch.cpu, "get_capabilities", dict)()
    instructions = sorted(name for name, value in features.items() if value is True)
    return {
        "torch": torch.__version__,
        "cpu": provenance.machine()["cpu"],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": hashlib.sha256(" ".join(instructions).encode()).hexdigest()[:16],
    }


# ---------------------------------------------------------------------------------- comparing and recording


def changed(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names whose bits differ; a name on one side only is a new or dropped test, no change."""
    return sorted(name for name in recorded.keys() & found.keys() if recorded[name] != found[name])


def weights_of(golden: dict[str, Any], machine: dict[str, str]) -> dict[str, str] | None:
    """What was recorded on a machine, if anything."""
    return next((entry["weights"] for entry in golden["machines"] if entry["fingerprint"] == machine), None)


def recorded_again(
    golden: dict[str, Any] | None,
    version: int,
    portable: dict[str, str],
    machine: dict[str, str],
    weights: dict[str, str],
) -> dict[str, Any]:
    """The new contents of the file.

    Other machines' weights are kept while the version stays, and dropped with it. Raises ValueError if bits changed
    and `version` was not raised.
    """
    entry = {"fingerprint": machine, "weights": weights}
    new = {"numerics_version": version, "portable": portable, "machines": [entry]}
    if golden is None or version > golden["numerics_version"]:
        return new
    if version < golden["numerics_version"]:
        raise ValueError(f"NUMERICS_VERSION is {version}; it was {golden['numerics_version']} and only ever goes up")
    names = changed(golden["portable"], portable) + changed(weights_of(golden, machine) or {}, weights)
    if names:
        raise ValueError(advice(names))
    others = [other for other in golden["machines"] if other["fingerprint"] != machine]
    return {**new, "machines": [*others, entry]}


def advice(names: list[str]) -> str:
    return (
        f"the bits of {', '.join(names)} changed, and NUMERICS_VERSION is still {NUMERICS_VERSION}. If that was meant, "
        f"raise it in nonsmooth/numerics.py, which retrains everything, and run {RECORD}. If not, the last edit changed "
        "the arithmetic: undo it"
    )


def compare(golden: dict[str, Any], recorded: dict[str, str], found: dict[str, str]) -> None:
    """Fails with advice unless the bits and the version are the recorded ones."""
    if golden["numerics_version"] != NUMERICS_VERSION:
        pytest.fail(
            f"NUMERICS_VERSION is {NUMERICS_VERSION}, and bits are recorded for {golden['numerics_version']}: run {RECORD}"
        )
    names = changed(recorded, found)
    if names:
        pytest.fail(advice(names))
    if recorded.keys() != found.keys():
        pytest.fail(f"cases were added or dropped: {sorted(recorded.keys() ^ found.keys())}; run {RECORD}")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return read_json(GOLDEN)


def test_portable_bits_are_the_recorded_ones(golden: dict[str, Any], prepared: Path) -> None:
    compare(golden, golden["portable"], portable_bits(prepared))


def test_trained_weights_are_the_recorded_ones(golden: dict[str, Any], prepared: Path) -> None:
    recorded = weights_of(golden, fingerprint())
    if recorded is None:
        pytest.skip(f"no weights recorded for this machine, {fingerprint()}; {RECORD} adds them")
    compare(golden, recorded, training_bits(prepared))


# ------------------------------------------------------------------------------- tests of the comparison


HERE, THERE = {"cpu": "here"}, {"cpu": "there"}
OLD = {
    "numerics_version": 3,
    "portable": {"pool": "aa"},
    "machines": [{"fingerprint": HERE, "weights": {"cell": "bb"}}],
}


def test_first_recording_takes_everything() -> None:
    assert recorded_again(None, 3, {"pool": "aa"}, HERE, {"cell": "bb"}) == OLD


def test_recording_the_same_again_changes_nothing() -> None:
    assert recorded_again(OLD, 3, {"pool": "aa"}, HERE, {"cell": "bb"}) == OLD


@pytest.mark.parametrize(
    ("portable", "machine", "weights", "name"),
    [
        ({"pool": "changed"}, HERE, {"cell": "bb"}, "pool"),
        ({"pool": "changed"}, THERE, {"cell": "other"}, "pool"),
        ({"pool": "aa"}, HERE, {"cell": "changed"}, "cell"),
        ({"pool": "changed", "new": "cc"}, HERE, {"new": "dd"}, "pool"),
    ],
)
def test_recording_refuses_changed_bits_without_a_new_version(
    portable: dict, machine: dict, weights: dict, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"the bits of {name} changed.*raise it in nonsmooth/numerics.py"):
        recorded_again(OLD, 3, portable, machine, weights)


def test_recording_a_new_machine_keeps_the_others() -> None:
    new = recorded_again(OLD, 3, {"pool": "aa"}, THERE, {"cell": "other"})
    assert weights_of(new, HERE) == {"cell": "bb"}
    assert weights_of(new, THERE) == {"cell": "other"}
    assert weights_of(new, {"cpu": "elsewhere"}) is None


def test_recording_added_and_dropped_cases_needs_no_new_version() -> None:
    new = recorded_again(OLD, 3, {"new": "cc"}, HERE, {"cell": "bb", "another": "dd"})
    assert new["portable"] == {"new": "cc"}
    assert weights_of(new, HERE) == {"cell": "bb", "another": "dd"}


def test_recording_a_new_version_drops_what_other_machines_recorded() -> None:
    both = recorded_again(OLD, 3, {"pool": "aa"}, THERE, {"cell": "other"})
    new = recorded_again(both, 4, {"pool": "changed"}, HERE, {"cell": "changed"})
    assert new["numerics_version"] == 4
    assert [entry["fingerprint"] for entry in new["machines"]] == [HERE]


def test_recording_refuses_an_older_version() -> None:
    with pytest.raises(ValueError, match="only ever goes up"):
        recorded_again(OLD, 2, {"pool": "aa"}, HERE, {"cell": "bb"})


@pytest.mark.parametrize(
    ("version", "found", "message"),
    [
        (NUMERICS_VERSION, {"pool": "changed"}, r"raise it in nonsmooth/numerics\.py.*--record"),
        (NUMERICS_VERSION, {"pool": "aa", "new": "cc"}, r"cases were added or dropped: \['new'\]; run .*--record"),
        (NUMERICS_VERSION, {}, r"cases were added or dropped: \['pool'\]"),
        (NUMERICS_VERSION - 1, {"pool": "aa"}, "bits are recorded for .*: run .*--record"),
    ],
)
def test_comparison_says_what_to_do(version: int, found: dict, message: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=message):
        compare({"numerics_version": version}, {"pool": "aa"}, found)


def test_equal_bits_pass() -> None:
    compare({"numerics_version": NUMERICS_VERSION}, {"pool": "aa"}, {"pool": "aa"})


def test_recording_writes_once_and_then_refuses_changed_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "golden.json"
    bits = {"pool": "aa"}
    monkeypatch.setattr(f"{__name__}.portable_bits", lambda _: bits)
    monkeypatch.setattr(f"{__name__}.training_bits", lambda _: {"cell": "bb"})
    record(path, lambda: tmp_path)
    first = json.loads(path.read_text())
    assert first["numerics_version"] == NUMERICS_VERSION
    assert weights_of(first, fingerprint()) == {"cell": "bb"}
    bits["pool"] = "changed"
    with pytest.raises(SystemExit, match="the bits of pool changed"):
        record(path, lambda: tmp_path)
    assert json.loads(path.read_text()) == first
    monkeypatch.setattr(f"{__name__}.NUMERICS_VERSION", NUMERICS_VERSION + 1)
    record(path, lambda: tmp_path)
    assert json.loads(path.read_text())["portable"] == {"pool": "changed"}
    assert capsys.readouterr().out.count("recorded") == 2


def test_bits_do_not_depend_on_what_ran_before(prepared: Path) -> None:
    torch.manual_seed(1)
    torch.rand(5)
    assert pooling_bits("minimal", OVERLAPPING, "float32") == pooling_bits("minimal", OVERLAPPING, "float32")
    assert len(set(portable_bits(prepared).values())) > 30


# --------------------------------------------------------------------------------------------- recording


def record(path: Path, prepare: Callable[[], Path]) -> None:
    """Write the bits of this machine to `path`; exits with a message where that is refused."""
    golden = read_json(path) if path.exists() else None
    prepared = prepare()
    try:
        new = recorded_again(golden, NUMERICS_VERSION, portable_bits(prepared), fingerprint(), training_bits(prepared))
    except ValueError as error:
        raise SystemExit(f"not recorded: {error}") from error
    write_json(path, new)
    print(f"recorded {path.name}: numerics version {NUMERICS_VERSION}, {len(new['machines'])} machine(s)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the golden bits of this machine.")
    parser.add_argument("--record", action="store_true", required=True)
    parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:

        def prepare() -> Path:
            for split in datasets.DATASETS["mnist_5k"].sizes:
                datasets.prepare("mnist_5k", split, Path(folder) / f"{split}.npy")
            return Path(folder)

        record(GOLDEN, prepare)


if __name__ == "__main__":
    main()
