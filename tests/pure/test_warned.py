"""Warnings of tasks, and the filters that decide about them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from joblib_distributed.data import warned as module
from joblib_distributed.data.outcome import Report, pack_report, unpack_report
from joblib_distributed.data.warned import (
    Warned,
    are_of_this_process,
    issue,
    pack_filters,
    pack_warning,
    unpack_filters,
    unpack_warning,
)
from joblib_distributed.worker import collecting as worker_module
from joblib_distributed.worker.collecting import collecting


class Mine(UserWarning):
    def __init__(self, text: str, number: int) -> None:
        super().__init__(text, number)
        self.number = number


class Unpicklable(UserWarning):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have filters come from another process."""
    monkeypatch.setattr(module, "process_token", lambda: b"another")
    monkeypatch.setattr(worker_module, "are_of_this_process", lambda _: False)


@contextlib.contextmanager
def filters(*entries: tuple[Any, ...]) -> Iterator[tuple[bytes, ...]]:
    """Return the packed filters of such a caller; this process keeps its own."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for action, category in entries:
            warnings.simplefilter(action, category)
        packed = pack_filters(warnings.filters)
    yield packed


def packed(message: Warning) -> Warned:
    return pack_warning(message, type(message), "/a/file.py", 7, "a.module")


def test_a_warning_arrives_as_it_was() -> None:
    arrived = unpack_warning(packed(Mine("careful", 3)))
    assert type(arrived) is Mine
    assert arrived.args == ("careful", 3)
    assert arrived.number == 3


@pytest.mark.parametrize("lost", [Unpicklable("careful"), Mine("careful", 3)])
def test_a_warning_that_cannot_be_rebuilt_arrives_as_text(lost: Warning) -> None:
    name = f"{__name__}.{type(lost).__name__}"
    sent = packed(lost)._replace(packed=b"\x80\x04cnowhere\nNone\n.")
    for one in (sent, sent._replace(packed=b"")):
        arrived = unpack_warning(one)
        assert type(arrived) is UserWarning
        assert str(arrived) == f"{name}: {one.text}"


def test_a_warning_is_issued_from_its_own_line_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_registries", {})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for text in ("one", "one", "two"):
            issue(packed(Mine(text, 1)))
    assert [(str(w.message.args[0]), w.filename, w.lineno) for w in seen] == [
        ("one", "/a/file.py", 7),
        ("two", "/a/file.py", 7),
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=r"a\.module")
        issue(packed(Mine("three", 1)))
        issue(packed(Mine("four", 1))._replace(module="another"))
        issue(packed(Mine("five", 1))._replace(module=""))
    assert [w.message.args[0] for w in seen] == ["four", "five"]


@pytest.mark.usefixtures("_elsewhere")
def test_a_warning_that_a_task_issues_again_keeps_its_place() -> None:
    """Of a nested call, that is."""
    with filters(("always", Warning)) as sent, collecting(sent) as collector:
        issue(packed(Mine("nested", 1)))
    assert [w._replace(packed=b"") for w in collector.found] == [
        packed(Mine("nested", 1))._replace(packed=b"")
    ]


def test_filters_arrive_but_for_those_of_unknown_classes() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", "a.*text", Mine, r"a\.module", 3)
        mine = list(warnings.filters)
    sent = pack_filters([*mine, ("always", None, Unpicklable, None, 0)])
    assert are_of_this_process(sent)
    assert not are_of_this_process(sent[1:])
    assert not are_of_this_process(())
    first, second = unpack_filters(sent)
    assert first == mine[0]
    assert second[2] is Unpicklable
    broken = (sent[0], b"\x80\x04cnowhere\nNone\n.", sent[2])
    assert unpack_filters(broken) == [second]


def test_what_is_an_error_is_none_for_the_engine() -> None:
    with filters(("error", Warning)) as sent:
        exempt, error = unpack_filters(sent)
    assert (exempt[0], error[0]) == ("default", "error")
    assert exempt[3].match("distributed.worker")
    assert exempt[3].match("asyncio")
    assert not exempt[3].match("distributedly.mine")


@pytest.mark.usefixtures("_elsewhere")
def test_what_a_task_warns_of_is_collected() -> None:
    before = list(warnings.filters), warnings.showwarning
    with (
        warnings.catch_warnings(record=True) as seen,
        filters(("always", Warning)) as sent,
        collecting(sent) as collector,
    ):
        warnings.warn("one", stacklevel=1)
        other = threading.Thread(target=lambda: warnings.warn("not mine", stacklevel=1))
        other.start()
        other.join()
    assert [(w.text, w.name, w.filename, w.module) for w in collector.found] == [
        ("one", "builtins.UserWarning", __file__, __name__)
    ]
    assert (list(warnings.filters), warnings.showwarning) == before
    assert [str(w.message) for w in seen] == ["not mine"]


@pytest.mark.usefixtures("_elsewhere")
def test_filters_of_the_caller_are_in_force() -> None:
    with (
        filters(("always", Warning), ("ignore", Mine), ("error", RuntimeWarning)) as sent,
        collecting(sent) as collector,
    ):
        warnings.warn(Mine("ignored", 1), stacklevel=1)
        with pytest.raises(RuntimeWarning, match="error"):
            warnings.warn("error", RuntimeWarning, stacklevel=1)
        warnings.warn("shown", stacklevel=1)
    assert [w.text for w in collector.found] == ["shown"]


@pytest.mark.usefixtures("_elsewhere")
def test_no_more_are_sent_than_anybody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MOST", 3)
    with filters(("always", Warning)) as sent, collecting(sent) as collector:
        for number in range(10):
            warnings.warn(f"{number}", stacklevel=1)
    assert [w.text for w in collector.found] == [
        "0", "1", "2", "7 more warnings of the same tasks are not shown.",
    ]  # fmt: skip


@pytest.mark.usefixtures("_elsewhere")
def test_tasks_at_a_time_leave_all_as_it_was() -> None:
    before = list(warnings.filters), warnings.showwarning
    with filters(("always", Warning)) as sent:
        with contextlib.ExitStack() as first:
            first.enter_context(collecting(sent))
            second = collecting(sent)
            inner = second.__enter__()
            warnings.warn("in the second", stacklevel=1)
        # The first to begin was not the first to end.
        second.__exit__(None, None, None)
    assert [w.text for w in inner.found] == ["in the second"]
    assert (list(warnings.filters), warnings.showwarning) == before


@pytest.mark.usefixtures("_elsewhere")
def test_who_records_warnings_in_a_task_has_them() -> None:
    with (
        filters(("always", Warning)) as sent,
        collecting(sent) as collector,
        warnings.catch_warnings(record=True) as mine,
    ):
        warnings.warn("recorded", stacklevel=1)
    assert [str(w.message) for w in mine] == ["recorded"]
    assert collector.found == []


def test_in_the_process_of_the_caller_nothing_is_collected() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for sent in (pack_filters(warnings.filters), ()):
            with collecting(sent) as collector:
                warnings.warn("seen", stacklevel=1)
            assert collector.found == []
    assert [str(w.message) for w in seen] == ["seen", "seen"]


def test_reports_carry_warnings() -> None:
    found = [packed(Mine("careful", 3)), packed(UserWarning("more"))]
    assert unpack_report(pack_report("w", [], found)) == Report("w", [], tuple(found))
