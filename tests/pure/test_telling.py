"""What is told to the user, also where nobody can be told."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from joblib_distributed.driver import absence
from joblib_distributed.driver.telling import tell


def test_a_line_goes_where_joblib_writes_to(capsys: pytest.CaptureFixture[str]) -> None:
    tell("to stderr")
    tell("to stdout", to_stdout=True)
    assert capsys.readouterr() == ("to stdout\n", "to stderr\n")


def test_what_is_told_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written))
    tell("a line")
    assert written.getvalue() == b"a line\n"


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


class Pipe(io.StringIO):
    """A pipe that nobody reads any more; such a real one is found out when flushed."""

    def flush(self) -> None:
        if not self.closed and self.getvalue():
            raise BrokenPipeError(32, "Broken pipe")


class Gone(io.StringIO):
    """What a program has put there, and then has taken apart."""

    def write(self, text: str) -> int:
        raise RuntimeError("the window has been deleted")


@pytest.mark.parametrize("stream", [lambda: None, closed, Pipe, Gone])
@pytest.mark.parametrize(
    "act",
    [
        lambda: tell("a line"),
        lambda: tell("a line", to_stdout=True),
        lambda: absence.tell("tcp://host:1", 10),
    ],
    ids=["stderr", "stdout", "absence"],
)
def test_a_stream_that_takes_nothing_harms_nothing(
    act: Callable[[], None],
    stream: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream())
        patch.setattr(sys, "stdout", stream())
        act()


def test_a_pipe_that_nobody_reads_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        tell("a line")
    stream.detach().close()
