"""Checking a configuration and expanding it into cells.

Wrong configurations are derived from the schema, so that a new key is tested as soon as it exists; cells are
recomputed by nested loops.
"""

from __future__ import annotations

import copy
import csv
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import CONDITION, SEARCH, SETUP, TrainingCell, WeightsCell, ZoneCell
from nonsmooth.config import (
    ADAM_EPS,
    ADAM_EPS_FLOAT16,
    BLOCK_DEFAULTS,
    CHECKPOINTS_DEFAULTS,
    CLAIMS_DEFAULTS,
    DEFAULTS,
    POOLING_ERRORS_DEFAULTS,
    RENAMING,
    SAFEGUARDED,
    SEARCH_DEFAULTS,
    WEIGHT_DECAY,
    WEIGHTS_DEFAULTS,
    ZONES_DEFAULTS,
    ConfigError,
    check,
    checkpoints_settings,
    claims_settings,
    left_out,
    pooling_errors_settings,
    priorities,
    read,
    search_cells,
    search_settings,
    searched_cell,
    splits,
    training_cells,
    weights_cells,
    with_overrides,
    zone_cells,
)
from nonsmooth.datasets import DATASETS
from nonsmooth.rules import EVALUATIONS, SIMPLE_RULES, Hybrid, number, parse_rule
from nonsmooth.schema import schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = schema()
PRESETS = [ROOT / "config/config.yaml", *sorted((ROOT / "config/presets").glob("*.yaml"))]

quick = settings(deadline=None, derandomize=True, max_examples=25)

CHOICE = {
    "dataset": "mnist_5k",
    "architecture": "lenet5",
    "normalization": "none",
    "optimizer": "sgd",
    "precision": "float32",
}
BLOCK = {**{factor: [name] for factor, name in CHOICE.items()}, "rule": ["native"], "seeds": [0], "epochs": 1}
WEIGHTS = {
    **{factor: [name] for factor, name in CHOICE.items() if factor != "optimizer"},
    "compare": [["minimal", "native"]],
    "seeds": [0],
    "epochs": 1,
}
ZONES = {
    **{factor: [name] for factor, name in CHOICE.items() if factor != "optimizer"},
    "compare": [["minimal", "native"]],
    "seeds": [0],
}
BARE = {"run": "mine", "learning_rates": [{**CHOICE, "value": 0.03}], "maxpool": {"train": [BLOCK]}}
FETCHED = [name for name, dataset in DATASETS.items() if dataset.files]
STREAMED = [name for name, dataset in DATASETS.items() if dataset.streamed]
# Every key of the schema with a valid value. No block reads a dataset that has a source here.
FULL = {
    **BARE,
    "device": "cpu",
    "jobs_per_gpu": 4,
    "threads": 1,
    "workers": 2,
    "deterministic": True,
    "seeds": [0],
    "epochs": 1,
    "checkpoints": {"minutes": 10, "epochs": 1},
    "claims": {"margin": 0.1, "alpha": 0.05, "power": 0.8},
    "datasets": {
        **{name: {"path": "a folder", "mirrors": ["https://example.org/files"]} for name in FETCHED},
        **{name: {"path": "a folder"} for name in STREAMED},
    },
    "maxpool": {
        "train": [
            {
                **BLOCK,
                "rule": ["native", "minimal", "boltzmann-0.1", "hybrid"],
                "beta": [10],
                "evaluation": ["exact"],
                "relu_derivative": [0],
                "train_split": "train",
                "augmentation": "none",
                "batch_size": 128,
                "learning_rate": 0.1,
                "schedule": "cosine",
                "momentum": 0.9,
                "weight_decay": 0.0005,
                "adam_eps": 0.0001,
                "clip_norm": 0.5,
            }
        ],
        "search": {"trials": 10, "epochs": 10, "seed": 0, "per_rule": False},
        "ties": {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "image": 0,
            "seed": 0,
            "precisions": ["float32"],
        },
        "pooling_errors": {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "normalization": "none",
            "precisions": ["float32"],
            "betas": [10],
            "seeds": [0],
            "batch_size": 128,
        },
        "weights": [{**WEIGHTS, "train_split": "train", "batch_size": 128, "learning_rate": 0.01}],
        "zones": [
            {
                **ZONES,
                "batch_size": [128],
                "noise": [0],
                "kernels": ["deterministic"],
                "minibatches": 3,
                "initialization": "kaiming_uniform",
                "replays": True,
            }
        ],
        "zero_function": {"precisions": ["float32"], "x": [[1, 2]], "t": [0, 1]},
    },
}
BLOCK_KEY, TIES_KEY, SEARCH_KEY = "maxpool.train[0]", "maxpool.ties", "maxpool.search"
WEIGHTS_KEY, ZONES_KEY = "maxpool.weights[0]", "maxpool.zones[0]"
ERRORS_KEY = "maxpool.pooling_errors"
RATE_KEY = f"{BLOCK_KEY}.learning_rate"
GONE = object()


def schema_nodes(node: dict = SCHEMA, key: str = "") -> Iterator[tuple[str, dict]]:
    """The key of every value of the schema as messages write it, [0] for a list's entry, and its schema."""
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]]
    yield key, node
    for name, child in node.get("properties", {}).items():
        yield from schema_nodes(child, f"{key}.{name}".lstrip("."))
    if "items" in node:
        yield from schema_nodes(node["items"], f"{key}[0]")


NODES = dict(schema_nodes())
OBJECTS = {key: node for key, node in NODES.items() if "properties" in node}


def of_type(name: str) -> list[str]:
    return [key for key, node in NODES.items() if node.get("type") == name]


def parts(key: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", key)]


def get(config: Any, path: list[str | int]) -> Any:
    for part in path:
        config = config[part]
    return config


def changed(changes: dict[str, Any], base: dict = FULL) -> dict:
    """A copy of `base` with other values at the given keys."""
    config = copy.deepcopy(base)
    for key, value in changes.items():
        *path, last = parts(key)
        inner = get(config, path)
        if value is GONE:
            inner.pop(last, None)
        else:
            inner[last] = value
    return config


def of_blocks(*blocks: dict, **top: Any) -> dict[str, Any]:
    """A configuration of these blocks, each of which needs only what differs from `BLOCK`."""
    return {**BARE, "maxpool": {"train": [{**BLOCK, **block} for block in blocks]}, **top}


def below(key: str, name: str) -> str:
    return f"{key}.{name}".lstrip(".")


def error(config: Any) -> str:
    """The message of the one ConfigError, which is one line."""
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def searches(config: dict[str, Any]) -> dict[str, TrainingCell]:
    """The cells that searches train, by path, of a checked configuration."""
    return search_cells(training_cells(config), search_settings(config))


# ---------------------------------------------------------------------- what the schema says, for every key


def test_full_and_bare_are_valid_and_full_has_every_key():
    check(BARE)
    checked = check(FULL)
    for key in NODES:
        get(checked, parts(key))


def test_checking_changes_nothing():
    for config in (BARE, FULL):
        before = copy.deepcopy(config)
        check(config)
        assert config == before


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, node in OBJECTS.items() for name in node["properties"]])
def test_misspelt_key(key: str, name: str):
    """Also where the misspelt key is required: the message is about what is there."""
    value = get(FULL, parts(below(key, name)))
    message = error(changed({below(key, name): GONE, below(key, f"{name}_"): value}))
    assert message.startswith(f"{below(key, name)}_: unknown key, did you mean {name!r}? ")
    assert message.endswith(f"allowed: {', '.join(sorted(OBJECTS[key]['properties']))}")


@pytest.mark.parametrize("key", OBJECTS)
@pytest.mark.parametrize("unknown", ["zzz", 3])
def test_unknown_key(key: str, unknown: Any):
    config = copy.deepcopy(FULL)
    get(config, parts(key))[unknown] = 1
    allowed = ", ".join(sorted(OBJECTS[key]["properties"]))
    assert error(config) == f"{below(key, str(unknown))}: unknown key; allowed: {allowed}"


@pytest.mark.parametrize(
    ("key", "name"), [(key, name) for key, node in OBJECTS.items() for name in node.get("required", [])]
)
def test_missing_key(key: str, name: str):
    assert error(changed({below(key, name): GONE})) == f"{below(key, name)}: missing, and required"


WRONG = {
    "integer": [True, "3", 1.5],
    "number": [True, "0.1", None],
    "boolean": [1, "yes"],
    "string": [3, True, None],
    "array": ["mnist_5k", None],
    "object": [None, [1]],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for name, values in WRONG.items() for key in of_type(name) if key for value in values],
)
def test_wrong_type(key: str, value: Any):
    message = error(changed({key: value}))
    assert message.startswith(f"{key}: expected ")
    assert f"got {value!r}" in message


@pytest.mark.parametrize("key", [key for key, node in NODES.items() if "enum" in node])
@pytest.mark.parametrize("value", ["other", True, []])
def test_not_one_of_the_allowed_values(key: str, value: Any):
    assert error(changed({key: value})) == f"{key}: {value!r} is not allowed; one of {', '.join(NODES[key]['enum'])}"


@pytest.mark.parametrize("key", of_type("array"))
def test_empty_list(key: str):
    assert error(changed({key: []})) == f"{key}: the list is empty; give at least one entry"


@pytest.mark.parametrize("key", [key for key, node in NODES.items() if node.get("uniqueItems")])
def test_entry_there_twice(key: str):
    entry = get(FULL, parts(key))[0]
    assert error(changed({key: [entry, entry]})) == f"{key}: {entry!r} is there twice; each entry once"


@pytest.mark.parametrize("key", [f"{BLOCK_KEY}.beta", f"{BLOCK_KEY}.relu_derivative"])
def test_equal_numbers_are_one_entry(key: str):
    assert error(changed({key: [10, 1, 10.0]})).startswith(f"{key}: 10.0 is there twice")
    assert error(changed({key: [0, -0.0]})).startswith(f"{key}: -0.0 is there twice")


