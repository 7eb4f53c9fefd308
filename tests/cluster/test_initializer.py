"""What each worker process does first."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client, LocalCluster
from joblib import Parallel, delayed

from joblib_distributed.errors import OptionTypeError, OptionValueError
from support.tasks import marks
from support.waiting import wait_until

STATE: dict[str, Any] = {}


def set_up(folder: str, name: str) -> None:
    """Say that this process has been set up, and with what."""
    number = len(
        [mark for mark in os.listdir(folder) if mark.startswith(str(os.getpid()))]
    )
    Path(folder, f"{os.getpid()}-{number}").touch()
    STATE["name"] = name


def state(number: int) -> tuple[int, str, int]:
    return number, STATE["name"], os.getpid()


def nested(number: int) -> list[str]:
    results = Parallel(n_jobs=2)(delayed(state)(i) for i in range(4))
    return [name for _, name, _ in results]


def config(folder: Path, name: str, **options: Any) -> joblib.parallel_config:
    return joblib.parallel_config(
        backend="dask.distributed",
        initializer=set_up,
        initargs=(str(folder), name),
        **options,
    )


def test_it_is_called_once_in_each_process(
    embedded_client: Client, tmp_path: Path
) -> None:
    pids: set[int] = set()
    with config(tmp_path, "first", n_workers=2):
        for _ in range(3):
            results = Parallel(n_jobs=2)(delayed(state)(i) for i in range(40))
            assert [result[:2] for result in results] == [(i, "first") for i in range(40)]
            pids |= {pid for *_, pid in results}
    assert marks(tmp_path) == {f"{pid}-0" for pid in pids}
    with config(tmp_path, "second", n_workers=2):
        results = Parallel(n_jobs=2)(delayed(state)(i) for i in range(4))
    assert {name for _, name, _ in results} == {"second"}


def test_nested_calls_have_it_too(embedded_client: Client, tmp_path: Path) -> None:
    with config(tmp_path, "nested", n_workers=2):
        results = Parallel(n_jobs=2)(delayed(nested)(i) for i in range(4))
    assert results == [["nested"] * 4] * 4
    assert {mark.partition("-")[2] for mark in marks(tmp_path)} == {"0"}


def test_threads_of_a_process_wait_for_it(
    own_client: Client, own_cluster: LocalCluster, tmp_path: Path
) -> None:
    with config(tmp_path, "threads", client=own_client):
        results = Parallel(n_jobs=-1, batch_size=1)(delayed(state)(i) for i in range(20))
    assert {name for _, name, _ in results} == {"threads"}
    pids = {pid for *_, pid in results}
    assert marks(tmp_path) == {f"{pid}-0" for pid in pids}


def test_a_worker_that_joins_calls_it(
    own_client: Client, own_cluster: LocalCluster, tmp_path: Path
) -> None:
    before = len(own_cluster.workers)
    with config(tmp_path, "joined", client=own_client):
        Parallel(n_jobs=-1)(delayed(state)(i) for i in range(4))
        own_cluster.scale(before + 1)
        wait_until(
            lambda: len(own_client.nthreads()) == before + 1, 20, lambda: "none joined"
        )
        joblib_calls = (delayed(state)(i) for i in range(200))
        results = Parallel(n_jobs=-1, batch_size=1)(joblib_calls)
    assert {name for _, name, _ in results} == {"joined"}


def fail_once(folder: str) -> None:
    Path(folder, "tried").touch(exist_ok=False)
    raise LookupError("no such data")


def test_what_it_raises_is_raised_and_it_is_tried_again(
    embedded_client: Client, tmp_path: Path
) -> None:
    options = {"initializer": fail_once, "initargs": [str(tmp_path)], "n_workers": 2}
    with (
        joblib.parallel_config(backend="dask.distributed", **options),
        pytest.raises((LookupError, FileExistsError)) as raised,
    ):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))
    text = str(raised.value.__cause__)
    assert "was not run: the initializer= of its call has failed on worker " in text
    assert "in fail_once" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"initializer": 3}, OptionTypeError, "initializer must be a function to be "),
        (
            {"initializer": abs, "initargs": 3},
            OptionTypeError,
            "initargs must be a list ",
        ),
        (
            {"initializer": abs, "initargs": [threading.Lock()]},
            OptionValueError,
            "initializer=<built-in function abs> cannot be sent to workers with ",
        ),
        (
            {"initializer": abs, "initargs": [bytes(2**20)]},
            OptionValueError,
            r"initializer= and initargs= take 1.0 MB, which ",
        ),
    ],
)
def test_what_cannot_be_one_is_refused(
    embedded_client: Client, options: dict[str, Any], error: type, message: str
) -> None:
    with (
        pytest.raises(error, match=message),
        joblib.parallel_config(backend="dask.distributed", n_workers=2, **options),
    ):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))
