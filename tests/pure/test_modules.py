"""The user's own modules, as bytes."""

from __future__ import annotations

from joblib_distributed.data.modules import Source, name_of, pack_sources, unpack_sources

HELPER = Source("helper", False, "/there/helper.py", b"X = 1\n")
PACKAGE = Source("pack", True, "/there/pack/__init__.py", b"")


def test_sources_come_back_by_name() -> None:
    packed = pack_sources([HELPER, PACKAGE])
    assert unpack_sources(packed) == {"helper": HELPER, "pack": PACKAGE}
    assert unpack_sources(memoryview(packed)) == unpack_sources(packed)


def test_the_same_sources_are_the_same_bytes_in_any_order() -> None:
    assert pack_sources([HELPER, PACKAGE]) == pack_sources(iter([PACKAGE, HELPER]))
    changed = HELPER._replace(text=b"X = 2\n")
    assert pack_sources([HELPER]) != pack_sources([changed])
    assert name_of(pack_sources([HELPER])) != name_of(pack_sources([changed]))


def test_what_is_not_sent_twice_is_small() -> None:
    long = HELPER._replace(text=b"X = 1  # as in many lines\n" * 10_000)
    assert len(pack_sources([long])) < len(long.text) / 20
