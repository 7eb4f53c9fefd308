"""Large data reaches tasks through the store of the host, and results come back so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pytest
from distributed import Client, get_worker
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed import Traffic, traffic_of_last_call
from joblib_distributed.data.host import host_store
from joblib_distributed.data.store import RESULT
from joblib_distributed.driver import batching
from joblib_distributed.driver.batching import MOST_STORED
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.sources import find_cluster
from joblib_distributed.errors import OptionValueError
from joblib_distributed.options import Options
from joblib_distributed.worker import buffers as worker_buffers
from joblib_distributed.worker import lingering
from support.processes import CommandLineCluster
from support.tasks import fail_when_all_run, mark, marks, spin
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

#: Name of the store's folder.
FOLDER = f"joblib-distributed-{os.getuid()}"

#: Floats in somewhat more than 1 MB, joblib's default for ``max_nbytes``.
LARGE = 150_000
SMALL = 100_000

DEADLINE = 50


def numbers(seed: int = 0, size: int = LARGE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(size)


class Seen(NamedTuple):
    """What a task saw of an array."""

    total: float
    writable: bool
    #: The file that the array lies in; empty if it is memory of the process.
    file: str

    @property
    def is_stored(self) -> bool:
        return FOLDER in Path(self.file).parts


def look(array: np.ndarray[Any, Any]) -> Seen:
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            _, _, path = line.partition("/")
            return Seen(float(array.sum()), array.flags.writeable, path and "/" + path)
    raise AssertionError("an array outside of all memory")


def look_inside(nested: tuple[dict[str, Any], int]) -> Seen:
    return look(nested[0]["array"])


def look_twice(first: Any, *, second: Any) -> tuple[Seen, Seen, bool]:
    return look(first), look(second), first is second


class Model:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def look(self, _: int) -> Seen:
        return look(self.array)


def assert_shared(seen: list[Seen], array: np.ndarray[Any, Any]) -> None:
    """All saw the content, read-only, in one file of the store."""
    assert [s.total for s in seen] == [float(array.sum())] * len(seen)
    assert [s.writable for s in seen] == [False] * len(seen)
    assert [s.is_stored for s in seen] == [True] * len(seen)
    assert len({s.file for s in seen}) == 1


# ----------------------------------------------------------------------------- arguments
def test_an_array(backend: object) -> None:
    array = numbers()
    assert_shared(Parallel()(delayed(look)(array) for _ in range(8)), array)
    assert array.flags.writeable


def test_an_array_within_others(backend: object) -> None:
    array = numbers()
    nested = ({"array": array}, 1)
    assert_shared(Parallel()(delayed(look_inside)(nested) for _ in range(8)), array)


def test_an_array_of_a_methods_object(backend: object) -> None:
    array = numbers()
    model = Model(array)
    assert_shared(Parallel()(delayed(model.look)(i) for i in range(8)), array)


def test_an_array_in_a_closure(backend: object) -> None:
    array = numbers()

    def task(_: int) -> Seen:
        return look(array)

    assert_shared(Parallel()(delayed(task)(i) for i in range(8)), array)


def test_an_array_given_twice_is_one(backend: object) -> None:
    array = numbers()
    call = delayed(look_twice)(array, second=array)
    for first, second, is_one in Parallel()(call for _ in range(4)):
        assert_shared([first, second], array)
        assert is_one


def test_two_arrays_of_equal_content_are_one_file(backend: object) -> None:
    seen = Parallel()(delayed(look)(numbers()) for _ in range(8))
    assert_shared(seen, numbers())


@pytest.mark.parametrize(
    "make",
    [
        lambda: numbers(size=2 * LARGE)[::2],
        lambda: numbers().reshape(300, 500).T,
        lambda: np.arange(LARGE),
        lambda: np.matrix(numbers().reshape(300, 500)),
    ],
    ids=["strided", "transposed", "integers", "matrix"],
)
@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_other_kinds(make: Callable[[], Any], backend: object) -> None:
    array = make()
    assert_shared(Parallel()(delayed(look)(array) for _ in range(4)), array)


def describe(value: Any) -> tuple[str, int, int]:
    return type(value).__name__, len(value), sum(value)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_strings_stay_strings(kind: Callable[[bytes], Any], backend: object) -> None:
    value = kind(b"\1" * 2_000_000)
    expected = (kind.__name__, 2_000_000, 2_000_000)
    assert Parallel()(delayed(describe)(value) for _ in range(4)) == [expected] * 4


def test_small_arrays_are_sent(backend: object) -> None:
    array = numbers(size=SMALL)
    seen = Parallel()(delayed(look)(array) for _ in range(4))
    assert seen == [Seen(float(array.sum()), True, seen[0].file)] * 4
    assert not any(s.is_stored for s in seen)


def spoil(array: np.ndarray[Any, Any]) -> tuple[Seen, float]:
    seen = look(array)
    array += 1.0
    return seen, float(array.sum())


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_small_array_that_comes_again_is_each_tasks_own(
    backend: object, mode: str, step: int
) -> None:
    array = numbers(size=step * SMALL)[::step]
    before = float(array.sum())
    tasks = (delayed(spoil)(array) for _ in range(9))
    found = Parallel(mmap_mode=mode, batch_size=3)(tasks)
    assert [after for _, after in found] == [pytest.approx(before + SMALL)] * 9
    assert {seen.writable for seen, _ in found} == {True}
    assert float(array.sum()) == before
    # It was stored once, from the second task on.
    assert traffic_of_last_call().shared == array.nbytes


def test_a_buffer_that_the_generator_fills_anew(backend: object) -> None:
    buffer = np.empty(LARGE)

    def tasks() -> Iterator[Any]:
        for i in range(40):
            buffer[:] = i
            yield delayed(look)(buffer)

    seen = Parallel()(tasks())
    assert [s.total for s in seen] == [float(i * LARGE) for i in range(40)]
    assert all(s.is_stored for s in seen)


def fail_to_write(array: np.ndarray[Any, Any]) -> str:
    try:
        array[0] = 1
    except ValueError as error:
        return str(error)
    return "was written to"


def test_what_is_shared_cannot_be_written_to(backend: object) -> None:
    (said,) = Parallel()([delayed(fail_to_write)(numbers())])
    assert "read-only" in said


# ----------------------------------------------------------------------- joblib's options
def overwrite(array: np.ndarray[Any, Any], number: int) -> tuple[float, float, Seen]:
    before = float(array.sum())
    array[:] = number
    return before, float(array.sum()), look(array)


@pytest.mark.parametrize("mode", ["c", None])
def test_private_copies(mode: str | None, backend: object) -> None:
    array = numbers()
    results = Parallel(mmap_mode=mode)(delayed(overwrite)(array, i) for i in range(8))
    assert np.array_equal(array, numbers())
    for i, (before, after, seen) in enumerate(results):
        assert before == float(numbers().sum())
        assert after == i * LARGE
        assert seen.writable
    # The store's copy is as it was.
    assert_shared(Parallel()(delayed(look)(array) for _ in range(2)), numbers())


class Counted:
    """Counts how often it is pickled."""

    def __init__(self, content: object) -> None:
        self.content = content
        self.count = 0

    def __reduce__(self) -> tuple[type, tuple[object]]:
        self.count += 1
        return Counted, (self.content,)


def sum_of(counted: Counted, number: int) -> int:
    return sum(counted.content) + number  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("length", "max_nbytes", "times"),
    [
        (10, None, 1),
        (10, "1M", 1),
        (500_000, None, 1),
        # Once more to see whether it is large `bytes` that make it so large.
        (500_000, "1M", 2),
    ],
)
def test_scattered_objects_are_pickled_once_for_a_call(
    backend: object, length: int, max_nbytes: str | None, times: int
) -> None:
    model = Counted(list(range(length)))
    with joblib.parallel_config(
        backend="dask.distributed", n_workers=2, scatter=[model], max_nbytes=max_nbytes
    ):
        results = Parallel(n_jobs=2)(delayed(sum_of)(model, i) for i in range(4))
    assert results == [length * (length - 1) // 2 + i for i in range(4)]
    assert model.count == times


def test_no_sharing_without_max_nbytes(backend: object) -> None:
    array = numbers()
    for before, after, seen in Parallel(max_nbytes=None)(
        delayed(overwrite)(array, 2) for _ in range(4)
    ):
        assert before == float(numbers().sum())
        assert after == 2 * LARGE
        assert seen.writable
        assert not seen.is_stored
    assert np.array_equal(array, numbers())


def test_max_nbytes(backend: object) -> None:
    array = numbers(size=SMALL)
    half = Parallel(max_nbytes=SMALL * 8)(delayed(look)(array) for _ in range(4))
    assert_shared(half, array)
    more = Parallel(max_nbytes=SMALL * 8 + 1)(delayed(look)(array) for _ in range(4))
    assert not any(s.is_stored for s in more)


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_modes_that_would_write_to_the_callers_data(mode: str, backend: object) -> None:
    with pytest.raises(OptionValueError, match=f"mmap_mode='{mode[0]}\\+'"):
        Parallel(mmap_mode=mode)([delayed(abs)(1), delayed(abs)(2)])


@pytest.mark.parametrize("name", ["", "to/be/created"])
def test_temp_folder(backend: object, tmp_path: Path, name: str) -> None:
    array = numbers()
    folder = tmp_path / name
    seen = Parallel(temp_folder=str(folder))(delayed(look)(array) for _ in range(4))
    assert_shared(seen, array)
    assert {Path(s.file).parent for s in seen} == {folder / FOLDER}


# ------------------------------------------------------------------------------- results
def result_files() -> set[str]:
    """Files of results for this process."""
    store = host_store()
    return {
        name
        for one in store.stores
        for name in os.listdir(one.folder)
        if name.startswith(store.owner) and RESULT in name
    }


@pytest.fixture
def results_left() -> Callable[[], set[str]]:
    """What there is of results that was not there before the test."""
    before = result_files()
    return lambda: result_files() - before


Left = Callable[[], set[str]]


def test_large_results(backend: object, results_left: Left) -> None:
    results = Parallel()(delayed(numbers)(i) for i in range(20))
    assert results_left() == set()
    for i, result in enumerate(results):
        assert np.array_equal(result, numbers(i))
        result[0] = 7
        assert result[0] == 7
    assert [look(result).is_stored for result in results] == [True] * 20


def make_large(kind: str, number: int) -> Any:
    array = numbers(number)
    return {
        "tuple": (number, {"array": array, "again": array}),
        "strided": numbers(number, 2 * LARGE)[::2],
        "bytes": array.tobytes(),
        "read-only": np.frombuffer(array.tobytes()),
    }[kind]


@pytest.mark.parametrize("kind", ["strided", "bytes", "read-only"])
def test_large_results_of_other_kinds(
    kind: str, backend: object, results_left: Left
) -> None:
    results = Parallel()(delayed(make_large)(kind, i) for i in range(4))
    for i, result in enumerate(results):
        expected = make_large(kind, i)
        assert type(result) is type(expected)
        assert np.array_equal(result, expected)
        if kind != "bytes":
            assert result.flags.writeable == (kind != "read-only")
    assert results_left() == set()


def test_large_results_within_others(backend: object, results_left: Left) -> None:
    for i, (number, found) in enumerate(
        Parallel()(delayed(make_large)("tuple", i) for i in range(4))
    ):
        assert number == i
        assert np.array_equal(found["array"], numbers(i))
        assert found["array"].flags.writeable
        assert found["array"] is found["again"]
    assert results_left() == set()


def most_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array[10:]


@pytest.mark.parametrize("function", [np.asarray, most_of])
@pytest.mark.parametrize("mmap_mode", ["r", "c", None])
def test_a_shared_array_given_back(
    function: Callable[..., Any],
    mmap_mode: str | None,
    backend: object,
    results_left: Left,
) -> None:
    """It is read-only if it was that in the task."""
    array = numbers(size=LARGE + 10)
    results = Parallel(mmap_mode=mmap_mode)(delayed(function)(array) for _ in range(4))
    for result in results:
        assert np.array_equal(result, function(array))
        assert result.flags.writeable == (mmap_mode != "r")
    assert results_left() == set()


# Of a batch that does not end, the results so far have been written.
def test_results_of_a_call_that_fails(
    backend: object, tmp_path: Path, results_left: Left
) -> None:
    with pytest.raises(ValueError, match="the one that fails"):
        Parallel(batch_size=2)(
            [
                delayed(numbers)(0),
                delayed(spin)(str(tmp_path), 0),
                delayed(fail_when_all_run)(str(tmp_path), 1),
                delayed(abs)(1),
            ]
        )
    wait_until(lambda: not results_left(), 5, lambda: f"left: {results_left()}")


@pytest.mark.filterwarnings("ignore:.*have been cancelled:UserWarning")
def test_results_that_nobody_takes(
    backend: object, tmp_path: Path, results_left: Left
) -> None:
    tasks = [delayed(abs)(1)] * 2 + [
        delayed(numbers)(0),
        delayed(spin)(str(tmp_path), 0),
    ]
    results = Parallel(batch_size=2, return_as="generator")(tasks)
    assert next(results) == 1
    wait_until(lambda: marks(tmp_path), 30, lambda: "the last task does not run")
    results.close()
    wait_until(lambda: not results_left(), 5, lambda: f"left: {results_left()}")


def die_once(folder: str) -> int:
    if not os.listdir(folder):
        mark(folder, "died")
        os._exit(1)
    return 1


def test_results_of_a_worker_that_died(
    backend: object, tmp_path: Path, results_left: Left
) -> None:
    tasks = [delayed(numbers)(0), delayed(die_once)(str(tmp_path))]
    array, *rest = Parallel(batch_size=2)(tasks + [delayed(abs)(1)] * 2)
    assert np.array_equal(array, numbers(0))
    assert rest == [1, 1, 1]
    wait_until(lambda: not results_left(), 5, lambda: f"left: {results_left()}")


# -------------------------------------------------------------- mapped for a while longer
def linger_for(seconds: float) -> None:
    lingering.LINGER = seconds


def kept_by(dask_worker: Any) -> set[str]:
    """Names of the buffers that a worker keeps."""
    registry = worker_buffers._lingering.get(dask_worker)
    return set() if registry is None else set(registry._buffers)


def stored_in(dask_worker: Any) -> set[str]:
    """Names of the files of stores that a worker has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line).name for line in lines if f"/{FOLDER}/" in line}


