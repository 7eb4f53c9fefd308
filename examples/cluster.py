"""What the examples share: which cluster they run on."""

from __future__ import annotations

import argparse
from typing import Any

import joblib

import joblib_distributed  # noqa: F401 - registers the backend


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows ``--scheduler``."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--scheduler",
        metavar="HOST:PORT",
        help="run on this dask cluster; default: one embedded in this process",
    )
    return made


def on_cluster(scheduler: str | None, **options: Any) -> joblib.parallel_config:
    """Return the context in which joblib code runs on the cluster."""
    if scheduler:
        options["scheduler_host"] = scheduler
    return joblib.parallel_config(backend="dask.distributed", **options)
