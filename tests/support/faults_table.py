"""What came of all cells, as a table: see ``tools/faults.py``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any


class Table:
    """Reports of cells by fault, moment and backend.

    Parameters
    ----------
    rows, moments, backends : iterable of str
        In the order in which they are to be shown.
    """

    def __init__(
        self, rows: Iterable[str], moments: Iterable[str], backends: Iterable[str]
    ) -> None:
        self._rows = list(rows)
        self._moments = list(moments)
        self._backends = list(backends)
        self._reports: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)

    def add(self, row: str, moment: str, backend: str, report: dict[str, Any]) -> None:
        """Take note of what came of a cell."""
        self._reports[row, moment, backend].append(report)

    @property
    def seconds(self) -> float:
        """What all cells took, one after the other."""
        return sum(r.get("took", 0.0) for some in self._reports.values() for r in some)

    def _verdicts(self, backend: str) -> Counter[str]:
        return Counter(
            report["verdict"]
            for (_, _, which), some in self._reports.items()
            for report in some
            if which == backend
        )

    def all_right(self, backend: str) -> bool:
        """Whether every cell of a backend is right."""
        return set(self._verdicts(backend)) <= {"right"}

    def counts(self) -> list[str]:
        """Return a line for each backend: how many cells, by verdict."""
        found = {backend: self._verdicts(backend) for backend in self._backends}
        return [
            f"{backend}: {sum(verdicts.values())} cells: {dict(verdicts.most_common())}"
            for backend, verdicts in found.items()
        ]

    def markdown(self) -> str:
        """Return a row for each fault, with its verdicts at each moment."""
        columns = [(m, b) for m in self._moments for b in self._backends]
        lines = [
            _line(["fault", *(f"{moment}: {backend}" for moment, backend in columns)]),
            _line(["---"] * (1 + len(columns))),
        ]
        for row in self._rows:
            found = [self._reports.get((row, *column), []) for column in columns]
            if any(found):
                lines.append(_line([row, *map(_cell, found)]))
        return "\n".join([*lines, "", *(f"- {line}" for line in self.counts()), ""])


def _line(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _cell(reports: list[dict[str, Any]]) -> str:
    """Tell each verdict, of how many variants, and the most seconds to the end."""
    told = []
    for verdict, number in Counter(r["verdict"] for r in reports).most_common():
        seconds = [
            r["seconds"]
            for r in reports
            if r["verdict"] == verdict and r.get("seconds") is not None
        ]
        times = f" x{number}" if len(reports) > 1 else ""
        most = f", {max(seconds):.1f} s" if seconds else ""
        told.append(f"{verdict}{times}{most}")
    return "; ".join(told)
