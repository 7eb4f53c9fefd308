"""Which modules are the user's own, so that workers lack them; and their sources.

Those in the script's folder, in editable installs, and any others that are not where
installed ones are. Modules with compiled parts do not travel, nor the packages they are
in: these have to be installed. ``__main__`` does not, either: what is defined there is
pickled with the tasks that use it.

What is on disk counts, when a call begins: as a worker's own import would find it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import site
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from joblib_distributed.data.modules import Source, pack_sources
from joblib_distributed.driver import telling
from joblib_distributed.errors import OptionValueError
from joblib_distributed.worker.importing import sources_here

#: Files, and bytes of them, that travel at most: a folder with more is no program, but
#: one where programs lie; then only what has been imported travels. A guess.
MOST_FILES = 1000
MOST_BYTES = 2**23

#: Seconds after which the files are looked at again: as many times what that takes, and a
#: tenth of a second at most, in which nobody has changed one and called again. Guesses.
SPARED, LONGEST_SPARED = 20, 0.1

#: Never looked into: what is there is not imported, or is installed.
_SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})

#: Files beside a script that nobody means to be imported, unless they have been.
_NO_MODULES = frozenset({"__init__", "__main__", "setup", "conftest"})

#: Packages of the engine, which workers have; of other versions they could not be used.
_ENGINE = frozenset(
    {"joblib_distributed", "joblib", "distributed", "dask", "cloudpickle", "tornado"}
)


class _File(NamedTuple):
    changed: int
    size: int
    text: bytes


class OwnModules:
    """Of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What was asked for last, and when to look at the files again, on the monotonic
        # clock.
        self._asked: tuple[int, tuple[str, ...]] = (0, ())
        self._due = 0.0
        # What was found among which modules.
        self._seen = 0
        self._loaded: dict[str, tuple[str, bool]] = {}
        self._files: dict[str, _File] = {}
        self._sources: tuple[Source, ...] = ()
        self._packed = b""
        # The same of those that a worker was sent by its driver.
        self._sent: tuple[Source, ...] = ()
        self._sent_packed = b""
        self._told = False

    def packed(self, more: Sequence[str] = ()) -> bytes:
        """Return the packed sources of the user's modules; empty if there are none.

        Parameters
        ----------
        more : sequence of str
            Names of others that are to travel, wherever they are from.

        Raises
        ------
        OptionValueError
            If one of these cannot.
        """
        with self._lock:
            here = tuple(sources_here())
            if here:  # a worker: those of its driver
                if here != self._sent:
                    self._sent, self._sent_packed = here, pack_sources(here)
                return self._sent_packed
            # One may have been taken out, and another of its name have come.
            asked = hash((*sys.modules, *map(id, sys.modules.values()))), tuple(more)
            start = time.monotonic()
            if asked != self._asked or start >= self._due:
                sources = tuple(self._find(more, asked[0]))
                if sources != self._sources:
                    self._sources = sources
                    self._packed = pack_sources(sources) if sources else b""
                self._asked = asked
                now = time.monotonic()
                self._due = now + min(LONGEST_SPARED, SPARED * (now - start))
            return self._packed

    def _find(self, more: Sequence[str], seen: int) -> Iterable[Source]:
        if seen != self._seen:
            self._loaded = dict(_own_among(sys.modules))
            self._seen = seen
        places = dict(self._loaded)
        for each in more:
            places.update(_named(each))
        return self._read(places, self._beside_script(), more)

    def _beside_script(self) -> dict[str, tuple[str, bool]]:
        folder = script_folder()
        if folder is None or _is_installed(os.path.join(folder, "")):
            return {}
        passed_over = sys.stdlib_module_names | _ENGINE | _NO_MODULES
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        return {
            name: place
            for name, place in itertools.islice(files_of(folder, ""), MOST_FILES + 1)
            if name.partition(".")[0] not in passed_over
            and place[0] != (script and os.path.abspath(script))
        }

    def _read(
        self,
        places: dict[str, tuple[str, bool]],
        beside: dict[str, tuple[str, bool]],
        more: Sequence[str],
    ) -> list[Source]:
        found = self._read_all({**beside, **places})
        if found is not None:
            return found
        if not self._told:
            self._told = True
            telling.tell(
                f"joblib_distributed: there are more than {MOST_FILES} modules of yours, "
                f"or {MOST_BYTES >> 20} MB of them: only those that have been imported "
                "are sent to workers."
            )
        named = {name.partition(".")[0] for name in more}
        imported = {
            name: place
            for name, place in places.items()
            if name in sys.modules or name.partition(".")[0] in named
        }
        found = self._read_all(imported)
        if found is None and more:
            raise OptionValueError(
                f"modules={list(more)!r}, with those that have been imported, are more "
                f"than {MOST_FILES} modules, or {MOST_BYTES >> 20} MB of them, which "
                "would be sent to each host: install them on the workers."
            )
        return found or []

    def _read_all(self, places: dict[str, tuple[str, bool]]) -> list[Source] | None:
        if len(places) > MOST_FILES:
            return None
        files: dict[str, _File] = {}
        sources = []
        for name, (filename, is_package) in sorted(places.items()):
            file = self._read_file(filename)
            if file is not None:
                files[filename] = file
                sources.append(Source(name, is_package, filename, file.text))
        if sum(file.size for file in files.values()) > MOST_BYTES:
            return None
        self._files = files
        return sources

    def _read_file(self, filename: str) -> _File | None:
        try:
            status = os.stat(filename)
            known = self._files.get(filename)
            if known and (known.changed, known.size) == (
                status.st_mtime_ns,
                status.st_size,
            ):
                return known
            text = Path(filename).read_bytes()
        except OSError:  # it has been removed: a worker could not import it, either
            return None
        return _File(status.st_mtime_ns, status.st_size, text)


