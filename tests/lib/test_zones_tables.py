"""The zones' tables, recomputed by loops over the minibatches of made-up cells."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from nonsmooth import published
from nonsmooth.cells import ZONE_CONDITION, ZoneCell
from nonsmooth.files import read_json, write_json
from nonsmooth.numerics import NUMERICS_VERSION
from nonsmooth.zones import tables

thorough = settings(deadline=None, derandomize=True, max_examples=100)
CELL = ZoneCell(dataset="cifar10", architecture="vgg11", batch_size=4)
THRESHOLD = {"float16": 1e-3, "bfloat16": 1e-3, "mixed16": 1e-3, "tf32": 1e-7, "float32": 1e-7, "float64": 1e-15}
ROUTED = {"real": ("yes", "yes"), "rounding_induced": ("yes", "no"), "compensation": ("no", "no"),
          "identical": ("no", "no"), "masked": ("yes", "no"), "lost_tie": ("no", "yes"), "undecided": ("undecided", "no"),
          "overflow": ("", ""), "": ("", "")}  # fmt: skip


def test_every_precision_has_its_published_threshold() -> None:
    assert tables.THRESHOLDS == THRESHOLD


def test_planning_needs_no_torch() -> None:
    command = "import sys, nonsmooth.zones.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------- reading


def minibatch(number: int, size: float, kind: str, images: int = 4, scale: float = 1.0) -> dict:
    """A row of minibatches.csv; `scale` is that of the published norm, which has further tensors."""
    replay, real = ROUTED[kind]
    measured = {} if kind in ("overflow", "") else {"replay": size, "real": size / 2, "terms": 8.0}
    return {
        **dict.fromkeys((*tables.MEASURED, *tables.REPLAYED), ""),
        "minibatch": number,
        "images": images,
        "loss": 2.3,
        "difference": size,
        "difference_l1": 10 * size,
        "difference_published": scale * size,
        "difference_published_l1": 10 * scale * size,
        "gradient": 2.0,
        "gradient_l1": 30.0,
        "entries_differing": 0 if size == 0 else 7,
        "forward_overflow": kind == "overflow",
        "backward_overflow": False,
        **measured,
        "replay_routed": replay,
        "real_routed": real,
        "class": kind,
    }


def layer(number: int, **counts: object) -> dict:
    usual = {"layer": number, "name": f"pool{number}", "kind": "max_pool", "windows": 1000, "tied": 100}
    usual |= {"tied_at_zero": 90, "tied_above_zero": 10, "sum_of_sizes": 250, "largest_size": 4}
    usual |= {"tied_with_gradient": 5, "tied_float64": 95, "tied_both": 94, "undecided_windows": 1}
    return usual | counts


class Cells:
    """Writes the files of cells, and keeps their paths as the rule lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells, self.minibatches, self.layers, self.records = [], [], [], []

    def add(self, cell: ZoneCell, rows: list[dict], layers: list[dict] | None = None, **record: object) -> None:
        folder = self.folder / cell.path
        folder.mkdir(parents=True)
        usual = {
            "cell": cell.to_dict(),
            "minibatches": len(rows),
            "device": {"name": "a processor"},
            "git": {"commit": "ef" * 20},
            "numerics_version": NUMERICS_VERSION,
            "process_seconds": 15.5,
            "peak_memory_mib": 700.5,
            "seconds": {"plain": 0.5, "pair": 1.25, "replays": 2.0},
        }
        write_json(folder / "record.json", usual | record)
        pd.DataFrame(rows).to_csv(folder / "minibatches.csv", index=False, na_rep="nan")
        pd.DataFrame(layers or [layer(1)]).to_csv(folder / "layers.csv", index=False)
        self.cells.append(cell)
        for name in ("minibatches", "layers"):
            getattr(self, name).append(str(folder / f"{name}.csv"))
        self.records.append(str(folder / "record.json"))

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        return tables.read_cells(self.cells, self.minibatches, self.layers, self.records)


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path)


