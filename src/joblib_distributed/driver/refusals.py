"""What is said when the cluster cannot serve a call.

Pure: makes errors of ours from what `driver.cluster` found.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from joblib_distributed.data.wire import wire_format
from joblib_distributed.driver.losses import is_loss
from joblib_distributed.errors import (
    AsynchronousClientError,
    ClusterClosedError,
    ClusterError,
    EnvironmentMismatchError,
    NoWorkersError,
    OptionTypeError,
    OptionValueError,
    SchedulerUnreachableError,
)


def closed(address: str) -> ClusterClosedError:
    """Return the error for a client or cluster that was closed."""
    return ClusterClosedError(
        f"The dask client of the scheduler at {address} was closed while a joblib call "
        "was using it, or its cluster was. Keep both open until the call returns, and "
        "run the call again with a new client."
    )


def given_up(address: str, seconds: float) -> ClusterClosedError:
    """Return the error for a client that has lost its scheduler for too long."""
    return ClusterClosedError(
        f"The connection to the scheduler at {address} was lost, and could not be made "
        f"again for {seconds:g} seconds (scheduler_timeout={seconds:g}): the dask client "
        "has given up. The scheduler has probably stopped, or the network is cut. Run "
        "the call again with a new client when it is back; if that takes longer, raise "
        "scheduler_timeout."
    )


def already_closed(client: object) -> ClusterClosedError:
    """Return the error for a client that was closed before the call."""
    return ClusterClosedError(
        f"The dask client {client!r} is closed, or its cluster is: nothing can run on "
        "it. Make a new client, or leave client= out to use the current one."
    )


def no_workers(seconds: float, address: str) -> NoWorkersError:
    """Return the error for a cluster that had no worker for that long."""
    return NoWorkersError(
        f"DaskDistributedBackend has no worker after {seconds} seconds. Make sure that "
        f"workers are started and connect to the scheduler at {address}; if they need "
        "longer, use parallel_config(backend='dask.distributed', "
        f"wait_for_workers_timeout={max(10, 2 * seconds)})."
    )


def no_answer(address: str, error: Exception) -> SchedulerUnreachableError:
    """Return the error for a scheduler that was there once."""
    return SchedulerUnreachableError(
        f"The scheduler at {address} did not answer: {error!r}. It has probably stopped. "
        "Start it again, and connect a new client."
    )


def no_scheduler(host: str, error: BaseException) -> SchedulerUnreachableError:
    """Return the error for an address where no scheduler was found."""
    reasons = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        reasons.append(f"{type(error).__name__}: {error}")
    return SchedulerUnreachableError(
        f"No dask scheduler could be reached at scheduler_host={host!r}: "
        f"{', because of '.join(reasons)}. "
        "Check host and port (a scheduler prints its address when it starts, and "
        "8786 is its usual port), and that no firewall is between."
    )


def still_trying(address: str, timeout: float) -> str:
    """Return what is said while an address is tried that does not answer."""
    return (
        f"[joblib_distributed]: no dask scheduler has answered at {address!r} yet; it is "
        f"tried for {timeout:g} seconds in all, then given up with an error. To end that "
        "sooner, press Ctrl-C, or before the call use "
        "dask.config.set({'distributed.comm.timeouts.connect': '5s'})."
    )


def looks_like_path(host: str) -> bool:
    """Whether a ``scheduler_host`` is meant to be the path of a scheduler file."""
    return "://" not in host and ("/" in host or "\\" in host or host.endswith(".json"))


def no_scheduler_file(path: str) -> SchedulerUnreachableError:
    """Return the error for a scheduler file that does not exist."""
    return SchedulerUnreachableError(
        f"There is no scheduler file scheduler_host={path!r}. A scheduler writes it when "
        "it starts with --scheduler-file; check the path, and that this machine sees "
        "the same folder."
    )


def unknown_host(worker: str, error: Exception) -> OptionValueError:
    """Return the error for an address in ``workers`` that nobody can look up."""
    return OptionValueError(
        f"workers={worker!r}: the scheduler cannot look up the host of this address: "
        f"{error}. Give the address or name of a worker as the dashboard or "
        "client.scheduler_info()['workers'] shows it."
    )


def no_client(client: object) -> OptionTypeError:
    """Return the error for a ``client`` that is something else."""
    return OptionTypeError(
        f"client must be a distributed.Client, got {client!r}. To name a scheduler by "
        "its address use scheduler_host='HOST:PORT'."
    )


def asynchronous(client: object) -> AsynchronousClientError:
    """Return the error for a client that cannot be waited for."""
    return AsynchronousClientError(
        f"The dask client {client!r} is asynchronous, or this is its event loop's "
        "thread: joblib calls wait for their results and would block the loop. Use a "
        "synchronous Client, and call from an ordinary thread."
    )


def describe_death(error: Any, ended: str = "") -> str:
    """Say who died last of a `distributed.scheduler.KilledWorker`, and how it ended."""
    return f"the last one {error.last_worker.address}{ended and f' ({ended})'}."


def describe_exit(code: int) -> str:
    """Put the exit code of a process in words; negative, it is that of a signal."""
    try:
        return f"exit code {code}" if code >= 0 else f"{signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def check_answer(address: str, answer: object) -> bool:
    """Judge what a worker said of itself.

    Parameters
    ----------
    address : str
    answer : tuple of int, exception or None
        What `worker.probe.describe_worker` gave there.

    Returns
    -------
    bool
        Whether it said anything.

    Raises
    ------
    EnvironmentMismatchError
        If it cannot run our tasks.
    """
    if answer is None or is_loss(answer):
        return False
    if isinstance(answer, BaseException):
        raise EnvironmentMismatchError(
            f"Worker {address} cannot run tasks: {type(answer).__name__}: {answer}. "
            "Install joblib-distributed and joblib in the environment of every worker, "
            "in the versions used here."
        ) from answer
    python, wire = list(answer)[:2], list(answer)[2:]  # type: ignore[call-overload]
    here = list(sys.version_info[:2])
    if python != here:
        raise EnvironmentMismatchError(
            f"Worker {address} runs Python {_dotted(python)}, this process Python "
            f"{_dotted(here)}. Functions cannot be sent between minor versions of "
            "Python: start the workers from an environment with the same one."
        )
    if wire != [wire_format()]:
        raise EnvironmentMismatchError(
            f"Worker {address} has a version of joblib-distributed that cannot talk to "
            "that of this process. Install the same one in the environment of every "
            "worker, or none: then this process sends its own."
        )
    return True


def lacks_us(answer: object) -> bool:
    """Whether a worker has said that it does not have this package at all."""
    # Its `name` is lost on the way.
    return isinstance(answer, ModuleNotFoundError) and "'joblib_distributed'" in str(
        answer
    )


def _dotted(version: Any) -> str:
    return ".".join(map(str, version))


def not_sent(error: BaseException) -> ClusterError:
    """Return the error for a call whose batches cannot be handed to the client."""
    if isinstance(error, ClusterError):
        return error
    wrapped = ClusterError(
        f"A batch could not be handed to the dask client: {type(error).__name__}: "
        f"{error}. The client or its event loop is probably in trouble: make a new one "
        "and run the call again."
    )
    wrapped.__cause__ = error
    return wrapped
