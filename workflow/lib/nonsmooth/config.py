"""A preset: checking a configuration and expanding its blocks into cells.

Torch-free, so that `snakemake -n` is fast. The shape of a configuration is checked by `nonsmooth.schema`; what a schema
cannot say is checked here, and every problem is one `ConfigError` that names the key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from nonsmooth import published
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import SAFEGUARDED, SEARCH, SETUP, Program, TrainingCell, WeightsCell, ZoneCell
from nonsmooth.datasets import DATASETS, TEST
from nonsmooth.rules import Hybrid, Native, Rule, has_choice, parse_rule
from nonsmooth.schema import HYBRID, ConfigError, check_shape, validator

DEFAULTS: dict[str, Any] = {
    "device": "cpu",
    "jobs_per_gpu": 1,
    "threads": 1,
    "workers": 4,
    "deterministic": True,
    "datasets": {},
    "learning_rates": [],
}
CHECKPOINTS_DEFAULTS: dict[str, Any] = {"minutes": 10, "epochs": None}
BLOCK_DEFAULTS: dict[str, Any] = {
    "relu_derivative": [0],
    "train_split": "train",
    "schedule": "cosine",
    "batch_size": 128,
    "momentum": 0.9,
    "clip_norm": 1.0,
}
WEIGHTS_DEFAULTS: dict[str, Any] = {"train_split": "train", "batch_size": 128, "learning_rate": 0.01}
SEARCH_DEFAULTS: dict[str, Any] = {"trials": 10, "epochs": 10, "seed": 0, "per_rule": False}
CLAIMS_DEFAULTS: dict[str, Any] = {"margin": 0.1, "alpha": 0.05, "power": 0.8}
ZONES_DEFAULTS: dict[str, Any] = {
    "batch_size": [128],
    "noise": [0],
    "kernels": ["deterministic"],
    "minibatches": None,
    "initialization": "kaiming_uniform",
}
POOLING_ERRORS_DEFAULTS: dict[str, Any] = {"normalization": "none", "batch_size": 128}
# What the zones and the errors of poolings are measured on.
ZONES_SPLIT = "train"
# As published: SGD with decay, Adam as it comes.
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0}
ADAM_EPS = 1e-8
# 1e-8 rounds to 0 in float16, and Adam divides by it at the first step.
ADAM_EPS_FLOAT16 = 1e-4
# Keys that change the results of a cell without changing its path: a run that overrides them has a name of its own.
RENAMING = ("epochs", "device", "threads", "deterministic")


Cell = TrainingCell | WeightsCell | ZoneCell


def read(path: str | Path) -> dict[str, Any]:
    """The checked configuration in a YAML file, with defaults filled in; see `check`."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    try:
        return check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def check(config: Any) -> dict[str, Any]:
    """The configuration with defaults filled in.

    Raises ConfigError for the first problem found: an unknown key, a wrong type or value, an empty list,
    repeated entries, a combination that cannot be run, missing data files.
    """
    check_shape(config)
    config = {**DEFAULTS, **config}
    _check_device(config)
    cells = training_cells(config)
    if not cells:
        raise ConfigError(f"maxpool.train: nothing to train, since {'; '.join(left_out(config).values())}")
    search_cells(cells, search_settings(config))
    weights_cells(config)
    zone_cells(config)
    _check_data(config, cells)
    _check_ties(config)
    _check_pooling_errors(config)
    return config


