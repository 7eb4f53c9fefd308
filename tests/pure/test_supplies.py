"""What a worker does to supply hosts, on stores of its own and without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from joblib_distributed.data import host
from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.host import HostStore, host_store
from joblib_distributed.data.presence import HOST
from joblib_distributed.data.transfer import CHUNK_TIMEOUT, SOURCE_TIMEOUT, Incoming
from joblib_distributed.data.writing import NoRoomError
from joblib_distributed.worker import supplies as module
from joblib_distributed.worker.supplies import LEASE, READ, TAKE, Supplies, serve

pytest.importorskip("fcntl")

T = TypeVar("T")

DEADLINE = 20

CONTENT = bytes(range(200))
NAME = name_of(memoryview(CONTENT))
SOURCE = "tcp://source:1"

Read = Callable[..., Coroutine[Any, Any, Any]]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Make folders whose stores, which the process opens, are closed in the end."""
    folders = []

    def make(name: str) -> str:
        folders.append(tmp_path / name)
        folders[-1].mkdir(exist_ok=True)
        return str(folders[-1])

    yield make
    for folder in folders:
        store = host._open.pop((os.getpid(), str(folder)), None)
        if store is not None:
            store.close()
    assert [os.listdir(folder) for folder in folders] == [[] for _ in folders]


@pytest.fixture
def folder(open_folder: Callable[[str], str]) -> str:
    """That of the store of the host that takes."""
    return open_folder("target")


def files(folder: str) -> set[str]:
    """Names of all that is in the store, but for what makes it one."""
    store = host_store(folder).stores[0]
    return set(os.listdir(store.folder)) - {HOST}


#: joblib's ``temp_folder`` at the source.
FOLDER = "the source's"


class StandIn:
    """As much of the engine's worker as is needed."""

    def __init__(self, read: Read | None = None) -> None:
        self.handlers: dict[str, Any] = {}
        self._read = read

    def rpc(self, address: str) -> Any:
        assert address == SOURCE
        return SimpleNamespace(**{READ: self._read})


class Target:
    """A host that takes `CONTENT`, in transfer "t" if nothing else is said."""

    def __init__(self, folder: str, read: Read | None = None) -> None:
        self.folder = folder
        self.worker = StandIn(read)
        self.supplies = Supplies(self.worker)

    async def take(self, start: int, end: int, transfer: str = "t", **more: Any) -> str:
        more = more or {"chunk": memoryview(CONTENT)[start:end]}
        return await self.supplies.take(transfer, NAME, start, end, self.folder, **more)

    async def pull(self, start: int, end: int) -> str:
        return await self.take(start, end, source=SOURCE, source_folder=FOLDER)

    def assert_idle(self) -> None:
        """Nothing is kept of what has ended."""
        assert self.supplies._incoming == {}
        assert self.supplies._ends == {}

    def assert_nothing_left(self) -> None:
        assert files(self.folder) == set()
        self.assert_idle()


class Limited(StandIn):
    """With a limit on its memory, and a nanny that notes what is open when it is told."""

    nanny = "tcp://nanny:1"
    memory_manager = SimpleNamespace(memory_limit=1)
    monitor = SimpleNamespace(get_process_memory=None)

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.loop = SimpleNamespace(asyncio_loop=asyncio.get_running_loop())
        self.folder = folder
        self.opened: list[bool] = []

    @contextlib.asynccontextmanager
    async def _nanny(self) -> AsyncIterator[StandIn]:
        yield self

    def rpc(self, address: str) -> Any:
        assert address == self.nanny
        return self._nanny()

    async def run(self, function: bytes) -> None:
        self.opened.append((os.getpid(), self.folder) in host._open)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("operation", ["take", "read"])
def test_nothing_is_mapped_before_the_nanny_is_told(folder: str, operation: str) -> None:
    async def work() -> None:
        worker = Limited(folder)
        supplies = Supplies(worker)
        for _ in range(2):
            if operation == "take":
                assert await supplies.take("t", NAME, 0, 200, folder, CONTENT) == "whole"
            else:
                assert await supplies.read(NAME, 0, 200, folder) is None
        assert worker.opened == [False]

    run(work())


# ---------------------------------------------------------------------- from the driver
def test_chunks_of_the_driver_become_a_buffer(folder: str) -> None:
    async def work() -> None:
        target = Target(folder)
        assert await target.take(0, 100) == "part"
        assert host_store(folder).get(NAME) is None
        assert await target.take(150, 200) == "part"
        assert await target.take(100, 150) == "whole"
        target.assert_idle()

    run(work())
    found = host_store(folder).get(NAME)
    assert found is not None
    assert found.view == CONTENT
    assert files(folder) == {NAME}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_chunk_may_come_as_any_kind_of_bytes(folder: str, kind: Any) -> None:
    async def work() -> None:
        assert await Target(folder).take(0, 200, chunk=kind(CONTENT)) == "whole"

    run(work())
    assert files(folder) == {NAME}


