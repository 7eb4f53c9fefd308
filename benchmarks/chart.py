"""Draws what ``benchmarks/run.py --json FILE`` has measured: a bar for each backend.

A bar is the median of a backend's seconds, as a multiple of loky's, or of the fastest
where loky takes no part; the thin line goes from the least to the greatest.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

#: In the order of the bars, from above.
COLOURS = {
    "ours": "#d1495b",
    "loky": "#30638e",
    "threading": "#7a9e7e",
    "sequential": "#a8a8a8",
    "bundled": "#edae49",
    "ray": "#8d6a9f",
}

NAMES = {"ours": "joblib-distributed", "bundled": "joblib's dask backend"}

PEER = "loky"

#: Height of a bar in inches.
BAR = 0.16

Seconds = dict[str, list[float]]


def ratios(seconds: Seconds) -> dict[str, tuple[float, float, float]]:
    """Return the median, least and greatest of each backend, as multiples of the peer."""
    middle = {name: statistics.median(found) for name, found in seconds.items() if found}
    unit = middle.get(PEER) or min(middle.values())
    return {
        name: (middle[name] / unit, min(seconds[name]) / unit, max(seconds[name]) / unit)
        for name in COLOURS
        if name in middle
    }


def draw(everything: dict[str, Seconds], path: Path) -> None:
    """Write the chart of all workloads to a file."""
    groups = {name: ratios(seconds) for name, seconds in everything.items()}
    bars = sum(len(group) for group in groups.values())
    figure = Figure(figsize=(8, BAR * (bars + 2 * len(groups)) + 1), layout="constrained")
    axes = figure.add_subplot()
    place, ticks, drawn = 0.0, [], set()
    for group in groups.values():
        ticks.append(place + (len(group) - 1) / 2)
        for backend, (middle, least, most) in group.items():
            label = None if backend in drawn else NAMES.get(backend, backend)
            drawn.add(backend)
            axes.barh(place, middle, 0.9, color=COLOURS[backend], label=label)
            axes.plot([least, most], [place, place], color="black", linewidth=0.8)
            place += 1
        place += 1.5
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(ticks, list(groups))
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds, as a multiple of {PEER}'s (less is better)")
    axes.legend(loc="lower right", fontsize="small")
    # Text stays text, and the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path, help="what run.py --json has written")
    parser.add_argument("chart", type=Path, help="file to write, .svg or .png")
    given = parser.parse_args()
    draw(json.loads(given.measured.read_text()), given.chart)


if __name__ == "__main__":
    main()
