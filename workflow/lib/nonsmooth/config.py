"""A preset: checking a configuration and expanding its blocks into cells.

Torch-free, so that `snakemake -n` is fast. The shape of a configuration is `workflow/schemas/config.schema.yaml`;
what a schema cannot say is checked here, and every problem is one `ConfigError` that names the key.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from nonsmooth.cells import TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.rules import Hybrid, Minimal, Native, Rule

DEFAULTS: dict[str, Any] = {"device": "cpu", "threads": 1, "deterministic": True, "datasets": {}}
BLOCK_DEFAULTS: dict[str, Any] = {"batch_size": 128, "momentum": 0.9}
# As published: SGD with decay, Adam as it comes.
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0}
ADAM_EPS = 1e-8
# 1e-8 rounds to 0 in float16, and Adam divides by it at the first step.
ADAM_EPS_FLOAT16 = 1e-4

# What an architecture needs of an image, where it is not free: (height, width).
IMAGE_SIZES: dict[str, tuple[int, int]] = {"lenet5": (28, 28)}

# The words of YAML for the types of JSON Schema.
_TYPES = {"array": "a list", "object": "a mapping", "integer": "an integer", "number": "a finite number",
          "boolean": "true or false", "string": "text"}  # fmt: skip
_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")

CONDITION = ("dataset", "architecture", "normalization", "optimizer", "precision")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and says what is allowed."""