def test_lists_of_values_are_lists_of_distinct_values():
    """A list without `uniqueItems` in the schema would train one path twice, but for a program beside itself."""
    repeatable = {key for key in of_type("array") if not NODES[key].get("uniqueItems")}
    blocks = {f"maxpool.{name}" for name in ("train", "weights", "zones")}
    programs = {f"{key}.compare[0]" for key in (WEIGHTS_KEY, ZONES_KEY)}
    assert repeatable == {"learning_rates", *blocks, *programs, "maxpool.zero_function.x[0]"}


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        *(
            (key, 0, "at least 1")
            for key in ("jobs_per_gpu", "threads", "epochs", f"{BLOCK_KEY}.epochs", f"{BLOCK_KEY}.batch_size")
        ),
        *((f"{WEIGHTS_KEY}.{name}", 0, "at least 1") for name in ("epochs", "batch_size")),
        *((f"{SEARCH_KEY}.{name}", 0, "at least 1") for name in ("trials", "epochs")),
        *((f"{ZONES_KEY}.{name}", 0, "at least 1") for name in ("batch_size[0]", "minibatches")),
        (f"{ZONES_KEY}.noise[0]", -0.1, "at least 0"),
        ("workers", -1, "at least 0"),
        *(
            (key, value, bound)
            for key in (
                "seeds[0]",
                f"{BLOCK_KEY}.seeds[0]",
                f"{WEIGHTS_KEY}.seeds[0]",
                f"{SEARCH_KEY}.seed",
                f"{TIES_KEY}.seed",
                f"{ERRORS_KEY}.seeds[0]",
            )
            for value, bound in ((-1, "at least 0"), (2**32, "at most 4294967295"))
        ),
        (RATE_KEY, 0, "more than 0"),
        (RATE_KEY, -0.1, "more than 0"),
        (f"{BLOCK_KEY}.momentum", -0.1, "at least 0"),
        (f"{BLOCK_KEY}.momentum", 1, "less than 1"),
        (f"{BLOCK_KEY}.weight_decay", -1, "at least 0"),
        (f"{BLOCK_KEY}.adam_eps", 0, "more than 0"),
        ("learning_rates[0].value", 0, "more than 0"),
        (f"{WEIGHTS_KEY}.learning_rate", 0, "more than 0"),
        (f"{TIES_KEY}.image", -1, "at least 0"),
        ("claims.margin", 0, "more than 0"),
        ("claims.alpha", 0, "more than 0"),
        ("claims.alpha", 0.5, "less than 0.5"),
        ("claims.power", -0.1, "at least 0"),
        ("claims.power", 1, "less than 1"),
        (f"{ERRORS_KEY}.betas[0]", 0, "more than 0"),
        (f"{ERRORS_KEY}.batch_size", 0, "at least 1"),
    ],
)
def test_out_of_bounds(key: str, value: float, bound: str):
    assert error(changed({key: value})) == f"{key}: {value!r} must be {bound}"


@pytest.mark.parametrize("key", of_type("integer"))
def test_an_integer_is_written_without_a_point(key: str):
    """JSON Schema takes 1.0 for an integer, but `range` does not, and `seed1.0` is not `seed1`."""
    message = error(changed({key: 1.0}))
    assert re.match(rf"{re.escape(key)}: expected (an )?integer.*, got 1\.0", message)


@pytest.mark.parametrize("key", [*of_type("number"), RATE_KEY])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400], ids=["inf", "-inf", "nan", "10**400"])
def test_numbers_are_finite(key: str, value: float):
    message = error(changed({key: value}))
    assert message.startswith(key.removesuffix("[0]"))
    assert str(value) in message


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "-a", "_a", ".a", "é", "a\n", "\na"])
def test_bad_run_name(name: str):
    """The name is a folder, a wildcard and a command-line argument."""
    message = error(changed({"run": name}))
    assert message.startswith(f"run: {name!r} must ")
    assert "letters, digits, _ and -" in message


@pytest.mark.parametrize("name", ["a", "0", "default", "gpu-2_x", "A1"])
def test_good_run_name(name: str):
    assert check(changed({"run": name}))["run"] == name


# YAML 1.1 needs a point in the mantissa and a sign in the exponent.
@pytest.mark.parametrize("text", ["5e-4", "1e3", "1E-4", "1.0e4", "-1e3", "5e+4"])
def test_exponent_that_yaml_reads_as_text(text: str):
    value = yaml.safe_load(text)
    assert value == text
    message = error(changed({f"{BLOCK_KEY}.beta": [value]}))
    assert message.startswith(f"{BLOCK_KEY}.beta[0]: expected ")
    assert re.search(rf"number, got {re.escape(repr(text))}; .*5\.0e-4", message)
    message = error(changed({RATE_KEY: value}))
    assert message.startswith(f"{RATE_KEY}: {text!r} is not allowed; a number or one of search, published; ")
    assert "5.0e-4" in message


@pytest.mark.parametrize("value", ["0.1", "Search", "searched", "auto", ""])
def test_a_rate_is_a_number_or_one_of_two_words(value: str):
    meant = "; did you mean 'search'?" if value.lower().startswith("search") else ""
    message = f"{RATE_KEY}: {value!r} is not allowed; a number or one of search, published{meant}"
    assert error(changed({RATE_KEY: value})) == message


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("dataset", "MNIST5k", "mnist_5k"),
        ("dataset", "cifar-10", "cifar10"),
        ("architecture", "lenet", "lenet5"),
        ("architecture", "ResNet-18", "resnet18"),
        ("normalization", "batchnorm", "batch_norm"),
        ("precision", "Float16", "float16"),
        ("evaluation", "compose", "composed"),
    ],
)
def test_a_name_that_was_probably_meant(key: str, value: str, meant: str):
    message = error(changed({f"{BLOCK_KEY}.{key}[0]": value}))
    assert message.startswith(f"{BLOCK_KEY}.{key}[0]: {value!r} is not allowed; one of ")
    assert message.endswith(f"; did you mean {meant!r}?")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hybrids", "unknown pooling rule 'hybrids'; expected one of ['native', .*; did you mean 'hybrid'?"),
        ("Average", "unknown pooling rule 'Average'; .*; did you mean 'average'?"),
        ("boltzmann", "unknown pooling rule 'boltzmann'; .*'boltzmann-<temperature>'.*"),
        ("hybrid-10", "unknown pooling rule 'hybrid-10'; .*"),
        ("boltzmann-0.10", "pooling rule 'boltzmann-0.10': write the number in its shortest form, 'boltzmann-0.1'"),
        ("logsumexp-0", "LogSumExp: temperature must be more than 0, got 0.0"),
        ("rounded-54", "Rounded: bits must be at most 53, got 54.0"),
        (3, "expected text, got 3"),
    ],
)
def test_a_rule_that_is_none(name: Any, said: str):
    pattern = re.escape(f"{BLOCK_KEY}.rule[0]: {said}").replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, error(changed({f"{BLOCK_KEY}.rule[0]": name})))


def test_a_block_takes_every_rule_by_its_name():
    names = ["hybrid-1000-composed", "average", "boltzmann-0.1", "logsumexp-2", "rounded-3.5", "strided", "norm-0.5"]
    cells = training_cells(check(of_blocks({"rule": names})))
    assert [cell.rule for cell in cells] == names


def test_a_rule_that_is_named_twice_is_trained_once():
    block = {"rule": ["hybrid-10-exact", "hybrid"], "beta": [10], "evaluation": ["exact"]}
    assert [cell.rule for cell in training_cells(check(of_blocks(block)))] == ["hybrid-10-exact"]


@pytest.mark.parametrize("value", [True, None, [0.1], {}])
def test_a_rate_of_another_type(value: Any):
    assert error(changed({RATE_KEY: value})).startswith(f"{RATE_KEY}: expected a finite number, got {value!r}")


@pytest.mark.parametrize(
    "address", ["example.org/files", "file:///files", "//example.org", "http://", "http:// a", "https://a b", "s3://a"]
)
@pytest.mark.parametrize("name", FETCHED)
def test_a_mirror_that_is_no_address(name: str, address: str):
    key = f"datasets.{name}.mirrors"
    message = f"{key}[1]: {address!r} must be an address that begins with http://, https:// or ftp://"
    assert error(changed({key: ["https://example.org", address]})) == message


def test_a_mirror_that_ends_with_a_newline():
    assert "must be an address" in error(changed({"datasets.mnist.mirrors": ["https://example.org\n"]}))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({f"{BLOCK_KEY}.dataset": "mnist_5k"}, "list"),
        ({"learning_rates": None}, "list"),
        ({"maxpool.train": BLOCK}, "list"),
        ({"maxpool": None}, "mapping"),
        ({TIES_KEY: []}, "mapping"),
        ({"datasets": None}, "mapping"),
        ({"deterministic": "yes"}, "true or false"),
        ({f"{SEARCH_KEY}.per_rule": 0}, "true or false"),
    ],
)
def test_types_have_the_words_of_yaml(changes: dict[str, Any], word: str):
    assert f"expected {word}" in error(changed(changes)).replace("expected a ", "expected ")


# --------------------------------------------------------------------------------- what a schema cannot say


