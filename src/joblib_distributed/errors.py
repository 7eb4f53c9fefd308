"""Every exception this package raises.

::

    JoblibDistributedError
    +-- OptionNameError (TypeError)         an option that does not exist
    +-- OptionTypeError (TypeError)         an option of the wrong type
    +-- OptionValueError (ValueError)       an option with a value that cannot be
    +-- SpecError (ValueError)              a file that describes no cluster
    +-- ClusterError (RuntimeError)         the cluster as a whole cannot serve the call
    |   +-- SchedulerUnreachableError (OSError)
    |   +-- NoWorkersError (TimeoutError)
    |   +-- ClusterClosedError
    |   +-- AsynchronousClientError
    |   +-- EnvironmentMismatchError
    +-- TaskError                           one task failed for a reason of ours
        +-- NotATaskError (TypeError)       the iterable yielded something else
        +-- TaskPackingError (PicklingError)    arguments that cannot be sent
        +-- ResultTransferError             a result that cannot be sent or rebuilt
        +-- ErrorTransferError              the task's own exception cannot be
        +-- TaskExitError                   the task tried to end the process
        +-- WorkerDiedError                 the task ended the process
        +-- TaskLostError                   the engine failed to run the task at all
        +-- InputFailedError                a dask future among the arguments failed

An exception raised by the user's own task is not in this tree: it arrives as it
was raised, with a `RemoteTraceback` as its cause.
"""

from __future__ import annotations

import pickle


class JoblibDistributedError(Exception):
    """Base of every exception of this package."""


class OptionNameError(JoblibDistributedError, TypeError):
    """An option was given that the backend does not have."""


class OptionTypeError(JoblibDistributedError, TypeError):
    """An option has a value of the wrong type."""


class OptionValueError(JoblibDistributedError, ValueError):
    """An option has a value of the right type that makes no sense."""


class SpecError(JoblibDistributedError, ValueError):
    """A file describes no cluster, or none that can be started."""


class ClusterError(JoblibDistributedError, RuntimeError):
    """The cluster as a whole cannot serve the call."""


class SchedulerUnreachableError(ClusterError, OSError):
    """No scheduler answered at the address given."""


class NoWorkersError(ClusterError, TimeoutError):
    """The cluster had no suitable worker for longer than the call may wait."""


class ClusterClosedError(ClusterError):
    """The client or the cluster was closed while a call was using it."""


class AsynchronousClientError(ClusterError):
    """An asynchronous client was given, or the call was made on its event loop."""


class EnvironmentMismatchError(ClusterError):
    """A worker runs another Python, or lacks a package that every task needs."""


class TaskError(JoblibDistributedError):
    """One task failed for a reason that is not its own exception.

    Attributes
    ----------
    index : int or None
        Position of the task in its call, counted from 0.
    function : str or None
        Name of the task's function.
    """

    index: int | None = None
    function: str | None = None

    @classmethod
    def of(cls, index: int, function: str, message: str) -> TaskError:
        """Make the error of one task; `message` follows "task 3 (name) "."""
        error = cls(f"Task {index} ({function}) {message}")
        error.index = index
        error.function = function
        return error


class NotATaskError(TaskError, TypeError):
    """The iterable given to `Parallel` yielded something that is no task."""


class TaskPackingError(TaskError, pickle.PicklingError):
    """A task could not be pickled for its way to the workers."""


class ResultTransferError(TaskError):
    """A task's result could not be pickled by the worker or rebuilt by the driver."""


class ErrorTransferError(TaskError):
    """A task raised an exception that could not be pickled or rebuilt.

    The message carries its type, its text and the remote traceback.
    """


class TaskExitError(TaskError):
    """A task raised `SystemExit`, `KeyboardInterrupt` or `GeneratorExit`."""


class WorkerDiedError(TaskError):
    """A task, running alone, ended the worker processes that ran it."""


class TaskLostError(TaskError):
    """The engine reported a failure before the task's own code could run."""


class InputFailedError(TaskError):
    """A dask future or collection among the arguments has no value.

    Its cause is the exception that the cluster gave instead.
    """


class RemoteTraceback(Exception):  # noqa: N818 - it is the cause of one
    """The traceback of a task's exception, as text: the cause of that exception."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
