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
import functools
import itertools
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence

from joblib_distributed.data.batch import Surroundings
from joblib_distributed.data.host import host_store
from joblib_distributed.data.outcome import unpack_missing
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.transfer import Arrival
from joblib_distributed.driver import refusals, telling
from joblib_distributed.driver.ahead import ReadAhead
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
    GoOn,
    Granted,
    Instruction,
    Interrupt,
    Looked,
    Recall,
    Release,
    Send,
    Supplied,
    Supply,
    Withhold,
)
from joblib_distributed.driver.intake import Intake
from joblib_distributed.driver.joblib_hooks import Callback
from joblib_distributed.driver.keys import call_name
from joblib_distributed.driver.outgoing import Outbox
from joblib_distributed.driver.printing import wanted
from joblib_distributed.driver.results import Error, unpack
from joblib_distributed.driver.sending import Sender
from joblib_distributed.driver.sent import Sent
from joblib_distributed.driver.submitting import outgoing
from joblib_distributed.driver.supplier import HostSupplied, Place
from joblib_distributed.options import Options
from joblib_distributed.worker.interrupt import shielded

#: Seconds between two looks at the scheduler, two small messages each: in which a worker
#: that joins is used, and a closed client noticed. A guess.
LOOK_INTERVAL = 1.0

#: Seconds without news after which it is asked about an attempt, at most. A guess.
QUIET = 2.0

#: Seconds that `RunningCall.cancel` may keep the user waiting so that workers are told.
CANCEL_TIMEOUT = 0.5

_Heard = Event | Granted | GoOn
_Job = Callable[[], object]