def test_chunks_of_different_transfers_are_not_mixed(folder: str) -> None:
    async def work() -> None:
        target = Target(folder)
        assert await target.take(0, 100, "t") == "part"
        assert await target.take(0, 100, "u") == "part"
        assert await target.take(100, 200, "t") == "whole"
        assert await target.take(100, 200, "u") == "whole"
        target.assert_idle()

    run(work())
    assert files(folder) == {NAME}


def test_chunks_may_come_at_the_same_time(folder: str) -> None:
    async def work() -> None:
        target = Target(folder)
        await target.take(0, 20)
        arrivals = await asyncio.gather(
            *(target.take(start, start + 20) for start in range(20, 200, 20))
        )
        assert sorted(arrivals) == ["part"] * 8 + ["whole"]
        target.assert_idle()

    run(work())
    assert files(folder) == {NAME}


def test_what_is_not_as_its_name_says_is_removed(folder: str) -> None:
    async def work() -> None:
        target = Target(folder)
        assert await target.take(0, 200, chunk=bytes(200)) == "corrupt"
        target.assert_nothing_left()

    run(work())


def test_a_chunk_that_nobody_expects_is_refused(folder: str) -> None:
    async def work() -> None:
        assert await Target(folder).take(100, 200) == "unexpected"
        assert files(folder) == set()

    run(work())


def test_a_transfer_that_has_ended_expects_no_chunk(folder: str) -> None:
    async def work() -> None:
        target = Target(folder)
        assert await target.take(0, 100) == "part"
        assert await target.take(100, 200, chunk=b"short") == "no source"
        target.assert_nothing_left()
        assert await target.take(100, 200) == "unexpected"
        assert files(folder) == set()

    run(work())


# -------------------------------------------------------------------- from another host
def reading_from(folder: str) -> Read:
    """Read as a worker of another host does; hand over what the network would."""
    source = Supplies(StandIn())

    async def read(name: str, start: int, end: int, temp_folder: str | None) -> Any:
        assert temp_folder is not None
        chunk = await source.read(name, start, end, folder)
        return None if chunk is None else bytes(chunk.data)

    return read


def test_chunks_of_another_host_become_a_buffer(
    folder: str, open_folder: Callable[[str], str]
) -> None:
    other = open_folder("source")
    host_store(other).put(memoryview(CONTENT))

    async def work() -> None:
        target = Target(folder, reading_from(other))
        assert await target.pull(0, 100) == "part"
        assert await target.pull(100, 200) == "whole"
        target.assert_idle()

    run(work())
    found = host_store(folder).get(NAME)
    assert found is not None
    assert found.view == CONTENT


def test_a_host_without_the_buffer_is_no_source(
    folder: str, open_folder: Callable[[str], str]
) -> None:
    async def work() -> None:
        target = Target(folder, reading_from(open_folder("source")))
        assert await target.pull(0, 100) == "no source"
        target.assert_nothing_left()

    run(work())


def raising(error: Exception) -> Read:
    async def read(**_: Any) -> Any:
        raise error

    return read


def returning(value: Any) -> Read:
    async def read(**_: Any) -> Any:
        return value

    return read


BAD_SOURCES = [
    raising(OSError("gone")),
    raising(asyncio.TimeoutError()),
    raising(RuntimeError("its own error")),
    returning(None),
    returning(b""),
    returning(CONTENT[:99]),
    returning(CONTENT[:101]),
]
BAD_NAMES = ["gone", "silent", "fails", "lacks it", "empty", "too short", "too long"]


@pytest.mark.parametrize("read", BAD_SOURCES, ids=BAD_NAMES)
@pytest.mark.parametrize("start", [0, 100])
def test_a_source_that_fails_is_reported_and_nothing_left(
    folder: str, read: Read, start: int
) -> None:
    async def work() -> None:
        target = Target(folder, read)
        if start:
            assert await target.take(0, 100) == "part"
        assert await target.pull(start, start + 100) == "no source"
        target.assert_nothing_left()

    run(work())


@pytest.mark.parametrize("chunks", [0, 1])
def test_a_transfer_is_given_up_when_the_driver_says_so(folder: str, chunks: int) -> None:
    async def work() -> None:
        target = Target(folder)
        for start in range(0, 100 * chunks, 100):
            assert await target.take(start, start + 100) == "part"
        assert await target.take(0, 0, chunk=None) == "no source"
        target.assert_nothing_left()
        assert await target.take(100, 200) == "unexpected"

    run(work())


