"""Which folders may be a store: on what file system they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from joblib_distributed.data import folders
from joblib_distributed.data.folders import StoreError, check_file_system

ROOT = b"overlay / overlay rw,relatime 0 0\n"


def refusal(place: bytes, mounts: bytes, folder: Path) -> str:
    """Return why a folder is refused; empty if it is not."""
    (folder / "mounts").write_bytes(mounts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders, "_MOUNTS", folder / "mounts")
        try:
            check_file_system(Path(os.fsdecode(place)))
        except StoreError as error:
            return str(error)
        return ""


@pytest.mark.parametrize(
    ("place", "written"),
    [
        (b"/shared", b"/shared"),
        (b"/with space\tand\nmore", b"/with\\040space\\011and\\012more"),
        (b"/back\\slash\\x41", b"/back\\134slash\\134x41"),
        (b"/carriage\rreturn", b"/carriage\rreturn"),
        ("/données".encode(), "/données".encode()),
        ("/données ici".encode(), "/données\\040ici".encode()),
        (b"/latin-\xe9", b"/latin-\xe9"),
    ],
)
def test_a_network_file_system_is_refused(
    place: bytes, written: bytes, tmp_path: Path
) -> None:
    mounts = ROOT + b"server:/export " + written + b" nfs4 rw 0 0\n"
    assert "is on a network file system (nfs4)" in refusal(place, mounts, tmp_path)
    assert "nfs4" in refusal(place + b"/below", mounts, tmp_path)
    assert refusal(place + b"-not", mounts, tmp_path) == ""


def test_what_is_mounted_last_and_deepest_counts(tmp_path: Path) -> None:
    mounts = (
        ROOT + b"x /data nfs rw 0 0\nx /data/local ext4 rw 0 0\nx /data cifs rw 0 0\n"
    )
    assert "(cifs)" in refusal(b"/data", mounts, tmp_path)
    assert refusal(b"/data/local/more", mounts, tmp_path) == ""


def test_a_name_that_is_no_text_elsewhere_does_no_harm(tmp_path: Path) -> None:
    assert refusal(b"/data", ROOT + b"x /\xff\xfe nfs rw 0 0\n", tmp_path) == ""


def test_where_nobody_says_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_MOUNTS", tmp_path / "none")
    check_file_system(tmp_path)
