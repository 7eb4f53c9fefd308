"""What ``joblib-distributed check`` says of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from joblib_distributed.driver.fitness import PACKAGES, Found

_COLUMNS = (
    "", "Python", *PACKAGES,
    "threads", "memory", "direct", "answers", "large data", "free",
)  # fmt: skip


def table(found: Sequence[Found]) -> str:
    """Return a table of processes, a line each; what differs from the first has a ``*``.

    Parameters
    ----------
    found : sequence of Found
        The driver first.
    """
    rows = [_COLUMNS, *(_row(found[0], one) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _row(here: Found, one: Found) -> tuple[str, ...]:
    if not one.python:
        return (one.name, one.obstacle, *[""] * (len(_COLUMNS) - 2))
    packages = (
        _marked(one.packages.get(name), here.packages.get(name)) for name in PACKAGES
    )
    described = one.described
    return (
        one.name,
        _marked(one.python, here.python),
        *packages,
        str(one.threads or ""),
        f"{one.memory_limit / 1e9:.1f} GB" if one.memory_limit else "",
        "" if one.is_direct is None else "yes" if one.is_direct else "no",
        f"{one.seconds * 1e3:.1f} ms" if one.seconds else "",
        "" if described is None else f"{described.folder or 'none'} of {described.user}",
        "" if described is None else f"{described.free / 1e9:.1f} GB",
    )


def _marked(its: str | None, mine: str | None) -> str:
    return f"{its or 'none'}{'' if its == mine or mine is None else ' *'}"