def is_running(dask_worker: Any) -> bool:
    return bool(dask_worker.state.executing_count)


def ask(client: Client, question: Callable[..., Any]) -> list[Any]:
    return list(client.run(question).values())


def place_of(array: np.ndarray[Any, Any]) -> tuple[int, str]:
    """Where an array is, and the name of its file."""
    return array.ctypes.data, Path(look(array).file).name


def test_a_buffer_stays_mapped_between_two_batches(shared_worker: Client) -> None:
    shared_worker.run(linger_for, 1000.0)  # the next one is never too late
    array = numbers(seed=40)
    seen: list[list[set[str]]] = []

    def tasks() -> Iterator[Any]:
        for number in range(3):
            if number:
                # joblib reads on when the batch before has ended.
                wait_until(
                    lambda: not any(ask(shared_worker, is_running)), 30, lambda: "it runs"
                )
                seen.append(ask(shared_worker, stored_in))
            yield delayed(place_of)(array)

    with joblib.parallel_config(
        backend="dask.distributed", client=shared_worker, modules=False
    ):
        places = Parallel(n_jobs=2, batch_size=1, pre_dispatch=1)(tasks())
    ((_, name),) = set(places)
    assert seen == [[{name}]] * 2


def place_and_kept(array: np.ndarray[Any, Any]) -> tuple[str, set[str], set[str]]:
    worker = get_worker()
    return place_of(array)[1], kept_by(worker), stored_in(worker)


