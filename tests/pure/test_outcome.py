"""Outcomes as bytes: reports, values and exceptions."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

from joblib_distributed.data.outcome import (
    Kind,
    Missing,
    Outcome,
    Report,
    Stage,
    first_of,
    not_run,
    pack_failure,
    pack_missing,
    pack_plain,
    pack_report,
    unpack_error,
    unpack_missing,
    unpack_plain,
    unpack_report,
    unpack_value,
)
from joblib_distributed.data.payload import pack
from joblib_distributed.errors import (
    ErrorTransferError,
    RemoteTraceback,
    ResultTransferError,
    TaskExitError,
)

WORKER = "tcp://127.0.0.1:1234 (pid 5)"
NOT_RUN = not_run(1)


def brought(error: BaseException, stage: Stage = Stage.RUN) -> Exception:
    """Raise an exception on a pretended worker; return what arrives of it."""
    try:
        raise error
    except BaseException as raised:
        packed = pack_failure(raised, stage, WORKER)
    return unpack_error(packed, 3, "f")


# ----------------------------------------------------------------------------- reports
def test_report_roundtrips() -> None:
    outcomes = [
        Outcome(Kind.VALUE, 0.25, b"a value"),
        Outcome(Kind.VALUE, 0.0, b""),
        Outcome(Kind.ERROR, 1.5, b"an error"),
        NOT_RUN,
        Outcome(Kind.VALUE, 2.0, b"x" * 100_000),
    ]
    assert unpack_report(pack_report(WORKER, outcomes)) == Report(WORKER, outcomes)


def test_empty_report_roundtrips() -> None:
    assert unpack_report(pack_report("w", [])) == Report("w", [])


def test_report_takes_any_buffer() -> None:
    outcome = Outcome(Kind.VALUE, 0.0, memoryview(b"0123456789")[2:5])
    report = unpack_report(pack_report("w", [outcome]))
    assert bytes(report.outcomes[0].packed) == b"234"


def test_values_are_not_copied_out_of_a_report() -> None:
    packed = pack_report("w", [Outcome(Kind.VALUE, 0.0, b"abc"), NOT_RUN])
    for outcome in unpack_report(packed).outcomes:
        assert isinstance(outcome.packed, memoryview)
        assert outcome.packed.obj is packed


def test_values_are_not_unpickled_with_a_report() -> None:
    outcome = Outcome(Kind.VALUE, 0.0, b"no pickle at all")
    (arrived,) = unpack_report(pack_report("w", [outcome])).outcomes
    assert arrived == outcome


def test_kinds_arrive_as_kinds() -> None:
    outcomes = [Outcome(kind, 0.0) for kind in Kind]
    report = unpack_report(pack_report("w", outcomes))
    assert [type(o.kind) for o in report.outcomes] == [Kind] * len(Kind)
    assert [o.kind for o in report.outcomes] == list(Kind)


# ------------------------------------------------------------------------------- plain
PLAIN_VALUES = [1, -2.5, 1j, True, None, "text", 10**100, "\ud800"]


def test_values_of_plain_neighbours_roundtrip() -> None:
    outcome = pack_plain(PLAIN_VALUES, 1.5)
    assert (outcome.kind, outcome.duration) == (Kind.VALUE, 1.5)
    assert outcome.size == outcome.plain == len(PLAIN_VALUES)
    assert unpack_plain(outcome) == PLAIN_VALUES
    assert [type(v) for v in unpack_plain(outcome)] == [type(v) for v in PLAIN_VALUES]


def test_one_plain_value_is_a_list_still() -> None:
    outcome = pack_plain([5], 0.0)
    assert (outcome.size, outcome.plain) == (1, 1)
    assert unpack_plain(outcome) == [5]


def test_plain_neighbours_arrive_in_a_report() -> None:
    outcomes = [
        pack_plain([1, 2, 3], 0.5),
        Outcome(Kind.VALUE, 0.25, b"a value", ["a-name", b"buffer"], 1),
        pack_plain(["x"], 0.5),
        not_run(10_000),
    ]
    report = unpack_report(pack_report("w", outcomes))
    assert report == Report("w", outcomes)
    assert [o.size for o in report.outcomes] == [3, 1, 1, 10_000]
    assert unpack_plain(report.outcomes[0]) == [1, 2, 3]


def test_the_first_of_all_outcomes() -> None:
    one = Outcome(Kind.VALUE, 1.0, b"one")
    plain = pack_plain([2, 3, 4, 5], 8.0)
    outcomes = [one, plain, not_run(3)]
    assert first_of(outcomes, 8) == outcomes
    assert first_of(outcomes, 6) == [one, plain, not_run(1)]
    assert first_of(outcomes, 5) == [one, plain]
    assert first_of(outcomes, 3) == [one, pack_plain([2, 3], 4.0)]
    assert first_of(outcomes, 1) == [one]
    assert first_of(outcomes, 0) == []


def test_what_was_not_run_is_counted() -> None:
    assert not_run(7) == Outcome(Kind.NOT_RUN, 0.0, plain=7)
    assert [not_run(n).size for n in (1, 2, 7)] == [1, 2, 7]
    assert [o.size for o in (NOT_RUN, Outcome(Kind.ERROR, 1.0, b"error"))] == [1, 1]


# ------------------------------------------------------------------------------ missing
@pytest.mark.parametrize(
    "missing",
    [Missing("host", "tcp://there:1", ("a-1", "b-2")), Missing("", "", ())],
)
def test_what_is_missing_arrives_in_a_report(missing: Missing) -> None:
    outcome = pack_missing(missing)
    assert (outcome.kind, outcome.duration) == (Kind.MISSING, 0.0)
    report = unpack_report(pack_report("w", [NOT_RUN, outcome]))
    assert unpack_missing(report.outcomes[1]) == missing
    assert type(unpack_missing(outcome)) is Missing


# ------------------------------------------------------------------------------- values
@pytest.mark.parametrize("value", [None, 1, "text", [1, {"a": (2,)}], b"x" * 1000])
def test_value_roundtrips(value: object) -> None:
    assert unpack_value(pack(value), 0, "f") == value
    assert unpack_value(memoryview(pack(value)), 0, "f") == value


class RaisesWhenUnpickled:
    """Pickles; raises a given exception when it is unpickled."""

    def __init__(self, error: type[BaseException], *args: object) -> None:
        self.error = error
        self.args = args

    def __reduce__(self) -> Any:
        return (_raise, (self.error, *self.args))


def _raise(error: type[BaseException], *args: object) -> None:
    raise error(*args)


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
def test_value_that_cannot_be_rebuilt(error: type[BaseException]) -> None:
    packed = pack(RaisesWhenUnpickled(error, "on purpose"))
    with pytest.raises(ResultTransferError) as caught:
        unpack_value(packed, 3, "f")
    assert str(caught.value) == (
        "Task 3 (f) ran to its end, but its result could not be unpickled here: "
        f"{error.__name__}: on purpose. Most often the result's class cannot be imported "
        "here, or its __reduce__ and __setstate__ do not agree. Return plain data, or "
        "define the class in a module both sides have."
    )
    assert (caught.value.index, caught.value.function) == (3, "f")
    assert type(caught.value.__cause__) is error


def test_value_of_a_missing_module() -> None:
    with pytest.raises(
        ResultTransferError, match=r"ModuleNotFoundError: No module named"
    ):
        unpack_value(b"cmissing_module\nmissing_name\n.", 0, "f")


def test_value_that_was_cut_off() -> None:
    with pytest.raises(ResultTransferError):
        unpack_value(pack([1, 2, 3])[:-3], 0, "f")


def test_keyboard_interrupt_passes_while_a_value_is_rebuilt() -> None:
    with pytest.raises(KeyboardInterrupt):
        unpack_value(pack(RaisesWhenUnpickled(KeyboardInterrupt)), 0, "f")


# ------------------------------------------------------------ exceptions that arrive
class UserError(Exception):
    """Carries data."""

    def __init__(self, code: int, *, detail: str = "") -> None:
        super().__init__(code)
        self.detail = detail


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 2),
        KeyError("k"),
        OSError(2, "No such file", "name"),
        StopIteration(4),
        RecursionError("deep"),
        MemoryError(),
        UserError(7),
        Exception(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exception_arrives_as_it_was_raised(error: Exception) -> None:
    arrived = brought(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert str(arrived) == str(error)


def test_attributes_of_an_exception_arrive() -> None:
    arrived = brought(UserError(7, detail="more"))
    assert isinstance(arrived, UserError)
    assert (arrived.args, arrived.detail) == ((7,), "more")


def test_exception_of_a_class_that_exists_nowhere_else_arrives() -> None:
    class Local(Exception):
        """Known to nobody."""

    arrived = brought(Local("x"))
    assert (type(arrived).__name__, arrived.args) == ("Local", ("x",))


def test_cause_is_the_remote_traceback() -> None:
    arrived = brought(ValueError("text"))
    cause = arrived.__cause__
    assert isinstance(cause, RemoteTraceback)
    lines = str(cause).splitlines()
    assert lines[:4] == [
        "",
        f"Task 3 (f) failed on worker {WORKER}.",
        "",
        "Traceback (most recent call last):",
    ]
    assert lines[4].startswith(f'  File "{__file__}", line ')
    assert lines[4].endswith(", in brought")
    assert lines[-1] == "ValueError: text"


def test_traceback_tells_of_the_exceptions_before() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        arrived = unpack_error(pack_failure(error, Stage.RUN, WORKER), 3, "f")
    assert "KeyError: 'first'" in str(arrived.__cause__)
    assert "The above exception was the direct cause" in str(arrived.__cause__)


def fail_deep(depth: int = 100) -> None:
    """Raise in a hundred frames."""
    if depth:
        fail_deep(depth - 1)
    raise KeyError("deep")


def raise_plainly() -> None:
    fail_deep()


def raise_in_handlers() -> None:
    try:
        fail_deep()
    except KeyError:
        try:
            fail_deep()
        except KeyError as cause:
            raise ValueError("the last") from cause


def raise_from_another_than_is_handled() -> None:
    cause: Exception | None = None
    try:
        fail_deep()
    except KeyError as caught:
        cause = caught
    try:
        fail_deep()
    except KeyError:
        raise ValueError("the last") from cause


def raise_group() -> None:
    members = []
    try:
        fail_deep()
    except KeyError as member:
        members.append(member)
    raise ExceptionGroup("several", members)  # noqa: F821 - from Python 3.11


@pytest.mark.parametrize(
    "function",
    [
        raise_plainly,
        raise_in_handlers,
        raise_from_another_than_is_handled,
        pytest.param(
            raise_group,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="groups came with Python 3.11"
            ),
        ),
    ],
)
def test_no_traceback_object_is_packed(function: Callable[[], None]) -> None:
    """A pickler cannot descend a thousand frames."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    packed = pack_failure(caught.value, Stage.RUN, WORKER)
    exception = pickle.loads(packed)[1]
    assert exception is not None
    assert b"unpickle_traceback" not in exception
    assert type(unpack_error(packed, 0, "f")) is type(caught.value)