def test_minibatches_come_with_their_factors_in_the_order_of_the_files(cells: Cells) -> None:
    made = [
        replace(CELL, precision=precision, noise=0.5, seed=seed)
        for precision in ("float64", "float16")
        for seed in (7, 0)
    ]
    for cell in made:
        cells.add(cell, [minibatch(0, 0.5, "real"), minibatch(1, 0.0, "identical", images=2)])
    minibatches, layers, costs = cells.read()
    assert list(minibatches)[: len(ZONE_CONDITION) + 1] == [*ZONE_CONDITION, "seed"]
    assert list(minibatches)[len(ZONE_CONDITION) + 1 :] == [
        "initialization",
        "replays",
        *tables.MEASURED,
        *tables.REPLAYED,
    ]
    assert minibatches.index.is_unique
    for table, per_cell in ((minibatches, 2), (layers, 1), (costs, 1)):
        found = table[[*ZONE_CONDITION, "seed"]].to_dict("records")
        expected = [{name: getattr(cell, name) for name in (*ZONE_CONDITION, "seed")} for cell in made]
        assert found == [row for row in expected for _ in range(per_cell)]
    for row, written in zip(
        minibatches.to_dict("records"), [minibatch(0, 0.5, "real"), minibatch(1, 0, "identical", 2)] * 4, strict=True
    ):
        known = {name: value for name, value in written.items() if value != ""}
        assert known.items() <= row.items()


def test_costs_are_ratios_to_one_pass(cells: Cells) -> None:
    cells.add(CELL, [minibatch(0, 0.5, "real")] * 3)
    without = {"plain": 0.25, "pair": 0.5, "replays": 0.001}
    cells.add(replace(CELL, replays=False, seed=1), [minibatch(0, 0.5, "")], seconds=without, device={"name": "a GPU"})
    first, second = cells.read()[2].to_dict("records")
    assert (first["device"], first["minibatches"]) == ("a processor", 3)
    assert (first["seconds_plain"], first["seconds_pair"], first["seconds_replays"]) == (0.5, 1.25, 2.0)
    assert (first["pair_ratio"], first["replays_ratio"]) == (2.5, 6.5)
    assert (first["process_seconds"], first["peak_memory_mib"]) == (15.5, 700.5)
    assert (second["device"], second["pair_ratio"]) == ("a GPU", 2.0)
    assert math.isnan(second["seconds_replays"])
    assert math.isnan(second["replays_ratio"])


def test_what_is_not_finite_and_what_is_empty_stay_apart(cells: Cells) -> None:
    rows = [minibatch(0, math.nan, "overflow"), minibatch(1, math.inf, "overflow"), minibatch(2, 0.0, "identical")]
    cells.add(CELL, rows)
    found = cells.read()[0]
    assert found["class"].tolist() == ["overflow", "overflow", "identical"]
    assert found.replay_routed.tolist() == ["", "", "no"]
    assert np.isfinite(found.difference_published).tolist() == [False, False, True]


def test_columns_of_replays_are_empty_where_there_are_none(cells: Cells) -> None:
    """A cell without replays, or whose every minibatch overflowed, does not write them."""
    made = [
        (replace(CELL, replays=False), minibatch(0, 0.5, "")),
        (replace(CELL, seed=1), minibatch(0, math.inf, "overflow")),
    ]
    for cell, row in made:
        measured = {name: row[name] for name in tables.MEASURED}
        census = {name: value for name, value in layer(1).items() if name not in tables.REPLAYS_COUNTED}
        cells.add(cell, [measured], [census])
    minibatches, layers, _ = cells.read()
    words = ["replay_routed", "real_routed"]
    assert minibatches[words].eq("").all(axis=None)
    assert minibatches[[name for name in tables.REPLAYED if name not in words]].isna().all(axis=None)
    assert layers[list(tables.REPLAYS_COUNTED)].isna().all(axis=None)
    assert tables.layers_table(layers).tied_share.tolist() == [0.1]


def test_cells_survive_a_csv(cells: Cells, tmp_path: Path) -> None:
    cells.add(replace(CELL, replays=False), [minibatch(0, 0.5, ""), minibatch(1, math.inf, "overflow")])
    minibatches = cells.read()[0]
    minibatches.to_csv(tmp_path / "all.csv", index=False)
    again = tables.with_words(pd.read_csv(tmp_path / "all.csv", keep_default_na=False, na_values=["", "nan"]))
    pd.testing.assert_frame_equal(again, minibatches, check_dtype=False, check_exact=True)