def test_a_buffer_is_let_go_a_moment_after_a_call(backend: Client) -> None:
    array = numbers(seed=41)
    found = Parallel()(delayed(place_and_kept)(array) for _ in range(4))
    (name,) = {name for name, _, _ in found}
    for _, kept, mapped in found:
        assert name in kept & mapped

    def left() -> set[str]:
        return set().union(*ask(backend, kept_by), *ask(backend, stored_in))

    wait_until(lambda: name not in left(), 20, lambda: f"left: {left()}")


def test_private_copies_are_not_kept(backend: Client) -> None:
    array = numbers(seed=42)
    found = Parallel(mmap_mode="c")(delayed(place_and_kept)(array) for _ in range(4))
    for name, kept, mapped in found:
        assert name in mapped - kept


# ------------------------------------------------------------------------------- traffic
def test_traffic_on_this_machine(backend: object) -> None:
    first, second = numbers(seed=30), numbers(seed=31)
    Parallel()(delayed(look_twice)(first, second=first) for _ in range(4))
    assert traffic_of_last_call() == Traffic(shared=first.nbytes)
    Parallel()(delayed(look)(array) for array in [first.copy(), second] * 2)
    assert traffic_of_last_call() == Traffic(
        shared=first.nbytes + second.nbytes, found=first.nbytes
    )
    Parallel()(delayed(abs)(i) for i in range(4))
    assert traffic_of_last_call() == Traffic()