class RunningCall:
    """A call from its first batch to its end.

    Parameters
    ----------
    cluster : Cluster
    options : Options
    limit : int or None
        How many tasks may run at a time; None for as many as the cluster has threads.
    around : Surroundings
    carry_back : callable
        Takes a callback and an `Error` that joblib did not expect there, and has it
        raised in the user's thread.
    dispatch_more : callable
        Takes a number of batches that joblib is to keep in flight in addition, and says
        how many there were; and a function that says whether they still are wanted.
    sharing : Sharing, optional
        How large data is shared; it is not by default.
    policy : BatchPolicy, optional
        See `Call`.
    depth : int
        How many calls of ours are around it.
    withholds : bool
        Whether tasks that kill their workers are told of after all others.
    """

    def __init__(
        self,
        cluster: Cluster,
        options: Options,
        limit: int | None,
        around: Surroundings,
        carry_back: Callable[[Callback, Error], bool],
        dispatch_more: Callable[[int, Callable[[], bool]], int],
        sharing: Sharing | None = None,
        policy: BatchPolicy | None = None,
        depth: int = 0,
        withholds: bool = False,
    ) -> None:
        self.id = uuid.uuid4().hex
        #: None if batches are to be as joblib hands them over.
        self.policy = policy
        self._cluster = cluster
        self._options = options
        self._carry_back = carry_back
        if sharing is not None:  # results that nobody takes can be told by their call
            sharing = sharing._replace(owner=f"{sharing.owner}-{self.id}")
        self._sharing = sharing
        #: Reads the user's iterable.
        self.intake = Intake(sharing, options.scatter, cluster.compute, policy)
        self._ledger = Call(
            call_name(depth, self.id),
            limit,
            options.retries,
            options.wait_for_workers_timeout,
            policy,
            options.deaths_allowed,
        )
        self._ledger.withholds = withholds
        self._ledger.races_stragglers = options.race_stragglers
        self._numbers = itertools.count()
        #: Whether tasks may be sent together because they were short in an earlier call;
        #: then one that ends at once may have to wait for another.
        self.believes = False
        # Owned by the ledger thread, but for new items: callbacks by delivery number.
        self._callbacks: dict[int, Callback] = {}
        # Any of joblib's callbacks: what carries an error back when no batch is at hand.
        self._any_callback: Callback | None = None
        if options.output:
            topic = cluster.listen(self.id, self.intake.tally)
            around = around._replace(output=wanted(topic))
        self._sender = Sender(self.id, around, self.intake.scattered, sharing)
        # Key of the suspect that has asked for its turn, if there is one.
        self._turn = ""
        self._sent = Sent()
        # Until when nothing is sent, on the monotonic clock; None if it may be.
        self._held_until: float | None = None
        # Number of tasks that the ledger was told of.
        self._noted = 0
        self._next_look = time.monotonic() + LOOK_INTERVAL
        self._events: queue.SimpleQueue[_Heard | None] = queue.SimpleQueue()
        self._outbox = Outbox(lambda these: cluster.send(these, self._events.put))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Key of the first task's function.
        self._function = b""
        self._interrupted: concurrent.futures.Future[None] | None = None
        self._cancelled = threading.Event()
        # Then joblib's `Parallel` may be about to run another call.
        self._is_over = False
        #: Errors to be raised when all results have been delivered.
        self.withheld: list[Exception] = []
        #: Set when joblib's callbacks have been called.
        self.arrived = threading.Event()
        self._threads_started: list[threading.Thread] = []
        self.ahead = ReadAhead(
            hand_over=lambda batches: dispatch_more(batches, lambda: not self._is_over),
            schedule=lambda job: self._jobs.put(lambda: self._carrying_back(job)),
            is_idle=self._jobs.empty,
            lacking=lambda: self._ledger.lacking > self.intake.given - self._noted,
            wake=lambda: self._events.put(GoOn()),
        )

    # ------------------------------------------------------------- from joblib's threads

    def dispatch(self, items: Sequence[object], callback: Callback) -> None:
        """Send tasks whose results joblib wants together, as `intake` has read them."""
        number = next(self._numbers)
        tasks = self.intake.take(items)
        self.intake.inputs.note_dispatched(number, tasks)
        if number == 0 and self._sharing is not None:
            scattered = self._sender.scattered()
            if scattered:
                patience = self._options.frozen_after
                spread = self._cluster.spread(scattered, self._sharing, patience)
                self.intake.tally.note_sent(spread.by_driver, spread.by_hosts)
        if number == 0:
            self._expect(tasks[0].function_key)
        self._callbacks[number] = self._any_callback = callback
        self._start()
        self._events.put(Dispatched(number, tasks))

    def _expect(self, function: bytes) -> None:
        """Begin with what is known of the function; most calls have but one."""
        self._function = function
        seconds = self._cluster.durations.get(function)
        if self.policy is not None and seconds is not None and self.believes:
            self.policy.believe(seconds)
            self._held_until = 0.0

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

    def cancel(self) -> None:
        """Drop what is queued and stop what runs; return once the workers are told.

        Waits at most `CANCEL_TIMEOUT` seconds: a cluster that does not answer must not
        keep the user.
        """
        self._is_over = True
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
        self._is_over = True
        self._events.put(Cancelled())
        self._events.put(None)

    # --------------------------------------------------------------------- ledger thread
    def _run_ledger(self) -> None:
        while True:
            until = min(self._next_look, self._held_until or math.inf, self.ahead.due)
            wait = max(0.0, until - time.monotonic())
            try:
                event = self._events.get(timeout=wait)
            except queue.Empty:
                if time.monotonic() >= self._next_look:
                    self._look_safely()
            else:
                self._ledger.flights.now = time.monotonic()
                if event is None:
                    self._jobs.put(None)
                    self._tidy()
                    return
                self._handle(event)
                del event  # it holds results
            # What arrives together is sent together.
            if self._events.empty():
                self._send_on()

    def _send_on(self) -> None:
        if self._held_until is not None:
            # Before anything of this call is known: what an earlier one has told may be
            # enough to fill batches. What is lacking for that is read meanwhile.
            self.ahead.go_on()
            self._held_until = self.ahead.hold()
            if time.monotonic() < self._held_until:
                return
            self._held_until = None
        flights, sent = self._ledger.flights, self._ledger.flights.sent
        self._obey(self._ledger.send)
        self.ahead.go_on(pause=flights.sent > sent and flights.is_supplied)
        if self._ledger.can_send:
            self._events.put(GoOn())

    def _tidy(self) -> None:
        if self.policy is not None and self.policy.mean is not None:
            self._cluster.durations.note(self._function, self.policy.mean)
        self.intake.inputs.forget()
        if self._sharing is not None:
            store = host_store(self._sharing.temp_folder)
            store.drop_results(self._sharing.owner)
            store.trim()

    def _look_safely(self) -> None:
        try:
            self._look()
        except Exception as error:
            # A call that cannot look at its cluster must end, not hang.
            self._events.put(ClusterFailed(refusals.not_sent(error)))

    def _handle(self, event: _Heard) -> None:
        if isinstance(event, GoOn):
            return
        if isinstance(event, Granted):
            self._send_granted(event.send)
            return
        if isinstance(event, Dispatched):
            self._noted += sum(each.size for each in event.tasks)
        self.intake.tally.note_heard(event, self._ledger.flights)
        if isinstance(event, Looked):
            if self.policy is not None and self._ledger.limit is None:
                self.policy.threads = max(self.policy.threads, event.threads)
            self.ahead.follow(event.threads)
        self._obey(lambda: self._ledger.note(event))
        if isinstance(event, Cancelled):
            self._cancelled.set()

    def _obey(self, orders: Callable[[], Iterable[Instruction]]) -> None:
        instructions: Iterator[Instruction] = iter(())
        try:
            instructions = iter(orders())
            for instruction in instructions:
                if not isinstance(instruction, Send):
                    self._outbox.let_go()
                self._carry_out(instruction)
            self._outbox.let_go()
        except Exception as error:
            self._outbox.clear()
            # Whatever it is, a call that cannot be sent must end, not hang.
            failed = ClusterFailed(refusals.not_sent(error))
            for instruction in itertools.chain(instructions, self._ledger.handle(failed)):
                if not isinstance(instruction, Send):
                    self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, Send):
            if instruction.solo:
                granted = Granted(instruction)
                self._turn = instruction.key
                self._cluster.turns.ask(
                    instruction.key, lambda: self._events.put(granted)
                )
            else:
                self._send(instruction)
        elif isinstance(instruction, (Deliver, DeliverError)):
            callback = self._callbacks.pop(instruction.delivery)
            self._jobs.put(functools.partial(self.deliver, callback, instruction))
        elif isinstance(instruction, Withhold):
            # Before what it would have been delivered with.
            self.withheld.append(instruction.error)
            text = f"{instruction.error} It is raised after the other results."
            telling.tell(f"joblib_distributed: {text}")
        elif isinstance(instruction, Supply):
            self._supply(instruction)
        elif isinstance(instruction, Release):
            self._release(instruction.keys)
        elif isinstance(instruction, Recall):
            self._cluster.recall(instruction.keys, self._options, self._events.put)
        elif isinstance(instruction, Interrupt):
            with contextlib.suppress(RuntimeError):  # the client's loop is closed
                names = instruction.attempts or [self.id]
                self._interrupted = self._cluster.interrupt(names)

    def _send_granted(self, send: Send) -> None:
        if send.key not in self._ledger.in_flight:
            self._cluster.turns.give_back(send.key)
            return
        try:
            self._send(send)
            self._outbox.let_go()
        except Exception as error:
            self._handle(ClusterFailed(refusals.not_sent(error)))

    def _send(self, send: Send) -> None:
        now = time.monotonic()
        self._sent.note(send.key, now, self._cluster.arrivals)
        self._next_look = min(self._next_look, now + self._ledger.flights.doubt(send.key))
        batch = self._sender.payload(send.tasks, send.with_buffers, send.box, send.key)
        self.intake.tally.note_sent(sum(map(len, batch.buffers.values())))
        options = self._options.preferring(send.worker, send.anywhere)
        inputs = self.intake.inputs.futures(batch.inputs)
        self._outbox.put(outgoing(send, batch, options, inputs))

    def _supply(self, supply: Supply) -> None:
        missing = unpack_missing(supply.missing)
        assert self._sharing is not None, "only what is shared is missing"
        if not missing.host:
            self._cluster.storeless.note(missing.address, self._sharing.temp_folder)
            self._events.put(Supplied(supply.key, missing.address, along=True))
            return
        folder, patience = self._sharing.temp_folder, self._options.frozen_after
        place = Place(missing.host, missing.address, folder, patience)

        def supplied(how: HostSupplied) -> None:
            self.intake.tally.note_sent(how.by_driver, how.by_hosts)
            along = how.arrival is Arrival.NO_ROOM
            self._events.put(Supplied(supply.key, missing.address, along))

        lacking = self._sender.lacking(supply.tasks, missing.names)
        self._cluster.supply(place, lacking, self._sent.arrivals(supply.key), supplied)

    def _release(self, keys: Iterable[str]) -> None:
        self._sent.forget(keys)
        # A suspect that is raced has its turn until the last of its attempts has ended.
        if self._turn and not self._ledger.in_flight:
            self._cluster.turns.give_back(self._turn)
            self._turn = ""
        self._cluster.release(keys)

    def _look(self) -> None:
        now = time.monotonic()
        self._next_look = now + LOOK_INTERVAL
        if self._cluster.closed:
            self._cluster.report_closed(self._events.put)
            return
        self._cluster.restore()
        # What no worker takes is looked at, sent anew, and looked at again.
        quiet = min(QUIET, self._options.wait_for_workers_timeout / 3)
        known = now - quiet - 2 * LOOK_INTERVAL
        late = self._sent.late(now, quiet, self._ledger.flights.due, known)
        self._cluster.look(late, self._options, self._events.put)

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
        self.intake.tally.note_delivered(result)
        self.intake.inputs.note_delivered(result.delivery)
        unpacked = unpack(result)
        self._carrying_back(lambda: callback(unpacked))

    def _carrying_back(self, job: _Job) -> None:
        """Do what reads the user's iterable; what it raises is for the user's thread."""
        try:
            job()
        except BaseException as error:
            callback = self._any_callback
            if callback is None or not self._carry_back(callback, Error(error)):
                # joblib has changed: at least the batches that it waits for must end.
                self._events.put(ClusterFailed(refusals.not_sent(error)))
        finally:
            self.arrived.set()