OWN_MODULES = OwnModules()


def script_folder() -> Path | None:
    """Return where Python looks for modules first: beside the script, or where we are."""
    main = sys.modules.get("__main__")
    filename = getattr(main, "__file__", None)
    try:
        if filename:
            folder = Path(filename).absolute().parent
            # Of ``python -m a.b``: where `a` is.
            package = getattr(getattr(main, "__spec__", None), "parent", None) or ""
            for name in reversed(package.split(".")):
                if name:
                    folder = folder.parent if folder.name == name else folder
            return folder
        return Path.cwd() if "" in sys.path else None
    except OSError:  # it has been removed
        return None


def _own_among(
    modules: dict[str, ModuleType],
) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield the user's own modules, and all others of the packages that they are in."""
    packages = set()
    for name, module in list(modules.items()):
        filename = _file_of(module)
        top = name.partition(".")[0]
        if (
            filename is None
            or name in ("__main__", "__mp_main__")
            or top in sys.stdlib_module_names
            or top in _ENGINE
            or _is_installed(filename)
        ):
            continue
        folder = _folder_of_top(name, filename)
        if folder is None:
            yield name, (filename, False)
        else:
            packages.add((top, folder))
    for top, folder in sorted(packages):
        yield from files_of(Path(folder), top)


def _file_of(module: object) -> str | None:
    try:
        filename = getattr(module, "__file__", None)
    except Exception:  # whatever somebody has put among the modules
        return None
    if not isinstance(filename, str) or not filename.endswith(".py"):
        return None
    return os.path.abspath(filename)


def _folder_of_top(name: str, filename: str) -> str | None:
    """Return the folder of the package that a module is in, the outermost one."""
    is_package = os.path.basename(filename) == "__init__.py"
    if name.count(".") + is_package == 0:
        return None
    folder = os.path.dirname(filename)
    names = name.split(".")[: None if is_package else -1]
    for inner in reversed(names[1:]):
        if os.path.basename(folder) != inner:
            return None  # it was not found by its name
        folder = os.path.dirname(folder)
    return folder if os.path.basename(folder) == names[0] else None


def _is_installed(filename: str) -> bool:
    if any(part in _SKIPPED for part in filename.split(os.sep)):
        return True
    return filename.startswith(_installed_roots())


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    roots = {paths[kind] for kind in kinds}
    roots.update(getattr(site, "getsitepackages", list)())
    return tuple(os.path.join(root, "") for root in roots)


def files_of(folder: Path, package: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield the modules of a folder, and of the packages in it; none of compiled ones.

    Parameters
    ----------
    folder : Path
    package : str
        Name of the package that the folder is; empty if it is one where modules lie.

    Yields
    ------
    tuple
        A module's name, and its file with whether that is a package's.
    """
    found = list(itertools.islice(_files_of(folder, package, set()), MOST_FILES + 1))
    if None not in found:
        yield from (each for each in found if each is not None)


def _files_of(
    folder: Path, package: str, visited: set[str]
) -> Iterator[tuple[str, tuple[str, bool]] | None]:
    """Yield them, and None if there is a compiled one. Each folder is visited once."""
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    prefix = f"{package}." if package else ""
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        if entry.name == "__init__.py" and package:
            yield package, (entry.path, True)
        elif suffix == ".py" and stem.isidentifier() and entry.is_file():
            yield prefix + stem, (entry.path, False)
        elif package and entry.name.endswith(tuple(EXTENSION_SUFFIXES)):
            yield None
        elif stem.isidentifier() and entry.name not in _SKIPPED and not suffix:
            inner = os.path.join(entry.path, "__init__.py")
            if package or os.path.isfile(inner):
                if package:
                    yield from _files_of(Path(entry.path), prefix + stem, visited)
                else:
                    yield from files_of(Path(entry.path), prefix + stem)


def _named(name: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield a module that was asked for, with all that is in it if it is a package."""
    filename = _file_of(_imported(name))
    if filename is None:
        raise OptionValueError(
            f"modules= names {name!r}, which cannot be sent to workers: it is no module "
            "of Python source. Install it on every worker."
        )
    if os.path.basename(filename) != "__init__.py":
        yield name, (filename, False)
        return
    found = list(files_of(Path(filename).parent, name))
    if not found:
        raise OptionValueError(
            f"modules= names {name!r}, which cannot be sent to workers: it has compiled "
            "parts. Install it on every worker."
        )
    yield from found


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionValueError(
            f"modules= names {name!r}, which cannot be imported here: {error}."
        ) from error
