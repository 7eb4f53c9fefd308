"""Whether a store may have a buffer, told without reading all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from joblib_distributed.data import host
from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.host import HostStore
from joblib_distributed.data.samples import LEAST, PLACES, WIDTH, Samples, sample_of


def content(seed: int, nbytes: int = LEAST) -> memoryview:
    return memoryview(np.random.default_rng(seed).bytes(nbytes))


def test_a_sample_has_the_first_and_the_last_bytes() -> None:
    view = content(1, LEAST + 1)
    sample = sample_of(view)
    assert len(sample) == PLACES * WIDTH
    assert sample[:WIDTH] == view[:WIDTH]
    assert sample[-WIDTH:] == view[-WIDTH:]


def test_what_is_there_may_be_there(tmp_path: Path) -> None:
    here, other, longer = content(1), content(2), content(1, LEAST + 1)
    (tmp_path / name_of(here)).write_bytes(here)
    samples = Samples(tmp_path)
    assert [samples.may_have(view) for view in (here, other, longer)] == [
        True,
        False,
        False,
    ]
    # What is equal where it is looked at.
    alike = bytearray(here)
    alike[WIDTH] ^= 1
    assert samples.may_have(memoryview(alike))


def test_what_is_gone_is_not_there(tmp_path: Path) -> None:
    here = content(1)
    path = tmp_path / name_of(here)
    path.write_bytes(here)
    samples = Samples(tmp_path)
    assert samples.may_have(here)
    path.unlink()
    assert not samples.may_have(here)
    tmp_path.rmdir()
    assert not samples.may_have(here)


def test_what_is_small_or_no_file_of_ours_does_no_harm(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    assert samples.may_have(content(1, LEAST - 1))
    (tmp_path / f"link-{LEAST}").symlink_to("/dev/zero")
    (tmp_path / f"short-{LEAST}").write_bytes(b"short")
    assert not samples.may_have(content(1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HostStore]:
    store = HostStore([str(tmp_path)])
    yield store
    store.close()


def test_what_is_new_is_not_read_before_it_is_written(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def note(view: memoryview) -> str:
        read.append(view.nbytes)
        return name_of(view)

    monkeypatch.setattr(host, "name_of", note)
    new, other, equal = content(1), content(2), memoryview(bytes(content(1)))
    buffers = [store.put(view) for view in (new, other, equal)]
    assert [found for _, found in buffers] == [False, False, True]
    assert [b.name for b, _ in buffers] == [name_of(v) for v in (new, other, equal)]
    assert [b.view for b, _ in buffers] == [new, other, new]
    assert read == [LEAST], "only what may be there"
