"""Objects as bytes and references to their large buffers."""

from __future__ import annotations

import copyreg
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblib_distributed.data import buffers
from joblib_distributed.data.buffers import (
    LEAST_AGAIN,
    Again,
    Apart,
    Digest,
    EveryTime,
    name_of,
    pack_apart,
    size_of,
    unpack_apart,
)

LEAST = 100_000

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")

#: Rows of arrays; each column of floats is twice as large as `LEAST`.
ROWS = 25_000


def floats() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((ROWS, 2))


def with_large_mask() -> np.ndarray[Any, Any]:
    array = np.repeat(floats(), 5, axis=0)
    return np.ma.MaskedArray(array, array > 0.5)


def with_hard_mask() -> np.ndarray[Any, Any]:
    array = np.ma.MaskedArray(floats(), floats() > 0.5, fill_value=7)
    array.harden_mask()
    return array


def brought(apart: Apart, *, read_only: bool = True) -> Any:
    """Rebuild an object as another process does."""
    kind: Callable[[memoryview], Any] = bytes if read_only else bytearray
    buffers = [memoryview(kind(buffer)) for buffer in apart.buffers]
    return unpack_apart(apart.packed, buffers, apart.strings)


def assert_same_array(found: Any, value: Any) -> None:
    assert type(found) is (np.ndarray if type(value) is np.memmap else type(value))
    assert found.dtype == value.dtype
    assert found.dtype.type is value.dtype.type
    assert found.shape == value.shape
    assert np.array_equal(np.asarray(found), np.asarray(value))


class Bare(np.ndarray[Any, Any]):
    """An array of the user's that pickles as numpy has it."""

    def __array_finalize__(self, other: object) -> None:
        self.came_from_nowhere = other is None


