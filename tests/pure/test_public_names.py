"""What the package shows to the world."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from importlib.metadata import version
from pathlib import Path

import joblib
import pytest
from joblib.parallel import BACKENDS

import joblib_distributed
from joblib_distributed import DaskDistributedBackend

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(
        joblib_distributed.__path__, f"{joblib_distributed.__name__}."
    )
)


def is_our_room(name: str, value: object) -> bool:
    """Whether it is one of our modules, which importing it has put there."""
    return (
        isinstance(value, types.ModuleType)
        and value.__name__ == f"{joblib_distributed.__name__}.{name}"
    )


def test_public_names_are_those_of_all() -> None:
    found = {
        name
        for name, value in vars(joblib_distributed).items()
        if not name.startswith("_")
        and not is_our_room(name, value)
        and name != "annotations"  # from __future__
    }
    assert found | {"__version__", "errors"} == set(joblib_distributed.__all__)


def test_public_names() -> None:
    """A change here is a change for users."""
    assert joblib_distributed.__all__ == [
        "BACKEND_NAMES",
        "DaskDistributedBackend",
        "Options",
        "Traffic",
        "__version__",
        "errors",
        "get_client",
        "register",
        "shutdown",
        "traffic_of_last_call",
    ]
    for name in joblib_distributed.__all__:
        assert hasattr(joblib_distributed, name)


def test_version_is_that_of_the_distribution() -> None:
    assert joblib_distributed.__version__ == version("joblib-distributed")


def test_backend_is_registered_under_its_names() -> None:
    assert joblib_distributed.BACKEND_NAMES == ("dask.distributed", "distributed")
    for name in joblib_distributed.BACKEND_NAMES:
        assert BACKENDS[name] is DaskDistributedBackend


def test_register_takes_a_further_name(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        joblib,
        "register_parallel_backend",
        lambda name, factory, make_default: registered.append(
            (name, factory, make_default)
        ),
    )
    joblib_distributed.register("dask")
    joblib_distributed.register("other", make_default=True)
    assert registered == [
        ("dask", DaskDistributedBackend, False),
        ("other", DaskDistributedBackend, True),
    ]


def test_types_are_shipped() -> None:
    assert Path(joblib_distributed.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert inspect.getdoc(module), name
    silent = [
        f"{name}.{qualified}"
        for qualified, value in public_things(module)
        if not (value.__doc__ or "").strip()
    ]
    assert silent == []


def public_things(module: types.ModuleType) -> list[tuple[str, object]]:
    """Public classes, methods and functions that are defined in a module."""
    found: list[tuple[str, object]] = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isclass(value):
            found.append((name, value))
            found += [
                (f"{name}.{method}", member)
                for method, member in vars(value).items()
                if not method.startswith("_")
                and isinstance(
                    member, (types.FunctionType, property, classmethod, staticmethod)
                )
            ]
        elif inspect.isfunction(value):
            found.append((name, value))
    return found


def test_there_are_public_things() -> None:
    module = importlib.import_module("joblib_distributed.driver.keys")
    names = {name for name, _ in public_things(module)}
    assert {"batch_name", "call_name", "has_idle_thread"} <= names
