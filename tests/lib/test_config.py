"""Checking a configuration and expanding it into cells.

Wrong configurations are derived from the schema, so that a new key is tested as soon as it exists; cells are
recomputed by nested loops.
"""

from __future__ import annotations

import copy
import json
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
from hypothesis import given, settings
from hypothesis import strategies as st

from nonsmooth.cells import TrainingCell
from nonsmooth.config import (
    ADAM_EPS,
    ADAM_EPS_FLOAT16,
    BLOCK_DEFAULTS,
    CONDITION,
    DEFAULTS,
    IMAGE_SIZES,
    WEIGHT_DECAY,
    ConfigError,
    check,
    read,
    training_cells,
)
from nonsmooth.datasets import DATASETS
from nonsmooth.rules import EVALUATIONS, Hybrid, Minimal, Native, parse_rule

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_PATH = ROOT / "workflow/schemas/config.schema.yaml"
SCHEMA = yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))
PRESETS = [ROOT / "config/config.yaml", *sorted((ROOT / "config/presets").glob("*.yaml"))]

quick = settings(deadline=None, derandomize=True, max_examples=50)

CHOICE = {
    "dataset": "mnist_5k",
    "architecture": "lenet5",
    "normalization": "none",
    "optimizer": "sgd",
    "precision": "float32",
}
BLOCK = {**{factor: [name] for factor, name in CHOICE.items()}, "rule": ["native"], "seeds": [0], "epochs": 1}
BARE = {"run": "mine", "learning_rates": [{**CHOICE, "value": 0.03}], "maxpool": {"train": [BLOCK]}}
# Every key of the schema with a valid value.
FULL = {
    **BARE,
    "device": "cpu",
    "threads": 1,
    "deterministic": True,
    "datasets": {"fashion_mnist": {"path": "not read by any block"}},
    "maxpool": {
        "train": [
            {
                **BLOCK,
                "rule": ["native", "minimal", "hybrid"],
                "beta": [10],
                "evaluation": ["exact"],
                "batch_size": 128,
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 0.0005,
                "adam_eps": 0.0001,
            }
        ],
        "ties": {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "image": 0,
            "seed": 0,
            "precisions": ["float32"],
        },
    },
}
BLOCK_KEY, TIES_KEY = "maxpool.train[0]", "maxpool.ties"
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
            del inner[last]
        else:
            inner[last] = value
    return config


def below(key: str, name: str) -> str:
    return f"{key}.{name}".lstrip(".")


def error(config: Any) -> str:
    """The message of the one ConfigError, which is one line."""
    with pytest.raises(ConfigError) as caught:
        check(config, SCHEMA_PATH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- what the schema says, for every key


def test_full_and_bare_are_valid_and_full_has_every_key():
    check(BARE, SCHEMA_PATH)
    checked = check(FULL, SCHEMA_PATH)
    for key in NODES:
        get(checked, parts(key))


def test_checking_changes_nothing():
    for config in (BARE, FULL):
        before = copy.deepcopy(config)
        check(config, SCHEMA_PATH)
        assert config == before


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, node in OBJECTS.items() for name in node["properties"]])
def test_misspelt_key(key: str, name: str):
    """Also where the misspelt key is required: the message is about what is there."""
    value = get(FULL, parts(below(key, name)))
    message = error(changed({below(key, name): GONE, below(key, f"{name}x"): value}))
    assert message.startswith(f"{below(key, name)}x: unknown key, did you mean {name!r}? ")
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


def test_equal_numbers_are_one_entry():
    assert error(changed({f"{BLOCK_KEY}.beta": [10, 1, 10.0]})).startswith(f"{BLOCK_KEY}.beta: 10.0 is there twice")


