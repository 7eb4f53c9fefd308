"""One copy of each large buffer per host: files, locks, and who may remove what."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from joblib_distributed.data import host, presence
from joblib_distributed.data import store as store_module
from joblib_distributed.data.buffers import Digest, name_of, size_of
from joblib_distributed.data.folders import StoreError
from joblib_distributed.data.host import HostStore
from joblib_distributed.data.presence import HOST
from joblib_distributed.data.samples import LEAST
from joblib_distributed.data.store import ROOM_SHARE, Buffer, Store
from joblib_distributed.data.writing import PART, NoRoomError, Part

fcntl = pytest.importorskip("fcntl")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

DEADLINE = 20


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Open stores in one folder, as so many processes would."""
    opened: list[Store] = []

    def open_one(**keywords: Any) -> Store:
        opened.append(Store(tmp_path, **keywords))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def name(content: bytes) -> str:
    return name_of(memoryview(content))


def put(store: Store, content: bytes) -> Buffer:
    return store.put(name(content), memoryview(content))


def files(store: Store) -> set[str]:
    """Names of all that is in the folder, but for what makes it a store."""
    return set(os.listdir(store.folder)) - {HOST}


def use_at(store: Store, content: bytes, second: float) -> None:
    """Say when a buffer was last used."""
    os.utime(store.folder / name(content), (second, second))


class Process:
    """Another process with a store on a folder; its script says when it is ready."""

    def __init__(self, parent: Path, script: str) -> None:
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, sys\n"
                "from joblib_distributed.data.store import Store\n"
                "store = Store(sys.argv[1])\n"
                f"{script}\n"
                "print('ready', flush=True)\n"
                "sys.stdin.read()\n",
                str(parent),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Process:
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=DEADLINE)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(DEADLINE)


# ------------------------------------------------------------------- putting and getting
def test_what_was_put_is_got(open_store: Callable[..., Store]) -> None:
    store = open_store()
    assert store.get(name(b"content")) is None
    buffer = put(store, b"content")
    assert buffer.name == name(b"content")
    assert bytes(buffer.view) == b"content"
    assert files(store) == {buffer.name}
    assert (store.folder / buffer.name).read_bytes() == b"content"
    found = open_store().get(buffer.name)
    assert found is not None
    assert bytes(found.view) == b"content"


def test_equal_content_is_put_once(open_store: Callable[..., Store]) -> None:
    store = open_store()
    buffer = put(store, b"content")
    inode = (store.folder / buffer.name).stat().st_ino
    assert put(store, bytes(bytearray(b"content"))) is buffer
    again = put(open_store(), b"content")
    assert again.name == buffer.name
    assert (store.folder / buffer.name).stat().st_ino == inode
    assert files(store) == {buffer.name}


def test_buffers_are_mapped_read_only_and_aligned(
    open_store: Callable[..., Store],
) -> None:
    store = open_store()
    content = np.arange(1000.0)
    buffer = store.put(name_of(memoryview(content).cast("B")), content.data.cast("B"))
    array = np.frombuffer(buffer.view)
    assert np.array_equal(array, content)
    assert not array.flags.writeable
    assert array.ctypes.data % 64 == 0
    assert array.ctypes.data % mmap.PAGESIZE == 0
    with pytest.raises(TypeError, match="read-only"):
        buffer.view[0] = 1


def test_private_copies_are_written_to_alone(open_store: Callable[..., Store]) -> None:
    store = open_store()
    buffer = put(store, b"content")
    first = store.get_private(buffer.name)
    second = store.get_private(buffer.name)
    assert first is not None
    assert second is not None
    first[:3] = b"CON"
    assert bytes(first) == b"CONtent"
    assert bytes(second) == bytes(buffer.view) == b"content"
    assert store.get_private(name(b"other")) is None


def test_the_same_folder_is_the_same_store(
    open_store: Callable[..., Store], tmp_path: Path
) -> None:
    one, other = open_store(), open_store()
    assert one.folder == other.folder == tmp_path / f"joblib-distributed-{os.getuid()}"
    assert one.identity == other.identity
    token, _, boot = one.identity.partition("@")
    assert (len(token), boot) == (32, presence.boot_id())