TF32 = "'tf32' exists on NVIDIA GPUs only"
SVHN = {f"{BLOCK_KEY}.dataset": ["svhn"], f"{BLOCK_KEY}.architecture": ["vgg11"], "datasets": {}}
IMPOSSIBLE = {
    **{
        f"tf32 with device {device}": (
            {"device": device, f"{BLOCK_KEY}.precision": ["float32", "tf32"]},
            f"{BLOCK_KEY}.precision: {TF32}, and device is {device!r}; remove it or set device: cuda",
        )
        for device in ("cpu", "auto")
    },
    "tf32 on the CPU of the defaults": (
        {"device": GONE, f"{BLOCK_KEY}.precision": ["tf32"]},
        f"{BLOCK_KEY}.precision: {TF32}",
    ),
    **{
        f"{key} in tf32, which is computed on the CPU, with device {device}": (
            {"device": device, f"{key}.precisions": ["tf32"]},
            f"{key}.precisions: {TF32}, and this is computed on the CPU; remove it",
        )
        for device in ("cpu", "cuda", "auto")
        for key in (TIES_KEY, ERRORS_KEY, "maxpool.zero_function")
    },
    "beta without hybrid": (
        {f"{BLOCK_KEY}.rule": ["native"], f"{BLOCK_KEY}.evaluation": GONE},
        f"{BLOCK_KEY}.beta: only rule 'hybrid' has it, and it is not in {BLOCK_KEY}.rule",
    ),
    "evaluation without hybrid": (
        {f"{BLOCK_KEY}.rule": ["native", "minimal"], f"{BLOCK_KEY}.beta": GONE},
        f"{BLOCK_KEY}.evaluation: only rule 'hybrid' has it, and it is not in {BLOCK_KEY}.rule",
    ),
    "hybrid without beta": (
        {f"{BLOCK_KEY}.beta": GONE},
        f"{BLOCK_KEY}.beta: missing; rule 'hybrid' needs beta and evaluation",
    ),
    "hybrid without evaluation": (
        {f"{BLOCK_KEY}.evaluation": GONE},
        f"{BLOCK_KEY}.evaluation: missing; rule 'hybrid' needs beta and evaluation",
    ),
    "no learning rate": (
        {RATE_KEY: GONE, f"{BLOCK_KEY}.precision": ["float64"]},
        f"{RATE_KEY}: missing, and learning_rates has no entry for mnist_5k, lenet5, none, sgd, float64; give a number, "
        "'search' or 'published', or an entry",
    ),
    "no learning rates at all": (
        {RATE_KEY: GONE, "learning_rates": GONE},
        f"{RATE_KEY}: missing, and learning_rates has no entry for mnist_5k, ",
    ),
    "a rate that was not published": (
        {RATE_KEY: "published"},
        f"{RATE_KEY}: none is published for mnist_5k, lenet5, none, sgd, float32 (data/published/learning_rates.csv); "
        "give a number or 'search'",
    ),
    "a rate that was published for one of two set-ups": (
        {RATE_KEY: "published", f"{BLOCK_KEY}.dataset": ["mnist"], f"{BLOCK_KEY}.precision": ["float16", "float64"]},
        f"{RATE_KEY}: none is published for mnist, lenet5, none, sgd, float64 ",
    ),
    "two learning rates": (
        {"learning_rates": [{**CHOICE, "value": 0.03}, {**CHOICE, "value": 0.1}]},
        "learning_rates[1]: a second entry for mnist_5k, lenet5, none, sgd, float32",
    ),
    "image out of range": (
        {f"{TIES_KEY}.image": 1000},
        f"{TIES_KEY}.image: 1000; mnist_5k has test images 0 to 999",
    ),
    "too large images": (
        {f"{BLOCK_KEY}.dataset": ["mnist_5k", "cifar10"]},
        f"{BLOCK_KEY}: lenet5 on cifar10: LeNet-5 takes images of up to 28 x 28, not 32 x 32",
    ),
    "too large images for one of two networks": (
        {f"{BLOCK_KEY}.dataset": ["imagenet"], f"{BLOCK_KEY}.architecture": ["resnet50", "vgg11"]},
        f"{BLOCK_KEY}: vgg11 on imagenet: VGG11 takes images of up to 32 x 32, not 224 x 224",
    ),
    "too large an image for the ties": (
        {f"{TIES_KEY}.dataset": "svhn", "datasets": {}},
        f"{TIES_KEY}: lenet5 on svhn: LeNet-5 takes images of up to 28 x 28, not 32 x 32",
    ),
    "too large images for the errors of poolings": (
        {f"{ERRORS_KEY}.dataset": "svhn", "datasets": {}},
        f"{ERRORS_KEY}: lenet5 on svhn: LeNet-5 takes images of up to 28 x 28, not 32 x 32",
    ),
    "a minibatch of one image with batch norm for the errors of poolings": (
        {f"{ERRORS_KEY}.normalization": "batch_norm", f"{ERRORS_KEY}.batch_size": 1},
        f"{ERRORS_KEY}.batch_size: 1 image, which batch_norm cannot normalise; choose another",
    ),
    "a split that a dataset does not have": (
        {f"{BLOCK_KEY}.train_split": "extra"},
        f"{BLOCK_KEY}.train_split: mnist_5k has no split 'extra' to train on; one of train",
    ),
    "a split that one of two datasets does not have": (
        {**SVHN, f"{BLOCK_KEY}.dataset": ["svhn", "cifar10"], f"{BLOCK_KEY}.train_split": "extra"},
        f"{BLOCK_KEY}.train_split: cifar10 has no split 'extra' to train on; one of train",
    ),
    "training on the test split": (
        {**SVHN, f"{BLOCK_KEY}.train_split": "test"},
        f"{BLOCK_KEY}.train_split: svhn has no split 'test' to train on; one of train, extra",
    ),
    "a last batch of one image with batch norm": (
        {f"{BLOCK_KEY}.normalization": ["none", "batch_norm"], f"{BLOCK_KEY}.batch_size": 31},
        f"{BLOCK_KEY}.batch_size: with 31 the last batch of 4000 images has one image, which batch_norm cannot normalise",
    ),
    "such a batch in a search, which trains on four fifths": (
        {f"{BLOCK_KEY}.normalization": ["batch_norm"], f"{BLOCK_KEY}.batch_size": 7, RATE_KEY: "search"},
        f"{BLOCK_KEY}.batch_size: with 7 the last batch of 3200 images has one image",
    ),
    "batches of one image with batch norm": (
        {f"{BLOCK_KEY}.normalization": ["batch_norm"], f"{BLOCK_KEY}.batch_size": 1},
        f"{BLOCK_KEY}.batch_size: with 1 the last batch of ",
    ),
    "weights in tf32 with device cpu": (
        {f"{WEIGHTS_KEY}.precision": ["tf32"]},
        f"{WEIGHTS_KEY}.precision: {TF32}, and device is 'cpu'; remove it or set device: cuda",
    ),
    "weights of an unknown program": (
        {f"{WEIGHTS_KEY}.compare": [["native", "native"], ["hybrid-10", "native"]]},
        f"{WEIGHTS_KEY}.compare: unknown pooling rule 'hybrid-10'; expected one of ",
    ),
    "weights of a program that is not in its shortest form": (
        {f"{WEIGHTS_KEY}.compare": [["native", "native+relu-1.0"]]},
        f"{WEIGHTS_KEY}.compare: unknown program 'native+relu-1.0'; expected a rule, or ",
    ),
    "one program alone": (
        {f"{WEIGHTS_KEY}.compare": [["native"]]},
        f"{WEIGHTS_KEY}.compare[0]: expected 2 entries, got ['native']",
    ),
    "three programs": (
        {f"{WEIGHTS_KEY}.compare": [["native", "minimal", "norm-0"]]},
        f"{WEIGHTS_KEY}.compare[0]: expected 2 entries, got ['native', 'minimal', 'norm-0']",
    ),
    "weights of too large images": (
        {f"{WEIGHTS_KEY}.dataset": ["mnist_5k", "cifar10"]},
        f"{WEIGHTS_KEY}: lenet5 on cifar10: LeNet-5 takes images of up to 28 x 28, not 32 x 32",
    ),
    "weights of a split that a dataset does not have": (
        {f"{WEIGHTS_KEY}.train_split": "extra"},
        f"{WEIGHTS_KEY}.train_split: mnist_5k has no split 'extra' to train on; one of train",
    ),
    "weights with a last batch of one image with batch norm": (
        {f"{WEIGHTS_KEY}.normalization": ["none", "batch_norm"], f"{WEIGHTS_KEY}.batch_size": 31},
        f"{WEIGHTS_KEY}.batch_size: with 31 the last batch of 4000 images has one image, which batch_norm cannot normalise",
    ),
    "no folder of the images of weights": (
        {f"{WEIGHTS_KEY}.dataset": ["mnist"], "datasets": {"mnist": {"path": "no/such/folder"}}},
        "datasets.mnist.path: no/such/folder is not a folder; ",
    ),
    "zones in tf32 with device auto": (
        {"device": "auto", f"{ZONES_KEY}.precision": ["tf32"]},
        f"{ZONES_KEY}.precision: {TF32}, and device is 'auto'; remove it or set device: cuda",
    ),
    "zones of a smooth pooling": (
        {f"{ZONES_KEY}.compare": [["minimal", "native"], ["boltzmann-0.1+relu-1", "boltzmann-0.1"]]},
        f"{ZONES_KEY}.compare: boltzmann-0.1 has no choice of a derivative that two programs could make differently; remove it",
    ),
    "weights of another network": (
        {f"{WEIGHTS_KEY}.compare": [["native", "strided"]]},
        f"{WEIGHTS_KEY}.compare: strided has no choice of a derivative that two programs could make differently; remove it",
    ),
    "zones of an unknown program": (
        {f"{ZONES_KEY}.compare": [["minimal", "last"]]},
        f"{ZONES_KEY}.compare: unknown pooling rule 'last'; expected one of ",
    ),
    "default kernels on a CPU": (
        {f"{ZONES_KEY}.kernels": ["deterministic", "default"]},
        f"{ZONES_KEY}.kernels: 'default' is another choice on a GPU only, and device is 'cpu'; remove it",
    ),
    "replays of programs whose forward passes differ": (
        {f"{ZONES_KEY}.compare": [["minimal", "native"], ["hybrid-1000-composed", "native"]]},
        f"{ZONES_KEY}.replays: hybrid-1000-composed and native cannot be replayed, since their forward passes differ; ",
    ),
    "replays of a norm and a maximum": (
        {f"{ZONES_KEY}.compare": [["norm-0", "native"]]},
        f"{ZONES_KEY}.replays: norm-0 and native cannot be replayed",
    ),
    "zones of too large images": (
        {f"{ZONES_KEY}.dataset": ["cifar10"]},
        f"{ZONES_KEY}: lenet5 on cifar10: LeNet-5 takes images of up to 28 x 28, not 32 x 32",
    ),
    "zones with a last batch of one image with batch norm": (
        {
            f"{ZONES_KEY}.normalization": ["batch_norm"],
            f"{ZONES_KEY}.batch_size": [31],
            f"{ZONES_KEY}.minibatches": GONE,
        },
        f"{ZONES_KEY}.batch_size: with 31 the last batch of 4000 images has one image, which batch_norm cannot normalise",
    ),
    "no folder of the images of zones": (
        {f"{ZONES_KEY}.dataset": ["mnist"], "datasets": {"mnist": {"path": "no/such/folder"}}},
        "datasets.mnist.path: no/such/folder is not a folder; ",
    ),
    "empty path": ({"datasets.fashion_mnist.path": ""}, "datasets.fashion_mnist.path: "),
    "neither path nor mirrors": ({"datasets.mnist": {}}, "datasets.mnist: empty; one of path, mirrors"),
    "no folder": (
        {f"{BLOCK_KEY}.dataset": ["mnist"], "datasets": {"mnist": {"path": "no/such/folder"}}},
        "datasets.mnist.path: no/such/folder is not a folder; put there what is missing, or remove datasets.mnist.path ",
    ),
    "no folder of images": (
        {
            f"{BLOCK_KEY}.dataset": ["imagenet"],
            f"{BLOCK_KEY}.architecture": ["resnet50"],
            "datasets": {"imagenet": {"path": "no/such/folder"}},
        },
        "datasets.imagenet.path: no/such/folder is not a folder; ",
    ),
    "path and mirrors": (
        {f"{BLOCK_KEY}.dataset": ["mnist"]},
        "datasets.mnist: give path, a folder that has the files, or mirrors, not both",
    ),
    "path and mirrors of the dataset of the ties": (
        {f"{TIES_KEY}.dataset": "mnist"},
        "datasets.mnist: give path, ",
    ),
}


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_combination_that_cannot_be_run(changes: dict[str, Any], message: str):
    assert error(changed(changes)).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda", f"{BLOCK_KEY}.precision": ["tf32"]},
        {"device": "auto"},
        {**SVHN, f"{BLOCK_KEY}.train_split": "extra"},
        {**SVHN, "datasets": {"svhn": {"mirrors": ["http://example.org", "ftp://example.org/x"]}}},
        {RATE_KEY: "search"},
        {RATE_KEY: 1},
        {f"{BLOCK_KEY}.relu_derivative": [0, 1, 0.5, -2]},
        {f"{BLOCK_KEY}.architecture": ["lenet5", "vgg11", "resnet50", "densenet121"]},
        {TIES_KEY: GONE, SEARCH_KEY: GONE},
        {ERRORS_KEY: GONE},
        {f"{ERRORS_KEY}.batch_size": 1},
        {f"{ERRORS_KEY}.normalization": "batch_norm", f"{ERRORS_KEY}.batch_size": 2},
        {SEARCH_KEY: {}},
        {"workers": 0},
        {
            f"{WEIGHTS_KEY}.compare": [
                ["norm-0", "norm-1"],
                ["native+relu-0.5", "hybrid--1.5-exact"],
                ["native", "native"],
            ]
        },
        {f"{WEIGHTS_KEY}.batch_size": 31},
        {"maxpool.weights": GONE},
        {f"{ZONES_KEY}.normalization": ["batch_norm"], f"{ZONES_KEY}.batch_size": [31]},  # stops before the last
        {f"{ZONES_KEY}.compare": [["hybrid-1000-composed", "native"]], f"{ZONES_KEY}.replays": False},
        {f"{ZONES_KEY}.compare": [["native", "native"], ["norm-1", "norm-0"], ["hybrid-9-exact", "native+relu-1"]]},
        {"device": "auto", f"{ZONES_KEY}.kernels": ["default", "deterministic"]},
        {f"{ZONES_KEY}.noise": [0, 0.1, 1], f"{ZONES_KEY}.minibatches": 10**6},
        {"maxpool.zones": GONE, "maxpool.zero_function": GONE},
        {f"{BLOCK_KEY}.batch_size": 31},
        {f"{BLOCK_KEY}.batch_size": 1},
        {f"{BLOCK_KEY}.batch_size": 7, f"{BLOCK_KEY}.normalization": ["batch_norm"]},
        {f"{BLOCK_KEY}.batch_size": 10**6, f"{BLOCK_KEY}.normalization": ["batch_norm"]},
    ],
)
def test_combination_that_can_be_run(changes: dict[str, Any]):
    check(changed(changes))