def test_lists_of_values_are_lists_of_distinct_values():
    """A list without `uniqueItems` in the schema would train one path twice."""
    repeatable = {key for key in of_type("array") if not NODES[key].get("uniqueItems")}
    assert repeatable == {"learning_rates", "maxpool.train"}


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("threads", 0, "at least 1"),
        (f"{BLOCK_KEY}.epochs", 0, "at least 1"),
        (f"{BLOCK_KEY}.batch_size", 0, "at least 1"),
        (f"{BLOCK_KEY}.seeds[0]", -1, "at least 0"),
        (f"{BLOCK_KEY}.seeds[0]", 2**32, "at most 4294967295"),
        (f"{BLOCK_KEY}.learning_rate", 0, "more than 0"),
        (f"{BLOCK_KEY}.learning_rate", -0.1, "more than 0"),
        (f"{BLOCK_KEY}.momentum", -0.1, "at least 0"),
        (f"{BLOCK_KEY}.momentum", 1, "less than 1"),
        (f"{BLOCK_KEY}.weight_decay", -1, "at least 0"),
        (f"{BLOCK_KEY}.adam_eps", 0, "more than 0"),
        ("learning_rates[0].value", 0, "more than 0"),
        (f"{TIES_KEY}.image", -1, "at least 0"),
        (f"{TIES_KEY}.seed", -1, "at least 0"),
        (f"{TIES_KEY}.seed", 2**32, "at most 4294967295"),
    ],
)
def test_out_of_bounds(key: str, value: float, bound: str):
    assert error(changed({key: value})) == f"{key}: {value!r} must be {bound}"


@pytest.mark.parametrize("key", of_type("integer"))
def test_an_integer_is_written_without_a_point(key: str):
    """JSON Schema takes 1.0 for an integer, but `range` does not, and `seed1.0` is not `seed1`."""
    message = error(changed({key: 1.0}))
    assert re.match(rf"{re.escape(key)}: expected (an )?integer.*, got 1\.0", message)


@pytest.mark.parametrize("key", of_type("number"))
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
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
    assert check(changed({"run": name}), SCHEMA_PATH)["run"] == name


# YAML 1.1 needs a point in the mantissa and a sign in the exponent.
@pytest.mark.parametrize("text", ["5e-4", "1e3", "1E-4", "1.0e4", "-1e3", "5e+4"])
def test_exponent_that_yaml_reads_as_text(text: str):
    value = yaml.safe_load(text)
    assert value == text
    message = error(changed({f"{BLOCK_KEY}.beta": [value]}))
    assert message.startswith(f"{BLOCK_KEY}.beta[0]: expected ")
    assert re.search(rf"number, got {re.escape(repr(text))}; .*5\.0e-4", message)


def test_quoted_number_has_no_hint_about_exponents():
    assert "e-4" not in error(changed({f"{BLOCK_KEY}.learning_rate": "0.1"}))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({f"{BLOCK_KEY}.dataset": "mnist_5k"}, "list"),
        ({"learning_rates": None}, "list"),
        ({"maxpool.train": BLOCK}, "list"),
        ({"maxpool": None}, "mapping"),
        ({TIES_KEY: []}, "mapping"),
        ({"deterministic": "yes"}, "true or false"),
    ],
)
def test_types_have_the_words_of_yaml(changes: dict[str, Any], word: str):
    assert f"expected {word}" in error(changed(changes)).replace("expected a ", "expected ")


# --------------------------------------------------------------------------------- what a schema cannot say


