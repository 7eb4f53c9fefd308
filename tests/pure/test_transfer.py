"""Buffers that come in chunks: their places, their end, and the room for them."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import random
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.host import HostStore
from joblib_distributed.data.presence import HOST
from joblib_distributed.data.store import Store
from joblib_distributed.data.transfer import CHUNK, Arrival, Incoming, pieces
from joblib_distributed.data.writing import NoRoomError, Part
from support.tasks import in_thread

pytest.importorskip("fcntl")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reserves on Linux only")

CONTENT = random.Random(0).randbytes(1000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HostStore]:
    store = HostStore([str(tmp_path)])
    yield store
    store.close()


@pytest.fixture
def small_store(small: Path) -> Iterator[HostStore]:
    """Its only folder has room for 1 MB."""
    store = HostStore([str(small)])
    yield store
    store.close()


def name(content: bytes) -> str:
    return name_of(memoryview(content))


def half(number: int) -> bytes:
    """Somewhat more than half of what fits into `small`."""
    return bytes([number]) * 600_000


def files(store: HostStore) -> set[str]:
    """Names of all that is in the folders, but for what makes them stores."""
    return {f for one in store.stores for f in os.listdir(one.folder)} - {HOST}


def chunks(content: bytes, size: int) -> list[tuple[int, memoryview]]:
    view = memoryview(content)
    return [(start, view[start : start + size]) for start in range(0, len(view), size)]


# -------------------------------------------------------------------------------- pieces
@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (1, [(0, 1)]),
        (CHUNK - 1, [(0, CHUNK - 1)]),
        (CHUNK, [(0, CHUNK)]),
        (CHUNK + 1, [(0, CHUNK), (CHUNK, CHUNK + 1)]),
        (2 * CHUNK, [(0, CHUNK), (CHUNK, 2 * CHUNK)]),
        (2 * CHUNK + 5, [(0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 2 * CHUNK + 5)]),
    ],
)
def test_pieces(nbytes: int, expected: list[tuple[int, int]]) -> None:
    assert pieces(nbytes) == expected


@given(st.integers(min_value=1, max_value=100 * CHUNK))
def test_pieces_are_the_whole_without_gap_or_overlap(nbytes: int) -> None:
    found = pieces(nbytes)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == nbytes
    assert all(0 < end - start <= CHUNK for start, end in found)


# ------------------------------------------------------------------------------- content
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_chunks_in_any_order_make_the_buffer(
    store: HostStore, order: tuple[int, ...]
) -> None:
    incoming = Incoming(store, name(CONTENT))
    parts = chunks(CONTENT, 400)
    *before, last = [incoming.take(*parts[i]) for i in order]
    assert (before, last) == ([Arrival.PART] * 2, Arrival.WHOLE)
    assert incoming.buffer is not None
    assert incoming.buffer.name == name(CONTENT)
    assert incoming.buffer.view == CONTENT
    assert incoming.buffer.view.readonly
    assert store.get(name(CONTENT)) is incoming.buffer
    assert files(store) == {name(CONTENT)}


def test_a_buffer_in_one_chunk_is_whole_at_once(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    assert incoming.take(0, memoryview(CONTENT)) is Arrival.WHOLE
    assert files(store) == {name(CONTENT)}


def test_what_came_in_chunks_is_like_what_was_put(
    store: HostStore, tmp_path: Path
) -> None:
    incoming = Incoming(store, name(CONTENT))
    for start, content in chunks(CONTENT, 300):
        incoming.take(start, content)
    path = store.stores[0].folder / name(CONTENT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.read_bytes() == CONTENT
    other = HostStore([str(tmp_path)])
    try:
        assert not other.stores[0].evict_for(1), "it is in use"
        incoming.buffer = None
        assert other.stores[0].evict_for(1)
    finally:
        other.close()


def test_nobody_finds_a_buffer_before_it_is_whole(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    (first, second) = chunks(CONTENT, 500)
    assert incoming.take(*second) is Arrival.PART
    assert incoming.buffer is None
    assert store.get(name(CONTENT)) is None
    assert incoming.take(*first) is Arrival.WHOLE
    assert store.get(name(CONTENT)) is incoming.buffer


def test_of_many_threads_one_has_the_last_chunk(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    parts = chunks(CONTENT, 10)
    begin = threading.Barrier(4, timeout=30)

    def take(number: int) -> list[Arrival]:
        begin.wait()
        return [incoming.take(*part) for part in parts[number::4]]

    joins = [in_thread(functools.partial(take, number)) for number in range(4)]
    arrivals = [arrival for join in joins for arrival in join()]
    assert sorted(arrivals) == [Arrival.PART] * 99 + [Arrival.WHOLE]
    assert incoming.buffer is not None
    assert incoming.buffer.view == CONTENT


def test_a_buffer_that_is_not_what_its_name_says_is_removed(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    (first, (start, second)) = chunks(CONTENT, 500)
    assert incoming.take(*first) is Arrival.PART
    changed = bytearray(second)
    changed[-1] ^= 1
    assert incoming.take(start, memoryview(changed)) is Arrival.CORRUPT
    assert incoming.buffer is None
    assert files(store) == set()


def test_what_is_not_whole_is_removed_when_it_is_given_up(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    incoming.take(0, memoryview(CONTENT)[:10])
    (left,) = files(store)
    assert left.startswith(name(CONTENT) + ".")
    incoming.close()
    incoming.close()
    assert files(store) == set()


def test_what_is_whole_is_not_removed_when_it_is_let_go(store: HostStore) -> None:
    incoming = Incoming(store, name(CONTENT))
    incoming.take(0, memoryview(CONTENT))
    incoming.close()
    assert files(store) == {name(CONTENT)}


def test_giving_up_while_a_chunk_is_written_spoils_no_other_file(
    store: HostStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A thread is about to write. 2. Another gives up. 3. A file gets the number."""
    incoming = Incoming(store, name(CONTENT))
    pwrite = os.pwrite
    opened: list[int] = []
    closing = threading.Thread(target=incoming.close, daemon=True)

    def pwrite_late(descriptor: int, content: memoryview, start: int) -> int:
        closing.start()
        closing.join(0.5)  # or it waits for us, which is as good
        opened.append(os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT, 0o600))
        return pwrite(descriptor, content, start)

    monkeypatch.setattr(os, "pwrite", pwrite_late)
    with contextlib.suppress(OSError):
        incoming.take(0, memoryview(CONTENT)[:10])
    closing.join(30)
    os.close(opened[0])
    assert (tmp_path / "other").read_bytes() == b""
    assert files(store) == set()


