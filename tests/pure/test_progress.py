"""How far a call is, shown in a terminal and in a log."""

from __future__ import annotations

import io
import re
import sys

import pytest

from joblib_distributed.driver import progress as module
from joblib_distributed.driver.progress import LINE_INTERVAL, LONG, Progress
from support.clock import FakeTime


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def looks(text: str) -> list[str]:
    """What was shown, without rates and times."""
    shown = [part.strip() for part in re.split("[\r\n]", text)]
    return [re.sub(r"\[.*, (\d+ threads)\]", r"\1", part) for part in shown if part]


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


def in_a_log(clock: FakeTime, wanted: bool | str = True) -> tuple[Progress, list[str]]:
    lines: list[str] = []
    return Progress(wanted, lines.append, clock.monotonic), lines


def test_a_log_has_a_line_now_and_then(clock: FakeTime) -> None:
    progress, lines = in_a_log(clock)
    for done in range(4):
        progress.show("cube", done, None, 2)
        clock.now += LINE_INTERVAL / 2
    progress.show("cube", 4, 8, 3)
    progress.close("cube", 8, 8, 3)
    assert looks("\n".join(lines)) == [
        "cube: 0 tasks 2 threads",
        "cube: 2 tasks 2 threads",
        "cube:  50%|#####     | 4/8 3 threads",
        "cube: 100%|##########| 8/8 3 threads",
    ]


@pytest.mark.parametrize("wanted", [False, "auto"])
def test_nothing_is_shown_that_nobody_wants(clock: FakeTime, wanted: bool | str) -> None:
    """To a log only if that was said."""
    progress, lines = in_a_log(clock, wanted)
    clock.now += 2 * LONG
    progress.show("cube", 1, 2, 2)
    progress.close("cube", 2, 2, 2)
    assert lines == []


def test_a_short_call_is_not_shown_unless_it_is_said(
    clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress("auto", pytest.fail, clock.monotonic)
    progress.show("cube", 1, 2, 2)
    clock.now += LONG - 0.1
    progress.show("cube", 1, 2, 2)
    progress.close("cube", 2, 2, 2)
    assert stream.getvalue() == ""
    progress = Progress("auto", pytest.fail, clock.monotonic)
    clock.now += LONG
    progress.show("cube", 1, 2, 2)
    assert [look.partition("%")[0] for look in looks(stream.getvalue())] == ["cube:  50"]
    progress.close("cube", 2, 2, 2)


def test_a_bar_stays_when_its_call_has_ended(
    clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(True, pytest.fail, clock.monotonic)
    progress.show("cube", 1, 4, 2)
    clock.now += module.INTERVAL
    progress.show("cube", 2, 4, 2)
    progress.show("cube", 3, 4, 2)  # too soon to be looked at
    progress.close("cube", 3, 4, 2)
    percents = [look.partition("%")[0] for look in looks(stream.getvalue())]
    assert percents[:2] == ["cube:  25", "cube:  50"]
    assert set(percents[2:]) == {"cube:  75"}
    assert stream.getvalue().endswith("\n")


def test_a_stream_that_is_gone_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not module.is_terminal()
    assert not module.in_notebook()