def test_error_names_the_number_of_the_block():
    assert error(of_blocks({}, {"precision": ["float64"]})).startswith("maxpool.train[1].learning_rate: missing")
    assert error(of_blocks({}, {"train_split": "extra"})).startswith("maxpool.train[1].train_split: ")
    assert error(of_blocks({}, {"dataset": ["svhn"], "learning_rate": 1})).startswith(
        "maxpool.train[1]: lenet5 on svhn"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 2),
        ("batch_size", 64),
        ("learning_rate", 0.2),
        ("learning_rate", "search"),
        ("schedule", "step"),
        ("momentum", 0.5),
        ("weight_decay", 0.0),
        ("adam_eps", 1e-3),
        ("augmentation", "crop_flip"),
    ],
)
def test_two_blocks_that_train_a_cell_differently(key: str, value: float | str):
    message = error(of_blocks({}, {"seeds": [1, 0], key: value}))
    cell = "mnist_5k/lenet5/none/sgd/float32/native/relu-0/seed0"
    assert message.startswith(f"maxpool.train[1]: {cell} is also made by maxpool.train[0] with another {key}; ")


# ---------------------------------------------------------------------------------------- where the data are


def test_missing_data_files_are_listed(tmp_path: Path):
    """Only those of the splits that are used."""
    files = DATASETS["svhn"].files
    where = {**SVHN, "datasets": {"svhn": {"path": str(tmp_path)}}}
    for split, missing in (("train", ["test", "train"]), ("extra", ["extra", "test"])):
        names = [name for split in missing for name in files[split]]
        message = error(changed({**where, f"{BLOCK_KEY}.train_split": split}))
        assert message.startswith(
            f"datasets.svhn.path: {tmp_path} lacks {', '.join(names)}; put there what is missing, "
        )
    for split in ("train", "test"):
        for name in files[split]:
            (tmp_path / name).touch()
    check(changed(where))
    assert error(changed({**where, f"{BLOCK_KEY}.train_split": "extra"})).startswith(
        f"datasets.svhn.path: {tmp_path} lacks {', '.join(files['extra'])}; "
    )


def test_a_file_of_two_splits_is_missing_once(tmp_path: Path):
    changes = {f"{BLOCK_KEY}.dataset": ["cifar10"], f"{BLOCK_KEY}.architecture": ["vgg11"]}
    message = error(changed({**changes, "datasets": {"cifar10": {"path": str(tmp_path)}}}))
    assert message.startswith(f"datasets.cifar10.path: {tmp_path} lacks cifar-10-binary.tar.gz; ")


def test_only_the_ties_need_the_test_split(tmp_path: Path):
    files = DATASETS["mnist"].files
    config = changed({f"{TIES_KEY}.dataset": "mnist", "datasets": {"mnist": {"path": str(tmp_path)}}})
    assert f"lacks {', '.join(files['test'])}; " in error(config)
    for name in files["test"]:
        (tmp_path / name).touch()
    check(config)


def test_a_path_can_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    where = {f"{BLOCK_KEY}.dataset": ["mnist"], "datasets": {"mnist": {"path": "~/images"}}}
    assert error(changed(where)).startswith(f"datasets.mnist.path: {tmp_path / 'images'} is not a folder")
    for split in ("train", "test"):
        for name in DATASETS["mnist"].files[split]:
            (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "images" / name).touch()
    check(changed(where))


def test_a_path_can_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for name in DATASETS["mnist"].files[split]:
            (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "images" / name).touch()
    check(changed({f"{BLOCK_KEY}.dataset": ["mnist"], "datasets": {"mnist": {"path": "images"}}}))


def test_splits_are_those_of_the_cells_and_the_ties():
    found = training_cells(changed({**SVHN, f"{BLOCK_KEY}.dataset": ["svhn", "cifar10"]}))
    extra = [replace(cell, train_split="extra", seed=1) for cell in found if cell.dataset == "svhn"]
    wanted = {"cifar10": {"test", "train"}, "svhn": {"test", "train"}}
    named = {name: set(needed) for name, needed in splits(BARE, found).items()}
    assert named == wanted
    named = {name: set(needed) for name, needed in splits(FULL, [*found, *extra]).items()}
    assert named == {**wanted, "svhn": {"test", "train", "extra"}, "mnist_5k": {"test", "train"}}
    no_others = changed({"maxpool.weights": GONE, "maxpool.zones": GONE, ERRORS_KEY: GONE})
    assert splits(no_others, found)["mnist_5k"] == ["test"]  # of the ties
    for left in ("maxpool.zones", ERRORS_KEY):
        others = {"maxpool.weights", "maxpool.zones", TIES_KEY, ERRORS_KEY} - {left}
        assert splits(changed(dict.fromkeys(others, GONE)), found)["mnist_5k"] == ["train"]
    assert all(len(set(needed)) == len(needed) for needed in splits(FULL, [*found, *extra, *found]).values())


def make_imagenet(folder: Path) -> None:
    for name in ("train", "val"):
        (folder / name).mkdir(parents=True)


IMAGENET = {"dataset": ["imagenet"], "architecture": ["resnet50"], "learning_rate": 0.1}


def test_imagenet_is_left_out_without_a_folder(tmp_path: Path):
    """And nothing of it is asked for; the numbers of other blocks do not depend on it."""
    config = of_blocks(IMAGENET, {}, {**IMAGENET, "dataset": ["cifar10", "imagenet"]}, datasets={})
    checked = check(config)
    ((name, notice),) = left_out(checked).items()
    assert name == "imagenet"
    assert notice.startswith("imagenet is left out until datasets.imagenet.path is given: ")
    cells = training_cells(checked)
    assert [cell.dataset for cell in cells] == ["mnist_5k", "cifar10"]
    assert set(splits(checked, cells)) == {"mnist_5k", "cifar10"}
    assert {cell.dataset for cell in searches(checked).values()} == {"mnist_5k", "cifar10"}
    assert list(priorities(checked).values()) == [2, 1]

    given = {**config, "datasets": {"imagenet": {"path": str(tmp_path)}}}
    assert error(given).startswith(f"datasets.imagenet.path: {tmp_path} lacks val/, train/; ")
    make_imagenet(tmp_path)
    checked = check(given)
    assert left_out(checked) == {}
    assert [cell.dataset for cell in training_cells(checked)] == ["imagenet", "mnist_5k", "cifar10"]
    assert set(splits(checked, training_cells(checked))) == {"imagenet", "mnist_5k", "cifar10"}


def test_imagenet_alone_without_a_folder():
    message = error(of_blocks(IMAGENET))
    assert message.startswith(
        "maxpool.train: nothing to train, since imagenet is left out until datasets.imagenet.path"
    )


def test_what_is_left_out_is_checked_all_the_same():
    assert "lenet5 on imagenet" in error(of_blocks({}, {**IMAGENET, "architecture": ["lenet5"]}))
    assert "none is published for imagenet" in error(of_blocks({}, {**IMAGENET, "learning_rate": "published"}))


def test_ties_of_imagenet_without_a_folder():
    changes = {f"{TIES_KEY}.dataset": "imagenet", f"{TIES_KEY}.architecture": "resnet50", "datasets": {}}
    assert "datasets.imagenet.path" in error(changed(changes))