DAMAGES = {
    "no minibatches": ("minibatches", b""),
    "only a header": ("minibatches", b"minibatch,images\n"),
    "a column is missing": ("minibatches", b"minibatch,images\n0,4\n"),
    "not text": ("minibatches", b"\xff\xfe\x00epoch"),
    "a minibatch is missing": ("minibatches", None),
    "no layers": ("layers", b""),
    "layers without counts": ("layers", b"layer,name,kind\n1,pool,max_pool\n"),
    "an empty record": ("records", b""),
    "a record of nothing": ("records", b"null"),
    "half a record": ("records", b'{"cell": {"dataset": "cif'),
    "a record without a cell": ("records", b"{}"),
}


@pytest.mark.parametrize(("kind", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(kind: str, content: bytes | None, cells: Cells) -> None:
    for seed in range(3):
        cells.add(replace(CELL, seed=seed), [minibatch(number, 0.5, "real") for number in range(3)])
    damaged = Path(getattr(cells, kind)[1])
    damaged.write_bytes(b"".join(damaged.read_bytes().splitlines(keepends=True)[:-1]) if content is None else content)
    with pytest.raises(ValueError, match="delete it and run snakemake again") as raised:
        cells.read()
    assert str(raised.value).startswith(f"{damaged}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [*tables.RECORDED, "cell", "device", "git", "numerics_version"])
def test_a_record_that_lacks_something_is_named(name: str, cells: Cells) -> None:
    cells.add(CELL, [minibatch(0, 0.5, "real")])
    record = read_json(cells.records[0])
    del record[name]
    write_json(cells.records[0], record)
    with pytest.raises(ValueError, match=r"record\.json: not the record of a cell; delete it"):
        cells.read()


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 3), ("minibatches", 9), ("replays", False), ("initialization", "default"), ("noise", 0.5)],
)
def test_a_cell_measured_otherwise_is_refused(name: str, value: object, cells: Cells) -> None:
    cells.add(CELL, [minibatch(0, 0.5, "real")])
    old = getattr(CELL, name)
    cells.cells[0] = replace(CELL, **{name: value})
    with pytest.raises(
        ValueError, match=rf"record\.json: the cell was measured with {name} {old}, not {value}; delete it"
    ):
        cells.read()


def test_a_cell_of_another_numerics_version_is_refused(cells: Cells) -> None:
    cells.add(CELL, [minibatch(0, 0.5, "real")], numerics_version=NUMERICS_VERSION + 1)
    with pytest.raises(ValueError, match="numerics_version"):
        cells.read()


@pytest.mark.parametrize(("replays", "kind"), [(True, ""), (False, "real")])
def test_a_class_that_a_cell_cannot_have_is_refused(replays: bool, kind: str, cells: Cells) -> None:
    cells.add(replace(CELL, replays=replays), [minibatch(0, 0.5, kind)])
    with pytest.raises(ValueError, match=rf"minibatches\.csv: class '{kind}', expected one of .*; delete it"):
        cells.read()


def test_lists_of_different_length_and_no_cells_are_refused(cells: Cells) -> None:
    with pytest.raises(ValueError, match="no cell"):
        cells.read()
    cells.add(CELL, [minibatch(0, 0.5, "real")])
    cells.layers.append(cells.layers[0])
    with pytest.raises(ValueError, match="longer than"):
        cells.read()


# ----------------------------------------------------------------------------------------------------- Wilson


@thorough
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    low, high = tables.wilson(*counts, confidence)
    expected = binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert float(low) == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert float(high) == pytest.approx(expected.high, rel=1e-9, abs=1e-12)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_wilson_works_elementwise_and_knows_nothing_of_nothing() -> None:
    low, high = tables.wilson(pd.Series([0, 3, 5, 0]), pd.Series([5, 5, 5, 0]))
    assert low.shape == high.shape == (4,)
    assert (low[0], high[2]) == (0, 1)
    assert np.isnan([low[3], high[3]]).all()