def test_a_source_that_does_not_answer_is_given_up(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    async def wait_in_vain(answer: Coroutine[Any, Any, Any], timeout: float) -> None:
        answer.close()
        waited.append(timeout)
        raise asyncio.TimeoutError

    async def work() -> None:
        monkeypatch.setattr(asyncio, "wait_for", wait_in_vain)
        target = Target(folder, returning(CONTENT[:100]))
        assert await target.pull(0, 100) == "no source"
        target.assert_nothing_left()

    run(work())
    assert waited == [SOURCE_TIMEOUT]
    assert SOURCE_TIMEOUT < CHUNK_TIMEOUT, "or the driver does not hear whose fault it is"


def test_a_worker_that_is_closed_asks_nobody(folder: str) -> None:
    async def work() -> None:
        target = Target(folder, returning(CONTENT[:100]))
        del target.worker
        assert await target.pull(0, 100) == "no source"
        target.assert_nothing_left()

    run(work())


def test_a_place_of_a_buffer_is_read(folder: str) -> None:
    async def work() -> None:
        source = Supplies(StandIn())
        assert await source.read(NAME, 50, 60, folder) is None
        host_store(folder).put(memoryview(CONTENT))
        chunk = await source.read(NAME, 50, 60, folder)
        assert bytes(chunk.data) == CONTENT[50:60]

    run(work())


# ---------------------------------------------------------------------------------- room
def test_a_host_without_room_says_so_at_once(
    small: Path, open_folder: Callable[[str], str]
) -> None:
    folder = open_folder(small.name)
    used, _ = host_store(folder).put(memoryview(bytes(600_000)))
    name = name_of(memoryview(b"x" * 600_000))

    async def work() -> None:
        target = Target(folder)
        chunk = memoryview(b"x" * 100)
        arrival = await target.supplies.take("t", name, 0, 100, folder, chunk)
        assert arrival == "no room"
        target.assert_idle()

    run(work())
    assert files(folder) == {used.name}


def test_room_that_ends_half_way_is_reported(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where room cannot be taken before."""

    async def work() -> None:
        def fail(incoming: Incoming, start: int, content: memoryview) -> None:
            raise NoRoomError("full")

        target = Target(folder)
        assert await target.take(0, 100) == "part"
        monkeypatch.setattr(Incoming, "take", fail)
        assert await target.take(100, 200) == "no room"
        target.assert_nothing_left()

    run(work())


# -------------------------------------------------------------------------------- timers
class Timers:
    """What the loop is told to do later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._call_later = loop.call_later
        self._noted: list[tuple[Any, float, asyncio.TimerHandle]] = []
        monkeypatch.setattr(loop, "call_later", self._note)

    def _note(self, delay: float, act: Any, *args: Any) -> asyncio.TimerHandle:
        handle = self._call_later(delay, act, *args)
        self._noted.append((act, delay, handle))
        return handle

    def of(self, act: Any, delay: float) -> list[asyncio.TimerHandle]:
        """Return what is to be done after so many seconds."""
        wanted = act, delay
        return [h for a, d, h in self._noted if (a, d) == wanted and not h.cancelled()]

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """Do now what is due later; as the loop does, keep nothing of it."""
        handle._run()
        handle.cancel()


def test_a_buffer_that_came_is_kept_for_a_while(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        timers = Timers(monkeypatch)
        assert await Target(folder).take(0, 200) == "whole"
        (only,) = other.stores
        assert not only.evict_for(1)
        (lease,) = timers.of(module._end_lease, LEASE)
        timers.fire(lease)
        assert only.evict_for(1)

    host_store(folder)
    other = HostStore([folder])
    try:
        run(work())
        assert files(folder) == set()
    finally:
        other.close()


def test_a_transfer_that_is_not_heard_of_is_dropped(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        timers = Timers(monkeypatch)
        target = Target(folder)
        assert await target.take(0, 100) == "part"
        (first,) = timers.of(target.supplies._drop, 2 * CHUNK_TIMEOUT)
        assert await target.take(100, 150) == "part"
        # It has been heard of: another time begins.
        assert first.cancelled()
        (second,) = timers.of(target.supplies._drop, 2 * CHUNK_TIMEOUT)
        assert len(files(folder)) == 1
        timers.fire(second)
        target.assert_nothing_left()
        assert await target.take(150, 200) == "unexpected"

    run(work())


def test_no_timer_is_left_of_a_buffer_that_is_whole(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        timers = Timers(monkeypatch)
        target = Target(folder)
        await target.take(0, 100)
        await target.take(100, 200)
        assert timers.of(target.supplies._drop, 2 * CHUNK_TIMEOUT) == []

    run(work())


# ------------------------------------------------------------------------------ handlers
def test_a_worker_learns_our_operations_once(folder: str) -> None:
    worker = StandIn()
    serve(worker)
    handlers = dict(worker.handlers)
    assert set(handlers) == {TAKE, READ}
    serve(worker)
    assert worker.handlers == handlers

    async def work() -> None:
        taken = await handlers[TAKE](
            transfer="t", name=NAME, start=0, end=200, temp_folder=folder, chunk=CONTENT
        )
        assert taken == "whole"
        read = handlers[READ](name=NAME, start=1, end=3, temp_folder=folder)
        assert bytes((await read).data) == CONTENT[1:3]

    run(work())


def test_workers_of_one_process_take_each_their_own(folder: str) -> None:
    """So do those of threads, in tests and notebooks."""
    workers = StandIn(), StandIn()
    for worker in workers:
        serve(worker)

    async def work() -> None:
        first = Target(folder)
        assert await first.take(0, 100) == "part"
        other = workers[1].handlers[TAKE]
        chunk = CONTENT[100:]
        assert await other("t", NAME, 100, 200, folder, chunk) == "unexpected"
        first.supplies._drop("t")

    run(work())
    assert workers[0].handlers[TAKE] != workers[1].handlers[TAKE]