# -------------------------------------------------------------------------------------------- files of YAML


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"- a\n", b"text", b"3"])
def test_file_that_is_not_a_mapping(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="mapping") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"run: [1\nmaxpool", b"run:\n\t- x", b"a: 1\n---\nb: 1\n", b"run: caf\xe9\n"])
def test_file_that_is_not_yaml(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        read(path)


def test_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "mine.yaml"))):
        read(tmp_path / "mine.yaml")


def test_file_with_a_wrong_key(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**BARE, "sedes": [1]}))
    with pytest.raises(ConfigError, match=re.escape(f"{path}: sedes: unknown key, did you mean 'seeds'?")):
        read(path)


def test_reading_is_checking(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(FULL))
    assert read(path) == check(FULL)


@pytest.mark.parametrize("config", [None, [], "text", 3])
def test_configuration_that_is_not_a_mapping(config: Any):
    assert error(config).startswith("configuration: expected ")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_shipped_preset(path: Path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, entry in config.get("datasets", {}).items():
        if not Path(entry.get("path", ROOT)).is_dir():
            pytest.skip(f"{name} is not in {entry['path']}")
    assert training_cells(read(path))


def test_shipped_presets_have_their_own_folders():
    names = [yaml.safe_load(path.read_text(encoding="utf-8"))["run"] for path in PRESETS]
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------- overrides of a command line


@pytest.mark.parametrize(
    ("overrides", "run"),
    [
        ({}, "mine"),
        ({"seeds": [3]}, "mine"),
        ({"workers": 1}, "mine"),
        ({"jobs_per_gpu": 2}, "mine"),
        ({"datasets": {"mnist": {"path": "/images"}}}, "mine"),
        ({"epochs": 2}, "mine-epochs2"),
        ({"device": "cuda"}, "mine-devicecuda"),
        ({"threads": 2}, "mine-threads2"),
        ({"deterministic": False}, "mine-deterministicfalse"),
        ({"seeds": [3], "epochs": 2}, "mine-epochs2"),
        ({"device": "cuda", "epochs": 2}, "mine-epochs2-devicecuda"),
        ({"epochs": 2, "run": "other"}, "other"),
        ({"run": "other"}, "other"),
    ],
)
def test_a_run_that_is_not_the_presets_has_its_own_name(overrides: dict[str, Any], run: str):
    merged = {**FULL, **overrides}
    before = copy.deepcopy(merged)
    renamed = with_overrides(merged, overrides)
    assert renamed == {**merged, "run": run}
    assert merged == before
    changed_device = overrides.get("device") == "cuda"
    assert check(renamed)["device"] == ("cuda" if changed_device else "cpu")


def test_text_inside_brackets_of_a_command_line_is_read_as_yaml():
    """Snakemake reads `--config 'seeds=[0, 1]'` as two texts."""
    overrides = {
        "seeds": ["0", "1"],
        "run": "other",
        "maxpool": {
            "search": {"trials": "3", "per_rule": "true"},
            "train": [{**BLOCK, "epochs": "2", "momentum": "0.5"}],
        },
        "learning_rates": [{**CHOICE, "value": "5.0e-4"}],
    }
    checked = check(with_overrides({**BARE, **overrides}, overrides))
    assert [cell.seed for cell in training_cells(checked)] == [0, 1]
    assert search_settings(checked)["trials"] == 3
    assert search_settings(checked)["per_rule"] is True
    assert {(cell.epochs, cell.momentum, cell.learning_rate) for cell in training_cells(checked)} == {(2, 0.5, 5e-4)}


def test_a_folder_on_a_command_line_is_a_name_whatever_yaml_makes_of_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1e3", "12", "yes", "a: b"):
        make_imagenet(tmp_path / name)
        overrides = {"datasets": {"imagenet": {"path": name}}}
        renamed = with_overrides({**of_blocks(IMAGENET), **overrides}, overrides)
        assert check(renamed)["datasets"] == overrides["datasets"]


def test_a_source_on_a_command_line_takes_the_place_of_the_files_entry(tmp_path: Path):
    """Snakemake merges the two, and path and mirrors together are refused. Other datasets keep theirs."""
    config = of_blocks({"dataset": ["mnist"], "learning_rate": 1})
    own = {"mnist": {"mirrors": ["https://example.org"]}, "svhn": {"path": "images"}}
    merged = {**config, "datasets": {**own, "mnist": {**own["mnist"], "path": str(tmp_path)}}}
    assert "not both" in error(merged)
    overrides = {"datasets": {"mnist": {"path": str(tmp_path)}}}
    renamed = with_overrides(merged, overrides)
    assert renamed["datasets"] == {**own, **overrides["datasets"]}
    assert renamed["run"] == "mine"


@pytest.mark.parametrize("value", [True, False])
def test_flags_of_a_command_line_are_yamls_or_pythons(value: bool):
    """Snakemake knows `True` and `False` only."""
    for written in (value, str(value).lower()):
        overrides = {"deterministic": written}
        renamed = with_overrides({**FULL, **overrides}, overrides)
        assert check(renamed)["deterministic"] is value
        assert renamed["run"] == f"mine-deterministic{str(value).lower()}"


@pytest.mark.parametrize("key", ["maxpool", "learning_rates"])
def test_what_would_replace_the_presets_results_needs_a_name(key: str):
    overrides = {key: BARE[key]}
    with pytest.raises(ConfigError) as caught:
        with_overrides({**FULL, **overrides}, overrides)
    assert str(caught.value).startswith(f"--config {key}: would replace the results of run 'mine'; give a name")
    named = {**overrides, "run": "other"}
    assert check(with_overrides({**FULL, **named}, named))["run"] == "other"


def test_text_that_is_no_yaml_is_a_wrong_value():
    overrides = {"seeds": ["0", "a: b: c"]}
    assert "seeds" in error(with_overrides({**FULL, **overrides}, overrides))


def test_names_of_runs_tell_what_was_overridden_apart():
    """Whatever order they were given in."""
    values = {
        "epochs": [1, 2, 10],
        "device": ["cpu", "cuda", "auto"],
        "threads": [1, 2],
        "deterministic": [True, False],
    }
    assert tuple(values) == RENAMING
    made = {}
    for names in ([], ["epochs"], ["device"], ["epochs", "device"], ["threads", "deterministic"], list(values)):
        for position in range(3):
            overrides = {name: values[name][position % len(values[name])] for name in names}
            run = with_overrides({**BARE, **overrides}, overrides)["run"]
            backwards = dict(reversed(overrides.items()))
            assert with_overrides({**BARE, **backwards}, backwards)["run"] == run
            assert made.setdefault(run, overrides) == overrides
            check({**FULL, "run": run})


@pytest.mark.parametrize("value", ["x", 0, -1, True, None])
def test_a_wrong_override_names_its_key(value: Any):
    overrides = {"epochs": value}
    assert error(with_overrides({**FULL, **overrides}, overrides)).startswith("epochs: ")


@pytest.mark.parametrize("value", [1.5, "1.5", "1 2", [1], {"a": 1}])
def test_a_wrong_override_that_is_no_name_names_its_key(value: Any):
    assert error(with_overrides({**FULL, "epochs": value}, {"epochs": value})).startswith("epochs: ")


@pytest.mark.parametrize("run", [GONE, None, 3])
def test_an_override_does_not_hide_a_wrong_name(run: Any):
    assert error(with_overrides(changed({"run": run}), {"epochs": 1})).startswith("run: ")


def test_seeds_and_epochs_replace_those_of_every_block():
    blocks = [{"seeds": [0, 1, 2], "epochs": 5}, {"rule": ["minimal"], "seeds": [4], "epochs": 7}]
    config = of_blocks(*blocks, seeds=[9, 3], epochs=2)
    found = [(cell.rule, cell.seed, cell.epochs) for cell in training_cells(check(config))]
    assert found == [("native", 9, 2), ("native", 3, 2), ("minimal", 9, 2), ("minimal", 3, 2)]


def test_epochs_can_make_cells_of_two_blocks_the_same():
    """Without them, these blocks train a cell in two ways."""
    blocks = [{"epochs": 5}, {"epochs": 7}]
    assert "another epochs" in error(of_blocks(*blocks))
    assert len(training_cells(check(of_blocks(*blocks, epochs=1)))) == 1


# ---------------------------------------------------------------------------------------------- the product

FACTOR_NAMES = {factor: NODES[f"{BLOCK_KEY}.{factor}[0]"]["enum"] for factor in SETUP}
WITH_FOLDERS = {**DEFAULTS, "datasets": {name: {"path": "a folder"} for name in STREAMED}}


def fits(architecture: str, dataset: str) -> bool:
    height, width = DATASETS[dataset].shape[1:]
    known = ARCHITECTURES[architecture]
    smaller = known.image_size - height
    return height == width and (known.takes_larger if smaller < 0 else smaller % 2 == 0)


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """A valid block with its own learning rate."""

    def some(values: list) -> list:
        return draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))

    numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False))
    block: dict[str, Any] = {factor: some(FACTOR_NAMES[factor]) for factor in SETUP[1:]}
    fitting = [name for name in DATASETS if all(fits(network, name) for network in block["architecture"])]
    block |= {"dataset": some(fitting), "rule": some(["native", "minimal", "average", "logsumexp-0.5", "hybrid"])}
    if "hybrid" in block["rule"]:
        block["beta"] = draw(st.lists(numbers, min_size=1, max_size=3, unique_by=float))
        block["evaluation"] = some(list(EVALUATIONS))
    if draw(st.booleans()):
        block["relu_derivative"] = draw(st.lists(numbers, min_size=1, max_size=2, unique_by=float))
    block["seeds"] = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2, unique=True))
    return {**block, "epochs": 3, "learning_rate": 0.1}


def cells_of(*blocks: dict) -> list[TrainingCell]:
    return training_cells({**WITH_FOLDERS, "maxpool": {"train": list(blocks)}})


def rule_names(block: dict) -> list[str]:
    names = []
    for rule in block["rule"]:
        if rule != "hybrid":
            names.append(rule)
            continue
        for evaluation in block["evaluation"]:
            for beta in block["beta"]:
                names.append(str(Hybrid(float(beta), evaluation)))
    return names


def paths_of(block: dict) -> list[str]:
    return [
        f"{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/relu-{number(relu)}/seed{seed}"
        for dataset in block["dataset"]
        for architecture in block["architecture"]
        for normalization in block["normalization"]
        for optimizer in block["optimizer"]
        for precision in block["precision"]
        for rule in rule_names(block)
        for relu in block.get("relu_derivative", [0])
        for seed in block["seeds"]
    ]