def read(path: str | Path, schema: str | Path, needs_rates: bool = True) -> dict[str, Any]:
    """The checked configuration in a YAML file, with defaults filled in; see `check`."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    try:
        return check(config, schema, needs_rates)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def check(config: Any, schema: str | Path, needs_rates: bool = True) -> dict[str, Any]:
    """The configuration with top-level defaults filled in; learning rates may be missing unless `needs_rates`.

    Raises ConfigError for the first problem found: an unknown key, a wrong type or value, an empty list,
    repeated entries, a combination that cannot be run, missing data files.
    """
    _check_schema(config, schema)
    config = {**DEFAULTS, **config}
    _check_device(config)
    cells = training_cells(config, needs_rates)
    _check_data(config, cells)
    _check_ties(config)
    return config


def training_cells(config: dict[str, Any], needs_rates: bool = True) -> list[TrainingCell]:
    """Every cell of `maxpool.train`, in the order of the blocks; a cell that two blocks share comes once.

    A missing learning rate is a ConfigError, or 0 unless `needs_rates`.
    """
    rates = _learning_rates(config)
    if not needs_rates:
        rates = defaultdict(lambda: 0.0, rates)
    cells: dict[str, tuple[TrainingCell, str]] = {}
    for number, block in enumerate(config["maxpool"]["train"]):
        where = f"maxpool.train[{number}]"
        for cell in _block_cells(block, where, rates):
            known, first = cells.setdefault(cell.path, (cell, where))
            if known != cell:
                differing = [key for key, value in cell.settings.items() if known.settings[key] != value]
                raise ConfigError(
                    f"{where}: {cell} is also made by {first} with another {' and '.join(differing)}; a "
                    "condition can be trained in one way per preset"
                )
    return [cell for cell, _ in cells.values()]


def rules(block: dict[str, Any], where: str = "block") -> list[Rule]:
    """The pooling rules of a block: `hybrid` stands for every beta in every evaluation."""
    needs = [key for key in ("beta", "evaluation") if ("hybrid" in block["rule"]) != (key in block)]
    if needs:
        key = needs[0]
        if "hybrid" in block["rule"]:
            raise ConfigError(f"{where}.{key}: missing; rule 'hybrid' needs beta and evaluation")
        raise ConfigError(f"{where}.{key}: only rule 'hybrid' has it, and it is not in {where}.rule")
    found: list[Rule] = []
    for name in block["rule"]:
        match name:
            case "native":
                found.append(Native())
            case "minimal":
                found.append(Minimal())
            case "hybrid":
                try:
                    found += [Hybrid(float(b), e) for e, b in product(block["evaluation"], block["beta"])]
                except ValueError as error:
                    raise ConfigError(f"{where}.beta: {error}") from error
    return found


def _block_cells(block: dict[str, Any], where: str, rates: dict[tuple, float]) -> Iterator[TrainingCell]:
    block = {**BLOCK_DEFAULTS, **block}
    rule_names = [str(rule) for rule in rules(block, where)]
    for condition in product(*(block[factor] for factor in CONDITION)):
        values = dict(zip(CONDITION, condition, strict=True))
        size = DATASETS[values["dataset"]].shape[1:]
        needed = IMAGE_SIZES.get(values["architecture"], size)
        if size != needed:
            raise ConfigError(
                f"{where}: architecture {values['architecture']} takes images of {needed}, dataset "
                f"{values['dataset']} has {size}"
            )
        try:
            rate = block["learning_rate"] if "learning_rate" in block else rates[condition]
        except KeyError:
            raise ConfigError(
                f"{where}.learning_rate: missing, and learning_rates has no entry for {', '.join(condition)}; give "
                "one or the other (python -m nonsmooth.tuning --help searches for a rate)"
            ) from None
        in_float16 = values["precision"] == "float16"
        for rule, seed in product(rule_names, block["seeds"]):
            yield TrainingCell(
                **values,
                rule=rule,
                seed=seed,
                epochs=block["epochs"],
                batch_size=block["batch_size"],
                learning_rate=float(rate),
                momentum=float(block["momentum"]),
                weight_decay=float(block.get("weight_decay", WEIGHT_DECAY[values["optimizer"]])),
                adam_eps=float(block.get("adam_eps", ADAM_EPS_FLOAT16 if in_float16 else ADAM_EPS)),
            )


def _learning_rates(config: dict[str, Any]) -> dict[tuple, float]:
    rates: dict[tuple, float] = {}
    for number, entry in enumerate(config.get("learning_rates", [])):
        condition = tuple(entry[factor] for factor in CONDITION)
        if condition in rates:
            raise ConfigError(f"learning_rates[{number}]: a second entry for {', '.join(condition)}")
        rates[condition] = entry["value"]
    return rates


def _check_device(config: dict[str, Any]) -> None:
    if config["device"] == "cpu":
        for number, block in enumerate(config["maxpool"]["train"]):
            if "tf32" in block["precision"]:
                raise ConfigError(
                    f"maxpool.train[{number}].precision: 'tf32' exists on NVIDIA GPUs only, and device is 'cpu'; "
                    "remove it or set device: cuda"
                )
    if "tf32" in config["maxpool"].get("ties", {}).get("precisions", []):
        raise ConfigError(
            "maxpool.ties.precisions: 'tf32' exists on NVIDIA GPUs only, and ties are found on the CPU; remove it"
        )


def _check_data(config: dict[str, Any], cells: list[TrainingCell]) -> None:
    names = {cell.dataset for cell in cells}
    names |= {config["maxpool"]["ties"]["dataset"]} if "ties" in config["maxpool"] else set()
    for name in sorted(names):
        dataset = DATASETS[name]
        if not dataset.files:
            continue
        path = config["datasets"].get(name, {}).get("path")
        if path is None:
            raise ConfigError(f"datasets.{name}.path: missing; {name} is read from a folder ({dataset.source})")
        missing = dataset.missing_files(path)
        if missing:
            raise ConfigError(f"datasets.{name}.path: {path} lacks {', '.join(missing)}; {dataset.source}")


def _check_ties(config: dict[str, Any]) -> None:
    ties = config["maxpool"].get("ties")
    if ties is not None:
        images = DATASETS[ties["dataset"]].sizes["test"]
        if ties["image"] >= images:
            raise ConfigError(
                f"maxpool.ties.image: {ties['image']}; {ties['dataset']} has test images 0 to {images - 1}"
            )


def _check_schema(config: Any, path: str | Path) -> None:
    error = best_match(_validator(path).iter_errors(config))
    if error is not None:
        raise ConfigError(_describe(error))


@cache
def _validator(path: str | Path) -> Any:
    """A validator in which 1.0 is no integer (`seed1.0` is not `seed1`) and a number is finite."""
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": lambda _, value: type(value) is int, "number": lambda _, value: _is_finite_number(value)}
    )
    schema = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return validators.extend(Draft202012Validator, type_checker=types)(schema)


def _is_finite_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:
        return False


def _describe(error: ValidationError) -> str:
    where = ""
    for part in error.absolute_path:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    value, limit = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            unknown = next(key for key in value if key not in allowed)
            close = difflib.get_close_matches(str(unknown), allowed, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            return f"{where + '.' if where else ''}{unknown}: unknown key{hint} allowed: {', '.join(allowed)}"
        case "required":
            missing = next(key for key in limit if key not in value)
            return f"{where + '.' if where else ''}{missing}: missing, and required"
        case "enum":
            return f"{where}: {value!r} is not allowed; one of {', '.join(map(str, limit))}"
        case "type":
            hint = ""
            if limit == "number" and isinstance(value, str) and _EXPONENT.fullmatch(value):
                hint = "; YAML reads that as text: write a point and a signed exponent, as in 5.0e-4 or 1.0e+3"
            return f"{where or 'configuration'}: expected {_TYPES.get(limit, limit)}, got {value!r}{hint}"
        case "minItems":
            return f"{where}: the list is empty; give at least one entry"
        case "uniqueItems":
            repeated = next(item for i, item in enumerate(value) if item in value[:i])
            return f"{where}: {repeated!r} is there twice; each entry once"
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            words = {"minimum": "at least", "maximum": "at most",
                     "exclusiveMinimum": "more than", "exclusiveMaximum": "less than"}  # fmt: skip
            return f"{where}: {value!r} must be {words[error.validator]} {limit}"
        case "pattern":
            return f"{where}: {value!r} must be letters, digits, _ and -, with a letter or digit first"
    return f"{where or 'configuration'}: {error.message}"
