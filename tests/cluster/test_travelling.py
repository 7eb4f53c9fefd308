"""The user's own modules reach workers that do not have them."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.driver import own_modules
from support.processes import CommandLineCluster
from support.tasks import mark, marks
from support.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where modules are that no worker can import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # These tests change files and call again sooner than anybody can.
    monkeypatch.setattr(own_modules, "LONGEST_SPARED", 0.0)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("jd_"):
            del sys.modules[name]


def changed(folder: Path, name: str, text: str) -> Any:
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    if name in sys.modules:
        return importlib.reload(sys.modules[name])
    return importlib.import_module(name)


@pytest.fixture(params=["embedded", "command line", "nothing shared"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    options: dict[str, Any] = {}
    if request.param == "embedded":
        options["client"] = request.getfixturevalue("embedded_client")
    else:
        cluster = request.getfixturevalue("command_line_cluster")
        options["scheduler_host"] = cluster.host_and_port
    if request.param == "nothing shared":
        options["max_nbytes"] = None
    with joblib.parallel_config(backend="dask.distributed", **options):
        yield


@pytest.mark.usefixtures("anywhere")
def test_a_module_of_the_users_is_imported_where_it_is_not_installed(
    folder: Path,
) -> None:
    helper = changed(folder, "jd_cluster_helper", "def f(x):\n    return x + 1\n")
    assert Parallel()(delayed(helper.f)(i) for i in range(4)) == [1, 2, 3, 4]


@pytest.mark.usefixtures("anywhere")
def test_changed_code_is_used_by_the_next_call(folder: Path) -> None:
    for number in range(3):
        text = f"def f(x):\n    return x, {number}\n"
        helper = changed(folder, "jd_cluster_changing", text)
        found = Parallel()(delayed(helper.f)(i) for i in range(4))
        assert found == [(i, number) for i in range(4)]


def outer(x: int) -> list[int]:
    from jd_cluster_nested import f  # type: ignore[import-not-found]

    return list(Parallel()(delayed(f)(x + i) for i in range(2)))


@pytest.mark.usefixtures("anywhere")
def test_nested_calls_have_them_too(folder: Path) -> None:
    changed(folder, "jd_cluster_nested", "def f(x):\n    return 10 * x\n")
    found = Parallel()(delayed(outer)(i) for i in range(3))
    assert found == [[10 * i, 10 * i + 10] for i in range(3)]


def test_they_stay_here_if_that_is_wanted(
    folder: Path, command_line_cluster: CommandLineCluster
) -> None:
    helper = changed(folder, "jd_cluster_kept", "def f(x):\n    return x\n")
    with (
        joblib.parallel_config(
            backend="dask.distributed",
            scheduler_host=command_line_cluster.host_and_port,
            modules=False,
        ),
        pytest.raises(ModuleNotFoundError, match="jd_cluster_kept"),
    ):
        Parallel()(delayed(helper.f)(i) for i in range(4))


def test_one_process_has_one_module_of_a_name(folder: Path) -> None:
    """Workers that are threads of the driver's process use the driver's own."""
    helper = changed(
        folder, "jd_cluster_threads", "X = object()\ndef f():\n    return X\n"
    )
    with (
        Client(processes=False, n_workers=2, dashboard_address=None) as client,
        joblib.parallel_config(backend="dask.distributed", client=client),
    ):
        found = Parallel()(delayed(helper.f)() for _ in range(4))
    assert len(found) == 4
    assert sys.modules["jd_cluster_threads"] is helper


def nested_value(task: int) -> list[int]:
    import jd_cluster_context  # type: ignore[import-not-found]

    return list(Parallel()(delayed(jd_cluster_context.value)(task) for _ in range(2)))


@pytest.mark.usefixtures("anywhere")
def test_context_variables_hold_in_tasks_and_in_theirs(folder: Path) -> None:
    module = changed(
        folder,
        "jd_cluster_context",
        "from contextvars import ContextVar\n"
        "VAR = ContextVar('var', default=0)\n"
        "def value(x):\n    return x + VAR.get()\n",
    )
    token = module.VAR.set(10)
    try:
        found = Parallel()(delayed(nested_value)(i) for i in range(3))
    finally:
        module.VAR.reset(token)
    assert found == [[10 + i] * 2 for i in range(3)]
    assert Parallel()(delayed(module.value)(i) for i in range(3)) == [0, 1, 2]


def nested_naps(folder: str) -> list[int]:
    from jd_cluster_taking_turns import value  # type: ignore[import-not-found]

    mark(folder, f"outer-{value}")
    return list(Parallel(n_jobs=2)(delayed(napping)(i) for i in range(8)))


def napping(task: int) -> int:
    time.sleep(0.1)
    return task


def test_two_versions_of_a_module_do_not_wait_for_each_other_for_ever(
    folder: Path, tmp_path: Path
) -> None:
    """One process of two threads: nested tasks of the first, then all of the second."""
    found: dict[str, object] = {}

    def call(name: str, tasks: list[Any]) -> None:
        with joblib.parallel_config(backend="dask.distributed", client=client, n_jobs=2):
            found[name] = Parallel()(tasks)

    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        changed(folder, "jd_cluster_taking_turns", "value = 1")
        first = threading.Thread(
            target=call, args=("first", [delayed(nested_naps)(str(tmp_path))])
        )
        first.start()
        wait_until(lambda: "outer-1" in marks(tmp_path), 20, lambda: "it did not begin")
        changed(folder, "jd_cluster_taking_turns", "value = 2")
        second = threading.Thread(
            target=call, args=("second", [delayed(napping)(i) for i in range(4)])
        )
        second.start()
        for thread in (first, second):
            thread.join(40)
            assert not thread.is_alive()
    assert found == {"first": [list(range(8))], "second": [0, 1, 2, 3]}
