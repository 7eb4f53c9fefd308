"""Modules imported from the sources that came with a batch."""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from joblib_distributed.data.modules import Modules, Source, pack_sources
from joblib_distributed.data.process import process_token
from joblib_distributed.worker import importing
from joblib_distributed.worker.importing import (
    NotNow,
    generation,
    importable,
    sources_here,
)

ELSEWHERE = b"another process"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = dict(sys.modules)
    path = list(sys.meta_path)
    for name in ("_loaded", "_running"):
        monkeypatch.setattr(importing, name, {})
    importing._finder.set({})
    yield
    importing._finder.set({})
    sys.meta_path[:] = path
    for name in set(sys.modules) - set(modules):
        if name.startswith("jd_") or name == "colorsys":
            del sys.modules[name]
    sys.modules.update(modules)


def source(name: str, text: str, is_package: bool = False) -> Source:
    inner = "/__init__.py" if is_package else ".py"
    return Source(
        name, is_package, f"/there/{name.replace('.', '/')}{inner}", text.encode()
    )


class Sent:
    """Sources on their way; counts how often they are asked for."""

    def __init__(self, *sources: Source, name: str = "") -> None:
        self.packed = pack_sources(sources)
        self.modules = Modules(name or str(hash(self.packed)), ELSEWHERE)
        self.loads = 0

    def load(self) -> bytes:
        self.loads += 1
        return self.packed


def value_of(sent: Sent, module: str = "jd_helper", attribute: str = "X") -> object:
    with importable(sent.modules, sent.load):
        return getattr(importlib.import_module(module), attribute)


def test_a_module_is_imported_from_its_source() -> None:
    sent = Sent(source("jd_helper", "X = 1\nassert __name__ == 'jd_helper'\n"))
    assert value_of(sent) == 1
    assert sys.modules["jd_helper"].__file__ == "/there/jd_helper.py"


def test_sources_are_loaded_once_in_a_process_and_stay() -> None:
    sent = Sent(source("jd_helper", "X = object()"))
    assert value_of(sent) is value_of(sent)
    assert sent.loads == 1
    assert sources_here() == []
    with importable(sent.modules, sent.load):
        assert sources_here() == [source("jd_helper", "X = object()")]


def test_packages_and_what_is_in_them() -> None:
    sent = Sent(
        source("jd_pack", "from .inner import Y\nX = Y", is_package=True),
        source("jd_pack.inner", "from jd_pack import deep\nY = 2", is_package=True),
        source("jd_pack.deep", "from . import inner"),
    )
    assert value_of(sent, "jd_pack") == 2
    assert sys.modules["jd_pack.deep"].inner is sys.modules["jd_pack.inner"]


def test_a_package_without_a_file_of_its_own() -> None:
    sent = Sent(source("jd_space.helper", "X = 3"))
    assert value_of(sent, "jd_space.helper") == 3
    assert value_of(sent, "jd_space.helper") == 3


def test_other_parts_of_such_a_package_may_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jd_space").mkdir()
    (tmp_path / "jd_space" / "installed.py").write_text("X = 4")
    monkeypatch.syspath_prepend(str(tmp_path))
    sent = Sent(source("jd_space.helper", "X = 3"))
    assert value_of(sent, "jd_space.helper") == 3
    assert value_of(sent, "jd_space.installed") == 4


def test_what_is_beside_a_package_and_did_not_come_is_found_on_disk(
    tmp_path: Path,
) -> None:
    (tmp_path / "on_disk.py").write_text("X = 5")
    init = Source("jd_pack", True, str(tmp_path / "__init__.py"), b"")
    assert value_of(Sent(init), "jd_pack.on_disk") == 5


def test_the_driver_itself_imports_what_it_has() -> None:
    sent = Sent(source("jd_helper", "X = 1"))
    here = sent.modules._replace(process=process_token())
    for modules in (here, Modules()):
        with importable(modules, sent.load), pytest.raises(ModuleNotFoundError):
            importlib.import_module("jd_helper")
    assert sent.loads == 0


def test_sources_go_before_what_is_installed() -> None:
    sent = Sent(source("colorsys", "X = 'mine'"))
    assert importlib.import_module("colorsys").__doc__
    assert value_of(sent, "colorsys") == "mine"


def test_what_has_been_imported_of_the_same_text_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jd_helper.py").write_text("X = object()")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = importlib.import_module("jd_helper").X
    assert value_of(Sent(source("jd_helper", "X = object()"))) is before
    assert value_of(Sent(source("jd_helper", "X = 7"), name="other")) == 7


# -------------------------------------------------------------------------- changed code
def test_changed_code_is_imported_anew() -> None:
    before = generation()
    assert value_of(Sent(source("jd_helper", "X = 1"))) == 1
    assert generation() == before
    assert value_of(Sent(source("jd_helper", "X = 2"))) == 2
    assert generation() == before + 1


def test_so_is_what_has_imported_it() -> None:
    user = source("jd_user", "from jd_helper import X")
    assert value_of(Sent(source("jd_helper", "X = 1"), user), "jd_user") == 1
    assert value_of(Sent(source("jd_helper", "X = 2"), user), "jd_user") == 2


