"""What the driver needs of a `distributed.Client`.

Does not cover: where the client comes from, see `driver.sources`; what is sent when, and
what an end means for the call, see `driver.call`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import distributed
from distributed import Client, Future
from distributed.scheduler import KilledWorker

from joblib_distributed.data.outcome import unpack_missing, unpack_report
from joblib_distributed.data.payload import pack_invocation
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.transfer import Arrival
from joblib_distributed.driver import (
    absence,
    checks,
    embedded,
    latency,
    looks,
    ourselves,
    reconnecting,
    refusals,
)
from joblib_distributed.driver.attendance import Attendance
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptLost,
    ClusterFailed,
    Event,
    Looked,
)
from joblib_distributed.driver.fetching import fetch, finished
from joblib_distributed.driver.fitness import Found
from joblib_distributed.driver.keys import has_idle_thread
from joblib_distributed.driver.known import Durations, known_of
from joblib_distributed.driver.losses import LOST
from joblib_distributed.driver.outgoing import Outgoing, grouped
from joblib_distributed.driver.printing import Listener
from joblib_distributed.driver.reach import Reach
from joblib_distributed.driver.storeless import Storeless
from joblib_distributed.driver.submitting import submit
from joblib_distributed.driver.supplier import HostSupplied, Place, Supplier
from joblib_distributed.driver.survey import survey
from joblib_distributed.driver.turns import Turns
from joblib_distributed.options import Options
from joblib_distributed.worker.buffers import report_missing
from joblib_distributed.worker.interrupt import interrupt_call

#: What it looks like when the engine, not the task, failed. Before Python 3.11 the two
#: errors of time are no `OSError`.
_CONNECTION_ERRORS = (
    asyncio.CancelledError,
    *LOST,
    asyncio.TimeoutError,
    distributed.TimeoutError,
    concurrent.futures.CancelledError,
)

Post = Callable[[Event], None]


class Cluster:
    """A client's cluster, as one process drives it.

    Thread-safe. Events are posted from the client's event loop.

    Parameters
    ----------
    client : distributed.Client
        Synchronous and connected.
    embedded_threads : int or None
        Size of the cluster if it is the one we started ourselves.
    scheduler_timeout : float, optional
        Seconds for which a scheduler that is lost is looked for; by default, dask's.
    """

    def __init__(
        self,
        client: Client,
        embedded_threads: int | None = None,
        scheduler_timeout: float | None = None,
    ) -> None:
        self.client = client
        self._embedded_threads = embedded_threads
        self._known = known_of(client)
        latency.send_soon(client)
        if self.is_embedded:
            latency.pass_on_soon(client.cluster.scheduler)
        elif scheduler_timeout is not None:
            reconnecting.reconnect_for(client, scheduler_timeout)
        self._lock = threading.Lock()
        #: Our reference to each attempt: while it lives, the engine keeps the attempt.
        self._futures: dict[str, Future[Any]] = {}
        # Those that wait for their ends: the event loop knows them, and keeps none.
        self._following: set[asyncio.Future[None]] = set()

    # ------------------------------------------------------------------ what it is like
    @property
    def closed(self) -> bool:
        """Whether the client or its cluster was closed, or it gave up its scheduler."""
        # A cluster takes seconds to close when its workers are busy; it serves nobody.
        cluster = getattr(self.client.cluster, "status", None)
        return bool(
            self.client.status in ("closing", "closed")
            or getattr(cluster, "name", cluster) in ("closing", "closed", "failed")
        )

    @property
    def turns(self) -> Turns:
        """For whom of all calls on this client's cluster it is the turn."""
        return self._known.turns

    @property
    def durations(self) -> Durations:
        """What tasks of earlier calls on this client's cluster took."""
        return self._known.durations

    @property
    def storeless(self) -> Storeless:
        """Which of its workers can have no store on their hosts."""
        return self._known.storeless

    def has_stores(self, temp_folder: str | None) -> bool:
        """Whether there may be workers whose hosts have a store."""
        members = functools.partial(self._ask, self.client.nthreads)
        return not self.storeless.are_all(members, temp_folder)

    @property
    def is_embedded(self) -> bool:
        """Whether the cluster is the one we started ourselves."""
        return self._embedded_threads is not None

    def threads(self, options: Options) -> int:
        """Return the number of threads that may run tasks with these options."""
        if self._embedded_threads is not None:
            # Also while its nannies restart a worker: a call must not be taken for one
            # of a single job, and run in the user's process, because a task crashed.
            return self._embedded_threads
        threads = self._ask(self.client.nthreads)
        if options.workers is None or options.allow_other_workers:
            return sum(threads.values())
        workers = options.workers
        names = {workers} if isinstance(workers, str) else set(workers)
        # Aliases and host names are the scheduler's business: then all are counted.
        allowed = [n for address, n in threads.items() if address in names]
        return sum(allowed) or sum(threads.values())

    def is_busy(self, depth: int) -> bool:
        """Whether a nested call finds no idle thread: it should run where it is."""
        threads = sum(self._ask(self.client.nthreads).values())
        given = self._ask(self.client.processing)
        return not has_idle_thread(itertools.chain(*given.values()), threads, depth)

    def wait_for_threads(self, options: Options) -> int:
        """Return `threads`, waiting for a worker if there is none.

        Raises
        ------
        NoWorkersError
            If there is none after ``wait_for_workers_timeout`` seconds. A timeout of 0
            gives 0 threads instead, for joblib to refuse.
        """
        threads, timeout = self.threads(options), options.wait_for_workers_timeout
        if threads or not timeout:
            return threads
        return absence.wait(
            lambda: self._insist(lambda: self._probe(options)),
            lambda: self.threads(options),
            timeout,
            self._address,
        )

    def _probe(self, options: Options) -> Future[Any]:
        """Send a task that does nothing, where those of a call may run."""
        if self.closed:
            raise reconnecting.why_closed(self.client)
        return self.client.submit(
            pickle.loads, pack_invocation(int), pure=False, **options.constraints()
        )

    def check_workers(self) -> None:
        """Make sure that workers not seen before can run our tasks.

        Raises
        ------
        EnvironmentMismatchError
            If one runs another minor version of Python, or lacks a package.
        """
        if not self.is_embedded:  # that one is started from this very environment
            members = functools.partial(self._ask, self.client.nthreads)
            checks.check_workers(self.client, self._known.checked, members)

    def survey(self) -> list[Found]:
        """Return what runs in this process, the scheduler and the workers."""
        asked = survey(self.client)
        loop = self.client.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(asked, loop).result()

    def check_names(self, options: Options) -> None:
        """Make sure that the scheduler can look up the addresses in ``workers``.

        Raises
        ------
        OptionValueError
            If it cannot.
        """
        names = options.constraints()["workers"] or ()
        checks.check_names(self.client, names, self._ask)

    @property
    def _address(self) -> str:
        return str(getattr(self.client.scheduler, "address", "(closed)"))

    def _ask(self, method: Callable[[], Any]) -> Any:
        """Return what the client is told; if its connection is lost, when it is back."""
        return self._insist(
            lambda: asyncio.run_coroutine_threadsafe(
                looks.ask(self.client, method), self.client.loop.asyncio_loop
            ).result()
        )

    def _insist(self, act: Callable[[], Any]) -> Any:
        return reconnecting.insist(self.client, act, lambda: self.closed, self._address)

    # ------------------------------------------------------------------------- attempts
    def send(self, attempts: Sequence[Outgoing], post: Post) -> None:
        """Submit attempts. Exactly one event about the end of each is posted.

        Workers to be avoided are those that an attempt avoids, and those that are silent.

        Raises
        ------
        ClusterClosedError
            If the client is closed.
        """
        sent: list[tuple[Outgoing, Future[Any]]] = []
        with self._lock:
            if self.closed:
                raise reconnecting.why_closed(self.client)
            for group in grouped(map(self._avoiding, attempts)):
                futures = submit(self.client, group)
                # The ledger has the bytes of what is on its way.
                bare = (one._replace(payload=b"") for one in group)
                sent += zip(bare, futures, strict=True)
                self._futures.update(
                    zip((one.key for one in group), futures, strict=True)
                )
        self.client.loop.add_callback(self._follow_all, sent, post)

    def _avoiding(self, attempt: Outgoing) -> Outgoing:
        heartbeats, options = self._known.heartbeats, attempt.options
        silent = heartbeats.silent(time.monotonic(), options.frozen_after)
        avoiding = attempt.avoiding | silent
        if not avoiding:
            return attempt
        return attempt._replace(options=options.avoiding(heartbeats.others(avoiding)))

    def listen(self, call: str, tally: Listener) -> str:
        """Have what a call's tasks print come here; return the topic to send it by."""
        return self._known.listeners.add(self.client, call, tally)

    def compute(self, collection: Any) -> Future[Any]:
        """Have the cluster compute a dask collection; its value stays there."""
        future: Future[Any] = self.client.compute(collection)
        return future

    def _follow_all(
        self, sent: Sequence[tuple[Outgoing, Future[Any]]], post: Post
    ) -> None:
        for attempt, future in sent:
            following = asyncio.ensure_future(self._follow(attempt, future, post))
            self._following.add(following)
            following.add_done_callback(self._following.discard)

    async def _follow(self, attempt: Outgoing, future: Future[Any], post: Post) -> None:
        """Wait for an attempt's end, whatever it is, and post it."""
        key = attempt.key
        try:
            # Until the bytes are here the result is not safe: its holder may die.
            packed = await fetch(self.client, key, future)
            event: Event = finished(key, unpack_report(packed), attempt.sharing)
        except KilledWorker as error:
            event = await self._killed(key, error)
        except (Exception, asyncio.CancelledError) as error:
            # Whoever cancelled what this waits for, the ledger must hear of it. An error
            # of the task is one, also if it looks like one of a connection.
            has_raised = future.status == "error"  # our own function never does
            if not has_raised and isinstance(error, _CONNECTION_ERRORS):
                event = AttemptLost(key)
            else:
                what = f"{type(error).__name__}: {error}."
                cause = error if attempt.inputs else None
                never_began = has_raised and not attempt.inputs
                if refusals.lacks_us(error):  # it has joined since they were asked
                    await ourselves.send(self.client)
                event = AttemptFailed(key, what, cause, never_began)
        if self.closed and not isinstance(event, AttemptFinished):
            event = ClusterFailed(reconnecting.why_closed(self.client))
        post(event)

    async def _killed(self, key: str, error: KilledWorker) -> AttemptKilled:
        code = None
        if self.is_embedded:
            code = await embedded.exit_code_of(error.last_worker.address)
        ended = "" if code is None else refusals.describe_exit(code)
        detail = refusals.describe_death(error, ended)
        return AttemptKilled(key, detail, error.allowed_failures + 1)

    # -------------------------------------------------------------------- large buffers
    @property
    def arrivals(self) -> int:
        """How many buffers have arrived on other hosts."""
        supplier = self._known.supplier
        return 0 if supplier is None else supplier.arrivals

    def supply(
        self,
        place: Place,
        buffers: Mapping[str, Buffer],
        since: int,
        done: Callable[[HostSupplied], None],
    ) -> None:
        """See `Supplier.supply`; `done` is called on the event loop, exactly once."""

        async def supply() -> None:
            supplied = HostSupplied(Arrival.UNEXPECTED)
            try:
                supplied = await self._supplier().supply(place, buffers, since)
            finally:
                done(supplied)

        self.client.loop.add_callback(supply)

    def _supplier(self) -> Supplier:
        if self._known.supplier is None:
            attendance = Attendance(self.client, self._known.heartbeats)
            self._known.supplier = Supplier(Reach(self.client).ask, attendance.is_there)
        return self._known.supplier

    def spread(
        self, buffers: Mapping[str, Buffer], sharing: Sharing, frozen_after: float
    ) -> HostSupplied:
        """Bring buffers to every host that lacks them, and wait for it.

        What cannot be brought now is when a task finds it missing.
        """
        spreading = asyncio.run_coroutine_threadsafe(
            self._spread(buffers, sharing, frozen_after), self.client.loop.asyncio_loop
        )
        return spreading.result()

    async def _spread(
        self, buffers: Mapping[str, Buffer], sharing: Sharing, frozen_after: float
    ) -> HostSupplied:
        said = self.client.run(report_missing, tuple(buffers), sharing, on_error="ignore")
        with contextlib.suppress(asyncio.TimeoutError, RuntimeError, *LOST):
            answers = await asyncio.wait_for(said, checks.ANSWER_TIMEOUT)
            missing = map(unpack_missing, answers.values())
            return await self._supplier().spread(
                missing, buffers, sharing.temp_folder, frozen_after
            )
        return HostSupplied()

    def report_closed(self, post: Post) -> None:
        """Post the end of the cluster, which is noticed when nothing else is heard."""
        post(ClusterFailed(reconnecting.why_closed(self.client)))

    def release(self, keys: Iterable[str]) -> None:
        """Have the engine forget attempts, running or not."""
        with self._lock:
            futures = [self._futures.pop(key, None) for key in keys]
        for future in futures:
            if future is not None:
                future.release()

    def recall(self, keys: Sequence[str], options: Options, post: Post) -> None:
        """Ask workers how far they are with attempts; post `Recalled` for each answer."""
        self.client.loop.add_callback(
            self._known.recaller.recall, self.client, keys, options.is_constrained, post
        )

    def interrupt(self, names: Iterable[str]) -> concurrent.futures.Future[None]:
        """Stop whatever runs for calls, or attempts, on any worker; return when said."""
        return asyncio.run_coroutine_threadsafe(
            self._interrupt(names), self.client.loop.asyncio_loop
        )

    async def _interrupt(self, names: Iterable[str]) -> None:
        said = self.client.run(
            pickle.loads, pack_invocation(interrupt_call, *names), on_error="ignore"
        )
        # A worker that does not answer is frozen or gone; the client may be, too.
        with contextlib.suppress(asyncio.TimeoutError, RuntimeError, *LOST):
            await asyncio.wait_for(said, checks.ANSWER_TIMEOUT)

    def restore(self) -> None:
        """See `embedded.restore`; clusters of others are theirs to look after."""
        if self.is_embedded:
            embedded.restore(self.client.cluster)

    def look(self, sent_at: Mapping[str, float], options: Options, post: Post) -> None:
        """Ask the scheduler what it knows of attempts; post `Looked` if it answers."""
        self.client.loop.add_callback(self._look, sent_at, options, post)

    async def _look(
        self, sent_at: Mapping[str, float], options: Options, post: Post
    ) -> None:
        heartbeats = self._known.heartbeats
        for how in (looks.look, looks.look_closely):
            found = await how(self.client, sent_at, heartbeats, options.frozen_after)
            if found is None:
                return
            self._post_look(found, sent_at, options, post)

    def _post_look(
        self, look: looks.Look, sent_at: Mapping[str, float], options: Options, post: Post
    ) -> None:
        states, threads = look.states, look.threads
        if self._embedded_threads is not None:
            # While its nannies restart workers it has none, but will.
            threads = self._embedded_threads
            if not options.is_constrained:
                states = {k: None if s is None else "waiting" for k, s in states.items()}
        now, constrained = time.monotonic(), options.is_constrained
        if (threads or sent_at) and self._known.absence.is_to_be_told(threads, now):
            absence.tell(self._address, options.wait_for_workers_timeout)
        post(Looked(now, states, threads, constrained, sent_at, look.silent))