@quick
@given(blocks())
def test_a_block_is_the_product_of_its_lists_in_their_order(block: dict):
    paths = paths_of(block)
    cells = cells_of(block)
    assert [cell.path for cell in cells] == [str(cell) for cell in cells] == paths
    assert len(set(paths)) == len(paths)
    plain = sum(rule != "hybrid" for rule in block["rule"])
    hybrids = len(block.get("beta", [])) * len(block.get("evaluation", []))
    setups = math.prod(len(block[factor]) for factor in SETUP)
    relus = len(block.get("relu_derivative", [0]))
    assert len(cells) == setups * (plain + hybrids) * relus * len(block["seeds"])


@quick
@given(blocks())
def test_a_path_says_which_cell_it_is(block: dict):
    for cell in cells_of(block):
        *factors, rule, relu, seed = cell.path.split("/")
        assert tuple(factors) == cell.setup
        assert str(parse_rule(rule)) == cell.rule == rule
        assert float(relu.removeprefix("relu-")) == cell.relu_derivative
        assert int(seed.removeprefix("seed")) == cell.seed
        assert all(re.fullmatch(r"[A-Za-z0-9_.+-]+", part) for part in cell.path.split("/"))


@quick
@given(blocks(), blocks())
def test_a_cell_that_two_blocks_share_comes_once(one: dict, other: dict):
    """With the priority of the first block that has it."""
    shared = {**one, "seeds": [*one["seeds"], 7] if 7 not in one["seeds"] else one["seeds"]}
    every = [*cells_of(one), *cells_of(other), *cells_of(shared)]
    assert cells_of(one, other, shared) == list(dict.fromkeys(every))
    found = priorities({**WITH_FOLDERS, "maxpool": {"train": [one, other, shared]}})
    first = {}
    for priority, block in ((3, one), (2, other), (1, shared)):
        for path in paths_of(block):
            first.setdefault(path, priority)
    assert {cell.path: priority for cell, priority in found.items()} == first


@quick
@given(blocks(), st.sampled_from([*SETUP, "rule", "relu_derivative", "beta", "evaluation", "seeds"]))
def test_another_entry_adds_its_cells_and_changes_no_other(block: dict, key: str):
    assume(len(block.get(key, [])) >= 2)
    assume(key != "rule" or block["rule"][-1] != "hybrid")
    entry = block[key][-1]
    before, after = cells_of({**block, key: block[key][:-1]}), cells_of(block)
    assert set(before) < set(after)
    values = {"seeds": lambda cell: cell.seed, "beta": beta_of, "evaluation": evaluation_of}
    value = values.get(key, lambda cell: getattr(cell, key))
    assert {value(cell) for cell in set(after) - set(before)} == {entry}
    assert entry not in {value(cell) for cell in before}


def beta_of(cell: TrainingCell) -> float | None:
    rule = parse_rule(cell.rule)
    return rule.beta if isinstance(rule, Hybrid) else None


def evaluation_of(cell: TrainingCell) -> str | None:
    rule = parse_rule(cell.rule)
    return rule.evaluation if isinstance(rule, Hybrid) else None


def test_derivatives_that_are_equal_are_one_cell():
    """Written as integers that no float holds, or with the sign of zero."""
    found = cells_of({**BLOCK, "learning_rate": 1, "relu_derivative": [2**53, 2**53 + 1]})
    assert [cell.path.split("/")[-2] for cell in found] == ["relu-9007199254740992.0"]
    found = cells_of(*({**BLOCK, "learning_rate": 1, "relu_derivative": [zero]} for zero in (0, 0.0, -0.0)))
    assert [cell.path.split("/")[-2] for cell in found] == ["relu-0"]


# --------------------------------------------------------------------------------------------- the defaults


def test_defaults_are_filled_in_and_do_not_override():
    assert check(BARE) == {**DEFAULTS, **BARE}
    own = changed({"device": "cuda", "jobs_per_gpu": 2, "threads": 3, "workers": 7, "deterministic": False})
    assert check(own) == own


def test_defaults_of_a_block():
    precisions, optimizers = FACTOR_NAMES["precision"], FACTOR_NAMES["optimizer"]
    block = {**BLOCK, "dataset": ["mnist", "cifar10"], "architecture": ["vgg11"]}
    cells = cells_of({**block, "precision": precisions, "optimizer": optimizers, "learning_rate": 1})
    assert len(cells) == 2 * len(precisions) * len(optimizers)
    for cell in cells:
        assert cell.relu_derivative == 0.0
        assert cell.settings == {
            "epochs": 1,
            "batch_size": 128,
            "learning_rate": 1.0,
            "schedule": "cosine",
            "momentum": 0.9,
            "weight_decay": 0.0 if cell.optimizer == "adam" else 5e-4,
            "adam_eps": 1e-4 if cell.precision == "float16" else 1e-8,
            "augmentation": {"mnist": "none", "cifar10": "crop_flip"}[cell.dataset],
            "train_split": "train",
            **({"clip_norm": 1.0} if cell.optimizer == "sgd_clipped" else {}),
        }
        floats = (cell.learning_rate, cell.momentum, cell.weight_decay, cell.adam_eps, cell.relu_derivative)
        assert {type(value) for value in floats} == {float}


def test_settings_of_a_block_come_before_defaults_and_learning_rates():
    own = {"batch_size": 32, "learning_rate": 0.7, "momentum": 0, "weight_decay": 0.1, "adam_eps": 0.2,
           "schedule": "step", "augmentation": "crop_flip", "train_split": "train"}  # fmt: skip
    block = {**BLOCK, "precision": ["float16", "float32"], "optimizer": ["sgd", "adam"], **own}
    for cell in training_cells(check({**BARE, "maxpool": {"train": [block]}})):
        assert cell.settings == {"epochs": 1, **own}
    (cell,) = cells_of({**BLOCK, "optimizer": ["sgd_clipped"], "clip_norm": 2, **own})
    assert cell.settings == {"epochs": 1, **own, "clip_norm": 2.0}
    block = {
        **BLOCK,
        "dataset": ["svhn", "cifar10"],
        "architecture": ["resnet18"],
        "augmentation": "none",
        "learning_rate": 1,
    }
    assert {cell.augmentation for cell in cells_of(block)} == {"none"}


# --------------------------------------------------------------------------------------------- learning rates


def test_each_setup_has_its_learning_rate():
    rates = [{**CHOICE, "precision": name, "value": 0.1 * 2**n} for n, name in enumerate(FACTOR_NAMES["precision"])]
    block = {**BLOCK, "precision": FACTOR_NAMES["precision"], "rule": ["native", "minimal"], "relu_derivative": [0, 1]}
    cells = training_cells({**DEFAULTS, "learning_rates": rates[::-1], "maxpool": {"train": [block]}})
    assert len(cells) == 4 * len(rates)
    wanted = {entry["precision"]: entry["value"] for entry in rates}
    assert all(cell.learning_rate == wanted[cell.precision] for cell in cells)


@pytest.mark.parametrize("name", SAFEGUARDED)
def test_a_safeguard_has_the_rate_of_the_optimizer_without_it_unless_it_has_its_own(name: str):
    block = {**BLOCK, "optimizer": ["sgd", name]}
    config = {**BARE, "maxpool": {"train": [block]}}
    assert [cell.learning_rate for cell in training_cells(check(config))] == [0.03, 0.03]
    config["learning_rates"] = [*BARE["learning_rates"], {**CHOICE, "optimizer": name, "value": 0.5}]
    assert [cell.learning_rate for cell in training_cells(check(config))] == [0.03, 0.5]
    (row,) = [row for row in published_rates() if row["dataset"] == "mnist" and row["precision"] == "16"
              and row["optimizer"] == "sgd" and row["batch_norm"] == "False"]  # fmt: skip
    asked = {"dataset": ["mnist"], "precision": ["float16"], "learning_rate": "published"}
    cells = training_cells(check(of_blocks({**asked, "optimizer": [name]})))
    assert [cell.learning_rate for cell in cells] == [float(row["learning_rate"])]
    missing = {**config, "learning_rates": [{**CHOICE, "optimizer": "adam", "value": 0.5}]}
    assert error(missing).startswith(
        f"{RATE_KEY}: missing, and learning_rates has no entry for mnist_5k, lenet5, none, sgd, "
    )


def test_a_rate_in_the_block_and_the_same_in_the_table_are_one_cell():
    rate = BARE["learning_rates"][0]["value"]
    assert len(training_cells(check(of_blocks({}, {"learning_rate": rate})))) == 1


def published_rates() -> list[dict[str, str]]:
    with (ROOT / "data/published/learning_rates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", published_rates(), ids=lambda row: "-".join(list(row.values())[:-1]))
def test_published_rate(row: dict[str, str]):
    block = {
        "dataset": [row["dataset"]],
        "architecture": [row["architecture"].replace("lenet", "lenet5")],
        "normalization": [{"True": "batch_norm", "False": "none"}[row["batch_norm"]]],
        "optimizer": [row["optimizer"]],
        "precision": [{"16": "float16", "32": "float32", "64": "float64", "mixed": "mixed16"}[row["precision"]]],
        "rule": ["native", "minimal"],
        "learning_rate": "published",
    }
    cells = training_cells(check(of_blocks(block)))
    assert [cell.learning_rate for cell in cells] == [float(row["learning_rate"])] * 2


def test_entries_do_not_matter_where_the_published_rate_is_asked_for():
    entry = {**CHOICE, "dataset": "mnist", "value": 0.5}
    blocks = [{"dataset": ["mnist"], "learning_rate": "published"}, {"dataset": ["mnist"], "rule": ["minimal"]}]
    cells = training_cells(check(of_blocks(*blocks, learning_rates=[entry])))
    assert [cell.learning_rate for cell in cells] == [0.0352784, 0.5]


SEARCHED = {
    "precision": ["float16", "float32"],
    "normalization": ["none", "batch_norm"],
    "rule": ["minimal", "hybrid"],
    "beta": [10, 100],
    "evaluation": ["exact", "composed"],
    "relu_derivative": [0, 1],
    "seeds": [4, 5],
    "epochs": 30,
    "learning_rate": "search",
}
OTHERWISE = {"batch_size": 32, "schedule": "step", "augmentation": "crop_flip", "weight_decay": 0.1, "momentum": 0.5,
             "adam_eps": 1e-3}  # fmt: skip


