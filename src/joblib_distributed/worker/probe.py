"""Tells the driver what a worker is, before the first task is sent there."""

from __future__ import annotations

import sys


def describe_worker() -> tuple[int, int]:
    """Return the Python version of this process, as (major, minor).

    Importing this module is half of the check: it fails on a worker that lacks this
    package, joblib or cloudpickle.
    """
    import joblib_distributed.worker.run  # noqa: F401

    return sys.version_info[:2]
