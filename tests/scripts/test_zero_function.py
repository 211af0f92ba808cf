"""The table of zero functions: all digits as CSV, words for readers as CSV, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nonsmooth.zones.zero_function import readable, zero_table

from .test_tables import read_latex, read_markdown

SETTINGS = {"precisions": ["float16", "float32"], "x": [[1.14] * 4, [1, 2, 3, 4]], "t": [0, -1.5, 3]}


def test_files_hold_the_table(tmp_path: Path, run_script) -> None:
    outputs = {suffix: tmp_path / f"zero_function.{suffix}" for suffix in ("csv", "md", "tex")}
    outputs["values"] = tmp_path / "values.csv"
    run_script(
        "maxpool/zero_function", output=outputs, params={"zero_function": SETTINGS}, log=[str(tmp_path / "job.log")]
    )
    expected = zero_table(SETTINGS["precisions"], SETTINGS["x"], SETTINGS["t"])
    found = pd.read_csv(outputs["values"], keep_default_na=False, float_precision="round_trip")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)

    words = readable(expected)
    assert (
        pd.read_csv(outputs["csv"], dtype=str, keep_default_na=False).to_numpy().tolist() == words.to_numpy().tolist()
    )
    header, *rows = read_markdown(outputs["md"].read_text())
    assert header == list(words)
    assert rows == words.to_numpy().tolist()
    header, *rows = read_latex(outputs["tex"].read_text())
    assert header == list(words)
    assert rows == words.to_numpy().tolist()
    assert any("5.96e-08 (1 u)" in row for row in rows)