def test_a_search_is_of_a_setup():
    """With the native rule and PyTorch's ReLU, which the preset need not have, and the settings of the block."""
    config = check(of_blocks({**SEARCHED, **OTHERWISE}))
    config["maxpool"]["search"] = {"trials": 3, "epochs": 7, "seed": 2}
    found = searches(config)
    assert list(found) == [
        f"mnist_5k/lenet5/{normalization}/sgd/{precision}/native/relu-0"
        for normalization in ("none", "batch_norm")
        for precision in ("float16", "float32")
    ]
    for path, cell in found.items():
        assert cell.condition_path == path
        assert (cell.rule, cell.relu_derivative, cell.seed, cell.epochs) == ("native", 0.0, 2, 7)
        assert cell.settings.items() >= {**OTHERWISE, "learning_rate": SEARCH}.items()
    cells = training_cells(config)
    assert {cell.learning_rate for cell in cells} == {SEARCH}
    for cell in cells:
        searched = searched_cell(cell, search_settings(config))
        assert searched.setup == cell.setup
        assert found[searched.condition_path] == searched


def test_a_search_of_every_rule():
    config = check(of_blocks(SEARCHED))
    config["maxpool"]["search"] = {"per_rule": True}
    found = searches(config)
    cells = training_cells(config)
    assert list(found) == list(dict.fromkeys(cell.condition_path for cell in cells))
    assert len(found) == 2 * 2 * (1 + 2 * 2) * 2
    for cell in cells:
        searched = searched_cell(cell, search_settings(config))
        assert found[searched.condition_path] == searched
        assert searched == replace(cell, seed=0, epochs=10)


def test_a_search_can_be_asked_for_where_the_rate_is_given():
    config = check(of_blocks({"precision": ["float16"], "learning_rate": 0.5}, {}))
    assert [cell.precision for cell in searches(config).values()] == ["float16", "float32"]
    assert {cell.learning_rate for cell in searches(config).values()} == {SEARCH}


@pytest.mark.parametrize("key", OTHERWISE)
def test_rules_of_a_setup_that_are_trained_differently_cannot_share_a_search(key: str):
    """A search of every rule has one for each of them."""
    blocks = [{"learning_rate": "search"}, {"rule": ["minimal"], "learning_rate": "search", key: OTHERWISE[key]}]
    message = error(of_blocks(*blocks))
    paths = [f"mnist_5k/lenet5/none/sgd/float32/{rule}/relu-0/seed0" for rule in ("native", "minimal")]
    assert message.startswith(f"{paths[1]}: ")
    assert f"is also made by {paths[0]} with another {key}; they share a search" in message
    config = of_blocks(*blocks)
    config["maxpool"]["search"] = {"per_rule": True}
    assert len(searches(check(config))) == 2


def test_rules_whose_rates_are_given_need_not_agree():
    """`snakemake learning_rates` takes the first, or the one that waits for a search."""
    blocks = [{"batch_size": 64}, {"rule": ["minimal"], "batch_size": 32}]
    (cell,) = searches(check(of_blocks(*blocks))).values()
    assert cell.batch_size == 64
    blocks[1]["learning_rate"] = "search"
    (cell,) = searches(check(of_blocks(*blocks))).values()
    assert cell.batch_size == 32


def test_epochs_and_seeds_of_blocks_do_not_matter_to_a_search():
    searched = {"learning_rate": "search"}
    config = of_blocks({**searched, "epochs": 3}, {**searched, "epochs": 5, "seeds": [9], "rule": ["minimal"]})
    assert len(searches(check(config))) == 1


def test_defaults_of_a_search():
    assert search_settings(check(BARE)) == SEARCH_DEFAULTS
    config = changed({SEARCH_KEY: {"trials": 3}})
    assert search_settings(check(config)) == {**SEARCH_DEFAULTS, "trials": 3}
    assert SEARCH_DEFAULTS.keys() == OBJECTS[SEARCH_KEY]["properties"].keys()


def test_defaults_of_the_errors_of_poolings():
    config = changed({f"{ERRORS_KEY}.normalization": GONE, f"{ERRORS_KEY}.batch_size": GONE})
    assert pooling_errors_settings(check(config)) == {**config["maxpool"]["pooling_errors"], **POOLING_ERRORS_DEFAULTS}
    config = changed({f"{ERRORS_KEY}.batch_size": 3})
    assert pooling_errors_settings(check(config)) == config["maxpool"]["pooling_errors"]
    assert pooling_errors_settings(check(BARE)) is None


def test_an_override_of_epochs_leaves_the_search_as_it_is():
    config = changed({"epochs": 1, f"{SEARCH_KEY}.epochs": 4, RATE_KEY: "search"})
    assert {cell.epochs for cell in training_cells(check(config))} == {1}
    assert {cell.epochs for cell in searches(check(config)).values()} == {4}


# ---------------------------------------------------------------------------------- one truth in each place


def test_schema_names_what_the_registries_have():
    from nonsmooth.architectures import NORMALIZATIONS
    from nonsmooth.images import AUGMENTATIONS
    from nonsmooth.precision import PRECISIONS

    registries = {
        "dataset": DATASETS,
        "architecture": ARCHITECTURES,
        "normalization": NORMALIZATIONS,
        "optimizer": [*WEIGHT_DECAY, *SAFEGUARDED],
        "precision": PRECISIONS,
        "evaluation": EVALUATIONS,
    }
    for name, registry in registries.items():
        assert NODES[f"{BLOCK_KEY}.{name}[0]"]["enum"] == list(registry), name
    assert NODES[f"{BLOCK_KEY}.augmentation"]["enum"] == list(AUGMENTATIONS)
    assert set(OBJECTS["datasets"]["properties"]) == {name for name in DATASETS if not DATASETS[name].is_embedded}
    assert set(FETCHED) | set(STREAMED) == set(OBJECTS["datasets"]["properties"])


def test_what_is_registered_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["mnist"], title="Toy"))
    monkeypatch.setitem(DATASETS, "toy_folder", replace(DATASETS["imagenet"], title="Toys"))
    monkeypatch.setitem(ARCHITECTURES, "toynet", replace(ARCHITECTURES["lenet5"], title="Toynet"))
    found = schema()
    for name, entry in (("dataset", "toy"), ("architecture", "toynet")):
        assert entry in found["$defs"][name]["enum"]
    assert found["properties"]["datasets"]["properties"]["toy"] == {"$ref": "#/$defs/source"}
    assert found["properties"]["datasets"]["properties"]["toy_folder"] == {"$ref": "#/$defs/folder"}
    block = {**BLOCK, "dataset": ["toy"], "architecture": ["toynet"], "rule": ["toyrule"], "learning_rate": 1}
    monkeypatch.setitem(SIMPLE_RULES, "toyrule", type("Toy", (), {"__str__": lambda _: "toyrule"}))
    assert [cell.path for cell in cells_of(block)] == ["toy/toynet/none/sgd/float32/toyrule/relu-0/seed0"]
    check(changed({f"{BLOCK_KEY}.rule[0]": "toyrule"}))


@pytest.mark.parametrize("what", ["optimizer", "schedule"])
def test_schema_names_what_training_takes(what: str):
    from torch import nn

    from nonsmooth.optimizers import build_optimizer, build_schedule

    cell = cells_of({**BLOCK, "learning_rate": 0.1})[0]
    model = nn.Linear(1, 1)

    def build(name: str) -> object:
        optimizer = build_optimizer(cell if what == "schedule" else replace(cell, optimizer=name), model)
        return build_schedule(replace(cell, schedule=name), optimizer) if what == "schedule" else optimizer

    allowed = NODES[f"{BLOCK_KEY}.schedule"]["enum"] if what == "schedule" else FACTOR_NAMES["optimizer"]
    assert all(SAFEGUARDED.get(name, name) in type(build(name)).__name__.lower() for name in allowed)
    with pytest.raises(ValueError, match=f"unknown {what} 'other'") as caught:
        build("other")
    assert re.findall(r"'(\w+)'", str(caught.value).split("expected")[1]) == allowed


