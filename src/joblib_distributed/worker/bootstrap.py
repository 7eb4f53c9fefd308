"""Makes this package importable in a process that does not have it.

Its source is run there as it is: so it imports nothing of the package, and is short.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import Any

from distributed import WorkerPlugin

Sources = dict[str, tuple[bool, str, bytes]]


class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds a package's modules among the sources that it has, after all others.

    Parameters
    ----------
    sources : dict
        ``(whether it is a package, file name, text)`` by name of the module.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
        """Return how to load a module, if it is one of these."""
        if fullname not in self.sources:
            return None
        is_package, filename, _ = self.sources[fullname]
        spec = importlib.util.spec_from_loader(fullname, self, origin=filename)
        assert spec is not None, "the loader is given"
        spec.has_location = True  # so that there is a __file__
        if is_package:
            spec.submodule_search_locations = []
        return spec

    def is_package(self, fullname: str) -> bool:
        """Whether a module is a package."""
        return self.sources[fullname][0]

    def get_source(self, fullname: str) -> str:
        """Return the text of a module."""
        return importlib.util.decode_source(self.sources[fullname][2])

    def get_code(self, fullname: str) -> Any:
        """Return what is to be run."""
        _, filename, text = self.sources[fullname]
        return self.source_to_code(text, filename)


def install(package: str, sources: Sources) -> None:
    """Have a package be found, unless it is installed, or was sent before."""
    if importlib.util.find_spec(package) is None:
        sys.meta_path.append(Finder(sources))


class Plugin(WorkerPlugin):  # type: ignore[misc]
    """Installs a package in each worker, also in those that join later.

    Parameters
    ----------
    package : str
    sources : dict
        As of `Finder`.
    """

    def __init__(self, package: str, sources: Sources) -> None:
        self.name = f"{package} of a driver"
        self._given = package, sources

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - the engine's signature
        """Install it."""
        install(*self._given)
