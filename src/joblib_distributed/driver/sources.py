"""Where the cluster of a call comes from.

`find_cluster` tells; clients and embedded clusters that are made here are shared by the
calls of the process and closed at its exit.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import json
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import dask
import distributed
import distributed.comm
from dask.utils import parse_timedelta
from distributed import Client, get_worker
from distributed.comm.addressing import parse_address, parse_host_port

from joblib_distributed.driver import certificate, embedded, refusals, telling
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.options import Options

#: Seconds of trying to connect after which it is said. A guess: far above what one takes
#: that is there.
PATIENT_SILENCE = 3.0

_own_lock = threading.Lock()
#: Clients that we made and close, by process and by what they connect to.
_own: dict[tuple[int, object], Client] = {}
#: Held while the client of the same key is being made: one that takes half a minute to
#: find nobody must not keep calls on another cluster waiting.
_making: defaultdict[tuple[int, object], threading.Lock] = defaultdict(threading.Lock)
#: The process that used a cluster first.
_first_used_by: int | None = None


def find_cluster(options: Options) -> Cluster:
    """Return the cluster that a call with these options runs on.

    In this order: ``client``, ``scheduler_host``, inside a dask task its worker's own
    client, the current client, dask's configured scheduler, the embedded cluster.

    Raises
    ------
    AsynchronousClientError
        If the client is asynchronous.
    ClusterClosedError
        If the client given is closed.
    SchedulerUnreachableError
        If nobody answers at the address given.
    """
    global _first_used_by
    _first_used_by = _first_used_by or os.getpid()
    client = _existing_client(options)
    if client is None:
        size = embedded.size(options.n_workers, options.threads_per_worker)
        kind = (*size, certificate.is_wanted(options.embedded_tls))
        client = _own_client(kind, lambda: _connect_embedded(*kind))
        return Cluster(client, embedded_threads=size[0] * size[1])
    _check_usable(client)
    return Cluster(client, scheduler_timeout=options.scheduler_timeout)


def get_client(**options: Any) -> Client:
    """Return the dask client that joblib calls with these options would use.

    For code that uses dask itself and wants to share the cluster, the embedded one for
    instance::

        with joblib_distributed.get_client().as_current():
            X = dask_array.compute()

    Parameters
    ----------
    **options
        See `Options`; those that say where the cluster comes from count.

    Returns
    -------
    distributed.Client
        Not to be closed unless it was given; see `shutdown`.

    Raises
    ------
    ClusterError
        If there is no such cluster.
    """
    return find_cluster(Options.from_keywords(options)).client


def is_fork_of_user() -> bool:
    """Whether this process was forked from one that had used a cluster.

    Of what dask keeps running, only locks survive a fork: any use of it hangs.
    """
    return _first_used_by is not None and _first_used_by != os.getpid()


def embedded_threads(options: Options) -> int | None:
    """Return the embedded cluster's size if it is the one to be used but not started."""
    if _is_elsewhere(options):
        return None
    processes, threads = embedded.size(options.n_workers, options.threads_per_worker)
    return processes * threads


def _is_elsewhere(options: Options) -> bool:
    return bool(
        options.client
        or options.scheduler_host
        or _in_task()
        or _current_client()
        or dask.config.get("scheduler-address", None)
    )


def _existing_client(options: Options) -> Client | None:
    if options.client is not None:
        return options.client
    if options.scheduler_host is not None:
        return _client_at(os.fspath(options.scheduler_host))
    if _in_task():
        return distributed.get_client()
    current = _current_client()
    if current is not None:
        return current
    address = dask.config.get("scheduler-address", None)
    return _client_at(address) if address else None


def _in_task() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _current_client() -> Client | None:
    try:
        current = Client.current()
    except ValueError:
        return None
    return current


def _client_at(host: str) -> Client:
    return _own_client(host, lambda: _connect(host))


def _own_client(key: object, connect: Callable[[], Client]) -> Client:
    mine = os.getpid(), key
    with _own_lock:
        making = _making[mine]
    with making:
        with _own_lock:
            client = _own.get(mine)
        if client is None or client.status in ("closing", "closed"):
            client = connect()
            with _own_lock:
                _own[mine] = client
        return client


