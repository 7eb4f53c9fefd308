"""The pytest plugin that shows our backend to somebody else's tests.

See Also
--------
choice : which of the tests run.
journal : how `run.py` learns of what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblib
import joblib.parallel
import pytest
from choice import NAME, Choice
from distributed.utils_test import (  # noqa: F401
    cleanup,
    loop,
    loop_in_thread,
)
from journal import Journal, read
from suites import SUITES, Suite

import joblib_distributed

#: Values for tests that are parametrized with more than the name of a backend. Two calls
#: may run at a time on ours: the second must not fail.
ROWS = {"test_multiple_generator_call_separated_gc": (NAME, False)}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `run.py` describes."""
    group = parser.getgroup("conformance")
    group.addoption("--conform", help="name of a suite of suites.py")
    group.addoption("--journal", type=Path, help="file that takes note of each test")
    group.addoption("--short", action="store_true", help="run only a few tests")
    group.addoption("--skipped", action="store_true", help="run what is skipped")
    group.addoption("--control", action="store_true", help="run with joblib's loky")


def pytest_configure(config: pytest.Config) -> None:
    """Register the backend, before any test module is imported."""
    # joblib's tests run once for each registered name: one of ours will do.
    for name in joblib_distributed.BACKEND_NAMES:
        del joblib.parallel.BACKENDS[name]
    suite = _suite(config)
    if suite.by_default and not config.getoption("--control"):
        joblib_distributed.register(NAME, make_default=True)
    path = config.getoption("--journal")
    done = {result.test for result in read(path)}
    config.pluginmanager.register(Choice(suite.short, done))
    config.pluginmanager.register(Journal(path))


def _suite(config: pytest.Config) -> Suite:
    return SUITES[config.getoption("--conform")]


@pytest.fixture(autouse=True)
def parallel_config(pytestconfig: pytest.Config) -> Iterator[None]:
    """Make our backend the one for calls that name none, if the suite says so."""
    if not _suite(pytestconfig).by_config:
        yield
    elif pytestconfig.getoption("--control"):
        with joblib.parallel_config(backend="loky", n_jobs=2):
            yield
    else:
        with joblib.parallel_config(backend=NAME):
            yield


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add our backend to each list of backends that a test is run with.

    The lists that test_parallel makes from joblib's registry have it already; those
    that it writes out do not. They are known by the name of joblib's default backend.
    """
    ours = ROWS.get(metafunc.function.__name__, NAME)
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1]
        if isinstance(values, list) and "loky" in _names(values, type(ours)):
            values.extend([ours] if NAME not in _names(values, type(ours)) else [])


def _names(values: list[object], kind: type) -> list[object]:
    """Return the values of one type, or their first parts if they are tuples."""
    chosen = [value for value in values if type(value) is kind]
    return [value[0] if isinstance(value, tuple) else value for value in chosen]
