"""Names of buffers that are not read again while nobody has written to them."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from joblib_distributed.data import watching
from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.watching import LEAST, REMEMBERED, WRITES_ALLOWED, Names

SIZE = 2 * LEAST


class Counted:
    """The names of a process, and how often a buffer had to be read for one."""

    def __init__(self) -> None:
        self.names = Names()
        self.read = 0

    def __call__(self, content: object) -> bool:
        """Ask for a name; return whether the buffer had to be read. It is right."""
        view = memoryview(content).cast("B")  # type: ignore[arg-type]
        before = self.read
        found = self.names.name_of(view)
        assert found == name_of(view)
        return self.read > before


@pytest.fixture
def is_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    forget_own_names()
    counted = Counted()
    if not counted.names.can_watch:
        pytest.skip("this system cannot tell what was written to")

    def read(view: memoryview) -> str:
        counted.read += 1
        return name_of(view)

    monkeypatch.setattr(watching, "name_of", read)
    yield counted
    assert counted.names._watch is not None
    counted.names._watch.close()


def forget_own_names() -> None:
    """Have nothing watched by the names that other tests of this process have used.

    Memory is watched by one of them at a time, also after its array is gone: what the
    allocator keeps may hold the arrays of these tests.
    """
    own = watching.names()._watch
    if own is not None:
        own.close()
    watching._names = None


def watched(is_read: Counted, size: int = SIZE) -> np.ndarray[tuple[int], np.dtype]:
    """Return a buffer that is not read any more."""
    array = np.ones(size, "u1")
    assert [is_read(array) for _ in range(4)] == [True, True, False, False]
    return array


def test_what_is_named_often_is_read_twice(is_read: Counted) -> None:
    watched(is_read)


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_a_write_is_noticed(is_read: Counted, place: int) -> None:
    array = watched(is_read)
    array[place] = 2
    assert [is_read(array) for _ in range(3)] == [True, False, False]


def test_what_the_system_writes_is_noticed(is_read: Counted) -> None:
    array = watched(is_read)
    source, target = os.pipe()
    os.write(target, b"written")
    os.readv(source, [memoryview(array)[5000:5007]])
    os.close(source)
    os.close(target)
    assert is_read(array)


def test_a_write_beside_it_does_no_harm(is_read: Counted) -> None:
    array = np.ones(SIZE, "u1")
    part = array[100:-100]
    assert [is_read(part) for _ in range(3)] == [True, True, False]
    array[99] = array[-100] = 2
    assert not is_read(part)


def test_a_write_is_noticed_by_all_that_have_its_page(is_read: Counted) -> None:
    array = np.ones(SIZE, "u1")
    parts = [array, array[: SIZE // 2 + 100], array[5000:]]
    for _ in range(4):
        for part in parts:
            is_read(part)
    array[SIZE // 4] = 2
    assert [is_read(part) for part in parts] == [True] * 3
    assert [is_read(part) for part in parts] == [False] * 3


def test_whatever_is_written_names_are_right(is_read: Counted) -> None:
    """`Counted` compares each with what reading gives."""
    random = np.random.default_rng(0)
    arrays = [np.ones(SIZE, "u1") for _ in range(3)]
    for _ in range(600):
        number = random.integers(len(arrays))
        array = arrays[number]
        start, end = random.choice([0, 1, 4096, SIZE - 4096, SIZE - 1]), SIZE
        action = random.integers(8)
        if action == 0:
            array[random.integers(SIZE)] ^= 1
        elif action == 1:
            arrays[number] = array.copy()
        elif action == 2:
            start, end = random.choice([0, 100, 4096]), SIZE - random.choice([0, 5000])
        elif action == 3:
            array[:100] ^= 1
        is_read(arrays[number][start:end])


def test_what_is_written_often_is_left_alone(is_read: Counted) -> None:
    array = watched(is_read)
    for value in range(2, WRITES_ALLOWED + 10):
        array[SIZE // 2] = value
        assert is_read(array)
    assert is_read(array)
    assert [record.is_watched for record in is_read.names._records.values()] == [False]


def test_parts_of_a_buffer_have_names_of_their_own(is_read: Counted) -> None:
    array = watched(is_read)
    assert is_read(array[:LEAST])
    assert is_read(array[1:])


def test_small_buffers_are_read(is_read: Counted) -> None:
    array = np.ones(LEAST - 1, "u1")
    assert [is_read(array) for _ in range(4)] == [True] * 4


def test_buffers_that_cannot_be_written_to(is_read: Counted) -> None:
    content = b"x" * SIZE
    assert [is_read(content) for _ in range(4)] == [True, True, False, False]


def private(size: int = SIZE) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def test_memory_that_is_mapped_anew(is_read: Counted) -> None:
    """Most likely at the same address."""
    memory = private()
    assert [is_read(memory) for _ in range(3)] == [True, True, False]
    memory.close()
    memory = private()
    memory[0] = 1
    is_read(memory)
    memory[1] = 1
    is_read(memory)
    memory.close()


def test_memory_that_was_given_back_to_the_system(is_read: Counted) -> None:
    """It is then all zeros, and nobody wrote them."""
    memory = private()
    memory[:] = b"x" * SIZE
    assert [is_read(memory) for _ in range(3)] == [True, True, False]
    memory.madvise(mmap.MADV_DONTNEED)
    is_read(memory)
    memory.close()


def shared_memory(_: Path) -> tuple[mmap.mmap, Callable[[int], object]]:
    memory = mmap.mmap(-1, SIZE)

    def write(value: int) -> None:
        child = os.fork()
        if not child:
            memory[0] = value
            os._exit(0)
        os.waitpid(child, 0)

    return memory, write


def file(folder: Path) -> tuple[mmap.mmap, Callable[[int], object]]:
    path = folder / "file"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), SIZE, access=mmap.ACCESS_READ)

    def write(value: int) -> None:
        with path.open("r+b") as opened:
            opened.write(bytes([value]))

    return memory, write


def private_file(folder: Path) -> tuple[mmap.mmap, Callable[[int], object]]:
    _, write = file(folder)
    with (folder / "file").open("r+b") as opened:
        return mmap.mmap(opened.fileno(), SIZE, access=mmap.ACCESS_COPY), write


@pytest.mark.parametrize("make", [shared_memory, file, private_file])
def test_memory_that_others_write_to_is_read(
    is_read: Counted,
    make: Callable[[Path], tuple[mmap.mmap, Callable[[int], object]]],
    tmp_path: Path,
) -> None:
    memory, write = make(tmp_path)
    for value in range(6):
        write(value)
        assert is_read(memory)
    memory.close()


def test_only_the_last_buffers_are_remembered(
    is_read: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REMEMBERED == 256
    monkeypatch.setattr(watching, "REMEMBERED", 3)
    arrays = [watched(is_read) for _ in range(4)]
    assert len(is_read.names._records) == 3
    assert not is_read(arrays[1])
    assert [is_read(arrays[0]) for _ in range(3)] == [True, True, False]


def test_memory_that_somebody_else_watches_is_read(is_read: Counted) -> None:
    other = Names()
    array = np.ones(SIZE, "u1")
    for _ in range(4):
        other.name_of(memoryview(array))
    assert [is_read(array) for _ in range(4)] == [True] * 4
    assert other._watch is not None
    other._watch.close()


def test_what_was_watched_by_names_of_before_does_not_matter(is_read: Counted) -> None:
    """Of the fixture: an array at the same address, as the allocator gives it."""
    memory = private()
    for _ in range(4):
        watching.names().name_of(memoryview(memory))
    forget_own_names()
    assert [is_read(memory) for _ in range(4)] == [True, True, False, False]
    memory.close()


def test_a_fork_reads_for_itself(is_read: Counted) -> None:
    array = watched(is_read)
    child = os.fork()
    if not child:
        array[0] = 2
        view = memoryview(array)
        os._exit(0 if is_read.names.name_of(view) == name_of(view) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not is_read(array)


def test_nothing_is_watched_while_it_cannot_be_told_what_is_mapped(
    is_read: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that has no descriptors left."""
    array = watched(is_read)
    assert not is_read(array)

    def refuse() -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(watching, "_has_device", refuse)
        is_read.names._next_look = 0.0
        assert is_read(array)
    is_read.names._next_look = 0.0
    assert not is_read(array)


def test_nothing_is_watched_while_a_device_is_mapped(
    is_read: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_MEMORY", ("/dev/shm/",))
    monkeypatch.setattr(watching, "LOOK_INTERVAL", 0)
    array = watched(is_read)
    with open("/dev/zero", "r+b") as zero:
        device = mmap.mmap(zero.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE)
    assert [is_read(array) for _ in range(3)] == [True] * 3
    device.close()


def test_everything_is_read_where_nothing_can_be_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "_USERFAULTFD", {})
    names = Names()
    assert not names.can_watch
    array = np.ones(SIZE, "u1")
    for value in range(4):
        array[0] = value
        view = memoryview(array)
        assert names.name_of(view) == name_of(view)


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_no_descriptor_is_left_where_watching_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(watching._Watch, "was_written", lambda *_: True)
    assert not Names().can_watch
    assert len(os.listdir("/proc/self/fd")) == before