def test_recursion_error_arrives() -> None:
    def endless() -> None:
        endless()

    try:
        endless()
    except RecursionError as error:
        arrived = unpack_error(pack_failure(error, Stage.RUN, WORKER), 3, "f")
    assert type(arrived) is RecursionError


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
@pytest.mark.parametrize(
    ("stage", "failed"),
    [(Stage.UNPACK, "could not be unpickled"), (Stage.RUN, "failed")],
)
def test_error_of_a_module_that_is_missing_has_a_note(stage: Stage, failed: str) -> None:
    """Which is the last that the user sees."""
    arrived = brought(ModuleNotFoundError("No module named 'x'"), stage)
    assert type(arrived) is ModuleNotFoundError
    expected = (
        f"Task 3 (f) {failed} on worker {WORKER}: builtins.ModuleNotFoundError: No "
        "module named 'x'. If a module is missing, install it on every worker, in the "
        "version used here; one of your own is sent if modules=[...] names it, "
        "unless it has compiled parts."
    )
    assert arrived.__notes__ == [expected]  # type: ignore[attr-defined]
    assert str(arrived.__cause__).startswith(f"\n{expected}\n\nTraceback ")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_any_error_of_unpacking_has_a_note() -> None:
    (note,) = brought(ValueError("text"), Stage.UNPACK).__notes__  # type: ignore[attr-defined]
    assert "could not be unpickled on worker" in note
    assert "ValueError: text" in note


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_error_of_the_users_own_code_gets_no_note() -> None:
    assert not hasattr(brought(ValueError("text")), "__notes__")