IMPOSSIBLE = {
    "tf32 on a CPU": (
        {f"{BLOCK_KEY}.precision": ["float32", "tf32"]},
        f"{BLOCK_KEY}.precision: 'tf32' exists on NVIDIA GPUs only, and device is 'cpu'; remove it or set device: cuda",
    ),
    "tf32 on the CPU of the defaults": (
        {"device": GONE, f"{BLOCK_KEY}.precision": ["tf32"]},
        f"{BLOCK_KEY}.precision: 'tf32' exists on NVIDIA GPUs only",
    ),
    "ties in tf32 on a CPU": (
        {f"{TIES_KEY}.precisions": ["tf32"]},
        f"{TIES_KEY}.precisions: 'tf32' exists on NVIDIA GPUs only",
    ),
    "ties in tf32, which are found on the CPU with any device": (
        {"device": "cuda", f"{TIES_KEY}.precisions": ["tf32"]},
        f"{TIES_KEY}.precisions: 'tf32' ",
    ),
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
    "beta that is no float64": ({f"{BLOCK_KEY}.beta": [10**400]}, f"{BLOCK_KEY}.beta"),
    "no learning rate": (
        {f"{BLOCK_KEY}.learning_rate": GONE, f"{BLOCK_KEY}.precision": ["float64"]},
        f"{BLOCK_KEY}.learning_rate: missing, and learning_rates has no entry for mnist_5k, lenet5, none, "
        "sgd, float64; give one or the other",
    ),
    "no learning rates at all": (
        {f"{BLOCK_KEY}.learning_rate": GONE, "learning_rates": GONE},
        f"{BLOCK_KEY}.learning_rate: missing, and learning_rates has no entry for mnist_5k, ",
    ),
    "two learning rates": (
        {"learning_rates": [{**CHOICE, "value": 0.03}, {**CHOICE, "value": 0.1}]},
        "learning_rates[1]: a second entry for mnist_5k, lenet5, none, sgd, float32",
    ),
    "image out of range": (
        {f"{TIES_KEY}.image": 1000},
        f"{TIES_KEY}.image: 1000; mnist_5k has test images 0 to 999",
    ),
    "no path for a dataset that is trained on": (
        {f"{BLOCK_KEY}.dataset": ["fashion_mnist"], "datasets": GONE},
        "datasets.fashion_mnist.path: missing; fashion_mnist is read from a folder (",
    ),
    "no path for the dataset of the ties": (
        {f"{TIES_KEY}.dataset": "fashion_mnist", "datasets": {}},
        "datasets.fashion_mnist.path: missing; fashion_mnist is read from a folder (",
    ),
    "empty path": ({"datasets.fashion_mnist.path": ""}, "datasets.fashion_mnist.path: "),
}


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_combination_that_cannot_be_run(changes: dict[str, Any], message: str):
    assert error(changed(changes)).startswith(message)


def test_tf32_on_a_gpu():
    check(changed({"device": "cuda", f"{BLOCK_KEY}.precision": ["tf32"]}), SCHEMA_PATH)


def test_error_names_the_number_of_the_block():
    config = changed({"maxpool.train": [BLOCK, {**BLOCK, "precision": ["float64"]}]})
    assert error(config).startswith("maxpool.train[1].learning_rate: missing")


def test_missing_data_files_are_listed(tmp_path: Path):
    names = [name for split in DATASETS["fashion_mnist"].files.values() for name in split]
    (tmp_path / names[0]).touch()
    config = changed({f"{BLOCK_KEY}.dataset": ["fashion_mnist"], "datasets.fashion_mnist.path": str(tmp_path)})
    expected = f"datasets.fashion_mnist.path: {tmp_path} lacks {', '.join(names[1:])}; "
    assert error(config).startswith(expected)
    for name in names:
        (tmp_path / name).touch()
    check(config, SCHEMA_PATH)


def test_image_size_of_an_architecture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(IMAGE_SIZES, "lenet5", (32, 32))
    assert error(FULL) == (
        "maxpool.train[0]: architecture lenet5 takes images of (32, 32), dataset mnist_5k has (28, 28)"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 2),
        ("batch_size", 64),
        ("learning_rate", 0.2),
        ("momentum", 0.5),
        ("weight_decay", 0.0),
        ("adam_eps", 1e-3),
    ],
)
def test_two_blocks_that_train_a_cell_differently(key: str, value: float):
    message = error(changed({"maxpool.train": [BLOCK, {**BLOCK, "seeds": [1, 0], key: value}]}))
    cell = "mnist_5k/lenet5/none/sgd/float32/native/seed0"
    assert message.startswith(f"maxpool.train[1]: {cell} is also made by maxpool.train[0] with another {key}; ")


