"""Buffers brought to hosts that are dictionaries."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from joblib_distributed.data import transfer
from joblib_distributed.data.buffers import name_of, size_of
from joblib_distributed.data.outcome import Missing
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.transfer import Arrival
from joblib_distributed.driver import supplier as module
from joblib_distributed.driver.supplier import LANES, HostSupplied, Place, Supplier
from joblib_distributed.driver.supply import DRIVER, DRIVER_TRANSFERS
from joblib_distributed.worker.supplies import TAKE

T = TypeVar("T")

DEADLINE = 10

FOLDER = "/a/folder"

A, B, C = (Place(host, f"tcp://{host}:1", FOLDER) for host in "abc")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 100)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))


def buffer_of(size: int, seed: int = 0) -> Buffer:
    content = memoryview(random.Random(seed).randbytes(size))
    return Buffer(name_of(content), content, None)


BUFFER = buffer_of(950)
WHOLE = HostSupplied(Arrival.WHOLE)
BY_DRIVER = HostSupplied(Arrival.WHOLE, by_driver=950)
BY_HOSTS = HostSupplied(Arrival.WHOLE, by_hosts=950)


class Hosts:
    """Workers, one on each host, that take buffers as real ones do."""

    def __init__(self) -> None:
        #: Buffers that each has, by address and name.
        self.held: dict[str, dict[str, bytearray]] = {}
        #: Workers that are no more.
        self.gone: set[str] = set()
        #: Workers that do not report any more, or answer.
        self.frozen: set[str] = set()
        #: Bytes that came from each source.
        self.sent: Counter[str] = Counter()
        #: Each chunk asked for: address and start.
        self.asked: list[tuple[str, int]] = []
        #: What is done instead of answering: takes address, source and start.
        self.harm: Callable[[str, str, int], Any] = lambda address, source, start: ...
        #: Answers are given while it is set.
        self.gate = asyncio.Event()
        self.gate.set()
        self.knocked = asyncio.Event()
        #: What comes from it is never answered.
        self.stuck: str | None = None
        self.is_stuck = asyncio.Event()
        #: The most chunks that were under way at a time.
        self.most = 0
        self._now = 0
        self._coming: dict[str, tuple[bytearray, list[int]]] = {}

    async def ask(self, address: str, operation: str, **message: Any) -> Any:
        assert operation == TAKE
        assert message["temp_folder"] == FOLDER
        is_given_up = not {"chunk", "source"} & set(message)
        if not is_given_up:
            self.asked.append((address, message["start"]))
        self.knocked.set()
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if is_given_up:
                self._coming.pop(message["transfer"], None)
                return Arrival.NO_SOURCE.value
            if message.get("source", DRIVER) == self.stuck:
                self._coming.setdefault(message["transfer"], (bytearray(), []))
                self.is_stuck.set()
                await asyncio.Event().wait()
            harm = self.harm(address, message.get("source", DRIVER), message["start"])
            return self.take(address, **message) if harm is ... else harm
        finally:
            self._now -= 1

    async def is_there(self, address: str, frozen_after: float) -> bool:
        is_frozen = address in self.frozen and frozen_after < math.inf
        return address not in self.gone and not is_frozen

    def take(
        self,
        address: str,
        transfer: str,
        name: str,
        start: int,
        end: int,
        temp_folder: str | None,
        chunk: Any = None,
        source: str = DRIVER,
        source_folder: str | None = None,
    ) -> str:
        if start == 0:
            assert transfer not in self._coming
            self._coming[transfer] = bytearray(size_of(name)), [size_of(name)]
        if transfer not in self._coming:
            return Arrival.UNEXPECTED.value
        assert source_folder == (None if source == DRIVER else temp_folder)
        content = self.read(source, name, start, end) if chunk is None else chunk.data
        if content is None:
            del self._coming[transfer]
            return Arrival.NO_SOURCE.value
        self.sent[source] += len(content)
        written, left = self._coming[transfer]
        written[start:end] = content
        left[0] -= len(content)
        if left[0]:
            return Arrival.PART.value
        del self._coming[transfer]
        if name_of(memoryview(written)) != name:
            return Arrival.CORRUPT.value
        self.held.setdefault(address, {})[name] = written
        return Arrival.WHOLE.value

    def read(self, source: str, name: str, start: int, end: int) -> bytearray | None:
        found = self.held.get(source, {}).get(name)
        return None if found is None else found[start:end]

    def assert_nothing_is_coming(self) -> None:
        """No host keeps room for a part of a buffer."""
        assert self._coming == {}

    def have(self, buffer: Buffer, *places: Place) -> bool:
        return all(self.held[p.address][buffer.name] == buffer.view for p in places)


async def supply(
    supplier: Supplier, place: Place, *buffers: Buffer, since: int | None = None
) -> HostSupplied:
    """Supply a host that has just said what it lacks."""
    asked = supplier.arrivals if since is None else since
    return await supplier.supply(place, {b.name: b for b in buffers or [BUFFER]}, asked)


async def assert_idle(supplier: Supplier) -> None:
    """Nothing is kept for those who have been answered."""
    await asyncio.gather(*supplier._running, return_exceptions=True)
    assert supplier._running == set()
    assert supplier._waiting == {}
    assert supplier._buffers == {}
    assert supplier._directory._under_way == {}


# -------------------------------------------------------------------------- to the hosts
def test_a_buffer_comes_byte_for_byte() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        assert await supply(supplier, A) == BY_DRIVER
        assert hosts.held == {A.address: {BUFFER.name: bytearray(BUFFER.view)}}
        assert sorted(hosts.asked) == [(A.address, s) for s in range(0, 950, 100)]
        assert supplier.arrivals == 1
        await assert_idle(supplier)

    run(work())


@pytest.mark.parametrize("size", [1, 100, 101, 200, 1000])
def test_a_buffer_of_any_size_comes(size: int) -> None:
    async def work() -> None:
        hosts = Hosts()
        buffer = buffer_of(size)
        supplied = await supply(Supplier(hosts.ask, hosts.is_there), A, buffer)
        assert supplied == HostSupplied(Arrival.WHOLE, by_driver=size)
        assert hosts.have(buffer, A)

    run(work())


def test_the_first_chunk_goes_alone_and_a_few_at_a_time_follow() -> None:
    async def work() -> None:
        hosts = Hosts()
        hosts.gate.clear()
        supplying = asyncio.create_task(supply(Supplier(hosts.ask, hosts.is_there), A))
        await hosts.knocked.wait()
        for _ in range(10):  # whatever else would be asked for
            await asyncio.sleep(0)
        assert hosts.asked == [(A.address, 0)]
        hosts.gate.set()
        assert await supplying == BY_DRIVER
        assert hosts.most == LANES

    run(work())


def test_the_driver_sends_one_copy_and_hosts_pass_it_on() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        supplied = await asyncio.gather(*(supply(supplier, place) for place in (A, B, C)))
        assert supplied == [BY_DRIVER, BY_HOSTS, BY_HOSTS]
        assert hosts.have(BUFFER, A, B, C)
        assert hosts.sent[DRIVER] == 950
        assert sum(hosts.sent.values()) == 3 * 950
        await assert_idle(supplier)

    run(work())


def test_many_buffers_come_at_a_time() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        buffers = [buffer_of(250, seed) for seed in range(2 * DRIVER_TRANSFERS + 1)]
        supplied = await supply(supplier, A, *buffers)
        assert supplied == HostSupplied(Arrival.WHOLE, by_driver=250 * len(buffers))
        assert all(hosts.have(buffer, A) for buffer in buffers)
        await assert_idle(supplier)

    run(work())


def test_the_worker_last_heard_of_on_a_host_is_asked() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        other = A._replace(address="tcp://a:2")
        hosts.held[other.address] = hosts.held[A.address]  # one host, one store
        await supply(supplier, other, buffer_of(10))
        assert hosts.asked[-1] == (other.address, 0)
        assert await supply(supplier, B) == BY_HOSTS
        assert hosts.sent[other.address] == 950

    run(work())


def test_one_and_the_same_worker_takes_all_of_a_buffer() -> None:
    async def work() -> None:
        hosts = Hosts()
        hosts.gate.clear()
        supplier = Supplier(hosts.ask, hosts.is_there)
        first = asyncio.create_task(supply(supplier, A))
        await hosts.knocked.wait()
        other = A._replace(address="tcp://a:2")
        second = asyncio.create_task(supply(supplier, other, buffer_of(10)))
        hosts.gate.set()
        assert await first == BY_DRIVER
        assert await second == HostSupplied(Arrival.WHOLE, by_driver=10)
        assert hosts.have(BUFFER, A)

    run(work())


# --------------------------------------------------------------------- what need not come
def test_two_who_want_the_same_share_one_transfer() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        mine, other = await asyncio.gather(supply(supplier, A), supply(supplier, A))
        assert (mine, other) == (BY_DRIVER, WHOLE)
        assert sum(hosts.sent.values()) == 950
        await assert_idle(supplier)

    run(work())


def test_what_has_come_since_is_not_sent_again() -> None:
    """1. Two attempts find it missing. 2. It comes for one. 3. The other one says so."""

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        sent = supplier.arrivals
        await supply(supplier, A, since=sent)
        assert await supply(supplier, A, since=sent) == WHOLE
        assert hosts.sent == {DRIVER: 950}
        # An attempt that was sent after it had come finds that it was evicted.
        assert await supply(supplier, A) == BY_DRIVER
        assert hosts.sent == {DRIVER: 2 * 950}
        await assert_idle(supplier)

    run(work())


def test_nothing_wanted_is_supplied_at_once() -> None:
    async def work() -> None:
        hosts = Hosts()
        assert await Supplier(hosts.ask, hosts.is_there).supply(A, {}, 0) == WHOLE
        assert hosts.asked == []

    run(work())


# ---------------------------------------------------------------------- sources that fail
def test_a_holder_that_has_lost_a_buffer_is_passed_over() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        await supply(supplier, B)
        del hosts.held[A.address]
        assert await supply(supplier, C) == BY_HOSTS
        assert hosts.have(BUFFER, C)
        assert hosts.sent[B.address] == 950
        await assert_idle(supplier)

    run(work())


def test_the_driver_sends_again_when_no_holder_has_it_any_more() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        await supply(supplier, B)
        hosts.held.clear()
        assert await supply(supplier, C) == BY_DRIVER
        assert hosts.have(BUFFER, C)
        await assert_idle(supplier)

    run(work())


@pytest.mark.parametrize("start", [0, 100, 500, 900])
def test_a_holder_that_fails_half_way_is_replaced(start: int) -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)

        def fail_source(address: str, source: str, at: int) -> Any:
            return Arrival.NO_SOURCE.value if source and at == start else ...

        hosts.harm = fail_source
        assert await supply(supplier, B) == BY_DRIVER
        assert hosts.have(BUFFER, B)
        await assert_idle(supplier)

    run(work())


def test_a_holder_is_replaced_whichever_chunk_is_heard_of_first() -> None:
    """1. It dies. 2. A chunk ends for it. 3. The one before that is not expected now."""

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        hosts.held.clear()
        answers = {100: Arrival.UNEXPECTED.value, 200: Arrival.NO_SOURCE.value}

        def answer(address: str, source: str, start: int) -> Any:
            if not source:
                return ...
            return answers.get(start, Arrival.PART.value)

        hosts.harm = answer
        assert await supply(supplier, B) == BY_DRIVER
        assert hosts.have(BUFFER, B)
        await assert_idle(supplier)

    run(work())


def test_a_holder_that_is_gone_is_not_waited_for() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        hosts.gone.add(A.address)
        hosts.asked.clear()
        assert await supply(supplier, B) == BY_DRIVER
        # Whoever asked "B" to take it from "A" would have asked for more.
        assert len(hosts.asked) == 10
        await assert_idle(supplier)

    run(work())


def test_a_host_is_told_that_its_source_is_gone() -> None:
    """Or it would keep the room for what is not going to come."""

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)

        def lose_source(address: str, source: str, start: int) -> Any:
            if start == 500:
                hosts.gone.add(A.address)
            return ...

        hosts.harm = lose_source
        assert await supply(supplier, B) == BY_DRIVER
        assert hosts.have(BUFFER, B)
        hosts.assert_nothing_is_coming()
        await assert_idle(supplier)

    run(work())


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_a_source_that_goes_while_it_is_tried_is_replaced(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes from it goes on trying to connect for half a minute."""
    monkeypatch.setattr(module, "LOOK_INTERVAL", 0.001)

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        hosts.stuck = A.address
        supplying = asyncio.create_task(supply(supplier, B._replace(frozen_after=10)))
        await hosts.is_stuck.wait()
        getattr(hosts, how).add(A.address)
        assert await supplying == BY_DRIVER
        assert hosts.have(BUFFER, B)
        hosts.assert_nothing_is_coming()
        await assert_idle(supplier)

    run(work())


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_a_host_that_goes_while_it_is_asked_is_not_waited_for(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL", 0.001)

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        hosts.stuck = DRIVER
        supplying = asyncio.create_task(supply(supplier, A._replace(frozen_after=10)))
        await hosts.is_stuck.wait()
        getattr(hosts, how).add(A.address)
        assert (await supplying).arrival is Arrival.UNEXPECTED
        await assert_idle(supplier)

    run(work())


@pytest.mark.parametrize(
    ("frozen_after", "arrival"), [(10, Arrival.UNEXPECTED), (math.inf, Arrival.WHOLE)]
)
def test_scattered_data_is_not_brought_to_who_is_frozen_if_that_matters(
    frozen_after: float, arrival: Arrival
) -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        hosts.frozen.add(A.address)
        missing = [Missing(A.host, A.address, (BUFFER.name,))]
        supplied = await supplier.spread(
            missing, {BUFFER.name: BUFFER}, FOLDER, frozen_after
        )
        assert supplied.arrival is arrival
        await assert_idle(supplier)

    run(work())


def test_a_holder_whose_copy_is_not_what_its_name_says_is_replaced() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        await supply(supplier, A)
        hosts.held[A.address][BUFFER.name][500] ^= 1
        assert await supply(supplier, B) == BY_DRIVER
        assert hosts.have(BUFFER, B)
        await assert_idle(supplier)

    run(work())


# ----------------------------------------------------------------------- hosts that fail
def raising(error: BaseException) -> Callable[[str, str, int], Any]:
    def fail(address: str, source: str, start: int) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("harm", "arrival"),
    [
        (raising(OSError("gone")), Arrival.UNEXPECTED),
        (raising(asyncio.TimeoutError()), Arrival.UNEXPECTED),
        (raising(RuntimeError("its own error")), Arrival.UNEXPECTED),
        (lambda *_: None, Arrival.UNEXPECTED),  # it does not know the operation
        (lambda *_: Arrival.UNEXPECTED.value, Arrival.UNEXPECTED),
        (lambda *_: Arrival.NO_ROOM.value, Arrival.NO_ROOM),
        (lambda *_: Arrival.CORRUPT.value, Arrival.CORRUPT),
    ],
    ids=["gone", "silent", "fails", "unknown", "restarted", "full", "corrupt"],
)
@pytest.mark.parametrize("first", [0, 500])
def test_a_host_that_cannot_take_it_is_reported_and_tried_anew(
    harm: Callable[[str, str, int], Any], arrival: Arrival, first: int
) -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        hosts.harm = lambda *a: harm(*a) if a[2] >= first else ...
        supplied = await supply(supplier, A)
        assert supplied.arrival is arrival
        assert len(hosts.asked) <= first // 100 + LANES, "it was told to stop"
        assert supplier.arrivals == 0
        await assert_idle(supplier)
        hosts.harm = lambda *_: ...
        assert await supply(supplier, A) == BY_DRIVER
        assert hosts.have(BUFFER, A)
        await assert_idle(supplier)

    run(work())