# ----------------------------------------------------- exceptions that cannot be brought
class NeedsTwo(Exception):
    """Unpickles with fewer arguments than it needs."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class NoText(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoPickle(Exception):
    """Does not pickle, for a reason of its own."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__("some text")
        self.reason = reason

    def __reduce__(self) -> Any:
        raise self.reason


class Becomes(Exception):
    """Unpickles as something else."""

    def __init__(self, other: object) -> None:
        super().__init__("some text")
        self.other = other

    def __reduce__(self) -> Any:
        return (_same, (self.other,))


def _same(value: object) -> object:
    return value


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Lets nobody set an attribute, not even Python."""

    code: int


@pytest.mark.parametrize(
    ("error", "type_and_text", "reason"),
    [
        (
            NoPickle(ValueError("no")),
            "test_outcome.NoPickle: some text",
            "it could not be pickled on the worker: ValueError: no",
        ),
        (
            NoPickle(SystemExit(3)),
            "test_outcome.NoPickle: some text",
            "it could not be pickled on the worker: SystemExit: 3",
        ),
        (
            NoPickle(NoText()),
            "test_outcome.NoPickle: some text",
            "it could not be pickled on the worker: NoText: (its text could not be made)",
        ),
        (
            NeedsTwo(1, 2),
            "test_outcome.NeedsTwo: 1 and 2",
            "it could not be unpickled here: TypeError: NeedsTwo.__init__() missing 1 "
            "required positional argument: 'second'",
        ),
        (
            Becomes(RaisesWhenUnpickled(SystemExit, 3)),
            "test_outcome.Becomes: some text",
            "it could not be unpickled here: SystemExit: 3",
        ),
        (
            Becomes(5),
            "test_outcome.Becomes: some text",
            "it unpickled as a int",
        ),
        (
            Becomes(SystemExit(3)),
            "test_outcome.Becomes: some text",
            "it unpickled as a SystemExit",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exception_that_cannot_be_brought(
    error: Exception, type_and_text: str, reason: str
) -> None:
    arrived = brought(error)
    assert type(arrived) is ErrorTransferError
    assert (arrived.index, arrived.function) == (3, "f")
    story, blank, traceback = str(arrived).split("\n", 2)
    assert story == (
        f"Task 3 (f) raised {type_and_text} on worker {WORKER}. The exception itself "
        f"could not be brought here ({reason}); its traceback follows."
    )
    assert blank == ""
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert ", in brought\n" in traceback


def test_frozen_exception_becomes_a_named_error() -> None:
    """Its state is restored by assignment, which it refuses."""
    arrived = brought(Frozen(3))
    assert type(arrived) is ErrorTransferError
    assert "Task 3 (f) raised test_outcome.Frozen: 3 on worker" in str(arrived)


class Unchangeable(Exception):
    """Has no state, and refuses to be given any."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def test_an_exception_that_refuses_to_be_changed_arrives() -> None:
    arrived = brought(Unchangeable("as it was"))
    assert type(arrived) is Unchangeable
    assert arrived.args == ("as it was",)