# -------------------------------------------------------------------------------------------- files of YAML


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"- a\n", b"text", b"3"])
def test_file_that_is_not_a_mapping(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="mapping") as caught:
        read(path, SCHEMA_PATH)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"run: [1\nmaxpool", b"run:\n\t- x", b"a: 1\n---\nb: 1\n", b"run: caf\xe9\n"])
def test_file_that_is_not_yaml(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        read(path, SCHEMA_PATH)


def test_file_that_is_not_there(tmp_path: Path):
    with pytest.raises((ConfigError, FileNotFoundError), match=re.escape(str(tmp_path / "mine.yaml"))):
        read(tmp_path / "mine.yaml", SCHEMA_PATH)


@pytest.mark.parametrize("config", [None, [], "text", 3])
def test_configuration_that_is_not_a_mapping(config: Any):
    assert error(config).startswith("configuration: expected ")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_shipped_preset(path: Path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, entry in config.get("datasets", {}).items():
        if DATASETS[name].missing_files(entry["path"]):
            pytest.skip(f"{name} is not in {entry['path']}: {DATASETS[name].source}")
    assert training_cells(read(path, SCHEMA_PATH))


def test_shipped_presets_have_their_own_folders():
    names = [yaml.safe_load(path.read_text(encoding="utf-8"))["run"] for path in PRESETS]
    assert len(set(names)) == len(names)


# ---------------------------------------------------------------------------------------------- the product

FACTOR_NAMES = {factor: NODES[f"{BLOCK_KEY}.{factor}[0]"]["enum"] for factor in CONDITION}


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """A valid block with its own learning rate."""

    def some(values: list) -> list:
        return draw(st.lists(st.sampled_from(values), min_size=1, unique=True))

    block: dict[str, Any] = {factor: some(FACTOR_NAMES[factor]) for factor in CONDITION}
    fitting = [
        name
        for name in FACTOR_NAMES["dataset"]
        if all(
            IMAGE_SIZES.get(architecture, size) == size
            for size in [DATASETS[name].shape[1:]]
            for architecture in block["architecture"]
        )
    ]
    block |= {"dataset": some(fitting), "rule": some(["native", "minimal", "hybrid"])}
    if "hybrid" in block["rule"]:
        betas = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False))
        block["beta"] = draw(st.lists(betas, min_size=1, max_size=4, unique_by=float))
        block["evaluation"] = some(list(EVALUATIONS))
    block["seeds"] = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True))
    return {**block, "epochs": 3, "learning_rate": 0.1}


def cells_of(*blocks: dict) -> list[TrainingCell]:
    return training_cells({"maxpool": {"train": list(blocks)}})


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


@quick
@given(blocks())
def test_a_block_is_the_product_of_its_lists_in_their_order(block: dict):
    paths = [
        f"{dataset}/{architecture}/{normalization}/{optimizer}/{precision}/{rule}/seed{seed}"
        for dataset in block["dataset"]
        for architecture in block["architecture"]
        for normalization in block["normalization"]
        for optimizer in block["optimizer"]
        for precision in block["precision"]
        for rule in rule_names(block)
        for seed in block["seeds"]
    ]
    cells = cells_of(block)
    assert [cell.path for cell in cells] == [str(cell) for cell in cells] == paths
    assert len(set(paths)) == len(paths)
    plain = sum(rule != "hybrid" for rule in block["rule"])
    hybrids = len(block.get("beta", [])) * len(block.get("evaluation", []))
    conditions = math.prod(len(block[factor]) for factor in CONDITION)
    assert len(cells) == conditions * (plain + hybrids) * len(block["seeds"])