# ------------------------------------------------------------------------------------- tables, by slow loops

SIZES = [0.0, 1e-18, 1e-16, 1e-15, 2e-15, 9e-8, 1e-7, 1.1e-7, 1e-3, 2e-3, 0.7, math.nan, math.inf]
PAIRS = [("minimal", "native"), ("native", "native"), ("native+relu-1", "native")]


def table_of(rows: list[tuple]) -> pd.DataFrame:
    """A table of minibatches from (cell, number, size, class, images, scale)."""
    made = []
    for cell, number, size, kind, images, scale in rows:
        identity = {name: getattr(cell, name) for name in (*ZONE_CONDITION, "seed", "initialization", "replays")}
        made.append(identity | minibatch(number, size, kind, images, scale))
    table = pd.DataFrame(made)
    numbers = [name for name in (*tables.MEASURED, *tables.REPLAYED) if name not in tables.WORDS]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


@pytest.fixture(scope="module")
def minibatches() -> pd.DataFrame:
    """Cells of several conditions in mixed order, some without replays, with every size and class and smaller minibatches."""
    generator = np.random.default_rng(0)
    conditions = itertools.product(("none", "batch_norm"), ("float16", "float32", "float64"), (2, 4), PAIRS, (0.0, 0.5))
    rows = []
    for position, (normalization, precision, batch_size, (program, reference), noise) in enumerate(conditions):
        cell = replace(CELL, normalization=normalization, precision=precision, batch_size=batch_size, program=program,
                       reference=reference, noise=noise, replays=position % 5 != 0)  # fmt: skip
        for seed in range(1 + position % 3):
            for number in range(8):
                size = float(generator.choice(SIZES))
                kind = str(generator.choice(tables.CLASSES[:-1]))
                # The published norm has further tensors, so that it can overflow alone.
                if not math.isfinite(size) and generator.random() < 0.7:
                    kind = "overflow"
                if not cell.replays and kind != "overflow":
                    kind = ""
                images = batch_size if number < 7 else 1
                rows.append((replace(cell, seed=seed), number, size, kind, images, float(generator.choice([1, 4]))))
    return table_of([rows[i] for i in generator.permutation(len(rows))])


def grouped(table: pd.DataFrame, *keys: str) -> dict[tuple, list[dict]]:
    """The complete minibatches by their values of `keys`."""
    found: dict[tuple, list[dict]] = {}
    for row in table.to_dict("records"):
        if row["images"] == row["batch_size"]:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def is_finite(row: dict) -> bool:
    return math.isfinite(row["difference_published"])


def is_above(row: dict) -> bool:
    return is_finite(row) and row["difference_published"] > THRESHOLD[row["precision"]]


def median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


@pytest.mark.parametrize("per_seed", [False, True])
def test_proportions(per_seed: bool, minibatches: pd.DataFrame) -> None:
    keys = [*ZONE_CONDITION, "seed"] if per_seed else list(ZONE_CONDITION)
    found = (tables.proportions_by_seed if per_seed else tables.proportions)(minibatches)
    expected = grouped(minibatches, *keys)
    assert [tuple(row[key] for key in keys) for row in found.to_dict("records")] == list(
        dict.fromkeys(minibatches[keys].itertuples(index=False, name=None))
    )
    for row in found.to_dict("records"):
        rows = expected[tuple(row[key] for key in keys)]
        n, above = len(rows), sum(map(is_above, rows))
        assert (row["minibatches"], row["above"]) == (n, above)
        assert row["incomplete"] == n // 7  # one minibatch of eight
        assert row["nonfinite"] == sum(not is_finite(one) for one in rows)
        assert row["differing"] == sum(is_finite(one) and one["difference_published"] > 0 for one in rows)
        assert row["threshold"] == THRESHOLD[row["precision"]]
        assert row["initialization"] == "kaiming_uniform"
        interval = binomtest(above, n).proportion_ci(method="wilson")
        assert row["proportion"] == above / n
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
        sizes = [one["difference"] for one in rows if math.isfinite(one["difference"]) and one["difference"] > 0]
        batch, replayed = row["batch_size"], rows[0]["replays"]
        assert row["scaled_difference"] == pytest.approx(median([batch * size for size in sizes]), nan_ok=True)
        assert row["relative_difference"] == pytest.approx(median([size / 2 for size in sizes]), nan_ok=True)
        assert row["terms_difference"] == pytest.approx(
            median([size / 8 for size in sizes] if replayed else []), nan_ok=True
        )
        if not per_seed:
            shares = [sum(map(is_above, mine)) / len(mine) for mine in by_seed(rows)]
            assert row["seeds"] == len(shares)
            assert (row["proportion_min"], row["proportion_max"]) == (min(shares), max(shares))


