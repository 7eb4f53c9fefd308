"""Tells the driver what a worker is, before the first task is sent there."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from typing import NamedTuple

import joblib_distributed
from joblib_distributed.data.wire import wire_format


def describe_worker() -> tuple[int, int, str]:
    """Return this process's version of Python, major and minor, and its `wire_format`.

    Importing this module is half of the check: it fails on a worker that lacks this
    package, joblib or cloudpickle.
    """
    import joblib_distributed.worker.run  # noqa: F401

    return *sys.version_info[:2], wire_format()


class Described(NamedTuple):
    """What a process says of its host and of itself; plain data."""

    #: Of this package.
    version: str
    user: str
    #: Folder of large data and the bytes that are free there; none if there is no store.
    folder: str
    free: int


def describe_host() -> tuple[str, str, str, int]:
    """Return the fields of a `Described` of this process."""
    from joblib_distributed.data.host import host_store

    stores = host_store().stores
    folder = str(stores[0].folder) if stores else ""
    free = shutil.disk_usage(folder).free if folder else 0
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # one that the system has no name for
        user = str(os.getuid())
    return joblib_distributed.__version__, user, folder, free
