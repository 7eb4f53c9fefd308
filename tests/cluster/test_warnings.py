"""Warnings of tasks, as the user sees them: as if the tasks had run here."""

from __future__ import annotations

import warnings
from pathlib import Path

import joblib
import pytest
from joblib import Parallel, delayed

from support import tasks
from support.tasks import Careful, mark, wait_for_file, warn_of

pytestmark = pytest.mark.usefixtures("backend")

#: Where `warn_of` warns.
PLACE = tasks.__file__


def seen_in(calls: list[object], **parameters: object) -> list[tuple[str, str, str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Parallel(**parameters)(calls)
    return sorted((w.category.__name__, str(w.message.args[0]), w.filename) for w in seen)


def test_each_is_issued_here_with_class_text_and_place() -> None:
    calls = [delayed(warn_of)(Careful(str(i), i)) for i in range(5)]
    assert seen_in(calls) == [("Careful", str(i), PLACE) for i in range(5)]


def test_those_of_tasks_that_fail_are_issued_too() -> None:
    with pytest.warns(Careful, match="before"), pytest.raises(ZeroDivisionError):
        Parallel()(delayed(warn_of)(Careful("before", 1), fails=True) for _ in range(1))


def test_those_of_nested_calls_are_issued_here() -> None:
    calls = [delayed(nested)(i) for i in range(2)]
    texts = ["0 0", "0 1", "1 0", "1 1"]
    assert seen_in(calls) == [("Careful", text, PLACE) for text in texts]


def nested(number: int) -> None:
    Parallel(n_jobs=2)(delayed(warn_of)(Careful(f"{number} {k}", k)) for k in range(2))


def test_filters_of_the_caller_hold_in_tasks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Careful)
        with pytest.raises(Careful) as raised:
            Parallel()(delayed(warn_of)(Careful("error", 7)) for _ in range(3))
    assert raised.value.number == 7
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore", Careful)
        Parallel()(delayed(warn_of)(Careful("ignored", 7)) for _ in range(3))
    assert seen == []


def test_the_same_is_shown_once_by_default() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(2):
            Parallel()(delayed(warn_of)(Careful("same", 1)) for _ in range(20))
    assert len(seen) == 1


def test_it_is_issued_before_the_result_is_there(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        results = Parallel(return_as="generator", batch_size=1)(
            [
                delayed(warn_of)(Careful("first", 1)),
                delayed(wait_for_file)(str(tmp_path / "go")),
            ]
        )
        next(results)
        assert [str(w.message.args[0]) for w in seen] == ["first"]
        mark(str(tmp_path), "go")
        assert list(results) == [None]


def test_they_come_from_processes_of_the_embedded_cluster() -> None:
    config = {"backend": "dask.distributed", "n_workers": 2}
    with joblib.parallel_config(**config), pytest.warns(Careful, match="embedded"):
        Parallel()(delayed(warn_of)(Careful("embedded", 1)) for _ in range(2))