def test_a_host_that_is_gone_is_not_asked() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        hosts.gone.add(A.address)
        assert (await supply(supplier, A)).arrival is Arrival.UNEXPECTED
        assert hosts.asked == []
        hosts.gone.clear()
        assert await supply(supplier, A) == BY_DRIVER
        await assert_idle(supplier)

    run(work())


def test_a_host_that_does_not_answer_for_one_chunk_is_asked_for_no_more() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)

        def fail_once(address: str, source: str, start: int) -> Any:
            if start == 100:
                raise OSError("gone")
            return ...

        hosts.harm = fail_once
        assert (await supply(supplier, A)).arrival is Arrival.UNEXPECTED
        for _ in range(100):  # whatever else would be asked for
            await asyncio.sleep(0)
        assert (A.address, 900) not in hosts.asked
        hosts.assert_nothing_is_coming()
        await assert_idle(supplier)

    run(work())


def test_a_host_that_fails_keeps_no_other_from_its_buffer() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        hosts.harm = lambda address, *_: None if address == A.address else ...
        failed, *others = await asyncio.gather(
            *(supply(supplier, place) for place in (A, B, C))
        )
        assert failed.arrival is Arrival.UNEXPECTED
        assert others == [BY_DRIVER, BY_HOSTS]
        await assert_idle(supplier)

    run(work())


