"""Workers whose hosts can have no store."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from joblib_distributed.driver.storeless import Storeless

ONE, OTHER = "tcp://one:1", "tcp://other:1"


def must_not_ask() -> Iterable[str]:
    raise AssertionError("the scheduler was asked for nothing")


def test_nobody_is_asked_while_all_have_one() -> None:
    assert not Storeless().are_all(must_not_ask, None)


def test_data_is_shared_as_long_as_one_worker_has_a_store() -> None:
    storeless = Storeless()
    storeless.note(ONE, None)
    assert not storeless.are_all(lambda: [ONE, OTHER], None)
    assert storeless.are_all(lambda: [ONE], None)
    storeless.note(OTHER, None)
    assert storeless.are_all(lambda: [ONE, OTHER], None)
    assert not storeless.are_all(list, None)


def test_a_worker_that_is_gone_is_forgotten() -> None:
    storeless = Storeless()
    storeless.note(ONE, None)
    assert not storeless.are_all(lambda: [OTHER], None)
    assert not storeless.are_all(must_not_ask, None)


def test_another_folder_may_do() -> None:
    storeless = Storeless()
    storeless.note(ONE, "/on/a/network")
    assert storeless.are_all(lambda: [ONE], "/on/a/network")
    assert not storeless.are_all(must_not_ask, "/local")
    assert not storeless.are_all(must_not_ask, None)


def test_it_is_said_once_for_each_folder(capsys: pytest.CaptureFixture[str]) -> None:
    storeless = Storeless()
    for address in (ONE, ONE, OTHER):
        storeless.note(address, None)
    said = capsys.readouterr().err
    assert said.count("joblib_distributed: ") == said.count("\n") == 1
    assert ONE in said
    assert "temp_folder=" in said
    storeless.note(OTHER, "/local")
    assert OTHER in capsys.readouterr().err
