"""The report of a program's calls as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from joblib_distributed.command.page import lanes, page
from joblib_distributed.data.outcome import Kind, Outcome, not_run
from joblib_distributed.driver import spans as module
from joblib_distributed.driver.records import Summary
from joblib_distributed.driver.spans import Span, Spans
from joblib_distributed.driver.tally import Work

KEY = f"batch_of_fit_and_score-0-{'0' * 32}-7"


def span(start: float, end: float, worker: str = "one", name: str = "f") -> Span:
    return Span(worker, name, start, end, 3, 0)


class Checker(HTMLParser):
    """Whether all that is opened is closed; and what it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.counts: dict[str, int] = {}
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)
        self.references += [str(v) for k, v in attrs if k in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.references == []
    assert "http" not in text
    return checker


def test_what_an_attempt_ran_is_a_span_that_ends_when_it_is_heard_of() -> None:
    spans = Spans()
    outcomes = [
        Outcome(Kind.VALUE, 0.5, plain=3),
        Outcome(Kind.ERROR, 1.5),
        not_run(4),
    ]
    spans.note(KEY, "worker", outcomes, 10.0)
    assert spans.spans == []
    spans.are_wanted = True
    spans.note(KEY, "worker", outcomes, 10.0)
    spans.note(KEY, "worker", [not_run(4)], 11.0)
    assert spans.spans == [Span("worker", "fit_and_score", 8.0, 10.0, 4, 1)]


def test_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    spans = Spans()
    spans.are_wanted = True
    for number in range(100):
        outcomes = [Outcome(Kind.VALUE, 1.0)]
        spans.note(KEY, f"worker {number % 2}", outcomes, float(number))
    found = spans.spans
    assert len(found) <= 10
    assert sum(one.tasks for one in found) == 100
    assert (found[0].start, found[-1].end) == (-1.0, 99.0)
    assert found == sorted(found, key=lambda one: one.end)


def test_what_overlaps_is_in_another_lane() -> None:
    first, second, third = span(0, 10), span(5, 15), span(10, 20)
    other = span(0, 1, worker="another")
    assert lanes([third, second, first, other]) == {
        "another": [[other]],
        "one": [[first, third], [second]],
    }


def test_a_page_refers_to_nothing_and_shows_each_span() -> None:
    spans = [span(0, 1), span(1, 2, name="<g>"), span(0, 2, worker="two & more")]
    spans.append(Span("one", "f", 2, 3, 5, 2))
    found = checked(page("python <x>.py", Summary(1, 2.0, 2, Work(tasks=9)), spans))
    assert found.counts["rect"] == 4
    text = "".join(found.texts)
    assert "python <x>.py" in text
    assert "two & more" in text
    assert "<g>: 3 tasks in 1.000 s" in text
    assert "f: 5 tasks in 1.000 s, 2 failed" in text
    assert "joblib-distributed: 1 call, 9 tasks in 2.0 s" in text


def test_bars_are_where_they_were_in_time() -> None:
    text = page("x", Summary(), [span(5, 6), span(7, 9)])
    bars = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', text)
    assert [(float(x), float(w)) for x, w in bars] == [(240.0, 225.0), (690.0, 450.0)]


def test_a_program_without_calls_has_a_page_too() -> None:
    found = checked(page("x.py", Summary(), []))
    assert "svg" not in found.counts
    assert "made no call of joblib.Parallel" in "".join(found.texts)
