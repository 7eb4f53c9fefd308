"""Clusters that a file describes, of any class that dask knows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from joblib_distributed.errors import SpecError

_EXAMPLE = """Write for example:

class: dask.distributed.LocalCluster
arguments:
  n_workers: 4
adapt:
  minimum: 1
  maximum: 4
"""


class Spec(NamedTuple):
    """A cluster that may be started."""

    #: Dotted name.
    name: str
    #: Keywords of the class.
    arguments: Mapping[str, Any]
    #: Keywords of its method ``adapt``, if it is to be called.
    adapt: Mapping[str, Any] | None = None


def read_spec(path: str) -> Spec:
    """Read the description of a cluster from a file of YAML.

    Raises
    ------
    SpecError
        If there is no such file, or no such description in it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise SpecError(
            f"The description of a cluster, {path!r}, cannot be read: {error.strerror}. "
            "Name an existing file after --cluster."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path!r} is no YAML: {error}. {_EXAMPLE}") from error
    if not isinstance(found, dict) or not isinstance(found.get("class"), str):
        raise SpecError(
            f"{path!r} describes no cluster: it has no `class`, the dotted name of a "
            f"cluster class. {_EXAMPLE}"
        )
    unknown = sorted(map(str, found.keys() - {"class", "arguments", "adapt"}))
    if unknown:
        raise SpecError(
            f"{path!r} has {', '.join(unknown)}, which says nothing here: known are "
            f"`class`, `arguments` and `adapt`. {_EXAMPLE}"
        )
    for key in ("arguments", "adapt"):
        if not isinstance(found.get(key) or {}, dict):
            raise SpecError(
                f"`{key}` in {path!r} must be names and values, got {found[key]!r}. "
                f"{_EXAMPLE}"
            )
    adapt = (found["adapt"] or {}) if "adapt" in found else None
    return Spec(found["class"], found.get("arguments") or {}, adapt)


def start_cluster(spec: Spec) -> Any:
    """Start a cluster.

    Raises
    ------
    SpecError
        If there is no such class, or it cannot be started with these arguments.
    """
    module, _, name = spec.name.rpartition(".")
    try:
        make = getattr(importlib.import_module(module or "builtins"), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"There is no class {spec.name!r}: {error}. Install the package that has it "
            "in this environment, or correct `class` in the description of the cluster."
        ) from error
    try:
        cluster = make(**spec.arguments)
        if spec.adapt is not None:
            cluster.adapt(**spec.adapt)
    except Exception as error:  # of any kind: it is another package's
        raise SpecError(
            f"The cluster {spec.name!r} cannot be started with {dict(spec.arguments)!r}"
            + (f" and adapt {dict(spec.adapt)!r}" if spec.adapt is not None else "")
            + f": {type(error).__name__}: {error}. Correct its description."
        ) from error
    return cluster