# ---------------------------------------------------------------------------------- room
@on_linux
def test_a_buffer_without_room_is_refused_before_it_comes(
    small_store: HostStore,
) -> None:
    used, _ = small_store.put(memoryview(half(1)))
    with pytest.raises(NoRoomError, match="no store has room for 600000 bytes"):
        Incoming(small_store, name(half(2)))
    assert files(small_store) == {used.name}
    assert used.view == half(1)


@on_linux
def test_room_is_taken_before_the_first_chunk(small_store: HostStore) -> None:
    (only,) = small_store.stores
    incoming = Incoming(small_store, name(half(1)))
    with pytest.raises(NoRoomError):
        only.put(name(half(2)), memoryview(half(2)))
    for start, content in chunks(half(1), 100_000):
        arrival = incoming.take(start, content)
    assert arrival is Arrival.WHOLE
    assert files(small_store) == {name(half(1))}


@on_linux
def test_room_is_made_for_a_buffer_that_comes(small_store: HostStore) -> None:
    small_store.put(memoryview(half(1)))  # not in use any more
    incoming = Incoming(small_store, name(half(2)))
    assert small_store.get(name(half(1))) is None
    assert incoming.take(0, memoryview(half(2))) is Arrival.WHOLE
    assert files(small_store) == {name(half(2))}


@on_linux
def test_the_next_store_is_taken_when_the_first_has_no_room(
    small: Path, tmp_path: Path
) -> None:
    stores = HostStore([str(small), str(tmp_path)])
    used, _ = stores.put(memoryview(half(1)))
    incoming = Incoming(stores, name(half(2)))
    assert incoming.take(0, memoryview(half(2))) is Arrival.WHOLE
    assert incoming.buffer is not None
    assert [used.store, incoming.buffer.store] == stores.stores
    assert set(os.listdir(stores.stores[0].folder)) == {HOST, used.name}
    stores.close()


def test_a_host_without_a_store_has_no_room() -> None:
    with pytest.raises(NoRoomError, match="no store has room for 1000 bytes"):
        Incoming(HostStore([]), name(CONTENT))


def test_a_buffer_that_is_evicted_as_soon_as_it_is_there_is_to_come_again(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The file is given its name. 2. It is evicted. 3. Its maker locks it."""
    rename = os.rename

    def rename_and_evict(source: Path, target: Path) -> None:
        rename(source, target)
        os.unlink(target)

    incoming = Incoming(store, name(CONTENT))
    monkeypatch.setattr(os, "rename", rename_and_evict)
    assert incoming.take(0, memoryview(CONTENT)) is Arrival.UNEXPECTED
    assert incoming.buffer is None
    assert files(store) == set()


@on_linux
def test_a_disk_that_fails_leaves_nothing(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, start: int, nbytes: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="broken") as caught:
        Incoming(store, name(CONTENT))
    assert not isinstance(caught.value, NoRoomError)
    assert files(store) == set()


@on_linux
def test_a_part_reserves_what_it_is_told(small: Path) -> None:
    store = Store(small)
    part = Part(store, name(half(1)))
    part.reserve(600_000)
    found = os.fstat(part.descriptor)
    assert found.st_size == 600_000
    assert found.st_blocks * 512 >= 600_000
    with pytest.raises(NoRoomError):
        part.reserve(2_000_000)
    part.close()
    assert os.listdir(store.folder) == [HOST]
    store.close()


def test_a_part_is_written_at_any_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    part = Part(store, name(b"content"))
    part.write(memoryview(b"tent"), 3)
    part.write(memoryview(b"con"))
    buffer = part.publish()
    part.close()
    assert buffer is not None
    assert bytes(buffer.view) == b"content"
    store.close()
