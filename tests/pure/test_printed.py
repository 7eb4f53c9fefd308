"""What tasks print and log, as data."""

from __future__ import annotations

import logging
import sys
from itertools import permutations

import pytest

from joblib_distributed.data.printed import (
    LOG,
    STDERR,
    STDOUT,
    Chunk,
    InOrder,
    Printed,
    chunk_of,
    pack_chunk,
    pack_record,
    plain,
    unpack_chunk,
    unpack_record,
)


def chunk(number: int, *texts: str, attempt: str = "a", is_last: bool = False) -> Chunk:
    return Chunk(
        "call", attempt, number, [Printed(STDOUT, 0, text) for text in texts], is_last
    )


def texts_of(found: object) -> list[str]:
    return [printed.what for printed in found]  # type: ignore[attr-defined]


def test_a_chunk_comes_back() -> None:
    sent = Chunk(
        "call", "a", 3, [Printed(STDERR, 5, "x\n"), Printed(LOG, 6, b"record")], True
    )
    assert unpack_chunk(pack_chunk(sent)) == sent
    assert chunk_of(plain(sent)) == sent


def test_chunks_are_shown_in_their_order_however_they_come() -> None:
    chunks = [chunk(0, "1"), chunk(1, "2", "3"), chunk(2, "4", is_last=True)]
    for order in permutations(chunks):
        in_order = InOrder()
        shown = [text for each in order for text in texts_of(in_order.put(each))]
        assert shown == ["1", "2", "3", "4"]
        assert texts_of(in_order.rest()) == []


def test_attempts_do_not_wait_for_each_other() -> None:
    in_order = InOrder()
    assert texts_of(in_order.put(chunk(1, "late"))) == []
    assert texts_of(in_order.put(chunk(0, "now", attempt="b"))) == ["now"]


def test_what_comes_twice_is_shown_once() -> None:
    in_order = InOrder()
    first, last = chunk(0, "1"), chunk(1, "2", is_last=True)
    found = [texts_of(in_order.put(each)) for each in (first, first, last, last, first)]
    assert found == [["1"], [], ["2"], [], []]


def test_what_comes_after_something_lost_is_shown_at_the_end() -> None:
    in_order = InOrder()
    for each in (chunk(2, "3", is_last=True), chunk(1, "2")):
        assert texts_of(in_order.put(each)) == []
    assert texts_of(in_order.rest()) == ["2", "3"]
    assert texts_of(in_order.rest()) == []


# ------------------------------------------------------------------------------- records
def record(message: object, *arguments: object, **more: object) -> logging.LogRecord:
    return logging.LogRecord(
        "a.b", logging.INFO, "/there/x.py", 7, message, arguments, None, **more
    )


def test_a_record_comes_back_with_its_message_made() -> None:
    found = unpack_record(pack_record(record("%s and %d", "x", 3)))
    assert (found.name, found.levelno, found.lineno) == ("a.b", logging.INFO, 7)
    assert (found.pathname, found.getMessage()) == ("/there/x.py", "x and 3")
    assert found.levelname == "INFO"


def test_the_message_of_a_record_is_not_made_twice() -> None:
    assert unpack_record(pack_record(record("100 %"))).getMessage() == "100 %"


def test_an_exception_of_a_record_is_told() -> None:
    one = record("failed")
    try:
        raise KeyError("x")
    except KeyError:
        one.exc_info = sys.exc_info()
    found = unpack_record(pack_record(one))
    assert "KeyError: 'x'" in logging.Formatter().format(found)


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("one", "part"),
    [
        (record("%s", Silent()), "its arguments do not fit: no text"),
        (record("%d", "x"), "'%d' (its arguments do not fit"),
    ],
)
def test_a_record_whose_message_cannot_be_made_says_so(
    one: logging.LogRecord, part: str
) -> None:
    assert part in unpack_record(pack_record(one)).getMessage()
