"""The crash matrix: four ways to do harm, at five moments of a task's life.

Every cell: the call ends with the one error it should, names the one task that did it,
and the next call on the same context works.
"""

from __future__ import annotations

import os

import joblib
import pytest
from joblib import Parallel, delayed

from joblib_distributed.errors import (
    ErrorTransferError,
    JoblibDistributedError,
    ResultTransferError,
    TaskExitError,
    TaskPackingError,
    WorkerDiedError,
)
from support.hostile import ACTS, MOMENTS, Harm, argument, run_hostile

HARMFUL = 5

# What is raised in each cell. Killing while an argument is pickled, or a result
# unpickled, would kill the user's own process: there only harm that raises applies.
EXPECTED: dict[tuple[str, str], type[Exception]] = {
    ("pickle argument", "raise"): TaskPackingError,
    ("pickle argument", "sys.exit"): TaskPackingError,
    ("unpickle argument", "raise"): Harm,
    ("unpickle argument", "sys.exit"): TaskExitError,
    ("unpickle argument", "os._exit"): WorkerDiedError,
    ("unpickle argument", "SIGSEGV"): WorkerDiedError,
    ("run", "raise"): Harm,
    ("run", "sys.exit"): TaskExitError,
    ("run", "os._exit"): WorkerDiedError,
    ("run", "SIGSEGV"): WorkerDiedError,
    ("pickle result", "raise"): ResultTransferError,
    ("pickle result", "sys.exit"): ResultTransferError,
    ("pickle result", "os._exit"): WorkerDiedError,
    ("pickle result", "SIGSEGV"): WorkerDiedError,
    ("unpickle result", "raise"): ResultTransferError,
    ("unpickle result", "sys.exit"): ResultTransferError,
}


def calls(moment: str, act: str, harmful: int | None) -> list[object]:
    return [
        delayed(run_hostile)(
            moment, act, i, i == harmful, argument(moment, act, i == harmful)
        )
        for i in range(8)
    ]


def test_every_cell_is_there() -> None:
    deadly = {"os._exit", "SIGSEGV"}
    here = {"pickle argument", "unpickle result"}
    assert set(EXPECTED) == {
        (moment, act)
        for moment in MOMENTS
        for act in ACTS
        if not (act in deadly and moment in here)
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("cell", EXPECTED, ids=" - ".join)
def test_cell(cell: tuple[str, str], backend: object) -> None:
    moment, act = cell
    with pytest.raises(EXPECTED[cell]) as caught:
        Parallel()(calls(moment, act, HARMFUL))
    error = caught.value
    if isinstance(error, JoblibDistributedError):
        assert error.index == HARMFUL
        assert error.function == "run_hostile"
        assert f"Task {HARMFUL} (run_hostile)" in str(error)
    else:
        assert f"Task {HARMFUL} (run_hostile)" in str(error.__cause__)
    assert Parallel()(calls(moment, act, None)) == list(range(8))


class Unpicklable(Exception):
    """Loses an argument on its way."""

    def __init__(self, text: str, more: int) -> None:
        super().__init__(text)


class Local(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> str:
        raise RuntimeError("stays here")


@pytest.mark.parametrize("kind", [Unpicklable, Local])
def test_exception_that_does_not_travel(kind: type[Exception], backend: object) -> None:
    def fail() -> None:
        raise kind("the text", 1)

    with pytest.raises(ErrorTransferError) as caught:
        Parallel()(delayed(fail)() for _ in range(2))
    message = str(caught.value)
    assert kind.__name__ in message
    assert "the text" in message
    assert "in fail" in message


# ------------------------------------ what others see of a task that kills its worker
def exit_if(number: int, bad: frozenset[int]) -> int:
    if number in bad:
        os._exit(7)
    return number


def results_and_error(
    bad: set[int], return_as: str, deaths_allowed: int
) -> tuple[list[int], Exception]:
    given: list[int] = []
    with joblib.parallel_config(
        backend="dask.distributed", n_workers=2, deaths_allowed=deaths_allowed
    ):
        parallel = Parallel(return_as=return_as)
    with pytest.raises(WorkerDiedError) as caught:
        given.extend(parallel(delayed(exit_if)(i, frozenset(bad)) for i in range(60)))
    return given, caught.value


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("bad", "allowed"), [({30}, 3), ({0, 59}, 1)], ids=str)
def test_all_other_results_come_before_the_error(
    bad: set[int], allowed: int, backend: object, capfd: pytest.CaptureFixture[str]
) -> None:
    given, error = results_and_error(bad, "generator_unordered", allowed)
    assert sorted(given) == [i for i in range(60) if i not in bad]
    assert isinstance(error, WorkerDiedError)
    assert error.index in bad
    assert "exit code 7" in str(error)
    assert f"deaths_allowed={allowed}" in str(error)
    said = [line for line in capfd.readouterr().err.splitlines() if "is raised" in line]
    assert [line.count("It is raised after the other results.") for line in said] == [
        1
    ] * len(bad)
    assert Parallel()(delayed(exit_if)(i, frozenset()) for i in range(9)) == [*range(9)]


@pytest.mark.timeout(120)
def test_who_wants_a_list_hears_of_it_at_once(
    backend: object, capfd: pytest.CaptureFixture[str]
) -> None:
    given, error = results_and_error({30}, "list", deaths_allowed=1)
    assert given == []
    assert isinstance(error, WorkerDiedError)
    assert error.index == 30
    assert "is raised" not in capfd.readouterr().err
