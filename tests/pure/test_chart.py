"""The chart of what benchmarks have measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
try:
    from chart import draw, ratios
finally:
    del sys.path[0]


def test_bars_are_medians_as_multiples_of_lokys() -> None:
    seconds = {"loky": [2.0, 1.0, 4.0], "ray": [], "ours": [1.0, 3.0, 1.5]}
    assert ratios(seconds) == {"ours": (0.75, 0.5, 1.5), "loky": (1.0, 0.5, 2.0)}


def test_without_loky_the_fastest_is_the_measure() -> None:
    assert ratios({"ours": [2.0], "bundled": [3.0]}) == {
        "ours": (1.0, 1.0, 1.0), "bundled": (1.5, 1.5, 1.5),
    }  # fmt: skip


def test_the_chart_names_all_and_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    measured = {"no-ops": {"loky": [1.0], "ours": [0.5]}, "naps": {"bundled": [2.0]}}
    charts = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for chart in charts:
        draw(measured, chart)
    one, other = (chart.read_text() for chart in charts)
    assert one == other
    for text in ("no-ops", "naps", "joblib-distributed", "loky", "joblib's dask backend"):
        assert text.replace("'", "&#39;") in one or text in one
