"""The shape of a configuration: `workflow/schemas/config.schema.yaml` with the names that exist, and its errors in words."""

from __future__ import annotations

import difflib
import re
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError, best_match

from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.datasets import DATASETS
from nonsmooth.rules import EVALUATIONS, SIMPLE_RULES, parse_rule

SCHEMA = Path(__file__).resolve().parents[2] / "schemas/config.schema.yaml"

# The words of YAML for the types of JSON Schema.
_TYPES = {"array": "a list", "object": "a mapping", "integer": "an integer", "number": "a finite number",
          "boolean": "true or false", "string": "text"}  # fmt: skip
_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


# The rule that stands for one per beta and evaluation.
HYBRID = "hybrid"
FORMATS = FormatChecker(())


@FORMATS.checks("rule", raises=ValueError)
def _is_rule(value: Any) -> bool:
    if isinstance(value, str) and value != HYBRID:
        parse_rule(value)
    return True


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and says what is allowed."""


def check_shape(config: Any) -> None:
    """Raises ConfigError for the first unknown key, wrong type or value, empty list or repeated entry."""
    problem = first_problem(validator(), config, "configuration")
    if problem is not None:
        raise ConfigError(problem)


def first_problem(checker: Any, value: Any, what: str) -> str | None:
    """What is wrong with `value`, which is called `what`, in words that begin with the key; None if nothing is."""
    error = best_match(checker.iter_errors(value))
    return None if error is None else _describe(error, what)


def schema() -> dict[str, Any]:
    """The schema, with the names that exist: a dataset or an architecture is known here once it is registered."""
    found = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    names = {"dataset": DATASETS, "architecture": ARCHITECTURES, "evaluation": EVALUATIONS}
    for key, values in names.items():
        found["$defs"][key] = {"enum": list(values)}
    entries = {
        name: {"$ref": "#/$defs/folder"} if dataset.streamed else {"$ref": "#/$defs/source"}
        for name, dataset in DATASETS.items()
        if not dataset.is_embedded
    }
    found["properties"]["datasets"]["properties"] = entries
    return found


@cache
def validator() -> Any:
    """The validator of a configuration."""
    return strict_validator(schema())


def strict_validator(schema: dict[str, Any]) -> Any:
    """A validator in which 1.0 is no integer (`seed1.0` is not `seed1`), a number is finite and a rule's name is one."""
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": lambda _, value: type(value) is int, "number": lambda _, value: _is_finite_number(value)}
    )
    return validators.extend(Draft202012Validator, type_checker=types)(schema, format_checker=FORMATS)


def _is_finite_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:
        return False


def _describe(error: ValidationError, what: str) -> str:
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
            numbers = "a number or " if where.endswith(".learning_rate") else ""
            return f"{where}: {value!r} is not allowed; {numbers}one of {', '.join(map(str, limit))}{_hint(value)}{_close(value, limit)}"
        case "format":
            return f"{where}: {error.cause}{_close(value, [*SIMPLE_RULES, HYBRID])}"
        case "type":
            hint = _hint(value) if limit == "number" else ""
            return f"{where or what}: expected {_TYPES.get(limit, limit)}, got {value!r}{hint}"
        case "minItems" | "maxItems" if value and limit > 1:
            return f"{where}: expected {limit} entries, got {value!r}"
        case "minItems":
            return f"{where}: the list is empty; give at least one entry"
        case "uniqueItems":
            repeated = next(item for i, item in enumerate(value) if item in value[:i])
            return f"{where}: {repeated!r} is there twice; each entry once"
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            words = {"minimum": "at least", "maximum": "at most",
                     "exclusiveMinimum": "more than", "exclusiveMaximum": "less than"}  # fmt: skip
            return f"{where}: {value!r} must be {words[error.validator]} {limit}"
        case "minProperties":
            return f"{where}: empty; one of {', '.join(error.schema['properties'])}"
        case "pattern" if "://" in limit:
            return f"{where}: {value!r} must be an address that begins with http://, https:// or ftp://"
        case "pattern":
            return f"{where}: {value!r} must be letters, digits, _ and -, with a letter or digit first"
    return f"{where or what}: {error.message}"


def _hint(value: Any) -> str:
    """For numbers that YAML 1.1 takes for text."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return "; YAML reads that as text: write a point and a signed exponent, as in 5.0e-4 or 1.0e+3"
    return ""


def _close(value: Any, allowed: list[Any]) -> str:
    """A name that was probably meant."""
    names = {str(name).lower().replace("_", ""): name for name in allowed}
    plain = str(value).lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(plain, names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""