def test_planning_does_not_import_torch():
    program = "import sys, nonsmooth.config as c; c.check(c.yaml.safe_load(sys.argv[1])); print(*sys.modules)"
    command = [sys.executable, "-c", program, yaml.safe_dump(FULL)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "nonsmooth.config" in names
    assert not {"torch", "torchvision", "pandas", "matplotlib", "optuna", "mlxtend", "scipy", "pooch"} & set(names)


# ---------------------------------------------------------------------------------------------- weights


def weights_of(*blocks: dict, **top: Any) -> list[WeightsCell]:
    """The cells of a configuration with these blocks of weights, each of which needs only what differs from `WEIGHTS`."""
    config = {**BARE, **top, "maxpool": {"train": [BLOCK], "weights": [{**WEIGHTS, **block} for block in blocks]}}
    return weights_cells(check(config))


def test_a_block_of_weights_is_the_product_of_its_lists():
    pairs, levels = [["minimal", "native"], ["native", "native"], ["native+relu-1", "native"]], ["float16", "float32"]
    found = weights_of(
        {"dataset": ["mnist_5k", "cifar10"], "architecture": ["vgg11"], "normalization": ["batch_norm"], "precision": levels,
         "compare": pairs, "seeds": [3, 1], "epochs": 4, "learning_rate": 0.5, "batch_size": 64},
    )  # fmt: skip
    expected = []
    for dataset, augmentation in (("mnist_5k", "none"), ("cifar10", "crop_flip")):
        for precision in levels:
            for program, reference in pairs:
                for seed in (3, 1):
                    expected.append(
                        WeightsCell(
                            dataset=dataset,
                            architecture="vgg11",
                            normalization="batch_norm",
                            precision=precision,
                            program=program,
                            reference=reference,
                            seed=seed,
                            epochs=4,
                            learning_rate=0.5,
                            batch_size=64,
                            augmentation=augmentation,
                        )
                    )
    assert found == expected


def test_weights_have_the_published_rate_and_may_be_left_out():
    (cell,) = weights_of({})
    assert (cell.learning_rate, cell.batch_size, cell.train_split) == (0.01, 128, "train")
    assert weights_cells(check(BARE)) == []


def test_seeds_and_epochs_at_the_top_replace_those_of_weights():
    found = weights_of({"seeds": [5], "epochs": 7}, {"compare": [["native", "native"]]}, seeds=[1, 2], epochs=3)
    assert [(cell.program, cell.seed, cell.epochs) for cell in found] == [
        (program, seed, 3) for program in ("minimal", "native") for seed in (1, 2)
    ]


def test_weights_that_two_blocks_share_come_once_if_they_agree():
    assert len(weights_of({}, {"seeds": [1, 0]})) == 2
    for key, value in {"epochs": 2, "learning_rate": 0.1, "batch_size": 64}.items():
        with pytest.raises(
            ConfigError, match=rf"^maxpool\.weights\[1\]: mnist_5k/\S+/seed0 is also .* another {key}; two "
        ):
            weights_of({}, {"seeds": [1, 0], key: value})


def test_weights_of_imagenet_are_left_out_without_a_folder(tmp_path: Path):
    block = {"dataset": ["imagenet", "cifar10"], "architecture": ["resnet50"]}
    config = {**BARE, "maxpool": {"train": [BLOCK], "weights": [{**WEIGHTS, **block}]}}
    assert set(left_out(check(config))) == {"imagenet"}
    assert [cell.dataset for cell in weights_cells(check(config))] == ["cifar10"]
    make_imagenet(tmp_path)
    given = check({**config, "datasets": {"imagenet": {"path": str(tmp_path)}}})
    assert [cell.dataset for cell in weights_cells(given)] == ["imagenet", "cifar10"]


def test_when_a_training_is_saved_has_defaults():
    assert checkpoints_settings(BARE) == CHECKPOINTS_DEFAULTS
    assert checkpoints_settings({**BARE, "checkpoints": {"epochs": 5}}) == {"minutes": 10, "epochs": 5}


def test_how_claims_are_decided_has_defaults():
    assert claims_settings(BARE) == CLAIMS_DEFAULTS
    assert claims_settings({**BARE, "claims": {"margin": 0.2}}) == {**CLAIMS_DEFAULTS, "margin": 0.2}


# ----------------------------------------------------------------------------------------- config/README.md

NAMES = {
    "dataset": ("dataset", list(DATASETS)),
    "architecture": ("architecture", list(ARCHITECTURES)),
}


def readme_rows(columns: int) -> list[list[str]]:
    """The cells of the rows with this many columns in config/README.md's tables that start with a name in code."""
    lines = (ROOT / "config/README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [row for row in rows if len(row) == columns]


def documented() -> dict[str, list[str]]:
    """Meaning, type and allowed values, and default, by key."""
    return {key.strip("`"): rest for key, *rest in readme_rows(4)}


def dotted(key: str) -> str:
    """A key as the README writes it: without positions, and one for all datasets."""
    key = key.replace("[0]", "")
    return re.sub(rf"^datasets\.({'|'.join(DATASETS)})(?=\.|$)", "datasets.<name>", key)


def test_every_key_is_documented():
    assert set(documented()) == {dotted(key) for key in NODES if key}


def test_every_name_is_documented():
    """Datasets and architectures have tables of their own."""
    named = {name for first, *_ in readme_rows(3) for name in re.findall(r"`(\w+)`", first)}
    assert named == {*DATASETS, *ARCHITECTURES}


def names_of(key: str) -> tuple[str, list[str]] | None:
    """What a key names, if that is in a table of the library."""
    for what, values in NAMES.values():
        if NODES[key].get("enum") == values:
            return what, values
    return None


def test_documented_values_are_the_allowed_ones():
    for key, node in NODES.items():
        if "enum" not in node:
            continue
        text = documented()[dotted(key)][1]
        named, values = names_of(key), re.findall(r"`([\w-]+)`", text)
        assert values == node["enum"] or (values == [] and named and re.search(rf"{named[0]}s?['’]s? name", text)), key
    values = re.findall(r"`(\w+)`", documented()["maxpool.train.learning_rate"][1])
    assert values == SCHEMA["$defs"]["block"]["properties"]["learning_rate"]["then"]["enum"]


WORDS = {"integer": "integer", "number": "number", "boolean": "true or false", "object": "mapping", "array": "list"}


def test_documented_types_are_the_types():
    for key, node in NODES.items():
        if not key or key.endswith("[0]"):
            continue
        text = documented()[dotted(key)][1]
        word = WORDS.get(node.get("type"), "")
        assert text.startswith(word), (key, text)
        if node.get("type") == "string":
            assert text.startswith("text") or text.endswith("name"), (key, text)
        item = NODES.get(f"{key}[0]", {}).get("type")
        if item in ("integer", "number"):
            assert text.startswith(f"list of {item}s"), (key, text)
        bounds = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}"}
        for name, sign in bounds.items():
            if name in node and "maximum" not in node:
                assert sign.format(node[name]) in text, (key, text)
        if "maximum" in node:
            assert f"from {node['minimum']} to {node['maximum']}" in text, (key, text)


def test_documented_defaults_are_the_defaults():
    defaults = {dotted(below(key, name)): [] for key, node in OBJECTS.items() for name in node["properties"]}
    defaults |= {key: [value] for key, value in DEFAULTS.items()}
    defaults |= {f"checkpoints.{key}": [] if value is None else [value] for key, value in CHECKPOINTS_DEFAULTS.items()}
    defaults |= {f"claims.{key}": [value] for key, value in CLAIMS_DEFAULTS.items()}
    defaults |= {f"maxpool.train.{key}": [value] for key, value in BLOCK_DEFAULTS.items()}
    defaults |= {f"maxpool.search.{key}": [value] for key, value in SEARCH_DEFAULTS.items()}
    defaults |= {f"maxpool.weights.{key}": [value] for key, value in WEIGHTS_DEFAULTS.items()}
    defaults |= {f"maxpool.pooling_errors.{key}": [value] for key, value in POOLING_ERRORS_DEFAULTS.items()}
    zones = {key: [] if value is None else [value] for key, value in ZONES_DEFAULTS.items()}
    defaults |= {f"maxpool.zones.{key}": value for key, value in zones.items()}
    defaults["maxpool.train.weight_decay"] = list(WEIGHT_DECAY.values())
    defaults["maxpool.train.adam_eps"] = [ADAM_EPS_FLOAT16, ADAM_EPS]
    defaults["maxpool.train.augmentation"] = ["crop_flip"]
    for key, node in OBJECTS.items():
        for name in node["properties"]:
            text = documented()[dotted(below(key, name))][2]
            if name in node.get("required", []) and dotted(key) != "datasets.<name>":
                assert text == "required", (key, name)
            else:
                values = [yaml.safe_load(value) for value in re.findall(r"`([^`]+)`", text)]
                conditions = [*FACTOR_NAMES["optimizer"], *FACTOR_NAMES["precision"], *DATASETS]
                numbers = [value for value in values if value not in conditions]
                assert numbers == defaults[dotted(below(key, name))], (key, name)
    augmented = re.findall(r"`(\w+)`", documented()["maxpool.train.augmentation"][2])[1:]
    assert augmented == [name for name, dataset in DATASETS.items() if dataset.augmentation == "crop_flip"]
    required = re.findall(r"`(\w+)`", documented()["datasets.<name>.path"][2])
    assert required == STREAMED


def test_the_readmes_first_columns_are_as_many_as_it_says():
    """Of a block's keys, those that are lists."""
    keys = [key.removeprefix("maxpool.train.") for key in documented() if key.startswith("maxpool.train.")]
    lists = [key for key in keys if NODES[f"{BLOCK_KEY}.{key}"].get("type") == "array"]
    assert keys[: len(lists)] == lists
    words = dict(zip(["nine", "ten", "eleven", "twelve"], range(9, 13), strict=True))
    said = re.search(r"Its first (\w+) keys are lists", (ROOT / "config/README.md").read_text(encoding="utf-8"))[1]
    assert words[said] == len(lists)


def test_a_path_is_a_condition_and_a_seed():
    (cell,) = cells_of({**BLOCK, "learning_rate": 1})
    assert tuple(cell.factors) == (*CONDITION, "seed")


# ------------------------------------------------------------------------------------------------------- zones


def zones_of(**keys: Any) -> list[ZoneCell]:
    """The cells of one block of zones."""
    return zone_cells(check({**BARE, "maxpool": {"train": [BLOCK], "zones": [{**ZONES, **keys}]}}))


def test_zone_cells_are_the_product_of_the_lists():
    lists = {
        "dataset": ["mnist_5k"],
        "architecture": ["lenet5", "vgg11"],
        "normalization": ["none", "batch_norm"],
        "precision": ["float16", "float64"],
        "batch_size": [16, 128],
        "noise": [0, 0.5],
        "kernels": ["deterministic"],
        "seeds": [3, 1],
    }
    compare = [["minimal", "native"], ["native+relu-1", "native"], ["hybrid-10-composed", "native"]]
    found = zones_of(**lists, compare=compare, minibatches=2, initialization="default")
    names = ("dataset", "architecture", "normalization", "precision", "batch_size", "noise", "kernels", "seed")
    expected = {(*values, *pair) for values in itertools.product(*lists.values()) for pair in compare}
    assert {(*(getattr(cell, name) for name in names), cell.program, cell.reference) for cell in found} == expected
    assert len(found) == len(expected) == len({cell.path for cell in found})
    assert {(cell.minibatches, cell.initialization) for cell in found} == {(2, "default")}
    assert {cell.program: cell.replays for cell in found} == {
        "minimal": True, "native+relu-1": True, "hybrid-10-composed": False,
    }  # fmt: skip


def test_a_zone_cell_has_the_published_settings_by_default():
    assert zones_of() == [
        ZoneCell(dataset="mnist_5k", architecture="lenet5", precision="float32", program="minimal", reference="native")
    ]


def test_zone_cells_of_two_blocks_come_once_or_must_agree():
    def both(**keys: Any) -> dict[str, Any]:
        return {**BARE, "maxpool": {"train": [BLOCK], "zones": [ZONES, {**ZONES, "seeds": [1, 0], **keys}]}}

    assert [cell.seed for cell in zone_cells(check(both()))] == [0, 1]
    for key, value in (("minibatches", 3), ("initialization", "default"), ("replays", False)):
        assert error(both(**{key: value})).startswith(
            f"maxpool.zones[1]: {zones_of()[0]} is also made by maxpool.zones[0] with another {key}; "
        )


def test_seeds_of_the_top_are_those_of_zones():
    assert [cell.seed for cell in zone_cells(check({**FULL, "seeds": [5, 7]}))] == [5, 7]