def by_seed(rows: list[dict]) -> list[list[dict]]:
    return [[row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})]


def test_a_share_per_image_gives_back_the_share_of_minibatches(minibatches: pd.DataFrame) -> None:
    for row in tables.proportions(minibatches).to_dict("records"):
        for name, image in (("proportion", "image_proportion"), ("low", "image_low"), ("high", "image_high")):
            if row["proportion"] == 1 and name != "low":
                assert math.isnan(row[image])
            else:
                assert 1 - (1 - row[image]) ** row["batch_size"] == pytest.approx(row[name], abs=1e-12)


def test_where_all_are_above_only_a_lower_bound_of_an_image_is_known() -> None:
    (row,) = tables.proportions(table_of([(CELL, i, 1.0, "real", 4, 1) for i in range(9)])).to_dict("records")
    assert (row["proportion"], row["high"]) == (1, 1)
    assert math.isnan(row["image_proportion"])
    assert math.isnan(row["image_high"])
    assert 0 < row["image_low"] < row["low"] < 1


@pytest.mark.parametrize("size", [math.nan, math.inf])
def test_what_is_not_finite_is_neither_above_nor_equal(size: float) -> None:
    rows = [(CELL, 0, size, "overflow", 4, 1), (CELL, 1, 0.0, "identical", 4, 1)]
    (row,) = tables.proportions(table_of(rows)).to_dict("records")
    assert (row["minibatches"], row["nonfinite"], row["differing"], row["above"], row["proportion"]) == (2, 1, 0, 0, 0)
    assert math.isnan(row["relative_difference"])


def test_a_gradient_of_nothing_is_no_scale() -> None:
    table = table_of([(CELL, 0, 0.5, "real", 4, 1), (CELL, 1, 0.25, "real", 4, 1)]).assign(gradient=[0.0, 2.0])
    assert tables.proportions(table).relative_difference.tolist() == [0.125]


def test_a_condition_without_a_complete_minibatch_is_there() -> None:
    (row,) = tables.proportions(table_of([(CELL, 0, 1.0, "real", 3, 1)])).to_dict("records")
    assert (row["minibatches"], row["incomplete"], row["above"]) == (0, 1, 0)
    assert all(math.isnan(row[name]) for name in ("proportion", "low", "high", "image_proportion"))


def test_classes(minibatches: pd.DataFrame) -> None:
    expected = grouped(minibatches[minibatches.replays], *ZONE_CONDITION)
    found = tables.classes(minibatches).to_dict("records")
    assert len(found) == len(tables.CLASSES) * len(expected)
    for position, row in enumerate(found):
        rows = expected[tuple(row[key] for key in ZONE_CONDITION)]
        assert row["class"] == tables.CLASSES[position % len(tables.CLASSES)]
        assert row["minibatches"] == len(rows)
        assert row["seeds"] == len({one["seed"] for one in rows})
        count = sum(one["class"] == row["class"] for one in rows)
        interval = binomtest(count, len(rows)).proportion_ci(method="wilson")
        assert (row["count"], row["share"]) == (count, count / len(rows))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    for condition, rows in itertools.groupby(found, key=lambda row: tuple(row[key] for key in ZONE_CONDITION)):
        assert sum(row["count"] for row in rows) == len(expected[condition])


