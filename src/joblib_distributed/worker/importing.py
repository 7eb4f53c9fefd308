"""Imports the user's own modules, whose sources have come with a batch.

A worker process may run batches of several drivers, and of one whose sources have
changed. So modules of one name and of two contents never are loaded at a time:

1. A batch comes with sources that some which are loaded contradict.
2. It waits until no batch that came with those, or with any that share a module with
   them, is running here. Not for long: they may wait for a batch that needs its thread.
   It then is given back, and comes again.
3. They are forgotten, and what is imported from then on is of the new ones.

Modules of the process itself, installed ones and those of the driver if it is the same
process, are left alone unless the sources name them.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType

from joblib_distributed.data.modules import Modules, Source, unpack_sources
from joblib_distributed.data.process import process_token

#: Seconds that a batch waits at most for others to end. A guess: less than it matters,
#: more than it costs to send it again.
PATIENCE = 1.0

#: Sources that are kept though nobody uses them. A guess.
KEPT = 8


class _Loader(importlib.abc.InspectLoader):
    """Loads one module from its source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002
        return self.source.is_package

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return importlib.util.decode_source(self.source.text)

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        return self.source.filename

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        code: CodeType = self.source_to_code(self.source.text, self.source.filename)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules among the sources; before all others, as the driver's are meant."""

    def __init__(self) -> None:
        # Replaced, never changed: other threads import meanwhile.
        self._sources: Mapping[str, Source] = {}
        self._parents: frozenset[str] = frozenset()

    def set(self, sources: Mapping[str, Source]) -> None:
        """Have these be found, and the packages that they are in."""
        parents = set()
        for name in sources:
            while name := name.rpartition(".")[0]:
                parents.add(name)
        self._sources, self._parents = sources, frozenset(parents)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        source = self._sources.get(fullname)
        if source is not None:
            # Where it was on the driver's machine: there may be data, or compiled parts.
            folder = os.path.dirname(source.filename)
            return importlib.util.spec_from_file_location(
                fullname,
                source.filename,
                loader=_Loader(source),
                submodule_search_locations=[folder] if source.is_package else None,
            )
        if (
            fullname in self._parents
            # Other parts of it may be installed here.
            and importlib.machinery.PathFinder.find_spec(fullname, path) is None
        ):
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        return None


_finder = _Finder()
_free = threading.Condition()
#: The sources that are loaded, by the name of all that came together, unpacked; and how
#: many batches that came with them run here.
_loaded: dict[str, Mapping[str, Source]] = {}
_running: dict[str, int] = {}
#: How often modules were forgotten: what was made of them is to be made anew.
_generation = 0

#: What the batch has come with that this thread runs.
_mine: contextvars.ContextVar[Mapping[str, Source] | None] = contextvars.ContextVar(
    "own modules", default=None
)


class NotNow(Exception):  # noqa: N818 - no error
    """Others are in the way of a batch: it is to be given back."""


@contextlib.contextmanager
def importable(
    modules: Modules, load: Callable[[], bytes | memoryview]
) -> Iterator[None]:
    """Have modules be imported from the sources that came with a batch.

    Parameters
    ----------
    modules : Modules
    load : callable
        Returns the packed sources; called unless they are loaded already.

    Raises
    ------
    NotNow
        If others that contradict them have been in use for `PATIENCE` seconds.
    """
    if not modules.name or modules.process == process_token():
        yield
        return
    token = _mine.set(_begin(modules.name, load))
    try:
        yield
    finally:
        _mine.reset(token)
        with _free:
            _running[modules.name] -= 1
            _free.notify_all()


def _begin(name: str, load: Callable[[], bytes | memoryview]) -> Mapping[str, Source]:
    """Have sources be there, and count as used."""
    with _free:
        if name in _loaded:
            _running[name] += 1
            return _loaded[name]
    sources = unpack_sources(load())
    with _free:
        if not _free.wait_for(lambda: not _in_use(_in_the_way(name, sources)), PATIENCE):
            raise NotNow
        for other in _in_the_way(name, sources):
            _forget(other)
        if name not in _loaded:  # somebody else may have brought them
            _add(name, sources)
        _running[name] += 1
        return _loaded[name]


def _in_use(names: Iterable[str]) -> bool:
    return any(_running[name] for name in names)


def _in_the_way(name: str, sources: Mapping[str, Source]) -> set[str]:
    """Return what is to be forgotten for sources to be loaded.

    What contradicts them; and what has a module that would be forgotten with that.
    """
    if name in _loaded:
        return set()
    found = {other for other, those in _loaded.items() if _contradict(those, sources)}
    while True:
        modules = {each for other in found for each in _loaded[other]}
        more = {o for o in _loaded if not modules.isdisjoint(_loaded[o])} - found
        if not more:
            return found
        found |= more


def _contradict(some: Mapping[str, Source], others: Mapping[str, Source]) -> bool:
    return any(
        not some[name].is_same(source) for name, source in others.items() if name in some
    )


def _add(name: str, sources: Mapping[str, Source]) -> None:
    for old in list(_loaded)[: max(0, len(_loaded) + 1 - KEPT)]:
        if not _in_use(_sharing(old)):
            _forget(old)
    _loaded[name] = sources
    _running[name] = 0
    for each, source in sources.items():
        if not _is_loaded_from(sys.modules.get(each), source):
            _drop(each)
    _offer_all()
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _sharing(name: str) -> list[str]:
    """Return all that have a module of this one, itself too."""
    return [o for o in _loaded if not set(_loaded[name]).isdisjoint(_loaded[o])]


def _offer_all() -> None:
    _finder.set({n: one for those in _loaded.values() for n, one in those.items()})


def _is_loaded_from(module: ModuleType | None, source: Source) -> bool:
    """Whether a module is what its source would make it."""
    if module is None:
        return True
    loader = getattr(module, "__loader__", None)
    if isinstance(loader, _Loader):
        return loader.source.is_same(source)
    try:
        return bool(loader.get_source(source.name).encode() == source.text)  # type: ignore[union-attr]
    except Exception:  # a loader of any kind, of a file that may be gone
        return False


def _forget(name: str) -> None:
    """Forget sources, and the modules made of them."""
    global _generation
    _generation += 1
    for each in _loaded.pop(name):
        # All of them: one that has not changed may have imported one that has.
        _drop(each)
    _running.pop(name, None)
    _offer_all()


def _drop(name: str) -> None:
    module = sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    parent = sys.modules.get(package)
    if module is not None and getattr(parent, last, None) is module:
        delattr(parent, last)
    filename = getattr(module, "__file__", None)
    if filename:
        linecache.cache.pop(filename, None)


def sources_here() -> list[Source]:
    """Return the sources that came with the batch that this thread runs."""
    return list((_mine.get() or {}).values())


def generation() -> int:
    """Return a number that is another one when modules have been forgotten."""
    return _generation
