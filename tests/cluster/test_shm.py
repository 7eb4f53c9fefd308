"""Whatever ``/dev/shm`` is like: right results, a warning where one is due, no crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.shm_scenes import CANNOT_MOUNT, FOLDER, KINDS, obstacle, run

_obstacle = obstacle()
pytestmark = [
    pytest.mark.skipif(bool(_obstacle), reason=_obstacle),
    pytest.mark.timeout(100),
]

#: What is said of each kind, where something is due.
DUE = {
    "read-only": ["No processes can be started", "Read-only file system"],
    "of another": [f"{FOLDER} belongs to user 65534"],
    "link": [f"{FOLDER} is a link"],
    "nowhere": ["no store has room for"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_shared_memory_is_like(kind: str, tmp_path: Path) -> None:
    done = run(kind, tmp_path, timeout=90)
    if done.returncode == CANNOT_MOUNT:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    right, *said = done.stdout.splitlines()
    assert right == "right"
    due = DUE.get(kind, [])
    assert len(said) == len(due), said
    for line, reason in zip(said, due, strict=True):
        assert reason in line
    assert list(tmp_path.glob("joblib*")) == []