def conditions_and_sums(table: pd.DataFrame) -> dict[tuple, list[dict]]:
    """By the factors of a row of the table: those of a condition, or those of a sum, which are "all" but for a few."""
    replayed = table[table.replays]
    found = grouped(replayed, *ZONE_CONDITION)
    for pair, rows in grouped(replayed, "precision", "program", "reference").items():
        known = dict(zip(("precision", "program", "reference"), pair, strict=True))
        found[tuple(known.get(name, "all") for name in ZONE_CONDITION)] = rows
    return found


def assert_share(row: dict, name: str, count: int, of: int) -> None:
    ends = tuple(row[f"{name}_{end}"] for end in ("share", "low", "high"))
    if of == 0:
        assert all(map(math.isnan, ends))
        return
    interval = binomtest(count, of).proportion_ci(method="wilson")
    assert ends == pytest.approx((count / of, interval.low, interval.high), abs=1e-12)


def test_magnitudes(minibatches: pd.DataFrame) -> None:
    complete = [
        row for row in minibatches.to_dict("records")
        if row["replays"] and row["images"] >= row["batch_size"] and not math.isnan(row["replay"])
    ]  # fmt: skip
    found = tables.magnitudes(minibatches).to_dict("records")
    assert len(found) == len({tuple(row[key] for key in ZONE_CONDITION) for row in complete})
    for row in found:
        rows = [one for one in complete if all(one[key] == row[key] for key in ZONE_CONDITION)]
        assert row["minibatches"] == len(rows)
        assert row["seeds"] == len({one["seed"] for one in rows})
        for name in ("gradient", "difference", "replay", "replay_common", "real"):
            assert row[name] == pytest.approx(
                median([one[name] for one in rows if not math.isnan(one[name])]), nan_ok=True
            )


def test_misjudged(minibatches: pd.DataFrame) -> None:
    expected = conditions_and_sums(minibatches)
    found = tables.misjudged(minibatches).to_dict("records")
    assert len(found) == len(expected)
    for row in found:
        counts: Counter[str] = Counter()
        rows = expected[tuple(row[key] for key in ZONE_CONDITION)]
        for one in rows:
            kind = one["class"]
            if not is_finite(one) or kind in ("overflow", "undecided"):
                counts["overflow" if not is_finite(one) or kind == "overflow" else "undecided"] += 1
                continue
            counts["decided"] += 1
            if is_above(one):
                counts["said_bifurcation"] += 1
                if kind != "real":
                    counts["wrong_bifurcation"] += 1
                    counts[kind if kind in ("rounding_induced", "compensation") else "other"] += 1
            else:
                counts["said_compensation"] += 1
                counts["wrong_compensation"] += kind == "real"
        counts["misjudged"] = counts["wrong_bifurcation"] + counts["wrong_compensation"]
        names = ("overflow", "undecided", "decided", "said_bifurcation", "wrong_bifurcation", "rounding_induced", "compensation",
                 "other", "said_compensation", "wrong_compensation", "misjudged")  # fmt: skip
        assert {name: row[name] for name in names} == {name: counts[name] for name in names}
        assert row["minibatches"] == len(rows) == row["decided"] + row["overflow"] + row["undecided"]
        for name in ("wrong_bifurcation", "wrong_compensation", "misjudged"):
            assert_share(row, name, counts[name], counts["decided"])


def test_pure_rounding(minibatches: pd.DataFrame) -> None:
    expected = conditions_and_sums(minibatches)
    found = tables.pure_rounding(minibatches).to_dict("records")
    assert len(found) == len(expected)
    named = ("compensation", "rounding_induced", "real", "undecided")
    for row in found:
        above = [one["class"] for one in expected[tuple(row[key] for key in ZONE_CONDITION)] if is_above(one)]
        assert row["above"] == len(above)
        for name in named:
            assert row[name] == above.count(name)
            assert_share(row, name, above.count(name), len(above))
        assert row["other"] == sum(kind not in named for kind in above)