ARRAYS: dict[str, Callable[[], Any]] = {
    "plain": floats,
    "one dimension": lambda: np.arange(ROWS),
    "Fortran order": lambda: np.asfortranarray(floats()),
    "transposed": lambda: floats().T,
    "every other row": lambda: np.repeat(floats(), 2, axis=0)[::2],
    "backwards": lambda: floats()[::-1],
    "a column": lambda: floats()[:, 1],
    "axes exchanged": lambda: floats().reshape(50, 50, 20).transpose(1, 0, 2),
    "broadcast": lambda: np.broadcast_to(np.arange(10.0), (ROWS, 10)),
    "dates": lambda: np.arange(ROWS).astype("M8[ns]"),
    "durations": lambda: np.arange(ROWS).astype("m8[s]"),
    "dates backwards": lambda: np.arange(ROWS).astype("M8[D]")[::-1],
    "complex": lambda: floats() + 1j,
    "booleans": lambda: np.repeat(floats() > 0.5, 10, axis=0),
    "text": lambda: np.array(["abc"] * ROWS),
    "strings": lambda: np.array([b"abcdef"] * ROWS),
    "big endian": lambda: floats().astype(">f8"),
    "half": lambda: np.repeat(floats(), 2, axis=0).astype("f2"),
    "structured": lambda: np.ones(ROWS, [("a", "i4"), ("b", "f8", (2,))]),
    "structured with gaps": lambda: np.ones(
        ROWS, np.dtype([("a", "i1"), ("b", "f8")], align=True)
    ),
    "records": lambda: np.rec.fromarrays(floats().T, names="a,b"),
    "dates in a field": lambda: np.zeros(ROWS, [("a", "i4"), ("b", "M8[s]")]),
    "dates deep in it": lambda: np.zeros(
        ROWS, [("a", [("b", "m8[s]", (2,)), ("c", "f8")]), ("d", "i1")]
    ),
    "an array of text": lambda: np.char.array(["abc"] * ROWS),
    "a subclass": lambda: floats().view(Bare),
    "a subclass backwards": lambda: floats()[::-1].view(Bare),
    "a subclass with dates": lambda: np.arange(ROWS).astype("M8[s]").view(Bare),
    "matrix": lambda: np.matrix(floats()),
    "matrix backwards": lambda: np.matrix(floats())[::-1],
    "read-only": lambda: np.frombuffer(bytes(range(250)) * 1000, "u1"),
    "no axis": lambda: np.array(b"x" * 200_000),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_arrays(make: Callable[[], Any]) -> None:
    value = make()
    apart = pack_apart(value, LEAST)
    assert len(apart.packed) < 1000
    assert [buffer.nbytes for buffer in apart.buffers] == [value.nbytes]
    assert apart.strings == 0
    found = brought(apart)
    assert_same_array(found, value)
    assert not found.flags.writeable
    assert_same_array(brought(apart, read_only=False), value)


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_arrays_in_writable_buffers_are_as_pickle_makes_them(
    make: Callable[[], Any],
) -> None:
    value = make()
    found = brought(pack_apart(value, LEAST), read_only=False)
    usual = pickle.loads(pickle.dumps(value, protocol=5))
    assert found.flags.writeable == usual.flags.writeable


def test_fortran_order_stays() -> None:
    for value in (np.asfortranarray(floats()), floats().T):
        found = brought(pack_apart(value, LEAST))
        assert found.flags.f_contiguous
        assert not found.flags.c_contiguous


def test_contiguous_arrays_are_not_copied() -> None:
    for value in (floats(), floats().T, np.arange(ROWS).astype("M8[s]")):
        (buffer,) = pack_apart(value, LEAST).buffers
        assert np.shares_memory(np.frombuffer(buffer, "u1"), value)


def test_memory_maps(tmp_path: Path) -> None:
    value = np.memmap(tmp_path / "map", float, "w+", shape=(ROWS, 2))
    value[:] = floats()
    for part in (value, value[10:], value[::2]):
        apart = pack_apart(part, LEAST)
        assert len(apart.packed) < 1000
        assert [buffer.nbytes for buffer in apart.buffers] == [part.nbytes]
        assert_same_array(brought(apart), part)


@pytest.mark.parametrize(
    ("make", "buffers"),
    [
        (lambda: np.ma.MaskedArray(floats()), 1),
        (lambda: np.ma.MaskedArray(floats(), np.repeat(True, 2 * ROWS)), 1),
        (with_large_mask, 2),
        (with_hard_mask, 1),
        (lambda: np.ma.MaskedArray(np.arange(ROWS).astype("M8[s]"))[::-1], 1),
    ],
    ids=["no mask", "all masked", "large mask", "hard mask", "dates backwards"],
)
def test_masked_arrays(make: Callable[[], Any], buffers: int) -> None:
    value = make()
    apart = pack_apart(value, LEAST)
    assert len(apart.packed) < LEAST
    assert len(apart.buffers) == buffers
    found = brought(apart)
    assert type(found) is np.ma.MaskedArray
    assert_same_array(found.data, value.data)
    assert_same_array(np.ma.getmaskarray(found), np.ma.getmaskarray(value))
    assert (found.mask is np.ma.nomask) == (value.mask is np.ma.nomask)
    assert np.array_equal(found.fill_value, value.fill_value, equal_nan=True)
    assert found.hardmask == value.hardmask


@pytest.mark.parametrize("dtype", ["f8", "M8[s]"])
def test_nothing_is_imported_to_pack_an_array(dtype: str) -> None:
    script = f"""
import sys
import numpy
from joblib_distributed.data.buffers import pack_apart, unpack_apart
def modules():
    return {{name for name in sys.modules if name.partition(".")[0] == "numpy"}}
array = numpy.zeros({LEAST}, {dtype!r})
before = modules()
apart = pack_apart(array, {LEAST})
unpack_apart(apart.packed, apart.buffers)
print(len(apart.buffers), sorted(modules() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


class Named(np.ndarray[Any, Any]):
    """An array of the user's, with more to it than its data."""

    name = "none"

    def __array_finalize__(self, other: object) -> None:
        self.name = getattr(other, "name", "none")

    def __reduce__(self) -> Any:
        return _named, (np.asarray(self), self.name)


def _named(array: Any, name: str) -> Any:
    found = array.view(Named)
    found.name = name
    return found


def test_subclasses_of_the_users_pickle_as_they_want() -> None:
    value = floats()[::2].view(Named)
    value.name = "mine"
    apart = pack_apart(value, LEAST)
    assert [buffer.nbytes for buffer in apart.buffers] == [value.nbytes]
    found = brought(apart)
    assert_same_array(found, value)
    assert found.name == "mine"


def test_subclasses_are_made_as_numpy_makes_them() -> None:
    value = floats().view(Bare)
    usual = pickle.loads(pickle.dumps(value, protocol=5))
    assert usual.came_from_nowhere
    assert brought(pack_apart(value, LEAST)).came_from_nowhere


class Registered(Bare):
    """Pickled by who has registered it."""


def test_subclasses_that_are_registered_pickle_as_that_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reduce(value: Registered) -> Any:
        return str, ("registered",)

    monkeypatch.setitem(copyreg.dispatch_table, Registered, reduce)
    apart = pack_apart(floats().view(Registered), LEAST)
    assert brought(apart) == "registered"


def test_arrays_of_objects_share_nothing() -> None:
    value = np.array([{}, 1, "text"] * ROWS, dtype=object)
    apart = pack_apart(value, LEAST)
    assert apart.buffers == []
    assert_same_array(brought(apart), value)


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    value = pandas.DataFrame(
        {
            "float": floats()[:, 0],
            "int": np.arange(ROWS),
            "date": pandas.date_range("2020", periods=ROWS, freq="s"),
        }
    )
    apart = pack_apart(value, LEAST)
    assert len(apart.packed) < LEAST
    assert sum(buffer.nbytes for buffer in apart.buffers) == 3 * 8 * ROWS
    pandas.testing.assert_frame_equal(brought(apart), value)


def test_series() -> None:
    pandas = pytest.importorskip("pandas")
    many = pandas.Categorical(np.arange(200_000) % 7)
    for value in (pandas.Series(floats()[:, 0]), pandas.Series(many)):
        apart = pack_apart(value, LEAST)
        assert len(apart.packed) < LEAST
        assert len(apart.buffers) == 1
        pandas.testing.assert_series_equal(brought(apart), value)


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_sparse_matrices(format: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    value = sparse.random(500, 500, 0.2, format=format, random_state=0)
    apart = pack_apart(value, LEAST)
    assert len(apart.packed) < LEAST
    assert apart.buffers
    found = brought(apart)
    assert type(found) is type(value)
    assert found.shape == value.shape
    assert (found != value).nnz == 0


# --------------------------------------------------------------------------------- bytes
def large_arrow(kind: str) -> Any:
    """A pyarrow object of twice `LEAST` bytes."""
    array = pa.array(np.arange(ROWS))
    return {
        "array": lambda: array,
        "chunks": lambda: pa.chunked_array([array[: ROWS // 2], array[ROWS // 2 :]]),
        "batch": lambda: pa.record_batch({"a": array, "b": array}),
        "table": lambda: pa.table({"a": array, "b": pa.chunked_array([array])}),
    }[kind]()


@pytest.mark.parametrize("kind", ["array", "chunks", "batch", "table"])
def test_arrow_objects(kind: str) -> None:
    value = large_arrow(kind)
    apart = pack_apart(value, LEAST // 2)
    assert sum(len(view) for view in apart.buffers) >= value.nbytes
    assert len(apart.packed) < 2000
    found = brought(apart)
    assert type(found) is type(value)
    assert found.equals(value)


@pytest.mark.parametrize("kind", ["array", "chunks", "batch", "table"])
@pytest.mark.parametrize("length", [10, ROWS // 2])
def test_slices_of_arrow_objects_leave_the_rest_behind(kind: str, length: int) -> None:
    value = large_arrow(kind).slice(ROWS // 4, length)
    apart = pack_apart(value, LEAST)
    sent = len(apart.packed) + sum(len(view) for view in apart.buffers)
    assert value.nbytes <= sent < value.nbytes + 4000
    found = brought(apart)
    assert type(found) is type(value)
    assert found.equals(value)


@pytest.mark.parametrize("kind", ["array", "chunks", "batch", "table"])
def test_empty_slices_of_arrow_objects_keep_their_types(kind: str) -> None:
    value = large_arrow(kind).slice(ROWS // 4, 0)
    found = brought(pack_apart(value, LEAST))
    assert type(found) is type(value)
    assert found.equals(value)


def test_an_empty_batch_keeps_its_schema() -> None:
    texts = pa.array(["text"] * ROWS)
    fields = [
        pa.field("text", texts.type, metadata={"of": "field"}),
        pa.field("code", texts.dictionary_encode().type, nullable=False),
        pa.field("list", pa.list_(pa.int64())),
    ]
    schema = pa.schema(fields, metadata={"of": "schema"})
    columns = [texts, texts.dictionary_encode(), pa.array([[1]] * ROWS)]
    for length in (0, 3):
        value = pa.record_batch(columns, schema=schema).slice(7, length)
        found = brought(pack_apart(value, LEAST))
        assert found.schema.equals(schema, check_metadata=True)
        assert found.equals(value)


def test_slices_of_arrow_backed_frames() -> None:
    frame = pd.DataFrame({"a": pd.array(np.arange(10 * ROWS), "int64[pyarrow]")})[5:25]
    apart = pack_apart(frame, LEAST)
    assert sum(len(view) for view in apart.buffers) + len(apart.packed) < 20_000
    pd.testing.assert_frame_equal(brought(apart), frame)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_strings(kind: Callable[[bytes], Any]) -> None:
    value = kind(b"ab" * LEAST)
    apart = pack_apart(value, LEAST)
    assert len(apart.packed) < 100
    assert apart.strings == 1
    assert [buffer.nbytes for buffer in apart.buffers] == [len(value)]
    found = brought(apart)
    assert type(found) is kind
    assert found == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_strings_that_were_changed_on_the_way_are_refused(kind: Any) -> None:
    apart = pack_apart(kind(b"ab" * LEAST), LEAST)
    changed = bytearray(apart.buffers[0])
    changed[-1] ^= 1
    with pytest.raises(pickle.UnpicklingError, match="is not what was put there"):
        unpack_apart(apart.packed, [memoryview(changed)], apart.strings)


def test_the_same_content_is_sealed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed: list[bytes | bytearray] = []

    def seal(content: bytes | bytearray) -> bytes:
        sealed.append(content)
        return b"a seal"

    monkeypatch.setattr(buffers, "seal", seal)
    monkeypatch.setattr(buffers, "_seals", {})
    contents = [number.to_bytes(2, "big") * LEAST for number in range(100)]
    for content in (contents[0], bytearray(contents[0]), *contents, contents[-1]):
        pack_apart([content, content], LEAST)
    assert sealed == contents
    assert len(buffers._seals) == buffers._SEALS


def test_arrays_and_strings_beside_each_other() -> None:
    array, text = floats(), b"ab" * LEAST
    apart = pack_apart({"a": array, "b": [text, bytearray(text)], "c": array}, LEAST)
    assert apart.strings == 2
    sizes = [buffer.nbytes for buffer in apart.buffers]
    assert sizes == [len(text), len(text), array.nbytes]
    found = brought(apart)
    assert found["b"] == [text, bytearray(text)]
    assert type(found["b"][1]) is bytearray
    assert_same_array(found["a"], array)
    assert found["a"] is found["c"]


# ------------------------------------------------------------------------------- objects
@pytest.mark.parametrize("make", [floats, lambda: floats()[::2]], ids=["plain", "view"])
def test_what_was_one_object_is_one(make: Callable[[], Any]) -> None:
    array = make()
    apart = pack_apart({"a": [(array, {"k": array})], "b": array}, LEAST)
    assert len(apart.buffers) == 1
    found = brought(apart)
    assert found["a"][0][0] is found["a"][0][1]["k"] is found["b"]
    assert_same_array(found["b"], array)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_large_string_that_was_one_object_is_one(kind: Callable[[bytes], Any]) -> None:
    text = kind(b"ab" * LEAST)
    apart = pack_apart([text, text], LEAST)
    assert len(apart.buffers) == 1
    first, second = brought(apart)
    assert first is second


def test_scattered_objects_stay_out() -> None:
    """At any depth, also a small one, and beside what is large."""
    model, data, text = {"a": 1}, floats(), bytes(2 * LEAST)
    value = [model, (data, {"model": model}), text, bytes(LEAST), {"a": 1}]
    apart = pack_apart(value, LEAST, {id(model): 3, id(text): 5})
    assert apart.scattered == (3, 5)
    assert [len(view) for view in apart.buffers] == [LEAST, data.nbytes]
    there = {3: object(), 5: object()}
    first, (array, second), third, fourth, other = unpack_apart(
        apart.packed, apart.buffers, apart.strings, there.__getitem__
    )
    assert first is second["model"] is there[3]
    assert third is there[5]
    assert fourth == bytes(LEAST)
    assert other == {"a": 1}
    assert_same_array(array, data)


@pytest.mark.parametrize("least", [None, LEAST])
def test_scattered_objects_stay_out_whatever_is_shared(least: int | None) -> None:
    model = {"a": 1}
    apart = pack_apart([model, np.arange(3)], least, {id(model): 0})
    assert (list(apart.buffers), apart.strings, apart.scattered) == ([], 0, (0,))
    first, array = unpack_apart(apart.packed, [], 0, str)
    assert first == "0"
    assert array.tolist() == [0, 1, 2]


class Kept:
    """Can be referred to weakly, and pickles as nothing much."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Kept, ()


@pytest.mark.parametrize(
    ("scattered", "is_input"), [(False, False), (True, False), (False, True)]
)
def test_what_was_pickled_is_not_kept(scattered: bool, is_input: bool) -> None:
    """Until there is a garbage collection, that is."""
    value, other = Kept(), Kept()
    gone = weakref.ref(value)
    gc.disable()
    try:
        pack_apart(
            [value, floats(), other],
            LEAST,
            {id(other): 0} if scattered else {},
            lambda given: 0 if is_input and given is other else None,
        )
        del value
        assert gone() is None
    finally:
        gc.enable()


def test_no_reference_without_a_use() -> None:
    assert pack_apart([1], None, {id(object()): 0}).scattered == ()


def test_arrays_in_closures_and_instances() -> None:
    array = floats()

    class Model:
        def __init__(self) -> None:
            self.array = array

        def total(self) -> float:
            return float(self.array.sum())

    for function in (lambda: float(array.sum()), Model().total):
        apart = pack_apart(function, LEAST)
        assert [buffer.nbytes for buffer in apart.buffers] == [array.nbytes]
        assert brought(apart)() == float(array.sum())


@pytest.mark.parametrize("size", [LEAST - 1, LEAST])
@pytest.mark.parametrize("kind", [bytes, bytearray, np.ones])
def test_large_begins_at_the_threshold(size: int, kind: Callable[..., Any]) -> None:
    value = np.ones(size, "u1") if kind is np.ones else kind(size)
    apart = pack_apart(value, LEAST)
    assert len(apart.buffers) == (size >= LEAST)
    assert (len(apart.packed) > size) == (size < LEAST)
    assert bytes(brought(apart)) == bytes(value)


@pytest.mark.parametrize(
    "value", [floats(), floats()[::2], b"ab" * LEAST, {"a": bytearray(LEAST)}]
)
def test_nothing_is_shared_without_a_threshold(value: Any) -> None:
    apart = pack_apart(value, None)
    assert apart == Apart(apart.packed, [], 0)
    found = pickle.loads(apart.packed)
    assert type(found) is type(value)
    assert np.array_equal(found, value) if type(value) is np.ndarray else found == value


# --------------------------------------------------------------------------------- names
def test_equal_content_has_one_name() -> None:
    assert name_of(memoryview(b"content")) == name_of(memoryview(bytearray(b"content")))


def test_names_differ_by_content_and_carry_the_size() -> None:
    contents: Sequence[bytes] = [b"", b"a", b"b", b"aa", bytes(2), bytes(3), b"\0\1"]
    names = [name_of(memoryview(content)) for content in contents]
    assert len(set(names)) == len(contents)
    assert [size_of(name) for name in names] == list(map(len, contents))
    assert all(len(name.partition("-")[0]) == 32 for name in names)


def test_a_single_bit_changes_the_name() -> None:
    array = floats()
    before = name_of(memoryview(array).cast("B"))
    array.view("u1")[-1, -1] ^= 1
    assert name_of(memoryview(array).cast("B")) != before


@given(pieces=st.lists(st.binary(max_size=600), max_size=20))
def test_a_buffer_in_pieces_has_the_name_of_the_whole(pieces: list[bytes]) -> None:
    digest = Digest()
    for end, piece in enumerate(pieces):
        assert digest.name == name_of(memoryview(b"".join(pieces[:end])))
        digest.update(memoryview(piece))
    assert digest.name == name_of(memoryview(b"".join(pieces)))


def test_pieces_may_be_of_any_kind() -> None:
    array = floats()
    digest = Digest()
    digest.update(memoryview(array[:7]))
    digest.update(memoryview(bytearray(array[7:].tobytes())))
    assert digest.name == name_of(memoryview(array).cast("B"))


# ------------------------------------------------------------------ what comes again
def taken_apart(again: Again | None, value: Any) -> Apart:
    apart = pack_apart(value, 10 * LEAST_AGAIN, again=again)
    if again is not None:
        again.settle()
    return apart


@pytest.mark.parametrize(
    "array",
    [
        np.arange(LEAST_AGAIN // 8, dtype=float),
        np.arange(LEAST_AGAIN // 4, dtype=float)[::2],
        np.arange(LEAST_AGAIN // 8, dtype=float).reshape(2, -1).T,
        np.arange(LEAST_AGAIN // 8).astype("M8[s]"),
    ],
    ids=["plain", "strided", "transposed", "dates"],
)
def test_an_array_that_comes_again_is_handed_over(array: Any) -> None:
    again = Again()
    first, *others = (taken_apart(again, (array, i)) for i in range(4))
    assert first.buffers == []
    for number, apart in enumerate(others, 1):
        assert [view.nbytes for view in apart.buffers] == [LEAST_AGAIN]
        assert len(apart.packed) < 1000
        writable = [bytearray(view) for view in apart.buffers]
        found, last = unpack_apart(apart.packed, writable)
        assert last == number
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable
        assert (
            found.flags.f_contiguous
            == pickle.loads(pickle.dumps(array, 5)).flags["F_CONTIGUOUS"]
        )


def test_what_has_changed_comes_for_the_first_time() -> None:
    again, array = Again(), np.zeros(LEAST_AGAIN // 8)
    taken_apart(again, array)
    array += 1
    assert taken_apart(again, array).buffers == []
    assert bytes(taken_apart(again, array).buffers[0]) == array.tobytes()


def test_what_is_made_anew_each_time_does_too() -> None:
    again = Again()
    fresh = (np.random.default_rng(i).random(LEAST_AGAIN // 8) for i in range(20))
    assert [taken_apart(again, array).buffers for array in fresh] == [[]] * 20


def read_only() -> Any:
    array = np.arange(LEAST_AGAIN // 8, dtype=float)[::-1]
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "value",
    [
        read_only(),
        np.ma.MaskedArray(np.zeros(LEAST_AGAIN // 8)),
        np.zeros(LEAST_AGAIN // 8).reshape(1, -1).view(np.matrix),
    ],
    ids=["read-only", "masked", "matrix"],
)
def test_what_would_be_rebuilt_otherwise_is_left_to_numpy(value: Any) -> None:
    again = Again()
    expected = pickle.loads(pickle.dumps(value, 5))
    for _ in range(3):
        apart = taken_apart(again, value)
        found = unpack_apart(apart.packed, [bytearray(view) for view in apart.buffers])
        assert type(found) is type(expected)
        assert found.flags.writeable == expected.flags.writeable
        assert np.shape(np.ma.getmask(found)) == np.shape(np.ma.getmask(expected))
        np.testing.assert_array_equal(found, expected)


def test_little_that_comes_again_is_not() -> None:
    again, array = Again(), np.zeros(LEAST_AGAIN // 8 - 1)
    assert [taken_apart(again, array).buffers for _ in range(3)] == [[]] * 3
    strided = np.zeros(LEAST_AGAIN // 4 - 2)[::2]
    assert [taken_apart(again, strided).buffers for _ in range(3)] == [[]] * 3


def test_nothing_is_that_comes_but_once() -> None:
    again = Again()
    arrays = [np.full(LEAST_AGAIN // 8, i) for i in range(5)]
    assert [taken_apart(again, array).buffers for array in arrays] == [[]] * 5


def test_who_does_not_ask_is_not_handed_anything() -> None:
    array = np.zeros(LEAST_AGAIN // 8)
    assert [taken_apart(None, array).buffers for _ in range(3)] == [[]] * 3


def test_large_arrays_are_handed_over_the_first_time() -> None:
    array = np.zeros(10 * LEAST_AGAIN // 8)
    assert len(taken_apart(Again(), array).buffers) == 1


def test_not_everything_that_came_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buffers, "_REMEMBERED", 2)
    again = Again()
    contents = [memoryview(bytes([i]) * LEAST_AGAIN) for i in range(3)]

    def comes(number: int) -> bool:
        found = again.has_come(contents[number])
        again.settle()
        return found

    assert [comes(i) for i in (0, 1, 0, 2)] == [False, False, True, False]
    assert [comes(i) for i in (0, 2, 1)] == [True, True, False]


def test_all_that_is_not_small_is_handed_over_every_time() -> None:
    every = EveryTime()
    assert len(taken_apart(every, np.zeros(LEAST_AGAIN // 8)).buffers) == 1
    assert taken_apart(every, np.zeros(LEAST_AGAIN // 8 - 1)).buffers == []