def test_exception_without_a_text_arrives() -> None:
    assert type(brought(NoText())) is NoText


def test_exception_with_neither_text_nor_pickle_is_named() -> None:
    class Nothing(NoText, NoPickle):
        """Has neither."""

    arrived = brought(Nothing(ValueError("no")))
    assert type(arrived) is ErrorTransferError
    assert ".Nothing: (its text could not be made) on worker" in str(arrived)
    assert ", in brought\n" in str(arrived)


def test_text_of_a_class_of_its_own_is_sent_as_plain_text() -> None:
    class Text(str):
        """Is known to nobody else."""

        __slots__ = ()

    class Styled(Exception):
        """Has a text of a class of its own."""

        def __str__(self) -> str:
            return Text("styled")

    packed = pack_failure(Styled(), Stage.RUN, WORKER)
    assert type(pickle.loads(packed)[4]) is str


def test_keyboard_interrupt_passes_while_an_exception_is_rebuilt() -> None:
    with pytest.raises(KeyboardInterrupt):
        brought(Becomes(RaisesWhenUnpickled(KeyboardInterrupt)))


# ----------------------------------------------------------- exceptions that would exit
@pytest.mark.parametrize(
    ("error", "type_and_text"),
    [
        (SystemExit(3), "builtins.SystemExit ('3')"),
        (SystemExit(), "builtins.SystemExit ('')"),
        (KeyboardInterrupt(), "builtins.KeyboardInterrupt ('')"),
        (GeneratorExit("x"), "builtins.GeneratorExit ('x')"),
    ],
    ids=lambda value: "",
)
@pytest.mark.parametrize("stage", [Stage.UNPACK, Stage.RUN])
def test_exit_of_a_task_does_not_end_the_program(
    error: BaseException, type_and_text: str, stage: Stage
) -> None:
    arrived = brought(error, stage)
    assert type(arrived) is TaskExitError
    assert str(arrived) == (
        f"Task 3 (f) raised {type_and_text} on worker {WORKER}. Tasks cannot end the "
        "program: raise an ordinary exception, or return a value that says to stop."
    )
    assert (arrived.index, arrived.function) == (3, "f")
    assert isinstance(arrived.__cause__, RemoteTraceback)


@pytest.mark.parametrize("error", [TypeError("no pickle"), SystemExit("no pickle")])
def test_result_that_could_not_be_packed(error: BaseException) -> None:
    arrived = brought(error, Stage.PACK_RESULT)
    assert type(arrived) is ResultTransferError
    assert str(arrived) == (
        f"Task 3 (f) ran to its end on worker {WORKER}, but its result could not be "
        f"pickled: builtins.{type(error).__name__}: no pickle. Return data instead of "
        "handles such as locks, files, generators or connections."
    )
    assert isinstance(arrived.__cause__, RemoteTraceback)


def test_packed_failure_takes_any_buffer() -> None:
    packed = pack_failure(ValueError("x"), Stage.RUN, WORKER)
    assert type(unpack_error(memoryview(packed), 0, "f")) is ValueError


def test_remote_traceback_begins_on_a_line_of_its_own() -> None:
    assert str(RemoteTraceback("Traceback ...")) == "\nTraceback ..."
