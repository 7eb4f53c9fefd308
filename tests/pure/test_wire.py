"""What tells versions apart that cannot talk to each other."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from joblib_distributed.data import wire
from joblib_distributed.data.wire import wire_format


def test_a_field_more_is_another_format(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chunk(NamedTuple):
        more: int

    before = wire_format()
    assert wire_format() == before
    monkeypatch.setattr(wire, "_SAID", (*wire._SAID[1:], Chunk))
    assert wire_format() != before
