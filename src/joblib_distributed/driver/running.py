"""One live call: feeds its ledger, and carries out what the ledger says.

Two threads for each call, started with its first batch:

- the *ledger* thread handles events and sends attempts. It never runs code of the
  user's, so an iterable that blocks does not keep a lost batch from being sent again.
- the *delivery* thread unpacks results and calls joblib's callbacks, which read the
  user's iterable.

Neither is an event loop's; see ``docs/architecture.md`` for the whole path.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from joblib_distributed.data.host import host_store
from joblib_distributed.data.outcome import (
    Outcome,
    unpack_error,
    unpack_missing,
    unpack_value,
)
from joblib_distributed.data.payload import PackedTask, Packer, Sharing
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.transfer import Arrival
from joblib_distributed.driver.batching import BatchPolicy
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.events import (
    Cancelled,
    ClusterFailed,
    Deliver,
    DeliverError,
    Dispatched,
    Event,
    Instruction,
    Interrupt,
    Looked,
    Release,
    Send,
    Supplied,
    Supply,
)
from joblib_distributed.driver.inputs import Inputs
from joblib_distributed.driver.joblib_hooks import Callback
from joblib_distributed.driver.sending import Sender
from joblib_distributed.driver.supplier import HostSupplied, Place
from joblib_distributed.driver.traffic import Tally, Traffic
from joblib_distributed.errors import ClusterError
from joblib_distributed.options import Options
from joblib_distributed.worker.interrupt import shielded

#: Seconds between two looks at the scheduler. A worker that joins is used, and a closed
#: client noticed, within about this. A guess; a look costs two small messages.
LOOK_INTERVAL = 1.0

#: Seconds without news after which the scheduler is asked about an attempt. A guess:
#: long against the way of a batch to the scheduler.
QUIET = 2.0

#: Seconds that `RunningCall.cancel` may keep the user waiting so that workers are told.
CANCEL_TIMEOUT = 0.5


class Values(NamedTuple):
    """What joblib's callback is called with when a delivery succeeded."""

    values: list[object]


class Error(NamedTuple):
    """What joblib's callback is called with when a delivery failed."""

    error: BaseException


class _Granted(NamedTuple):
    """It is the turn of a suspect."""

    send: Send


_Job = Callable[[], object]


