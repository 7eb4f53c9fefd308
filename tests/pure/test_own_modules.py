"""Which modules are the user's own."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from joblib_distributed.data.modules import Source, unpack_sources
from joblib_distributed.driver import own_modules
from joblib_distributed.driver.own_modules import OwnModules
from joblib_distributed.errors import OptionValueError


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No module that is here already is the user's."""
    before = dict(sys.modules)
    for name, module in before.items():
        filename = own_modules._file_of(module)
        is_own = filename and not own_modules._is_installed(filename)
        if is_own and not name.startswith("joblib_distributed"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(own_modules, "LONGEST_SPARED", 0.0)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith("jd_"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which modules are imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, **texts: str) -> None:
    """Write modules; dots in their names are ``__``."""
    for name, text in texts.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def package(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text("")


def found(own: OwnModules | None = None, *more: str) -> dict[str, Source]:
    packed = (own or OwnModules()).packed(more)
    return dict(unpack_sources(packed)) if packed else {}


def run_script(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    """Have a script be the one that is run."""
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)


def test_installed_modules_are_not_the_users() -> None:
    import numpy  # noqa: F401
    import sklearn  # noqa: F401

    import joblib_distributed  # noqa: F401

    assert found() == {}


def test_one_that_was_imported_from_elsewhere_is(folder: Path) -> None:
    write(folder, jd_mine="X = 1", jd_not_imported="")
    importlib.import_module("jd_mine")
    expected = Source("jd_mine", False, str(folder / "jd_mine.py"), b"X = 1")
    assert found() == {"jd_mine": expected}


def test_all_of_a_package_travels_also_what_was_not_imported(folder: Path) -> None:
    package(folder, "jd_pack")
    package(folder, "jd_pack/inner")
    write(folder, jd_pack__a="", jd_pack__inner__b="", jd_pack__data__c="")
    (folder / "jd_pack" / "notes.txt").write_text("no module")
    importlib.import_module("jd_pack.a")
    sources = found()
    assert sorted(sources) == [
        "jd_pack",
        "jd_pack.a",
        "jd_pack.data.c",
        "jd_pack.inner",
        "jd_pack.inner.b",
    ]
    assert [n for n, s in sources.items() if s.is_package] == ["jd_pack", "jd_pack.inner"]


def test_a_package_with_compiled_parts_does_not(folder: Path) -> None:
    package(folder, "jd_pack")
    package(folder, "jd_other")
    (folder / "jd_pack" / "deep").mkdir()
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (folder / "jd_pack" / "deep" / f"_fast{suffix}").write_text("")
    importlib.import_module("jd_pack")
    importlib.import_module("jd_other")
    assert list(found()) == ["jd_other"]


def test_what_lies_beside_the_script_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, jd_helper="", random="", jd_pack__a="", jd_folder__b="", setup="")
    (tmp_path / "__init__.py").write_text("")
    package(tmp_path, "jd_pack")
    package(tmp_path, "venv/lib/site-packages/jd_installed")
    (tmp_path / "no-name.py").write_text("")
    run_script(monkeypatch, tmp_path / "script.py")
    # Not the standard library's, by the same name; nor folders that are no packages.
    assert sorted(found()) == ["jd_helper", "jd_pack", "jd_pack.a"]


def test_what_lies_beside_a_module_that_is_run_is_in_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "jd_pack")
    write(tmp_path, jd_helper="", jd_pack__pandas="", jd_pack__run="")
    run_script(monkeypatch, tmp_path / "jd_pack" / "run.py")
    main = sys.modules["__main__"]
    main.__spec__ = importlib.machinery.ModuleSpec("jd_pack.run", None)  # type: ignore[assignment]
    assert sorted(found()) == ["jd_helper", "jd_pack", "jd_pack.pandas"]