@quick
@given(blocks())
def test_a_path_says_which_cell_it_is(block: dict):
    for cell in cells_of(block):
        *factors, seed = cell.path.split("/")
        assert [*factors, int(seed.removeprefix("seed"))] == list(cell.factors.values())
        assert all(re.fullmatch(r"[A-Za-z0-9_.+-]+", part) for part in cell.path.split("/"))
        assert str(parse_rule(cell.rule)) == cell.rule
        assert {**cell.factors, **cell.settings} == cell.to_dict()


@quick
@given(blocks())
def test_a_cell_survives_json(block: dict):
    for cell in cells_of(block):
        assert TrainingCell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


@quick
@given(blocks(), blocks())
def test_a_cell_that_two_blocks_share_comes_once(one: dict, other: dict):
    shared = {**one, "seeds": [*one["seeds"], 7] if 7 not in one["seeds"] else one["seeds"]}
    every = [*cells_of(one), *cells_of(other), *cells_of(shared)]
    assert cells_of(one, other, shared) == list(dict.fromkeys(every))


@quick
@given(blocks(), st.sampled_from([*CONDITION, "rule", "beta", "evaluation", "seeds"]))
def test_another_entry_adds_its_cells_and_changes_no_other(block: dict, key: str):
    if len(block.get(key, [])) < 2 or (key == "rule" and block["rule"][-1] == "hybrid"):
        return
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


# --------------------------------------------------------------------------------------------- the defaults


def test_defaults_are_filled_in_and_do_not_override():
    assert check(BARE, SCHEMA_PATH) == {**DEFAULTS, **BARE}
    own = changed({"device": "cuda", "threads": 3, "deterministic": False})
    assert check(own, SCHEMA_PATH) == own


def test_defaults_of_a_block():
    precisions, optimizers = FACTOR_NAMES["precision"], FACTOR_NAMES["optimizer"]
    cells = cells_of({**BLOCK, "precision": precisions, "optimizer": optimizers, "learning_rate": 1})
    assert len(cells) == len(precisions) * len(optimizers)
    for cell in cells:
        assert cell.settings == {
            "epochs": 1,
            "batch_size": 128,
            "learning_rate": 1.0,
            "momentum": 0.9,
            "weight_decay": {"sgd": 5e-4, "adam": 0.0}[cell.optimizer],
            "adam_eps": 1e-4 if cell.precision == "float16" else 1e-8,
        }
        floats = (cell.learning_rate, cell.momentum, cell.weight_decay, cell.adam_eps)
        assert {type(value) for value in floats} == {float}


def test_settings_of_a_block_come_before_defaults_and_learning_rates():
    own = {"batch_size": 32, "learning_rate": 0.7, "momentum": 0, "weight_decay": 0.1, "adam_eps": 0.2}
    block = {**BLOCK, "precision": ["float16", "float32"], "optimizer": ["sgd", "adam"], **own}
    for cell in training_cells(changed({"maxpool.train": [block]}, BARE)):
        assert cell.settings == {"epochs": 1, **own}


def test_each_condition_has_its_learning_rate():
    rates = [{**CHOICE, "precision": name, "value": 0.1 * 2**n} for n, name in enumerate(FACTOR_NAMES["precision"])]
    block = {**BLOCK, "precision": FACTOR_NAMES["precision"]}
    cells = training_cells({"learning_rates": rates[::-1], "maxpool": {"train": [block]}})
    assert [cell.learning_rate for cell in cells] == [entry["value"] for entry in rates]


def test_a_rate_in_the_block_and_the_same_in_the_table_are_one_cell():
    rate = BARE["learning_rates"][0]["value"]
    config = changed({"maxpool.train": [BLOCK, {**BLOCK, "learning_rate": rate}]}, BARE)
    assert len(training_cells(config)) == 1


# ---------------------------------------------------------------------------------- one truth in each place


