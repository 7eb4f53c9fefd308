"""Which of the collected tests run."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterable, Iterator, Mapping

import pytest
from skips import RELEASES, SKIPS

from joblib_distributed import DaskDistributedBackend

#: Name under which joblib's tests know the backend that ours stands in for.
NAME = "dask"


class Choice:
    """The plugin that skips and drops tests.

    Parameters
    ----------
    short : mapping of str to tuple of str
        What the short form runs: patterns, as in `skips.Skip`, by module.
    done : set of str
        Ids of tests that are not to run again.
    """

    def __init__(self, short: Mapping[str, tuple[str, ...]], done: set[str]) -> None:
        self._short = short
        self._done = done

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Decide about each test."""
        reasons = dict(_skipped(items))
        chosen = set(self._few(items) if config.getoption("--short") else items)
        if config.getoption("--skipped"):
            chosen &= set(reasons)
        else:
            for item, reason in reasons.items():
                item.add_marker(pytest.mark.skip(reason=reason))
        chosen = {i for i in chosen if i.nodeid not in self._done and _is_for_us(i)}
        config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
        items[:] = [item for item in items if item in chosen]

    def _few(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        for module, patterns in self._short.items():
            for pattern in patterns:
                yield from _find(items, module, pattern)


def _is_for_us(item: pytest.Item) -> bool:
    """Whether a test that runs once for each of some backends runs for ours."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    backends = [v for name, v in parameters.items() if name.endswith("backend")]
    ours = [b for b in backends if b in (None, NAME) or _is_our_object(b)]
    return bool(ours) or not backends


def _is_our_object(backend: object) -> bool:
    return isinstance(backend, DaskDistributedBackend)


def _skipped(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, str]]:
    modules = {item.module.__name__ for item in items}
    for skip in SKIPS:
        for pattern in skip.tests if skip.module in modules else ():
            for item in _find(items, skip.module, pattern):
                yield item, skip.reason


def _is_older(module: str) -> bool:
    package = module.partition(".")[0]
    installed = sys.modules[package].__version__.split(".")[:2]
    return tuple(map(int, installed)) < RELEASES[package]


def _find(items: Iterable[pytest.Item], module: str, pattern: str) -> list[pytest.Item]:
    """Return the tests with a name, in which only ``*`` is special.

    Raises
    ------
    pytest.UsageError
        If there is none, and the release is not older than those that the patterns are
        for: the test is gone, or has another name.
    """
    glob = pattern.replace("[", "[[]")
    found = [
        item
        for item in items
        if item.module.__name__ == module and fnmatch.fnmatchcase(item.name, glob)
    ]
    if not found and not _is_older(module):
        raise pytest.UsageError(f"no test of {module} matches {pattern!r}")
    return found