def test_another_folder_is_another_store(
    open_store: Callable[..., Store], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Store(tmp_path / "other")
    try:
        assert other.identity != open_store().identity
    finally:
        other.close()


@pytest.mark.parametrize("damage", ["link", "size"])
def test_what_no_store_made_is_not_got(
    open_store: Callable[..., Store], tmp_path: Path, damage: str
) -> None:
    store = open_store()
    path = store.folder / name(b"content")
    if damage == "link":
        (tmp_path / "target").write_bytes(b"content")
        path.symlink_to(tmp_path / "target")
    else:
        path.write_bytes(b"cont")
    assert store.get(name(b"content")) is None


@on_linux
def test_a_mapping_takes_no_descriptor(open_store: Callable[..., Store]) -> None:
    store = open_store()
    before = len(os.listdir("/proc/self/fd"))
    kept = [put(store, b"%d" % i) for i in range(100)]
    copies = [store.get_private(buffer.name) for buffer in kept]
    assert len(os.listdir("/proc/self/fd")) == before
    assert [bytes(buffer.view) for buffer in kept] == [b"%d" % i for i in range(100)]
    assert None not in copies


@on_linux
def test_what_is_dropped_is_unmapped(open_store: Callable[..., Store]) -> None:
    store = open_store()
    buffer = put(store, b"content")
    assert str(store.folder / buffer.name) in Path("/proc/self/maps").read_text()
    del buffer
    assert str(store.folder) not in Path("/proc/self/maps").read_text()


# ------------------------------------------------------------------------------ evicting
def in_use_as_buffer(buffer: Buffer) -> object:
    return buffer


def in_use_as_view(buffer: Buffer) -> object:
    return buffer.view


def in_use_as_slice(buffer: Buffer) -> object:
    return buffer.view[2:3]


def in_use_as_array(buffer: Buffer) -> object:
    return np.frombuffer(buffer.view, "u1")


def in_use_as_view_of_array(buffer: Buffer) -> object:
    return np.frombuffer(buffer.view, "u1")[::2]


@pytest.mark.parametrize(
    "user",
    [
        in_use_as_buffer,
        in_use_as_view,
        in_use_as_slice,
        in_use_as_array,
        in_use_as_view_of_array,
    ],
)
def test_what_is_in_use_is_not_evicted(
    open_store: Callable[..., Store], user: Callable[[Buffer], object]
) -> None:
    store, other = open_store(), open_store(cap=1)
    used = user(put(store, b"content"))
    other.trim()
    assert not other.evict_for(1)
    assert files(store) == {name(b"content")}
    del used
    other.trim()
    assert files(store) == set()
    assert store.get(name(b"content")) is None


def test_a_private_copy_is_in_use_too(open_store: Callable[..., Store]) -> None:
    store, other = open_store(), open_store(cap=1)
    copy = store.get_private(put(store, b"content").name)
    other.trim()
    assert files(store) == {name(b"content")}
    del copy
    other.trim()
    assert files(store) == set()


def test_what_another_process_uses_is_not_evicted(
    open_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = open_store(cap=1)
    with Process(
        tmp_path, f"used = store.put({name(b'content')!r}, memoryview(b'content'))"
    ) as process:
        store.trim()
        assert files(store) == {name(b"content")}
        process.kill()
        store.trim()
        assert files(store) == set()


def test_the_least_recently_used_goes_first(open_store: Callable[..., Store]) -> None:
    store = open_store(cap=12)
    contents = [b"aaaa", b"bbbb", b"cccc"]
    for second, content in enumerate(contents):
        put(store, content)
        use_at(store, content, second)
    store.trim()
    assert files(store) == set(map(name, contents))
    store.get(name(b"aaaa"))
    store.trim(coming=1)
    assert files(store) == {name(b"aaaa"), name(b"cccc")}
    use_at(store, b"aaaa", 10)
    put(store, b"dddd5")
    assert files(store) == {name(b"aaaa"), name(b"dddd5")}


def test_what_is_mapped_is_used_whenever_it_is_got(
    open_store: Callable[..., Store],
) -> None:
    store = open_store(cap=8)
    kept = put(store, b"aaaa")
    put(store, b"bbbb")
    use_at(store, b"aaaa", 0)
    use_at(store, b"bbbb", 1)
    assert store.get(kept.name) is kept
    del kept
    store.trim(coming=1)
    assert files(store) == {name(b"aaaa")}


def test_the_cap_does_not_count_what_is_in_use_out(
    open_store: Callable[..., Store],
) -> None:
    """What is in use stays, even above the cap, and all else goes for it."""
    store = open_store(cap=4)
    used = put(store, b"aaaaaaaa")
    use_at(store, b"aaaaaaaa", 0)
    put(store, b"bb")
    store.trim()
    assert files(store) == {used.name}


def test_what_does_not_tell_its_size_is_no_buffer_to_make_room_for(
    open_store: Callable[..., Store],
) -> None:
    store = open_store(cap=10)
    (store.folder / "left-by-someone").write_bytes(bytes(100))
    one, other = (store.put(name(c), memoryview(c)).name for c in (b"12345", b"67890"))
    assert files(store) == {"left-by-someone", one, other}


def test_below_the_cap_it_is_not_counted_each_time(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(cap=ROOM_SHARE * 100)
    counted = []
    listed = store._listed
    monkeypatch.setattr(store, "_listed", lambda: counted.append(1) or listed())
    times = []
    for number in range(4):  # of 50 bytes each: two of them are a share of what is left
        content = b"%50d" % number
        store.put_new(memoryview(content))
        times.append(len(counted))
    assert times == [1, 1, 2, 2]


def test_a_cap_of_nothing_keeps_what_is_in_use(
    open_store: Callable[..., Store],
) -> None:
    store = open_store(cap=0)
    used = put(store, b"aaaa")
    put(store, b"bb")
    store.trim()
    assert files(store) == {used.name}


def test_evicting_for_room_stops_when_there_is_enough(
    open_store: Callable[..., Store],
) -> None:
    store = open_store()
    for second, content in enumerate([b"aaaa", b"bbbb", b"cccc"]):
        put(store, content)
        use_at(store, content, second)
    assert store.evict_for(5)
    assert files(store) == {name(b"cccc")}
    assert store.evict_for(5)
    assert files(store) == set()
    assert not store.evict_for(5)


# --------------------------------------------------------------- being written, or killed
def test_what_was_not_published_is_removed(open_store: Callable[..., Store]) -> None:
    store = open_store()
    part = Part(store, name(b"content"))
    part.write(memoryview(b"con"))
    assert store.get(name(b"content")) is None
    (left,) = files(store)
    assert left.startswith(name(b"content") + ".")
    part.close()
    part.close()
    assert files(store) == set()


@pytest.mark.parametrize("sweep", [Store.sweep, lambda store: Store(store.folder.parent)])
def test_what_a_killed_process_was_writing_is_swept(
    open_store: Callable[..., Store],
    tmp_path: Path,
    sweep: Callable[[Store], Store | None],
) -> None:
    """Also by whoever opens the store; not while that process lives."""
    store = open_store()
    with Process(
        tmp_path,
        "from joblib_distributed.data.writing import Part\n"
        f"part = Part(store, {name(b'content')!r})\n"
        "part.write(memoryview(b'con'))",
    ) as process:
        store.sweep()
        (left,) = files(store)
        assert left.endswith(PART)
        process.kill()
        opened = sweep(store)
        assert files(store) == set()
        if opened is not None:
            opened.close()


def own(store: Store) -> None:
    os.close(store.own("me"))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda store: put(store, b"content").name, name(b"content")),
        (lambda store: store.put_result("me", memoryview(b"x"))[:10], "me.result."),
        (own, "me.owner"),
    ],
    ids=["buffer", "result", "owner"],
)
def test_a_sweep_between_making_a_file_and_locking_it(
    open_store: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Store], object],
    expected: str,
) -> None:
    """1. A file is made. 2. A sweep locks and removes it. 3. Its maker locks it."""
    store, other = open_store(), open_store()
    flock = fcntl.flock
    swept: list[int] = []

    def flock_after_a_sweep(descriptor: int, operation: int) -> None:
        if not swept and operation & fcntl.LOCK_EX:
            swept.append(descriptor)
            other.sweep()
            if operation & fcntl.LOCK_NB:
                raise BlockingIOError("the sweep had not let go yet")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_a_sweep)
    write(store)
    assert swept
    (left,) = files(store)
    assert left.startswith(expected)