def test_and_what_is_in_a_package_whose_other_module_has_changed() -> None:
    def pack(x: int) -> Sent:
        return Sent(
            source("jd_pack", "", is_package=True),
            source("jd_pack.a", f"X = {x}"),
            source("jd_pack.b", "from jd_pack import a\nX = a.X"),
        )

    assert value_of(pack(1), "jd_pack.b") == 1
    assert value_of(pack(2), "jd_pack.b") == 2


def test_sources_that_do_not_contradict_are_loaded_side_by_side() -> None:
    first = Sent(source("jd_helper", "X = object()"))
    before = value_of(first)
    assert value_of(Sent(source("jd_other", "X = 2")), "jd_other") == 2
    assert value_of(first) is before
    assert first.loads == 1


def test_a_module_that_did_not_come_again_is_gone() -> None:
    one = source("jd_helper", "X = 1")
    assert value_of(Sent(one, source("jd_other", "X = 1")), "jd_other") == 1
    changed = Sent(source("jd_helper", "X = 2"))
    assert value_of(changed) == 2
    with importable(changed.modules, changed.load), pytest.raises(ModuleNotFoundError):
        importlib.import_module("jd_other")


def test_a_batch_waits_for_those_that_it_contradicts() -> None:
    first, second = (Sent(source("jd_helper", f"X = {x}")) for x in (1, 2))
    found: list[object] = []
    loaded = threading.Event()

    def load() -> bytes:
        loaded.set()
        return second.packed

    def run() -> None:
        with importable(second.modules, load):
            found.append(importlib.import_module("jd_helper").X)

    thread = threading.Thread(target=run)
    with importable(first.modules, first.load):
        thread.start()
        assert loaded.wait(10)
        # And those that came with the same need not wait for it.
        assert value_of(first) == 1
        assert found == []
    thread.join(10)
    assert found == [2]


def test_a_batch_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those may wait for another that needs its thread: it is given back."""
    monkeypatch.setattr(importing, "PATIENCE", 0.05)
    first, second = (Sent(source("jd_helper", f"X = {x}")) for x in (1, 2))
    with importable(first.modules, first.load):
        with pytest.raises(NotNow):
            value_of(second)
        assert value_of(first) == 1
    assert value_of(second) == 2


def test_what_runs_keeps_its_modules_whatever_is_in_the_way_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the second share one with the first, which the third does not touch."""
    monkeypatch.setattr(importing, "PATIENCE", 0.05)
    shared = source("jd_helper", "X = object()")
    first = Sent(shared)
    second = Sent(shared, source("jd_other", "X = 2"))
    third = Sent(source("jd_other", "X = 3"))
    with importable(first.modules, first.load):
        before = importlib.import_module("jd_helper").X
        assert value_of(second, "jd_other") == 2
        with pytest.raises(NotNow):
            value_of(third, "jd_other")
        assert importlib.import_module("jd_helper").X is before
    assert value_of(third, "jd_other") == 3


def test_the_same_code_elsewhere_is_the_same() -> None:
    one = source("jd_helper", "X = object()")
    before = value_of(Sent(one))
    elsewhere = one._replace(filename="/elsewhere/jd_helper.py")
    assert value_of(Sent(elsewhere)) is before


def test_sources_that_nobody_uses_are_forgotten_in_time() -> None:
    for number in range(3 * importing.KEPT):
        value_of(Sent(source(f"jd_{number}", "X = 1")), f"jd_{number}")
    assert len(importing._loaded) == importing.KEPT
    assert "jd_0" not in sys.modules


def test_modules_are_found_while_others_come_and_go() -> None:
    done = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not done.is_set():
                importing._finder.find_spec("jd_never", None)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(200):
        value_of(
            Sent(*(source(f"jd_{number}_{i}", "X = 1") for i in range(50))),
            f"jd_{number}_0",
        )
    done.set()
    thread.join(10)
    assert errors == []


def test_sources_that_do_not_come_leave_nothing() -> None:
    def fail() -> bytes:
        raise LookupError("not here")

    sent = Sent(source("jd_helper", "X = 1"))
    with pytest.raises(LookupError), importable(sent.modules, fail):
        pass
    assert value_of(sent) == 1


def test_an_error_of_a_batch_lets_the_next_go_on() -> None:
    first = Sent(source("jd_helper", "X = 1"))
    with pytest.raises(ZeroDivisionError), importable(first.modules, first.load):
        raise ZeroDivisionError
    assert value_of(Sent(source("jd_helper", "X = 2"))) == 2


# ------------------------------------------------------------------------------ messages
def test_a_traceback_shows_the_lines_of_the_source() -> None:
    sent = Sent(source("jd_helper", "def X():\n    raise KeyError('here')  # line\n"))
    function = value_of(sent)
    assert inspect.getsource(function).startswith("def X")  # type: ignore[arg-type]
    with pytest.raises(KeyError) as caught:
        function()  # type: ignore[operator]
    assert "raise KeyError('here')  # line" in "".join(traceback.format_tb(caught.tb))
    changed = Sent(source("jd_helper", "def X():\n    raise KeyError('other')\n"))
    with pytest.raises(KeyError) as caught:
        value_of(changed)()  # type: ignore[operator]
    assert "raise KeyError('other')" in "".join(traceback.format_tb(caught.tb))
    linecache.clearcache()


def test_modules_of_strange_kinds_are_not_in_the_way() -> None:
    sys.modules["jd_helper"] = SimpleNamespace()  # type: ignore[assignment]
    assert value_of(Sent(source("jd_helper", "X = 1"))) == 1