@pytest.mark.parametrize(("verbose", "place"), [(9, ""), (10, "err"), (50, "out")])
def test_traffic_is_printed(
    backend: object, verbose: int, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    array = numbers(seed=verbose)
    for _ in range(2):
        Parallel(verbose=verbose)(delayed(look)(array) for _ in range(4))
    said = capsys.readouterr()
    lines = {
        name: [line for line in text.splitlines() if "large data" in line]
        for name, text in said._asdict().items()
    }
    expected = [
        "[Parallel(n_jobs=-1)]: 1.2 MB of large data shared through the store of this "
        f"host, which its workers map ({found} of it found present); 0.0 MB sent by "
        "the driver, to other hosts or along with tasks, 0.0 MB between hosts; 0.0 MB of "
        "results came through the "
        "store."
        for found in ("0.0 MB", "1.2 MB")
    ]
    assert lines == {"out": [], "err": [], **({place: expected} if place else {})}


def test_traffic_of_large_results_alone(
    backend: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Parallel(verbose=10)(delayed(np.ones)(150_000) for _ in range(4))
    returned = sum(array.nbytes for array in found)
    assert traffic_of_last_call() == Traffic(returned=returned)
    assert "; 4.8 MB of results came through the store.\n" in capsys.readouterr().err


# -------------------------------------------------------------------------- what is left
SCRIPT = """
import os, sys
import numpy as np
import joblib, joblib_distributed
from joblib import Parallel, delayed
array = np.ones(200_000)
with joblib.parallel_config(backend="dask.distributed", n_workers=2):
    results = Parallel()(delayed(np.sqrt)(array) for _ in range(4))
print(all((result == 1).all() for result in results), *os.listdir(sys.argv[1]))
"""


@pytest.mark.parametrize("end", ["joblib_distributed.shutdown()", ""])
def test_a_script_leaves_no_store(end: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + end, str(tmp_path)],
        env={**os.environ, "JOBLIB_TEMP_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stdout, done.stderr) == (f"True {FOLDER}\n", "")
    wait_until(
        lambda: not os.listdir(tmp_path), 10, lambda: f"left: {os.listdir(tmp_path)}"
    )


# ------------------------------------------------------------------------- other machines
def cluster_with(folder: Path) -> CommandLineCluster:
    """Workers whose stores, if they can have any, are in this folder."""
    return CommandLineCluster(2, 1, env={"JOBLIB_TEMP_FOLDER": str(folder)})


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("other-machine")


@pytest.fixture(scope="module")
def other_machine(other_folder: Path) -> Iterator[CommandLineCluster]:
    """Workers that have a store, but not ours."""
    with cluster_with(other_folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def machine_without_store(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CommandLineCluster]:
    folder = tmp_path_factory.mktemp("without-store")
    (folder / FOLDER).touch()  # a file, where the store's folder is to be
    with cluster_with(folder) as cluster:
        yield cluster


@contextlib.contextmanager
def used(cluster: CommandLineCluster) -> Iterator[Cluster]:
    """A cluster of which this process does not know yet where it is."""
    host = cluster.address
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=host, modules=False
    ):
        yield find_cluster(Options(scheduler_host=host))
    joblib_distributed.get_client(scheduler_host=host).close()


@pytest.fixture
def elsewhere(other_machine: CommandLineCluster) -> Iterator[Cluster]:
    with used(other_machine) as cluster:
        yield cluster


@pytest.fixture
def storeless(machine_without_store: CommandLineCluster) -> Iterator[Cluster]:
    with used(machine_without_store) as cluster:
        yield cluster


def test_another_machine_is_sent_data_once(
    elsewhere: Cluster, other_folder: Path
) -> None:
    array = numbers(seed=1)
    assert_shared(Parallel()(delayed(look)(array) for _ in range(8)), array)
    assert elsewhere.arrivals == 1
    assert traffic_of_last_call() == Traffic(array.nbytes, by_driver=array.nbytes)
    assert_shared(Parallel()(delayed(look)(array.copy()) for _ in range(8)), array)
    assert elsewhere.arrivals == 1
    assert traffic_of_last_call() == Traffic(array.nbytes, found=array.nbytes)
    (stored,) = [f for f in (other_folder / FOLDER).iterdir() if "-" in f.name]
    assert stored.read_bytes() == array.tobytes()
    assert stored.stat().st_mode & 0o777 == 0o400


def test_another_machine_is_sent_each_of_many_arrays(elsewhere: Cluster) -> None:
    arrays = [numbers(seed=i) for i in range(100, 120)]
    seen = Parallel()(delayed(look)(array) for array in arrays)
    assert [s.total for s in seen] == [float(array.sum()) for array in arrays]
    assert all(s.is_stored and not s.writable for s in seen)
    assert elsewhere.arrivals == 20


def test_another_machine_is_sent_scattered_objects(elsewhere: Cluster) -> None:
    array = numbers(seed=2)
    model = Counted(list(range(500_000)))
    with joblib.parallel_config(
        backend="dask.distributed",
        scheduler_host=elsewhere.client.scheduler.address,
        scatter=[model, array],
        modules=False,
    ):
        found = Parallel()(delayed(sum_and_look)(model, array) for _ in range(4))
    assert [total for total, _ in found] == [sum(range(500_000))] * 4
    assert_shared([seen for _, seen in found], array)
    assert elsewhere.arrivals == 2
    assert traffic_of_last_call().by_driver == traffic_of_last_call().shared


def sum_and_look(model: Counted, array: np.ndarray[Any, Any]) -> tuple[int, Seen]:
    return sum_of(model, 0), look(array)


def test_a_methods_object_is_sent_to_another_machine(elsewhere: Cluster) -> None:
    model = Model(numbers(seed=3))
    for _ in range(2):
        assert_shared(Parallel()(delayed(model.look)(i) for i in range(4)), model.array)


def test_results_of_another_machine(elsewhere: Cluster, results_left: Left) -> None:
    for _ in range(2):
        for i, result in enumerate(Parallel()(delayed(numbers)(i) for i in range(4))):
            assert np.array_equal(result, numbers(i))
            assert result.flags.writeable
            assert not look(result).is_stored
    assert results_left() == set()


@pytest.mark.parametrize("mode", ["c", None])
def test_private_copies_on_another_machine(elsewhere: Cluster, mode: str | None) -> None:
    array = numbers(seed=4)
    for i, (before, after, seen) in enumerate(
        Parallel(mmap_mode=mode)(delayed(overwrite)(array, i) for i in range(4))
    ):
        assert before == float(array.sum())
        assert after == i * LARGE
        assert seen.writable


def test_workers_that_can_have_no_store_are_sent_the_data_with_tasks(
    storeless: Cluster,
) -> None:
    array = numbers()
    assert storeless.has_stores(None)
    first = Parallel()(delayed(look)(array) for _ in range(8))
    assert [s.total for s in first] == [float(array.sum())] * 8
    assert not any(s.is_stored or s.writable for s in first)
    assert not storeless.has_stores(None)
    assert traffic_of_last_call().by_driver >= array.nbytes
    # From now on data is in the tasks themselves.
    second = Parallel()(delayed(look)(array) for _ in range(8))
    assert [s.total for s in second] == [float(array.sum())] * 8
    assert all(s.writable and not s.is_stored for s in second)


@pytest.mark.slow
def test_a_worker_without_a_store_keeps_no_other_from_having_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    (tmp_path / "without" / FOLDER).touch()
    array = numbers()
    with CommandLineCluster(0, 1) as cluster:
        for name in ("with", "without"):
            env = {"JOBLIB_TEMP_FOLDER": str(tmp_path / name)}
            cluster.start_worker("--nthreads=1", f"--name={name}", env=env)
        with used(cluster) as known:
            known.client.wait_for_workers(2, timeout=DEADLINE)
            for name in ("without", "with", "without"):
                with joblib.parallel_config(
                    "dask.distributed", scheduler_host=cluster.address, workers=name
                ):
                    seen = Parallel()(delayed(look)(array) for _ in range(4))
                assert [s.total for s in seen] == [float(array.sum())] * 4
                assert {s.is_stored for s in seen} == {name == "with"}
    assert capfd.readouterr().err.count("has no folder for large data") == 1


@pytest.mark.parametrize("mode", ["c", None])
def test_private_copies_of_workers_that_can_have_no_store(
    storeless: Cluster, mode: str | None
) -> None:
    array = numbers()
    for i, (before, after, seen) in enumerate(
        Parallel(mmap_mode=mode)(delayed(overwrite)(array, i) for i in range(4))
    ):
        assert before == float(array.sum())
        assert after == i * LARGE
        assert seen.writable


def test_large_arguments_are_not_read_far_ahead(
    backend: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the tasks are so short that a thousand would go together."""
    # Nor does it depend on how long this machine takes to read them.
    monkeypatch.setattr(batching, "SLICE", 3600.0)
    parallel = Parallel()
    ahead: list[int] = []
    start = int.from_bytes(os.urandom(6), "big")  # what a store has does not count

    def tasks() -> Iterator[Any]:
        for i in range(200):
            ahead.append(i - parallel.n_completed_tasks)
            yield delayed(np.take)(np.full(500_000, start + i), 0)  # 4 MB

    assert parallel(tasks()) == list(range(start, start + 200))
    # A batch has 8, which is 32 MB. Each of the two workers has one that runs and two
    # that wait, and joblib reads one for each of them.
    assert max(ahead) <= MOST_STORED // 4_000_000 == 67