# ------------------------------------------------------------------------------- results
def test_a_result_is_taken_once_and_writable(open_store: Callable[..., Store]) -> None:
    driver, worker = open_store(), open_store()
    owning = driver.own("me")
    try:
        result = worker.put_result("me", memoryview(b"result"))
        assert size_of(result) == 6
        assert files(driver) == {"me.owner", result}
        view = driver.take(result)
        assert view is not None
        assert files(driver) == {"me.owner"}
        assert driver.take(result) is None
        view[:1] = b"R"
        assert bytes(view) == b"Result"
    finally:
        os.close(owning)


def test_a_result_is_read_where_no_more_files_can_be_mapped(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> memoryview:
        raise OSError(24, "Too many open files")

    current = open_store()
    result = current.put_result("me", memoryview(b"result"))
    monkeypatch.setattr(store_module, "map_file", refuse)
    view = current.take(result)
    assert view is not None
    view[:1] = b"R"
    assert bytes(view) == b"Result"
    assert files(current) == set()


def test_a_store_whose_folder_was_removed_has_no_room(
    open_store: Callable[..., Store],
) -> None:
    current = open_store()
    put(current, b"content")
    shutil.rmtree(current.folder)
    current.trim()
    current.drop_results("me")
    with pytest.raises(NoRoomError):
        put(current, b"other")
    with pytest.raises(NoRoomError):
        current.put_result("me", memoryview(b"result"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_result_is_written_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    """It has the descriptor; a lock that it kept would never end."""
    script = (
        "import os, signal, sys\n"
        "from joblib_distributed.data.store import Store\n"
        "from joblib_distributed.data.writing import Part\n"
        "store = Store(sys.argv[1])\n"
        "write = Part.write\n"
        "def fork(self, content, start=0):\n"
        "    write(self, content, start)\n"
        "    self.child = os.fork()\n"
        "    if not self.child:\n"
        "        signal.pause()\n"
        "    children.append(self.child)\n"
        "children = []\n"
        "Part.write = fork\n"
        "result = store.put_result('me', memoryview(b'result'))\n"
        "signal.alarm(10)\n"
        "print(bytes(store.take(result)))\n"
        "os.kill(children[0], signal.SIGKILL)\n"
        "os.waitpid(children[0], 0)\n"
        "store.close()\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (out.stdout, out.stderr) == ("b'result'\n", "")


def test_equal_results_are_two(open_store: Callable[..., Store]) -> None:
    store = open_store()
    names = {store.put_result("me", memoryview(b"result")) for _ in range(2)}
    assert len(names) == 2
    assert files(store) == names


def test_results_are_not_evicted_for_buffers(open_store: Callable[..., Store]) -> None:
    store = open_store(cap=1)
    result = store.put_result("me", memoryview(b"result"))
    store.trim()
    assert not store.evict_for(1)
    assert files(store) == {result}


def test_results_of_a_dead_owner_are_swept(
    open_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = open_store()
    with Process(tmp_path, "owning = store.own('other')") as process:
        mine = store.own("me")
        wanted = store.put_result("me", memoryview(b"result"))
        unwanted = store.put_result("other", memoryview(b"result"))
        store.sweep()
        assert files(store) == {"me.owner", "other.owner", wanted, unwanted}
        process.kill()
        store.sweep()
        assert files(store) == {"me.owner", wanted}
    os.close(mine)


def test_a_host_store_takes_what_another_one_put(tmp_path: Path) -> None:
    driver, worker = HostStore([str(tmp_path)]), HostStore([str(tmp_path)])
    assert driver.identity == worker.identity
    assert driver.owner != worker.owner
    driver.want_results()
    driver.want_results()
    result = worker.put_result(driver.owner, memoryview(b"result"))
    view = driver.take_result(result)
    assert view is not None
    assert bytes(view) == b"result"
    assert not view.readonly
    assert driver.take_result(result) is None
    driver.close()
    worker.close()
    assert os.listdir(tmp_path) == []


def test_two_names_of_a_folder_are_one_store(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "parent")
    stores = HostStore([str(tmp_path / "parent"), str(tmp_path / "link")])
    assert len(stores.stores) == 1
    stores.want_results()
    assert stores.take_result(stores.put_result(stores.owner, memoryview(b"x"))) == b"x"
    stores.close()
    assert list((tmp_path / "parent").iterdir()) == []


# --------------------------------------------------------------------- entering, leaving
def test_the_last_one_out_removes_the_folder(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    put(first, b"content")
    first.close()
    assert os.listdir(second.folder)
    found = second.get(name(b"content"))
    assert found is not None
    second.close()
    second.close()
    assert os.listdir(tmp_path) == []
    assert bytes(found.view) == b"content"


def test_who_comes_after_the_last_one_makes_a_new_store(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.close()
    second = Store(tmp_path)
    assert second.identity != first.identity
    second.close()
    assert os.listdir(tmp_path) == []


def test_a_killed_process_is_cleaned_up_after(tmp_path: Path) -> None:
    with Process(
        tmp_path,
        f"store.put({name(b'x')!r}, memoryview(b'x'))\nowning = store.own('other')",
    ) as process:
        process.kill()
    (folder,) = tmp_path.iterdir()
    assert set(os.listdir(folder)) == {HOST, "other.owner", name(b"x")}
    store = Store(tmp_path)
    assert files(store) == {name(b"x")}
    store.close()
    assert os.listdir(tmp_path) == []


def test_a_folder_without_a_host_file_is_taken_over(tmp_path: Path) -> None:
    """Its maker died before it had written one."""
    folder = tmp_path / f"joblib-distributed-{os.getuid()}"
    folder.mkdir(0o700)
    store = Store(tmp_path)
    assert store.identity
    store.close()
    assert os.listdir(tmp_path) == []


@on_linux
def test_this_boot_has_an_id() -> None:
    assert len(presence.boot_id()) == 36


def leave_behind(parent: Path, said: str) -> Path:
    """Leave a store with a file in it, as a crash does."""
    folder = parent / f"joblib-distributed-{os.getuid()}"
    folder.mkdir(0o700)
    (folder / HOST).write_text(said)
    (folder / name(b"content")).write_bytes(bytes(7))
    return folder


STALE = {
    "another boot": f"{'0' * 32}@8d4b0a0e-0000-0000-0000-000000000000",
    "no boot": "0" * 32,
    "empty": "",
    "zeros": "\0" * 69,
    "torn": f"{'0' * 20}",
}


@pytest.mark.parametrize("said", STALE.values(), ids=STALE.keys())
def test_what_was_written_before_this_boot_is_removed(tmp_path: Path, said: str) -> None:
    """It may never have reached the disk, or have come with a copy of it."""
    leave_behind(tmp_path, said)
    store, other = Store(tmp_path), Store(tmp_path)
    assert store.get(name(b"content")) is None
    assert files(store) == set()
    assert store.identity == other.identity != said
    store.close()
    other.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("boot", ["", "8d4b0a0e"])
def test_what_was_written_since_this_boot_is_kept(
    tmp_path: Path, boot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system does not tell boots apart."""
    monkeypatch.setattr(presence, "boot_id", lambda: boot)
    said = f"{'0' * 32}@{boot}"
    leave_behind(tmp_path, said)
    store = Store(tmp_path)
    assert store.identity == said
    assert files(store) == {name(b"content")}
    store.close()


def test_who_is_there_has_entered_since_this_boot(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two cannot read the boot id, say."""
    store = open_store()
    buffer = put(store, b"content")
    monkeypatch.setattr(presence, "boot_id", lambda: "")
    other = open_store()
    assert other.identity == store.identity
    assert files(other) == {buffer.name}


@on_linux
def test_a_host_file_that_is_emptied_while_in_use_refuses_others(
    open_store: Callable[..., Store],
) -> None:
    store = open_store()
    os.truncate(store.folder / HOST, 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match="says nothing: it was changed while"):
        Store(store.folder.parent)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_find_a_store_of_another_boot_at_once(tmp_path: Path) -> None:
    """One empties it, and all are then in the same."""
    for _ in range(5):
        leave_behind(tmp_path, STALE["another boot"])
        start = threading.Barrier(4)

        def enter(start: threading.Barrier = start) -> Store:
            start.wait(DEADLINE)
            store = Store(tmp_path)
            put(store, b"mine")
            return store

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            stores = [
                future.result() for future in [threads.submit(enter) for _ in "1234"]
            ]
        assert len({store.identity for store in stores}) == 1
        assert files(stores[0]) == {name(b"mine")}
        for store in stores:
            store.close()


def test_many_come_and_go_at_once(tmp_path: Path) -> None:
    """Each finds what it put, whoever has just removed the folder."""
    script = (
        "import sys\n"
        "from joblib_distributed.data.buffers import name_of\n"
        "from joblib_distributed.data.store import Store\n"
        "for i in range(200):\n"
        "    store = Store(sys.argv[1])\n"
        "    content = memoryview(b'%d' % (i % 3))\n"
        "    buffer = store.put(name_of(content), content)\n"
        "    assert store.get(buffer.name).view == content\n"
        "    store.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)
    ]
    try:
        assert [process.wait(45) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait(DEADLINE)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_store_to_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from joblib_distributed.data.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    store.close()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "before = os.listdir(store.folder)\n"
        "Store(sys.argv[1]).close()\n"
        "print(before, os.listdir(store.folder))\n"
        "store.close()\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (out.stdout, out.stderr) == ("['host'] ['host']\n", "")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------ who may read it
@pytest.fixture
def every_permission() -> Iterator[None]:
    """What is not said is allowed: a umask takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    found = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    return {name: mode for name, mode in found.items() if name != HOST}


@pytest.mark.usefixtures("every_permission")
def test_nobody_else_may_read_or_write(open_store: Callable[..., Store]) -> None:
    store = open_store()
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert (store.folder / HOST).stat().st_mode & 0o777 == 0o600
    part = Part(store, name(b"content"))
    try:
        assert list(modes(store.folder).values()) == [0o600]
        part.write(memoryview(b"content"))
        buffer = part.publish()
    finally:
        part.close()
    assert modes(store.folder) == {name(b"content"): 0o400}
    os.close(store.own("owner"))
    result = store.put_result("owner", memoryview(b"result"))
    assert modes(store.folder) == {
        name(b"content"): 0o400,
        "owner.owner": 0o600,
        result: 0o400,
    }
    del buffer


def give_to_another_user(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a file to another user")
    path.chmod(0o666)
    os.chown(path, 65534, 65534)


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("change", [give_to_another_user, replace_by_link])
def test_what_is_not_a_file_of_ours_is_not_used(
    change: Callable[[Path], None], open_store: Callable[..., Store]
) -> None:
    store = open_store()
    put(store, b"content")
    path = store.folder / name(b"content")
    change(path)
    assert open_store().get(path.name) is None
    path.unlink()


# --------------------------------------------------------------- folders that will not do
def make_link(folder: Path) -> None:
    (folder.parent / "target").mkdir(0o700)
    folder.symlink_to(folder.parent / "target")


def make_open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o750)


def make_file(folder: Path) -> None:
    folder.touch(0o600)


def make_of_another_user(folder: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    folder.mkdir(0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_link, "is a link"),
        (make_open_to_others, "mode must be 0700"),
        (make_file, "is no folder"),
        (make_of_another_user, "belongs to user 65534"),
    ],
)
def test_a_folder_that_is_not_ours_alone_is_refused(
    tmp_path: Path,
    make: Callable[[Path], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "_warned", set())
    folder = tmp_path / f"joblib-distributed-{os.getuid()}"
    make(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=reason):
        Store(tmp_path)
    with pytest.warns(UserWarning, match=f"copied into every .*{reason}"):
        stores = HostStore([str(tmp_path)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HostStore([str(tmp_path)])
    assert stores.stores == []
    assert stores.identity == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_used_instead_is_said_and_each_reason_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_warned", set())
    parents = [tmp_path / name for name in ("first", "second", "third")]
    for parent in parents:
        parent.mkdir()
    first, second, third = (
        parent / f"joblib-distributed-{os.getuid()}" for parent in parents
    )
    make_file(first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            HostStore(list(map(str, parents))).close()
        make_open_to_others(second)
        HostStore(list(map(str, parents))).close()
    after = (
        "Mend that, or name a local folder of your own in temp_folder= or "
        "JOBLIB_TEMP_FOLDER."
    )
    file = f"{parents[0]}: {first} is no folder"
    mode = f"{parents[1]}: {second} is open to other users: its mode must be 0700"
    assert [str(w.message) for w in caught] == [
        f"Large data lies in {place}: another folder was not used ({why}). {after}"
        for place, why in [(second, file), (third, f"{file}; {mode}")]
    ]


# ---------------------------------------------------------------------------------- room
def half(number: int) -> bytes:
    """Somewhat more than half of what fits into `small`."""
    return bytes([number]) * 600_000


def test_no_room_is_an_error_not_a_crash(small: Path) -> None:
    store = Store(small)
    used = put(store, half(1))
    with pytest.raises(NoRoomError):
        put(store, half(2))
    with pytest.raises(NoRoomError):
        store.put_result("me", memoryview(half(2)))
    assert files(store) == {used.name}
    assert bytes(used.view) == half(1)
    del used
    assert bytes(put(store, half(2)).view) == half(2)
    assert files(store) == {name(half(2))}
    store.close()


def test_room_is_made_where_the_cap_leaves_none(small: Path) -> None:
    """Somebody else fills the file system, too."""
    store = Store(small, cap=10**9)
    put(store, half(1))
    buffer = put(store, half(2))
    assert bytes(buffer.view) == half(2)
    assert files(store) == {buffer.name}
    store.close()


@pytest.mark.parametrize("how", ["reserve", "put"])
def test_room_that_is_free_counts(small: Path, how: str) -> None:
    """All that can be evicted is less than what is to be written, which then fits."""
    store = Store(small, cap=10**9)
    put(store, half(1)[:300_000])
    content = bytes(900_000)
    if how == "put":
        assert bytes(put(store, content).view) == content
    else:
        part = Part(store, name(content))
        part.reserve(len(content))
        part.close()
    assert name(half(1)[:300_000]) not in files(store)
    store.close()


def test_without_room_for_names_others_go(small: Path) -> None:
    store = Store(small)
    contents = [b"%d" % number for number in range(30)]
    for content in contents:
        assert bytes(put(store, content).view) == content
    assert name(contents[-1]) in files(store)
    kept = []
    with pytest.raises(NoRoomError):
        for content in contents:
            kept.append(put(store, content))  # noqa: PERF401
    assert len(kept) > 10
    store.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no further file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    # The lowest that is free: those above that are open stay so.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("nbytes", [100, 2 * LEAST])
def test_without_descriptors_data_is_private(
    tmp_path: Path, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_warned", set())
    stores = HostStore([str(tmp_path)])
    host.names()._next_look = 0.0  # it is to look what this process has mapped
    try:
        with no_descriptors():
            with pytest.warns(UserWarning, match="no store has room for"):
                buffer, found = stores.put(memoryview(bytes(nbytes)))
            with pytest.raises(NoRoomError):
                stores.put_result(stores.owner, memoryview(bytes(nbytes)))
        assert (buffer.store, found) == (None, False)
        assert buffer.view == bytes(nbytes)
        assert files(stores.stores[0]) == set()
    finally:
        stores.close()


def test_a_result_that_cannot_be_opened_is_not_taken_for_one_that_is_gone(
    tmp_path: Path,
) -> None:
    """Its task would be run again, and again."""
    stores = HostStore([str(tmp_path)])
    try:
        stores.want_results()
        name = stores.put_result(stores.owner, memoryview(b"result"))
        with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
            stores.take_result(name)
        assert stores.take_result(name) == b"result"
        assert stores.take_result(name) is None
    finally:
        stores.close()


def test_a_lock_that_cannot_be_had_costs_no_descriptor(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    content = memoryview(b"content")
    name = name_of(content)
    store.put(name, content)
    store._mapped.clear()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert store.get(name) is None
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENFILE, errno.EROFS])
@pytest.mark.parametrize("function", ["open", "flock"])
def test_a_file_that_cannot_be_made_has_no_room(
    number: int,
    function: str,
    open_store: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store()

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os if function == "open" else fcntl, function, refuse)
        with pytest.raises(NoRoomError):
            store.put_new(memoryview(b"content"))
    assert files(store) == set()


def test_what_does_not_fit_goes_to_the_next_store(small: Path, tmp_path: Path) -> None:
    stores = HostStore([str(small), str(tmp_path)])
    first, second = stores.stores
    assert stores.identity == first.identity
    kept = [stores.put(memoryview(half(i)))[0] for i in range(3)]
    assert [buffer.store for buffer in kept] == [first, second, second]
    for i, buffer in enumerate(kept):
        found = stores.get(buffer.name)
        assert found is buffer
        assert bytes(buffer.view) == half(i)
    # Who is to take a result may not see the second one.
    with pytest.raises(NoRoomError):
        stores.put_result(stores.owner, memoryview(half(9)))
    stores.close()


def test_what_fits_nowhere_is_private_and_said_once(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_warned", set())
    stores = HostStore([str(small)])
    kept = stores.put(memoryview(half(0)))[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        private = [stores.put(memoryview(half(i)))[0] for i in (1, 2)]
    assert [str(w.message) for w in caught] == [
        "Large data may be copied into every worker process: no store has room for "
        "600000 bytes. Free some of /dev/shm, or name a local folder of your own with "
        "room in temp_folder= or JOBLIB_TEMP_FOLDER."
    ]
    assert [bytes(b.view) for b in private] == [half(1), half(2)]
    assert [b.store for b in private] == [None, None]
    assert stores.put(memoryview(half(1))) == (private[0], True)
    assert all(b.view.readonly for b in private)
    assert stores.get(private[0].name) is None
    with pytest.raises(NoRoomError):
        stores.put_result(stores.owner, memoryview(half(1)))
    assert bytes(kept.view) == half(0)
    stores.close()


# ---------------------------------------------------------------- the folder of the user
@pytest.mark.parametrize("option", ["temp_folder", "JOBLIB_TEMP_FOLDER"])
def test_a_folder_that_the_user_names_is_created(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As joblib does it."""
    folder = str(tmp_path / "home" / "to" / "be" / "created")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "~/to/be/created")
    given = folder if option == "temp_folder" else None
    assert list(host._parents(given)) == [folder]
    assert os.path.isdir(folder)


def test_a_folder_that_cannot_be_created_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "below")
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    with pytest.warns(UserWarning, match="temp_folder='.*' does not exist and cannot be"):
        assert list(host._parents(folder)) == [str(tmp_path)]
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", folder)
    with pytest.warns(UserWarning, match="JOBLIB_TEMP_FOLDER='.*' does not exist and"):
        assert tempfile.gettempdir() in list(host._parents(None))


# ------------------------------------------------------------------- copied in pieces
STEP = 2**12


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib_distributed.data.writing.COPY_STEP", STEP)


def content_of(size: int) -> bytearray:
    return bytearray(np.random.default_rng(size).bytes(size))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("size", [1, STEP - 1, STEP, STEP + 1, 3 * STEP, 5 * STEP + 7])
@pytest.mark.parametrize("refusal", [None, OSError, ValueError])
def test_a_copy_is_whole_and_has_its_name(
    size: int,
    refusal: type[Exception] | None,
    open_store: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = content_of(size)
    part = Part(open_store(), name(content))

    def refuse(descriptor: int, nbytes: int) -> memoryview:
        assert refusal is not None
        raise refusal

    if refusal is not None:
        monkeypatch.setattr("joblib_distributed.data.writing.map_file", refuse)
    try:
        assert part.copy(memoryview(content)) == name(content)
        assert os.pread(part.descriptor, size + 1, 0) == content
    finally:
        part.close()


def test_an_empty_copy(open_store: Callable[..., Store]) -> None:
    part = Part(open_store(), name(b""))
    try:
        assert part.copy(memoryview(b"")) == name(b"")
        assert os.pread(part.descriptor, 1, 0) == b""
    finally:
        part.close()


class Changing:
    """Content that another thread changes all over, before and after all that is done."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content = content_of(size)
        write = Part.write

        def change_and_write(part: Part, piece: memoryview, start: int = 0) -> None:
            self._change()
            write(part, piece, start)
            self._change()

        update = Digest.update

        def change_and_update(digest: Digest, piece: memoryview) -> None:
            self._change()
            update(digest, piece)

        monkeypatch.setattr(Part, "write", change_and_write)
        monkeypatch.setattr(Digest, "update", change_and_update)

    def _change(self) -> None:
        self.content[:] = bytes((byte + 1) % 256 for byte in self.content)


@pytest.mark.usefixtures("small_steps")
def test_content_that_changes_has_the_name_of_what_was_written(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * STEP + 5
    changing = Changing(size, monkeypatch)
    before = name(changing.content)
    part = Part(open_store(), before)
    try:
        found = part.copy(memoryview(changing.content))
        written = os.pread(part.descriptor, size + 1, 0)
    finally:
        part.close()
    assert found == name(written)
    assert found not in (before, name(changing.content))


@pytest.mark.usefixtures("small_steps")
def test_a_store_names_what_changes_after_what_it_has(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    changing = Changing(2 * STEP + 5, monkeypatch)
    before = name(changing.content)
    buffer = store.put(before, memoryview(changing.content))
    assert buffer.name == name_of(buffer.view) != before
    assert files(store) == {buffer.name}
    assert store.get(before) is None
