"""Reports that travel with the news that their task has ended."""

from __future__ import annotations

import gc
import pickle
import sys
import weakref

import pytest
from dask.sizeof import sizeof
from dask.utils import typename
from distributed.protocol import pickle as pickle_of_distributed

from joblib_distributed.data.carried import MOST, carried, report_in, report_of


def news_of(result: object) -> object:
    """Return what a client is told of the type of a result."""
    return pickle_of_distributed.loads(pickle_of_distributed.dumps(type(result)))


@pytest.mark.parametrize("report", [b"r", b"report", b"x" * MOST], ids=len)
def test_a_small_report_comes_as_the_type_of_its_result(report: bytes) -> None:
    assert report_in(news_of(carried(report))) == report


@pytest.mark.parametrize(
    "report", [b"x" * (MOST + 1), b"of __main__ itself"], ids=["large", "of a script"]
)
def test_any_other_report_is_the_result(report: bytes) -> None:
    assert carried(report) is report
    assert report_in(news_of(carried(report))) is None


def test_a_result_is_the_bytes_wherever_it_is_moved() -> None:
    """The engine copies results from a worker that retires."""
    assert pickle.loads(pickle.dumps(carried(b"report"))) == b"report"
    loaded = pickle_of_distributed.loads(pickle_of_distributed.dumps(carried(b"report")))
    assert loaded == b"report"


def test_the_engine_knows_how_large_it_is_and_calls_all_by_one_name() -> None:
    assert sizeof(carried(bytes(5000))) in range(5000, 5000 + 2 * sys.getsizeof(b""))
    assert typename(type(carried(b"a"))) == typename(type(carried(b"b")))


def test_a_type_lives_as_long_as_its_result() -> None:
    """Of each type dask remembers, for ever, how to find out how large it is."""
    sizeof(carried(b"the first may stay"))
    remembered = len(sizeof._lookup)
    result = carried(b"report")
    sizeof(result)
    kind = weakref.ref(type(result))
    del result
    gc.collect()
    assert kind() is None
    assert len(sizeof._lookup) == remembered


def test_a_type_keeps_no_report_that_was_told() -> None:
    """A worker keeps the types of its last results, of those that are gone, too."""
    result = carried(b"report")
    assert report_in(news_of(result)) == b"report"
    assert report_in(news_of(result)) is None  # told again: then the result is asked for
    assert report_of(result) == report_of(pickle.loads(pickle.dumps(result))) == b"report"


@pytest.mark.parametrize("news", [None, bytes, int, "builtins.bytes", b""])
def test_other_news_is_no_report(news: object) -> None:
    assert report_in(news) is None