def with_overrides(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`config`, into which `overrides` from a command line were merged, with a run name of its own where it needs one.

    A run with other epochs, say, would replace the preset's results, so it is called `<run>-epochs<n>` unless it is
    given a name. Raises ConfigError for a key that needs a name of its own and has none.
    """
    # Snakemake reads what is inside brackets as text.
    config = {**config, **{key: _typed(config[key]) for key in overrides if key != "datasets"}}
    if config.get("deterministic") in ("true", "false"):
        config["deterministic"] = config["deterministic"] == "true"
    if isinstance(overrides.get("datasets"), dict):
        # In place of the file's entry, which may have a path where this one has mirrors.
        config["datasets"] = {**config["datasets"], **overrides["datasets"]}
    if "run" in overrides or not validator().is_valid(config):  # `check` says what is wrong
        return config
    renaming = [key for key in RENAMING if key in overrides]
    for key in ("learning_rates", "maxpool"):
        if key in overrides:
            raise ConfigError(
                f"--config {key}: would replace the results of run {config['run']!r}; give a name, too: run=<name>"
            )
    if not renaming:
        return config
    return {
        **config,
        "run": "-".join([config["run"], *(f"{key}{overrides[key]}".lower() for key in renaming)]),
    }


def _typed(value: Any, is_inside: bool = False) -> Any:
    """`value` with the text inside its lists and mappings read as YAML."""
    match value:
        case dict():
            return {key: _typed(item, True) for key, item in value.items()}
        case list():
            return [_typed(item, True) for item in value]
        case str() if is_inside:
            try:
                return yaml.safe_load(value)
            except yaml.YAMLError:
                return value
    return value


def training_cells(config: dict[str, Any]) -> list[TrainingCell]:
    """Every cell of `maxpool.train`, in the order of the blocks; a cell that two blocks share comes once."""
    return list(priorities(config))


def priorities(config: dict[str, Any]) -> dict[TrainingCell, int]:
    """Every cell and the number of its block counted from the last, since what a preset has first should run first."""
    found: dict[str, tuple[TrainingCell, str, int]] = {}
    blocks = config["maxpool"]["train"]
    skipped = left_out(config)
    rates = _Rates(config)
    for number, block in enumerate(blocks):
        where = f"maxpool.train[{number}]"
        for cell in _block_cells({**BLOCK_DEFAULTS, **block, **_overridden(config)}, where, rates):
            if cell.dataset in skipped:
                continue
            known, first, _ = found.setdefault(cell.path, (cell, where, len(blocks) - number))
            _require_same(cell, known, where, first, "a condition can be trained in one way per preset")
    return {cell: priority for cell, _, priority in found.values()}


def left_out(config: dict[str, Any]) -> dict[str, str]:
    """Datasets of what is trained or measured that wait for a folder of the user's, and what to do."""
    names = {name for _, block in _blocks(config) for name in block["dataset"]}
    return {
        name: f"{name} is left out until datasets.{name}.path is given: {DATASETS[name].hint}"
        for name in sorted(names)
        if DATASETS[name].streamed and "path" not in config["datasets"].get(name, {})
    }


def _blocks(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every block of the preset, with where it is."""
    for key in ("train", "weights", "zones"):
        for number, block in enumerate(config["maxpool"].get(key, [])):
            yield f"maxpool.{key}[{number}]", block


def search_settings(config: dict[str, Any]) -> dict[str, Any]:
    """`maxpool.search` with its defaults."""
    return {**SEARCH_DEFAULTS, **config["maxpool"].get("search", {})}


def checkpoints_settings(config: dict[str, Any]) -> dict[str, Any]:
    """When a training in progress is saved: after `minutes`, and after so many `epochs` unless that is None."""
    return {**CHECKPOINTS_DEFAULTS, **config.get("checkpoints", {})}


def claims_settings(config: dict[str, Any]) -> dict[str, Any]:
    """`claims` with its defaults."""
    return {**CLAIMS_DEFAULTS, **config.get("claims", {})}


def pooling_errors_settings(config: dict[str, Any]) -> dict[str, Any] | None:
    """`maxpool.pooling_errors` with its defaults; None where there is none."""
    given = config["maxpool"].get("pooling_errors")
    return None if given is None else {**POOLING_ERRORS_DEFAULTS, **given}


def search_cells(cells: Iterable[TrainingCell], settings: dict[str, Any]) -> dict[str, TrainingCell]:
    """The cell that a search of the learning rate of each of the cells' set-ups trains, by its condition's path.

    It has the native rule and PyTorch's ReLU, unless `maxpool.search.per_rule`.
    """
    found: dict[str, tuple[TrainingCell, TrainingCell]] = {}
    # Those that wait for a search come first: only they have to agree.
    for cell in sorted(cells, key=lambda cell: cell.learning_rate != SEARCH):
        searched = searched_cell(cell, settings)
        known, first = found.setdefault(searched.condition_path, (searched, cell))
        if cell.learning_rate == SEARCH:
            _require_same(searched, known, str(cell), str(first), "they share a search, which needs one of each")
    return {path: cell for path, (cell, _) in found.items()}


def searched_cell(cell: TrainingCell, settings: dict[str, Any]) -> TrainingCell:
    """The cell that a search for the learning rate of `cell` trains."""
    own = {} if settings["per_rule"] else {"rule": str(Native()), "relu_derivative": 0.0}
    return replace(cell, seed=settings["seed"], epochs=settings["epochs"], learning_rate=SEARCH, **own)


def weights_cells(config: dict[str, Any]) -> list[WeightsCell]:
    """Every cell of `maxpool.weights`, in the order of the blocks; a cell that two blocks share comes once."""
    found: dict[str, tuple[WeightsCell, str]] = {}
    skipped = left_out(config)
    for number, block in enumerate(config["maxpool"].get("weights", [])):
        where = f"maxpool.weights[{number}]"
        for cell in _weights_block_cells({**WEIGHTS_DEFAULTS, **block, **_overridden(config)}, where):
            if cell.dataset in skipped:
                continue
            known, first = found.setdefault(cell.path, (cell, where))
            _require_same(cell, known, where, first, "two programs can be compared in one way per preset")
    return [cell for cell, _ in found.values()]


def zone_cells(config: dict[str, Any]) -> list[ZoneCell]:
    """Every cell of `maxpool.zones`, in the order of the blocks; a cell that two blocks share comes once."""
    found: dict[str, tuple[ZoneCell, str]] = {}
    skipped = left_out(config)
    for number, block in enumerate(config["maxpool"].get("zones", [])):
        where = f"maxpool.zones[{number}]"
        for cell in _zones_block_cells({**ZONES_DEFAULTS, **block, **_overridden(config)}, where, config["device"]):
            if cell.dataset in skipped:
                continue
            known, first = found.setdefault(cell.path, (cell, where))
            _require_same(cell, known, where, first, "two programs can be compared in one way per preset")
    return [cell for cell, _ in found.values()]


def _overridden(config: dict[str, Any]) -> dict[str, Any]:
    """The keys at the top that take the place of every block's."""
    return {key: config[key] for key in ("seeds", "epochs") if key in config}


def _require_same(cell: Cell, known: Cell, where: str, first: str, why: str) -> None:
    if cell != known:
        settings = known.settings
        differing = [key for key, value in cell.settings.items() if settings[key] != value]
        raise ConfigError(f"{where}: {cell} is also made by {first} with another {' and '.join(differing)}; {why}")


def rules(block: dict[str, Any], where: str = "block") -> list[Rule]:
    """The pooling rules of a block: `hybrid` stands for every beta in every evaluation."""
    needs = [key for key in ("beta", "evaluation") if (HYBRID in block["rule"]) != (key in block)]
    if needs:
        key = needs[0]
        if HYBRID in block["rule"]:
            raise ConfigError(f"{where}.{key}: missing; rule 'hybrid' needs beta and evaluation")
        raise ConfigError(f"{where}.{key}: only rule 'hybrid' has it, and it is not in {where}.rule")
    found: list[Rule] = []
    for name in block["rule"]:
        if name != HYBRID:
            found.append(parse_rule(name))
            continue
        try:
            found += [Hybrid(float(b), e) for e, b in product(block["evaluation"], block["beta"])]
        except ValueError as error:
            raise ConfigError(f"{where}.beta: {error}") from error
    return found


def _block_cells(block: dict[str, Any], where: str, rates: _Rates) -> Iterator[TrainingCell]:
    rule_names = [str(rule) for rule in rules(block, where)]
    for setup in product(*(block[factor] for factor in SETUP)):
        values = dict(zip(SETUP, setup, strict=True))
        dataset = DATASETS[values["dataset"]]
        _check_fit(values["architecture"], values["dataset"], where)
        _check_split(block["train_split"], values["dataset"], where)
        rate = rates.of(setup, block, where)
        _check_last_batch(
            values["normalization"], dataset.sizes[block["train_split"]], block["batch_size"], rate, where
        )
        in_float16 = values["precision"] == "float16"
        optimizer = SAFEGUARDED.get(values["optimizer"], values["optimizer"])
        for rule, derivative, seed in product(rule_names, block["relu_derivative"], block["seeds"]):
            yield TrainingCell(
                **values,
                rule=rule,
                relu_derivative=float(derivative),
                seed=seed,
                epochs=block["epochs"],
                learning_rate=rate,
                schedule=block["schedule"],
                batch_size=block["batch_size"],
                momentum=float(block["momentum"]),
                weight_decay=float(block.get("weight_decay", WEIGHT_DECAY[optimizer])),
                adam_eps=float(block.get("adam_eps", ADAM_EPS_FLOAT16 if in_float16 else ADAM_EPS)),
                augmentation=block.get("augmentation", dataset.augmentation),
                train_split=block["train_split"],
                clip_norm=float(block["clip_norm"]) if values["optimizer"] == "sgd_clipped" else None,
            )


def _weights_block_cells(block: dict[str, Any], where: str) -> Iterator[WeightsCell]:
    pairs = _pairs(block["compare"], where)
    factors = ("dataset", "architecture", "normalization", "precision")
    for setup in product(*(block[factor] for factor in factors)):
        values = dict(zip(factors, setup, strict=True))
        dataset = DATASETS[values["dataset"]]
        _check_fit(values["architecture"], values["dataset"], where)
        _check_split(block["train_split"], values["dataset"], where)
        rate, images = float(block["learning_rate"]), dataset.sizes[block["train_split"]]
        _check_last_batch(values["normalization"], images, block["batch_size"], rate, where)
        for (program, reference), seed in product(pairs, block["seeds"]):
            yield WeightsCell(
                **values,
                program=str(program),
                reference=str(reference),
                seed=seed,
                epochs=block["epochs"],
                learning_rate=rate,
                batch_size=block["batch_size"],
                augmentation=dataset.augmentation,
                train_split=block["train_split"],
            )


def _zones_block_cells(block: dict[str, Any], where: str, device: str) -> Iterator[ZoneCell]:
    pairs = _pairs(block["compare"], where)
    if "default" in block["kernels"] and device == "cpu":
        raise ConfigError(f"{where}.kernels: 'default' is another choice on a GPU only, and device is 'cpu'; remove it")
    factors = ("dataset", "architecture", "normalization", "precision", "batch_size", "noise", "kernels")
    for combination in product(*(block[factor] for factor in factors)):
        values = dict(zip(factors, combination, strict=True))
        images = DATASETS[values["dataset"]].sizes[ZONES_SPLIT]
        _check_fit(values["architecture"], values["dataset"], where)
        # A pass that stops early does not reach its last minibatch.
        if (block["minibatches"] or math.inf) * values["batch_size"] >= images:
            _check_last_batch(values["normalization"], images, values["batch_size"], 0, where)
        for (program, reference), seed in product(pairs, block["seeds"]):
            can_be_replayed = program.can_be_replayed_with(reference)
            if block.get("replays") and not can_be_replayed:
                raise ConfigError(
                    f"{where}.replays: {program} and {reference} cannot be replayed, since their forward passes differ; leave "
                    "it out to replay those that can be, or set it to false"
                )
            yield ZoneCell(
                **{**values, "noise": float(values["noise"])},
                program=str(program),
                reference=str(reference),
                seed=seed,
                minibatches=block["minibatches"],
                initialization=block["initialization"],
                replays=block.get("replays", can_be_replayed),
            )


def _pairs(compare: list[list[str]], where: str) -> list[tuple[Program, Program]]:
    """The programs and references of a block, in which only the choice of a derivative may differ."""
    try:
        pairs = [(Program.parse(program), Program.parse(reference)) for program, reference in compare]
    except ValueError as error:
        raise ConfigError(f"{where}.compare: {error}") from error
    for program in (program for pair in pairs for program in pair):
        if not has_choice(parse_rule(program.rule)):
            raise ConfigError(
                f"{where}.compare: {program.rule} has no choice of a derivative that two programs could make differently; "
                "remove it"
            )
    return pairs


class _Rates:
    """Learning rates of blocks: a number, a word that says where from, or else an entry of `learning_rates`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.entries: dict[tuple[str, ...], float] = {}
        for number, entry in enumerate(config["learning_rates"]):
            setup = tuple(entry[factor] for factor in SETUP)
            if setup in self.entries:
                raise ConfigError(f"learning_rates[{number}]: a second entry for {', '.join(setup)}")
            self.entries[setup] = float(entry["value"])
        self.published = published.learning_rates()

    def of(self, setup: tuple[str, ...], block: dict[str, Any], where: str) -> float | str:
        """The rate, or `SEARCH`. Raises ConfigError if there is none."""
        match block.get("learning_rate"):
            case "search":
                return SEARCH
            case "published":
                rate = _with_fallback(self.published, setup)
                if rate is None:
                    raise ConfigError(
                        f"{where}.learning_rate: none is published for {', '.join(setup)} "
                        "(data/published/learning_rates.csv); give a number or 'search'"
                    )
                return rate
            case None:
                rate = _with_fallback(self.entries, setup)
                if rate is None:
                    raise ConfigError(
                        f"{where}.learning_rate: missing, and learning_rates has no entry for {', '.join(setup)}; give a "
                        "number, 'search' or 'published', or an entry"
                    )
                return rate
            case value:
                return float(value)


def _with_fallback(rates: dict[tuple[str, ...], float], setup: tuple[str, ...]) -> float | None:
    """The rate of a set-up, or else of the same without a safeguard."""
    unguarded = tuple(SAFEGUARDED.get(name, name) for name in setup)
    return rates.get(setup, rates.get(unguarded))


def _check_split(split: str, name: str, where: str) -> None:
    if split not in DATASETS[name].train_splits:
        raise ConfigError(
            f"{where}.train_split: {name} has no split {split!r} to train on; one of "
            f"{', '.join(DATASETS[name].train_splits)}"
        )


def _check_last_batch(normalization: str, images: int, batch_size: int, rate: float | str, where: str) -> None:
    """Refuse a last batch of one image, which batch normalization cannot normalise."""
    # A search trains on four fifths of the images.
    for count in [images] if rate != SEARCH else [images, images - images // 5]:
        if normalization == "batch_norm" and count % batch_size == 1 % batch_size:
            raise ConfigError(
                f"{where}.batch_size: with {batch_size} the last batch of {count} images has one image, which batch_norm "
                "cannot normalise; choose another"
            )


def _check_fit(architecture: str, dataset: str, where: str) -> None:
    try:
        ARCHITECTURES[architecture].padding(*DATASETS[dataset].shape[1:])
    except ValueError as error:
        raise ConfigError(f"{where}: {architecture} on {dataset}: {error}") from error


def _check_device(config: dict[str, Any]) -> None:
    if config["device"] != "cuda":
        for where, block in _blocks(config):
            if "tf32" in block["precision"]:
                raise ConfigError(
                    f"{where}.precision: 'tf32' exists on NVIDIA GPUs only, and device is "
                    f"{config['device']!r}; remove it or set device: cuda"
                )
    for key in ("ties", "pooling_errors", "zero_function"):
        if "tf32" in config["maxpool"].get(key, {}).get("precisions", []):
            raise ConfigError(
                f"maxpool.{key}.precisions: 'tf32' exists on NVIDIA GPUs only, and this is computed on the CPU; remove it"
            )


def splits(config: dict[str, Any], cells: Iterable[TrainingCell]) -> dict[str, list[str]]:
    """The splits of each dataset that the cells, those of `maxpool.weights` and `maxpool.zones`, the ties and the errors of poolings need."""
    trained = [*cells, *weights_cells(config)]
    needed = {(cell.dataset, split) for cell in trained for split in (cell.train_split, TEST)}
    needed |= {(cell.dataset, ZONES_SPLIT) for cell in zone_cells(config)}
    if "ties" in config["maxpool"]:
        needed.add((config["maxpool"]["ties"]["dataset"], TEST))
    if "pooling_errors" in config["maxpool"]:
        needed.add((config["maxpool"]["pooling_errors"]["dataset"], ZONES_SPLIT))
    found: dict[str, list[str]] = {}
    for name, split in sorted(needed):
        found.setdefault(name, []).append(split)
    return found


def _check_data(config: dict[str, Any], cells: list[TrainingCell]) -> None:
    for name, needed in splits(config, cells).items():
        dataset, given = DATASETS[name], config["datasets"].get(name, {})
        if dataset.streamed and "path" not in given:
            raise ConfigError(f"datasets.{name}.path: missing; {dataset.hint}")
        if len(given) > 1:
            raise ConfigError(f"datasets.{name}: give path, a folder that has the files, or mirrors, not both")
        if "path" in given:
            folder = Path(given["path"]).expanduser()
            missing = [file for split in needed for file in dataset.missing_files(folder, split)]
            if missing or not folder.is_dir():
                lacks = f"lacks {', '.join(dict.fromkeys(missing))}" if folder.is_dir() else "is not a folder"
                raise ConfigError(f"datasets.{name}.path: {folder} {lacks}; {dataset.hint}")


def _check_ties(config: dict[str, Any]) -> None:
    ties = config["maxpool"].get("ties")
    if ties is not None:
        _check_fit(ties["architecture"], ties["dataset"], "maxpool.ties")
        images = DATASETS[ties["dataset"]].sizes["test"]
        if ties["image"] >= images:
            raise ConfigError(
                f"maxpool.ties.image: {ties['image']}; {ties['dataset']} has test images 0 to {images - 1}"
            )


def _check_pooling_errors(config: dict[str, Any]) -> None:
    settings = pooling_errors_settings(config)
    if settings is not None:
        _check_fit(settings["architecture"], settings["dataset"], "maxpool.pooling_errors")
        if settings["normalization"] == "batch_norm" and settings["batch_size"] == 1:
            raise ConfigError(
                "maxpool.pooling_errors.batch_size: 1 image, which batch_norm cannot normalise; choose another"
            )