def test_one_of_many_buffers_that_does_not_fit_is_reported() -> None:
    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        large = buffer_of(1500)
        hosts.harm = lambda _, __, start: "no room" if start >= 1000 else ...
        both = await asyncio.gather(
            supply(supplier, A, BUFFER, large, buffer_of(10)), supply(supplier, A, large)
        )
        assert [supplied.arrival for supplied in both] == [Arrival.NO_ROOM] * 2
        assert set(hosts.held[A.address]) == {BUFFER.name, buffer_of(10).name}
        await assert_idle(supplier)

    run(work())


def test_an_error_that_nobody_foresaw_keeps_nobody_waiting() -> None:
    """A worker with another version of us, say, may raise anything."""

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        hosts.harm = raising(TypeError("take() got an unexpected keyword argument"))
        buffers = [buffer_of(10, seed) for seed in range(DRIVER_TRANSFERS + 1)]
        supplied = await supply(supplier, A, *buffers)
        assert supplied.arrival is Arrival.UNEXPECTED
        await assert_idle(supplier)

    run(work())


# ------------------------------------------------------------------------- those who wait
@pytest.mark.parametrize("cancelled", [0, 1])
def test_who_is_cancelled_takes_nothing_from_another_who_waits(cancelled: int) -> None:
    async def work() -> None:
        hosts = Hosts()
        hosts.gate.clear()
        supplier = Supplier(hosts.ask, hosts.is_there)
        waiting = [asyncio.create_task(supply(supplier, A)) for _ in range(2)]
        await hosts.knocked.wait()
        waiting[cancelled].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[cancelled]
        hosts.gate.set()
        assert (await waiting[1 - cancelled]).arrival is Arrival.WHOLE
        assert hosts.have(BUFFER, A)
        await assert_idle(supplier)

    run(work())