def _connect(host: str) -> Client:
    if os.path.isfile(host):
        target = {"scheduler_file": host}
        address = _address_in(host)
    elif refusals.looks_like_path(host):
        raise refusals.no_scheduler_file(host)
    else:
        target = {"address": host}
        address = host
    # In two steps, so that what the second leaves behind can be closed: a thread, and
    # half a minute or more at the exit of the process.
    client = Client.__new__(Client)
    try:
        _check_address(address)
        _check_answers(address)
        client.__init__(**target, set_as_default=False)
    except (OSError, ValueError, TypeError, distributed.TimeoutError) as error:
        _discard(client)
        raise refusals.no_scheduler(host, error) from error
    return client


def _check_address(address: str) -> None:
    """Raise what `Client` would, for an address that cannot be one; it never connects."""
    scheme, _, location = address.rpartition("://")
    if scheme in ("", "tcp", "tls"):
        host, port = parse_host_port(location)
        # A port beyond is taken for another one by some systems, and tried by dask.
        if not 0 < port < 2**16:
            raise ValueError(f"port {port} is not between 1 and 65535")
        socket.getaddrinfo(host, port)


def _address_in(scheduler_file: str) -> str:
    try:
        with open(scheduler_file, encoding="utf-8") as file:
            return str(json.load(file)["address"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise refusals.no_scheduler(scheduler_file, error) from error


def _check_answers(address: str) -> None:
    """Raise `OSError` if nobody at an address answers as dask does, in time.

    `Client` waits for ever for the first answer of a server that is none of dask's, or
    is stopped. This waits as long as dask waits for a connection.
    """
    timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    arguments = distributed.Security().get_connection_args("client")

    async def answer() -> None:
        connecting = distributed.comm.connect(address, timeout=timeout, **arguments)
        # A second more, so that what `connect` says about its own timeout is heard.
        comm = await asyncio.wait_for(connecting, timeout + 1)
        comm.abort()

    # On a thread, as the user's own may have an event loop that runs.
    answered: concurrent.futures.Future[None] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answered.set_result(asyncio.run(answer()))
        except BaseException as error:
            answered.set_exception(error)

    threading.Thread(target=ask, name="joblib-distributed-connect", daemon=True).start()
    concurrent.futures.wait([answered], PATIENT_SILENCE)
    if not answered.done():
        # Where joblib itself writes to; there is no `Parallel` yet, nor its `verbose`.
        telling.tell(refusals.still_trying(address, timeout))
    try:
        answered.result()
    except (asyncio.TimeoutError, concurrent.futures.TimeoutError):
        raise OSError(
            f"what accepts connections there has not answered within {timeout:g} seconds "
            "as a dask scheduler does"
        ) from None
    except OSError as error:
        # dask's reason may be that the last of its many tries had no time left.
        raise error from _refusal(address)


def _refusal(address: str) -> OSError | None:
    """Return why a connection is refused, as the system puts it within a second."""
    try:
        place = parse_host_port(parse_address(address)[1])
        socket.create_connection(place, 1.0).close()
    except OSError as error:
        return error
    return None


def _discard(client: Client) -> None:
    """Close a client that was not made."""
    if hasattr(client, "status"):
        with contextlib.suppress(distributed.TimeoutError, OSError, RuntimeError):
            client.close(timeout=1)
        client._loop_runner.stop(timeout=1)
        client.status = "closed"


def _connect_embedded(processes: int, threads: int, tls: bool) -> Client:
    cluster = embedded.start(processes, threads, tls)
    return Client(cluster, set_as_default=False)  # with the security of the cluster


def _check_usable(client: Any) -> None:
    if not isinstance(client, Client):
        raise refusals.no_client(client)
    # `asynchronous` is also true of a synchronous client on its own event loop's thread,
    # where waiting for a result would wait for ever.
    if client.asynchronous or getattr(client, "_asynchronous", False):
        raise refusals.asynchronous(client)
    if Cluster(client).closed:
        raise refusals.already_closed(client)


def shutdown() -> None:
    """Close the clients and embedded clusters that this package started.

    Called at the exit of the process. A later call starts anew.
    """
    with _own_lock:
        mine = [key for key in _own if key[0] == os.getpid()]
        clients = [_own.pop(key) for key in mine]
    for client in clients:
        client.close()
    embedded.close_all()


atexit.register(shutdown)
