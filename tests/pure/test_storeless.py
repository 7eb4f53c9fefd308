"""Workers whose hosts can have no store."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from joblib_distributed.driver.storeless import Storeless

ONE, OTHER = "tcp://one:1", "tcp://other:1"


def must_not_ask() -> Iterable[str]:
    raise AssertionError("the scheduler was asked for nothing")


def test_nobody_is_asked_while_all_have_one() -> None:
    assert not Storeless().are_all(must_not_ask)


def test_data_is_shared_as_long_as_one_worker_has_a_store() -> None:
    storeless = Storeless()
    storeless.note(ONE)
    assert not storeless.are_all(lambda: [ONE, OTHER])
    assert storeless.are_all(lambda: [ONE])
    storeless.note(OTHER)
    assert storeless.are_all(lambda: [ONE, OTHER])
    assert not storeless.are_all(list)


def test_a_worker_that_is_gone_is_forgotten() -> None:
    storeless = Storeless()
    storeless.note(ONE)
    assert not storeless.are_all(lambda: [OTHER])
    assert not storeless.are_all(must_not_ask)


def test_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    storeless = Storeless()
    for address in (ONE, ONE, OTHER):
        storeless.note(address)
    said = capsys.readouterr().err
    assert said.count("joblib_distributed: ") == said.count("\n") == 1
    assert ONE in said
    assert "temp_folder=" in said