def test_what_nobody_waits_for_any_more_arrives_all_the_same() -> None:
    async def work() -> None:
        hosts = Hosts()
        hosts.gate.clear()
        supplier = Supplier(hosts.ask, hosts.is_there)
        waiting = asyncio.create_task(supply(supplier, A))
        await hosts.knocked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hosts.gate.set()
        await assert_idle(supplier)
        assert await supply(supplier, A, since=0) == WHOLE
        assert hosts.sent == {DRIVER: 950}

    run(work())


def test_nobody_waits_for_ever_when_the_loop_ends() -> None:
    async def work() -> None:
        hosts = Hosts()
        hosts.gate.clear()
        supplier = Supplier(hosts.ask, hosts.is_there)
        waiting = asyncio.create_task(supply(supplier, A))
        await hosts.knocked.wait()
        (transfer,) = supplier._running
        transfer.cancel()
        assert (await waiting).arrival is Arrival.UNEXPECTED
        await assert_idle(supplier)

    run(work())


def test_hosts_that_have_nothing_any_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster that grows and shrinks has ever new ones."""
    monkeypatch.setattr("joblib_distributed.driver.supply.REMEMBERED", 2)

    async def work() -> None:
        hosts = Hosts()
        supplier = Supplier(hosts.ask, hosts.is_there)
        for number in range(20):
            place = Place(f"host{number}", f"tcp://host:{number}", FOLDER)
            supplied = await supplier.supply(place, {BUFFER.name: BUFFER}, 0)
            assert supplied.arrival is Arrival.WHOLE
        # The first one has given it to all others.
        assert set(supplier._places) == {"host0", "host18", "host19"}

    run(work())