class RunningCall:
    """A call from its first batch to its end.

    Parameters
    ----------
    cluster : Cluster
    options : Options
    limit : int or None
        How many tasks may run at a time; None for as many as the cluster has threads.
    context : bytes
        The packed `CallContext`.
    carry_back : callable
        Takes a callback and an `Error` that joblib did not expect there, and has it
        raised in the user's thread.
    dispatch_more : callable
        Takes a number of batches that joblib is to keep in flight in addition.
    sharing : Sharing, optional
        How large data is shared; it is not by default.
    """

    def __init__(
        self,
        cluster: Cluster,
        options: Options,
        limit: int | None,
        context: bytes,
        carry_back: Callable[[Callback, Error], bool],
        dispatch_more: Callable[[int], object],
        sharing: Sharing | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.policy = BatchPolicy()
        self._cluster = cluster
        self._options = options
        self._carry_back = carry_back
        self._dispatch_more = dispatch_more
        if sharing is not None:  # results that nobody takes can be told by their call
            sharing = sharing._replace(owner=f"{sharing.owner}-{self.id}")
        self._sharing = sharing
        self._tally = Tally()
        least = None if sharing is None else sharing.least
        self._inputs = Inputs(cluster.compute)
        self._packer = Packer(least, self._put, options.scatter, self._inputs.position_of)
        self._ledger = Call(
            self.id, limit, options.retries, options.wait_for_workers_timeout
        )
        self._numbers = itertools.count()
        # Owned by the ledger thread, but for new items: callbacks by delivery number.
        self._callbacks: dict[int, Callback] = {}
        # Any of joblib's callbacks: what carries an error back when no batch is at hand.
        self._any_callback: Callback | None = None
        self._sender = Sender(self.id, context, self._packer.scattered, sharing)
        # When attempts were sent, by key; and after how many arrivals of buffers.
        self._sent_at: dict[str, float] = {}
        self._arrivals: dict[str, int] = {}
        self._next_look = time.monotonic() + LOOK_INTERVAL
        #: Threads the call was planned for; more of them need more batches in flight.
        self._threads = 0
        self._events: queue.SimpleQueue[Event | _Granted | None] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._interrupted: concurrent.futures.Future[None] | None = None
        self._cancelled = threading.Event()
        self._threads_started: list[threading.Thread] = []

    # ------------------------------------------------------------- from joblib's threads
    def pack_task(self, item: object) -> PackedTask:
        """Pack what the user's iterable yielded, as soon as it did.

        Called by whichever thread reads the iterable, one item at a time.

        Raises
        ------
        NotATaskError, TaskPackingError
            To be raised where the user can see it.
        """
        return self._packer.pack_task(item)

    def _put(self, content: memoryview) -> Buffer:
        assert self._sharing is not None, "nothing is large if nothing is shared"
        buffer, found = host_store(self._sharing.temp_folder).put(content)
        self._tally.note_shared(buffer.name, content.nbytes, found)
        return buffer

    @property
    def traffic(self) -> Traffic:
        """What became of the call's large data so far."""
        return self._tally.traffic

    def dispatch(self, tasks: Sequence[PackedTask], callback: Callback) -> None:
        """Send tasks whose results joblib wants together."""
        number = next(self._numbers)
        if number == 0 and self._sharing is not None:
            scattered = self._sender.scattered()
            if scattered:
                spread = self._cluster.spread(scattered, self._sharing)
                self._tally.note_sent(spread.by_driver, spread.by_hosts)
        self._callbacks[number] = self._any_callback = callback
        self._start()
        self._events.put(Dispatched(number, tasks))

    def _start(self) -> None:
        if self._threads_started:
            return
        for name, target in (
            ("ledger", self._run_ledger),
            ("delivery", self._run_deliveries),
        ):
            thread = threading.Thread(
                target=target, name=f"joblib-distributed-{name}", daemon=True
            )
            self._threads_started.append(thread)
        # In a nested call this is a task's thread: see `worker.interrupt` about starting.
        with shielded():
            for thread in self._threads_started:
                thread.start()

    def plan_for(self, threads: int) -> None:
        """Say for how many threads joblib planned; 0 not to follow the cluster."""
        self._threads = threads

    def cancel(self) -> None:
        """Drop what is queued and stop what runs; return once the workers are told.

        Waits at most `CANCEL_TIMEOUT` seconds: a cluster that does not answer must not
        keep the user.
        """
        if not self._threads_started:
            return
        self._events.put(Cancelled())
        if threading.current_thread() in self._threads_started:
            return
        self._cancelled.wait(CANCEL_TIMEOUT)
        if self._interrupted is not None:
            concurrent.futures.wait([self._interrupted], CANCEL_TIMEOUT)

    def stop(self) -> None:
        """End both threads, after what is queued for them."""
        self._events.put(Cancelled())
        self._events.put(None)

    # --------------------------------------------------------------------- ledger thread
    def _run_ledger(self) -> None:
        while True:
            wait = max(0.0, self._next_look - time.monotonic())
            try:
                event = self._events.get(timeout=wait)
            except queue.Empty:
                self._look_safely()
                continue
            if event is None:
                self._jobs.put(None)
                self._tidy()
                return
            self._handle(event)
            del event  # it holds results

    def _tidy(self) -> None:
        self._inputs.forget()
        if self._sharing is not None:
            store = host_store(self._sharing.temp_folder)
            store.drop_results(self._sharing.owner)
            store.trim()

    def _look_safely(self) -> None:
        try:
            self._look()
        except Exception as error:
            # A call that cannot look at its cluster must end, not hang.
            self._events.put(ClusterFailed(_as_cluster_error(error)))

    def _handle(self, event: Event | _Granted) -> None:
        if isinstance(event, _Granted):
            self._send_granted(event.send)
            return
        if isinstance(event, Looked):
            self._follow_cluster(event.threads)
        instructions: Iterator[Instruction] = iter(())
        try:
            instructions = iter(self._ledger.handle(event))
            for instruction in instructions:
                self._carry_out(instruction)
        except Exception as error:
            # Whatever it is, a call that cannot be sent must end, not hang.
            failed = ClusterFailed(_as_cluster_error(error))
            for instruction in itertools.chain(instructions, self._ledger.handle(failed)):
                if not isinstance(instruction, Send):
                    self._carry_out(instruction)
        if isinstance(event, Cancelled):
            self._cancelled.set()

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, Send):
            if instruction.solo:
                granted = _Granted(instruction)
                self._cluster.turns.ask(
                    instruction.key, lambda: self._events.put(granted)
                )
            else:
                self._send(instruction)
        elif isinstance(instruction, (Deliver, DeliverError)):
            callback = self._callbacks.pop(instruction.delivery)
            self._jobs.put(_deliver_job(self, callback, instruction))
        elif isinstance(instruction, Supply):
            self._supply(instruction)
        elif isinstance(instruction, Release):
            self._release(instruction.keys)
        elif isinstance(instruction, Interrupt):
            with contextlib.suppress(RuntimeError):  # the client's loop is closed
                self._interrupted = self._cluster.interrupt(self.id)

    def _send_granted(self, send: Send) -> None:
        if send.key not in self._ledger.in_flight:
            self._cluster.turns.give_back(send.key)
            return
        try:
            self._send(send)
        except Exception as error:
            self._handle(ClusterFailed(_as_cluster_error(error)))

    def _send(self, send: Send) -> None:
        self._sent_at[send.key] = time.monotonic()
        self._arrivals[send.key] = self._cluster.arrivals
        batch = self._sender.payload(send.tasks, send.with_buffers)
        self._tally.note_sent(sum(map(len, batch.buffers.values())))
        options = self._options.preferring(send.worker)
        inputs = self._inputs.futures(batch.inputs)
        self._cluster.send(send.key, batch, options, self._events.put, inputs)

    def _supply(self, supply: Supply) -> None:
        missing = unpack_missing(supply.missing)
        if not missing.host:
            self._cluster.note_elsewhere()
            self._events.put(Supplied(supply.key, missing.address, along=True))
            return
        assert self._sharing is not None, "only what is shared is missing"
        place = Place(missing.host, missing.address, self._sharing.temp_folder)

        def supplied(how: HostSupplied) -> None:
            self._tally.note_sent(how.by_driver, how.by_hosts)
            along = how.arrival is Arrival.NO_ROOM
            self._events.put(Supplied(supply.key, missing.address, along))

        self._cluster.supply(
            place,
            self._sender.lacking(supply.tasks, missing.names),
            self._arrivals[supply.key],
            supplied,
        )

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._sent_at.pop(key, None)
            self._arrivals.pop(key, None)
            self._cluster.turns.give_back(key)
        self._cluster.release(keys)

    def _look(self) -> None:
        now = time.monotonic()
        self._next_look = now + LOOK_INTERVAL
        if self._cluster.closed:
            self._cluster.report_closed(self._events.put)
            return
        self._cluster.restore()
        quiet = [key for key, at in self._sent_at.items() if now - at > QUIET]
        if quiet or self._threads:
            self._cluster.look(quiet, self._options, self._events.put)

    def _follow_cluster(self, threads: int) -> None:
        """Keep joblib's two batches for each thread in flight on new threads, too."""
        if self._threads and threads > self._threads:
            more = 2 * (threads - self._threads)
            self._threads = threads
            self._jobs.put(lambda: self._carrying_back(lambda: self._dispatch_more(more)))

    # ------------------------------------------------------------------- delivery thread
    def _run_deliveries(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job  # it holds results

    def deliver(self, callback: Callback, result: Deliver | DeliverError) -> None:
        """Unpack a delivery and hand it to joblib."""
        if isinstance(result, Deliver):
            self.policy.record(
                len(result.tasks),
                sum(outcome.duration for outcome in result.outcomes),
                sum(task.nbytes for task in result.tasks),
            )
        unpacked = _unpack(result)
        self._carrying_back(lambda: callback(unpacked))

    def _carrying_back(self, job: _Job) -> None:
        """Do what reads the user's iterable; what it raises is for the user's thread."""
        try:
            job()
        except BaseException as error:
            callback = self._any_callback
            if callback is None or not self._carry_back(callback, Error(error)):
                # joblib has changed: at least the batches that it waits for must end.
                self._events.put(ClusterFailed(_as_cluster_error(error)))


def _deliver_job(
    call: RunningCall, callback: Callback, result: Deliver | DeliverError
) -> _Job:
    return lambda: call.deliver(callback, result)


def _unpack(result: Deliver | DeliverError) -> Values | Error:
    try:
        if isinstance(result, Deliver):
            return Values(
                [
                    unpack_value(
                        outcome.packed,
                        task.index,
                        task.name,
                        outcome.buffers,
                        outcome.strings,
                    )
                    for task, outcome in zip(result.tasks, result.outcomes, strict=True)
                ]
            )
        if isinstance(result.error, Outcome):
            assert result.task is not None
            task = result.task
            return Error(unpack_error(result.error.packed, task.index, task.name))
        return Error(result.error)
    except BaseException as error:  # of the user's classes, while they are rebuilt
        return Error(error)


def _as_cluster_error(error: BaseException) -> ClusterError:
    if isinstance(error, ClusterError):
        return error
    wrapped = ClusterError(
        f"A batch could not be handed to the dask client: {type(error).__name__}: "
        f"{error}. The client or its event loop is probably in trouble: make a new one "
        "and run the call again."
    )
    wrapped.__cause__ = error
    return wrapped