def test_causes_by_seed(minibatches: pd.DataFrame) -> None:
    found = tables.causes_by_seed(minibatches).to_dict("records")
    keys = (*tables.ZONE_FACTORS, "initialization")
    expected: dict[tuple, list[dict]] = {}
    for one in minibatches.to_dict("records"):
        if one["replays"] and one["images"] >= one["batch_size"]:
            expected.setdefault(tuple(one[key] for key in keys), []).append(one)
    assert len(found) == len(expected) > 0
    for row in found:
        mine = expected[tuple(row[key] for key in keys)]
        above = [one["class"] for one in mine if is_above(one)]
        assert (row["minibatches"], row["above"]) == (len(mine), len(above))
        assert {name: row[name] for name in tables.CLASSES} == {name: above.count(name) for name in tables.CLASSES}


def test_sums_come_last_and_are_sums(minibatches: pd.DataFrame) -> None:
    for table in (tables.misjudged(minibatches), tables.pure_rounding(minibatches)):
        is_sum = table.dataset == "all"
        assert is_sum.is_monotonic_increasing
        assert table.minibatches[is_sum].sum() == table.minibatches[~is_sum].sum()


# ------------------------------------------------------------------------------------------------- thresholds


def test_thresholds(minibatches: pd.DataFrame) -> None:
    keys = ("dataset", "architecture", "normalization", "precision")
    found = tables.thresholds(minibatches).to_dict("records")
    assert len(found) == 2 * 3
    for row in found:
        mine = [
            one
            for one in minibatches.to_dict("records")
            if one["noise"] == 0 and all(one[key] == row[key] for key in keys)
        ]
        swapped = [one["difference_published_l1"] for one in mine if one["program"] == "native+relu-1"]
        swapped = [size for size in swapped if math.isfinite(size)]
        is_16 = row["precision"] == "float16"
        assert row["as_published"] == (min(size for size in swapped if size > 0) if is_16 else max(swapped))
        assert row["as_published_minibatches"] == len(swapped)
        assert row["published_threshold"] == THRESHOLD[row["precision"]]
        main = [one for one in mine if one["program"] == "minimal" and one["replays"] and is_finite(one)]
        agreeing = [
            one["difference_published"] for one in main if (one["replay_routed"], one["real_routed"]) == ("no", "no")
        ]
        routed = [one["difference_published"] for one in main if one["class"] in ("real", "rounding_induced")]
        assert (row["agreeing"], row["routed"]) == (len(agreeing), len(routed))
        assert row["largest_agreeing"] == pytest.approx(max(agreeing, default=math.nan), nan_ok=True)
        assert row["smallest_routed"] == pytest.approx(min(routed, default=math.nan), nan_ok=True)
        assert row["separable"] == (max(agreeing) < min(routed) if agreeing and routed else None)


def test_a_threshold_separates_only_what_does_not_overlap() -> None:
    apart = [(CELL, 0, 1e-8, "compensation", 4, 1), (CELL, 1, 1e-6, "real", 4, 1), (CELL, 2, 1.0, "undecided", 4, 1)]
    overlapping = [*apart, (CELL, 3, 1e-6, "compensation", 4, 1)]
    for rows, separable in ((apart, True), (overlapping, False), (apart[:1], None), (apart[1:], None)):
        (row,) = tables.thresholds(table_of(rows)).to_dict("records")
        assert row["separable"] is separable
        assert math.isnan(row["as_published"])


# ------------------------------------------------------------------------------------- ours beside published


def test_ours_is_beside_what_was_published_of_its_condition() -> None:
    usual = replace(CELL, batch_size=128)
    others = [
        replace(usual, dataset="svhn"),
        replace(usual, architecture="resnet18"),
        replace(usual, batch_size=32),
        replace(usual, precision="bfloat16"),
        replace(usual, program="native+relu-1"),
        replace(usual, noise=0.1),
        replace(usual, initialization="default"),
    ]
    matching = [usual, replace(usual, kernels="default"), replace(usual, normalization="batch_norm"),
                replace(usual, architecture="vgg19", batch_size=256)]  # fmt: skip
    rows = [(cell, 0, 1.0, "real", cell.batch_size, 1) for cell in (*matching, *others)]
    found = tables.compare(tables.proportions(table_of(rows)), published.zones())
    names = ["architecture", "batch_size", "normalization", "kernels", "factor", "published_proportion"]
    assert found[names].to_numpy().tolist() == [
        ["vgg11", 128, "none", "deterministic", "architecture", 0.486],
        ["vgg11", 128, "none", "deterministic", "normalization", 0.54],
        ["vgg11", 128, "none", "default", "architecture", 0.486],
        ["vgg11", 128, "none", "default", "normalization", 0.54],
        ["vgg11", 128, "batch_norm", "deterministic", "normalization", 0.795],
        ["vgg19", 256, "none", "deterministic", "batch_size", 0.602],
    ]
    assert found.difference.tolist() == pytest.approx([1 - share for share in found.published_proportion])


