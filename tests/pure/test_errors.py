"""The tree of exceptions."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from joblib_distributed import errors
from joblib_distributed.errors import JoblibDistributedError, TaskError

CLASSES = sorted(
    (
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ),
    key=lambda cls: cls.__name__,
)
TREE = [cls for cls in CLASSES if issubclass(cls, JoblibDistributedError)]


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Name -> (parent, builtin base in brackets), as the docstring draws it."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("::\n\n")[1].split("\n\n")[0]
    found: dict[str, tuple[str | None, str | None]] = {}
    ancestors: list[tuple[int, str]] = []
    for line in drawing.splitlines():
        match = re.match(r"([ |]*(?:\+-- )?)(\w+)(?: \((\w+)\))?", line)
        assert match is not None, line
        indent, name, base = match.groups()
        while ancestors and ancestors[-1][0] >= len(indent):
            ancestors.pop()
        found[name] = (ancestors[-1][1] if ancestors else None, base)
        ancestors.append((len(indent), name))
    return found


def test_every_class_is_drawn_where_it_is() -> None:
    real = {}
    for cls in TREE:
        ours = [base for base in cls.__bases__ if base in TREE]
        others = [base.__name__ for base in cls.__bases__ if base not in TREE]
        parent = ours[0].__name__ if ours else None
        real[cls.__name__] = (parent, others[0] if parent and others else None)
        assert len(ours) <= 1
        assert len(others) <= 1
    assert drawn_tree() == real


def test_only_the_remote_traceback_is_outside_of_the_tree() -> None:
    assert [c.__name__ for c in CLASSES if c not in TREE] == ["RemoteTraceback"]


@pytest.mark.parametrize("cls", CLASSES)
def test_roundtrips(cls: type[Exception]) -> None:
    error = cls("what happened")
    for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(arrived) is cls
        assert arrived.args == ("what happened",)
        assert str(arrived) == str(error)
        assert "what happened" in str(arrived)


@pytest.mark.parametrize("cls", [cls for cls in TREE if issubclass(cls, TaskError)])
def test_task_errors_carry_their_task(cls: type[TaskError]) -> None:
    error = cls.of(3, "fit", "did this. Do that.")
    assert type(error) is cls
    for arrived in (error, pickle.loads(pickle.dumps(error))):
        assert type(arrived) is cls
        assert str(arrived) == "Task 3 (fit) did this. Do that."
        assert (arrived.index, arrived.function) == (3, "fit")


def test_task_error_made_by_hand_has_no_task() -> None:
    error = TaskError("text")
    assert (error.index, error.function) == (None, None)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("OptionNameError", TypeError),
        ("OptionTypeError", TypeError),
        ("OptionValueError", ValueError),
        ("ClusterError", RuntimeError),
        ("ClusterClosedError", RuntimeError),
        ("SchedulerUnreachableError", OSError),
        ("NoWorkersError", TimeoutError),
        ("NotATaskError", TypeError),
        ("TaskPackingError", pickle.PicklingError),
    ],
)
def test_is_what_users_already_catch(name: str, base: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), base)
    assert issubclass(getattr(errors, name), JoblibDistributedError)


@pytest.mark.parametrize("cls", CLASSES)
def test_is_an_exception_that_except_exception_catches(cls: type) -> None:
    assert issubclass(cls, Exception)
