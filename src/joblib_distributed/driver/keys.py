"""Keys of attempts, and what they tell.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from joblib_distributed.data.tasks import Tasks

#: Ending of an attempt's key: depth and id of its call, and its number.
_END = re.compile(r"-(\d+)-[0-9a-f]{32}-\d+$")


def call_name(depth: int, call: str) -> str:
    """Return what is common to all keys of a call.

    Parameters
    ----------
    depth : int
        How many calls of ours are around it.
    call : str
        The hex form of a UUID.
    """
    return f"{depth}-{call}"


def batch_name(tasks: Iterable[Tasks]) -> str:
    """Name a batch after its first function, as dask's dashboard is to show it."""
    names = [each.name for each in tasks]
    prefix = "batch_of" if len(set(names)) == 1 else "mixed_batch_of"
    first = names[0] if names else "nothing"
    return f"{prefix}_{first.replace('-', '_')}"


def has_idle_thread(keys: Iterable[object], threads: int, depth: int) -> bool:
    """Whether a nested call should look for other threads than its own.

    Not if there are as many batches of calls like the one around it as there are threads:
    each of them is to have one, and would only wait for those that others took.

    Parameters
    ----------
    keys : iterable
        Of all tasks that workers have been given.
    threads : int
        Of the whole cluster.
    depth : int
        Of the nested call; at least 1.
    """
    ends = (_END.search(key) for key in keys if isinstance(key, str))
    around = sum(end is not None and int(end[1]) == depth - 1 for end in ends)
    return around < threads