def test_schema_names_what_the_registries_have():
    from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS
    from nonsmooth.precision import PRECISIONS

    registries = {
        "dataset": DATASETS,
        "architecture": ARCHITECTURES,
        "normalization": NORMALIZATIONS,
        "optimizer": WEIGHT_DECAY,
        "precision": PRECISIONS,
        "rule": [str(Native()), str(Minimal()), str(Hybrid(2.0)).split("-")[0]],
        "evaluation": EVALUATIONS,
    }
    for name, registry in registries.items():
        assert NODES[f"{BLOCK_KEY}.{name}[0]"]["enum"] == list(registry), name
    read_from_a_folder = {name for name, dataset in DATASETS.items() if dataset.files}
    assert set(OBJECTS["datasets"]["properties"]) == read_from_a_folder


def test_schema_names_what_build_optimizer_takes():
    from torch import nn

    from nonsmooth.training import build_optimizer

    cell = cells_of({**BLOCK, "learning_rate": 0.1})[0]
    for name in FACTOR_NAMES["optimizer"]:
        assert type(build_optimizer(replace(cell, optimizer=name), nn.Linear(1, 1))).__name__.lower() == name
    with pytest.raises(ValueError, match="unknown optimizer 'other'") as caught:
        build_optimizer(replace(cell, optimizer="other"), nn.Linear(1, 1))
    assert re.findall(r"'(\w+)'", str(caught.value).split("expected")[1]) == FACTOR_NAMES["optimizer"]


def test_image_sizes_are_those_of_the_architectures():
    from nonsmooth.architectures import ARCHITECTURES

    fixed = {name: made.IMAGE_SIZE for name, made in ARCHITECTURES.items() if hasattr(made, "IMAGE_SIZE")}
    assert {name: (size, size) for name, size in fixed.items()} == IMAGE_SIZES


def test_planning_does_not_import_torch():
    program = "import sys, nonsmooth.config; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "nonsmooth.config" in names
    assert not {"torch", "torchvision", "pandas", "matplotlib", "optuna", "mlxtend"} & set(names)


# ----------------------------------------------------------------------------------------- config/README.md


def documented() -> dict[str, list[str]]:
    """The cells of each row of config/README.md's tables that starts with a key of the configuration."""
    lines = (ROOT / "config/README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if re.match(r"\| `[\w.]+` \|", line)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {key.strip("`"): rest for key, *rest in cells}


def dotted(key: str) -> str:
    return key.replace("[0]", "")


def test_every_key_is_documented():
    assert set(documented()) == {dotted(key) for key in NODES if key}


def test_documented_values_are_the_allowed_ones():
    for key, node in NODES.items():
        if "enum" in node:
            assert re.findall(r"`(\w+)`", documented()[dotted(key)][1]) == node["enum"], key


def test_documented_defaults_are_the_defaults():
    defaults = {dotted(below(key, name)): [] for key, node in OBJECTS.items() for name in node["properties"]}
    defaults |= {key: [value] for key, value in DEFAULTS.items()}
    defaults |= {f"maxpool.train.{key}": [value] for key, value in BLOCK_DEFAULTS.items()}
    defaults["maxpool.train.weight_decay"] = list(WEIGHT_DECAY.values())
    defaults["maxpool.train.adam_eps"] = [ADAM_EPS_FLOAT16, ADAM_EPS]
    for key, node in OBJECTS.items():
        for name in node["properties"]:
            text = documented()[dotted(below(key, name))][2]
            if name in node.get("required", []):
                assert text == "required", (key, name)
            else:
                values = [yaml.safe_load(value) for value in re.findall(r"`([^`]+)`", text)]
                numbers = [value for value in values if value not in FACTOR_NAMES["optimizer"] + ["float16"]]
                assert numbers == defaults[dotted(below(key, name))], (key, name)


def test_a_path_is_a_condition_a_rule_and_a_seed():
    assert (*CONDITION, "rule", "seed") == TrainingCell.FACTORS