def test_the_script_does_not_travel_by_another_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`multiprocessing` has a second one for it."""
    write(folder, jd_script="")
    monkeypatch.setitem(sys.modules, "__mp_main__", importlib.import_module("jd_script"))
    del sys.modules["jd_script"]
    assert found() == {}


def test_folders_that_lead_into_themselves_are_visited_once(folder: Path) -> None:
    package(folder, "jd_pack")
    write(folder, jd_pack__a="")
    for name in ("one", "two"):
        (folder / "jd_pack" / name).symlink_to(".")
    importlib.import_module("jd_pack.a")
    assert list(found()) == ["jd_pack", "jd_pack.a"]


def test_a_module_that_lies_nowhere_by_its_name_travels_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, jd_c="X = 1", jd_other="")
    module = importlib.import_module("jd_c")
    del sys.modules["jd_c"]
    monkeypatch.setitem(sys.modules, "jd_a.b.c", module)
    assert list(found()) == ["jd_a.b.c"]


def test_a_folder_that_is_gone_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    (tmp_path / "gone").rmdir()
    assert found() == {}


def test_what_lies_beside_an_installed_script_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sklearn

    run = ModuleType("__main__")
    run.__file__ = str(Path(sklearn.__file__).parent / "__main__.py")
    monkeypatch.setitem(sys.modules, "__main__", run)
    assert found() == {}


def test_at_a_prompt_what_lies_where_it_was_started_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, jd_helper="")
    monkeypatch.chdir(tmp_path)
    assert found() == {}
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert list(found()) == ["jd_helper"]


def test_a_folder_of_many_programs_does_not_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(own_modules.telling, "tell", told.append)
    monkeypatch.setattr(own_modules, "MOST_FILES", 3)
    run_script(monkeypatch, tmp_path / "script.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, jd_a="", jd_b="", jd_c="", jd_d="")
    importlib.import_module("jd_b")
    own = OwnModules()
    assert list(found(own)) == ["jd_b"]
    assert list(found(own)) == ["jd_b"]
    assert len(told) == 1
    assert "more than 3 modules of yours" in told[0]
    with pytest.raises(OptionValueError, match="install them on the workers"):
        found(own, "json")


def test_nor_does_one_of_large_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_modules.telling, "tell", lambda text: None)
    run_script(monkeypatch, tmp_path / "script.py")
    write(tmp_path, jd_a="#" * own_modules.MOST_BYTES)
    assert list(found()) == ["jd_a"]
    write(tmp_path, jd_b="#")
    assert found() == {}


# -------------------------------------------------------------------------- asked again
def test_a_file_is_read_again_when_it_has_changed(folder: Path) -> None:
    own = OwnModules()
    write(folder, jd_mine="X = 1")
    importlib.import_module("jd_mine")
    first = own.packed()
    assert own.packed() is first
    write(folder, jd_mine="X = 2")
    os.utime(folder / "jd_mine.py", (1, 1))  # to the nanosecond another time
    assert found(own)["jd_mine"].text == b"X = 2"


def test_calls_that_follow_each_other_look_at_the_files_but_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def clock() -> float:
        nonlocal now
        now += 1e-6
        return now

    monkeypatch.setattr(own_modules, "LONGEST_SPARED", 0.1)
    monkeypatch.setattr(own_modules.time, "monotonic", clock)
    own = OwnModules()
    write(folder, jd_mine="X = 1")
    importlib.import_module("jd_mine")
    first = own.packed()
    write(folder, jd_mine="X = 2, and longer")
    assert own.packed() is first
    assert len(found(own, "colorsys")) == 2  # other ones are asked for
    write(folder, jd_mine="X = 3, and longer still")
    now += 0.11
    assert found(own, "colorsys")["jd_mine"].text.startswith(b"X = 3")


def test_what_was_imported_since_is_found(folder: Path) -> None:
    own = OwnModules()
    write(folder, jd_a="", jd_b="")
    importlib.import_module("jd_a")
    assert list(found(own)) == ["jd_a"]
    importlib.import_module("jd_b")
    assert list(found(own)) == ["jd_a", "jd_b"]
    (folder / "jd_a.py").unlink()
    assert list(found(own)) == ["jd_b"]


def test_another_one_of_the_same_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OwnModules()
    for number in range(3):
        write(tmp_path / str(number), jd_mine=f"X = {number}")
        monkeypatch.syspath_prepend(str(tmp_path / str(number)))
        importlib.import_module("jd_mine")
        assert found(own)["jd_mine"].text == f"X = {number}".encode()
        del sys.modules["jd_mine"]


def test_what_is_no_module_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange:
        @property
        def __file__(self) -> str:
            raise RuntimeError("no")

    for name, value in {
        "jd_none": None,
        "jd_strange": Strange(),
        "jd_number": SimpleNamespace(__file__=3),
        "jd_zip": SimpleNamespace(__file__="/there/is.zip/jd_zip.py"),
        "jd_built": SimpleNamespace(__file__="/there/jd_built.so"),
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    assert found() == {}


def test_a_worker_passes_on_what_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Source("jd_mine", False, "/there/jd_mine.py", b"X = 1")
    own = OwnModules()
    assert found(own) == {}
    monkeypatch.setattr(own_modules, "LONGEST_SPARED", 10.0)
    assert found(own) == {}
    with monkeypatch.context() as patch:
        patch.setattr(own_modules, "sources_here", lambda: [sent])
        assert found(own) == {"jd_mine": sent}
    # And nothing of it in a call of its own.
    assert found(own) == {}


def test_what_lies_beside_a_command_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(Path(sysconfig.get_path("scripts")) / "dask")
    monkeypatch.setitem(sys.modules, "__main__", main)
    (Path(sysconfig.get_path("scripts")) / "jd_beside.py").write_text("")
    try:
        assert found() == {}
    finally:
        (Path(sysconfig.get_path("scripts")) / "jd_beside.py").unlink()


# ------------------------------------------------------------------------------- by name
def test_others_travel_if_they_are_named() -> None:
    import joblib

    assert Path(joblib.__file__).parent / "hashing.py" == Path(
        found(None, "joblib")["joblib.hashing"].filename
    )
    assert list(found(None, "colorsys")) == ["colorsys"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("numpy", "it has compiled parts"),
        ("math", "it is no module of Python source"),
        ("jd_nowhere", "cannot be imported here: No module named 'jd_nowhere'"),
    ],
)
def test_what_cannot_travel_is_said_to(name: str, reason: str) -> None:
    with pytest.raises(OptionValueError) as caught:
        found(None, name)
    assert name in str(caught.value)
    assert reason in str(caught.value)