# ------------------------------------------------------------------------------------------------------ layers


def test_layers_are_summed_over_seeds(cells: Cells) -> None:
    cells.add(CELL, [minibatch(0, 0.5, "real")], [layer(1), layer(2, tied=0, sum_of_sizes=0, tied_both=0)])
    cells.add(replace(CELL, seed=1), [minibatch(0, 0.5, "real")],
              [layer(1, windows=3000, tied=200, largest_size=9, sum_of_sizes=410), layer(2, tied=0, sum_of_sizes=0, tied_both=0)])  # fmt: skip
    first, second = tables.layers_table(cells.read()[1]).to_dict("records")
    assert (first["layer"], first["name"], first["kind"], first["seeds"]) == (1, "pool1", "max_pool", 2)
    assert (first["windows"], first["tied"], first["largest_size"]) == (4000, 300, 9)
    assert first["mean_size"] == (250 + 410) / 300
    assert first["tied_by_rounding"] == 300 - 2 * 94
    shares = {"tied": 300, "zero": 180, "above_zero": 20, "with_gradient": 10, "float64": 190, "by_rounding": 112}
    for name, count in shares.items():
        assert first[f"{name}_share"] == count / 4000
    assert math.isnan(second["mean_size"])
    assert second["tied_share"] == 0


def test_a_layer_is_not_known_of_cells_without_replays(cells: Cells) -> None:
    """Nor of a condition of which one cell has none."""
    empty = dict.fromkeys(("tied_with_gradient", "tied_float64", "tied_both", "undecided_windows"), "")
    cells.add(CELL, [minibatch(0, 0.5, "real")])
    cells.add(replace(CELL, seed=1, replays=False), [minibatch(0, 0.5, "")], [layer(1, **empty)])
    (row,) = tables.layers_table(cells.read()[1]).to_dict("records")
    assert row["tied_share"] == 0.1
    assert all(math.isnan(row[f"{name}_share"]) for name in ("with_gradient", "float64", "by_rounding"))


# ----------------------------------------------------------------------------------------------- degenerate


def test_nothing_gives_tables_without_rows(minibatches: pd.DataFrame) -> None:
    nothing = minibatches[:0]
    found = tables.proportions(nothing)
    for table in (found, tables.proportions_by_seed(nothing), tables.classes(nothing), tables.misjudged(nothing),
                  tables.magnitudes(nothing), tables.pure_rounding(nothing), tables.thresholds(nothing), tables.compare(found, published.zones())):  # fmt: skip
        assert table.empty
        assert len(table.columns) > len(ZONE_CONDITION) - 2
    assert list(found) == list(tables.proportions(minibatches))


def test_without_replays_nothing_is_classified(minibatches: pd.DataFrame) -> None:
    without = minibatches[~minibatches.replays]
    assert len(without)
    assert tables.classes(without).empty
    assert tables.misjudged(without).empty
    assert tables.pure_rounding(without).empty
    assert len(tables.proportions(without))


def test_the_principal_measurement_is_the_published_one_if_there_is_one(minibatches: pd.DataFrame) -> None:
    chosen = tables.principal(minibatches)
    assert set(chosen.program) == {"minimal"}
    assert set(chosen.noise) == {0}
    swapped = minibatches[(minibatches.program == "native+relu-1") & (minibatches.noise == 0.5)]
    assert len(tables.principal(swapped)) == len(swapped)
    assert tables.principal(minibatches[:0]).empty
