"""Whatever ``/dev/shm`` is like: right results, a warning where one is due, no crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or bool(os.getuid()) or not shutil.which("unshare"),
        reason="a /dev/shm of its own needs Linux, root and unshare",
    ),
    pytest.mark.timeout(100),
]

FOLDER = f"/dev/shm/joblib-distributed-{os.getuid()}"

#: What a process finds, as commands that are run before it in a mount namespace.
SHM = {
    "small": "true",
    "full": "head -c 15M /dev/zero > /dev/shm/somebodys",
    "read-only": "mount -o remount,ro /dev/shm",
    "of another": f"mkdir -m 700 {FOLDER}; chown 65534 {FOLDER}",
    "link": f"mkdir -m 700 /dev/shm/target; ln -s /dev/shm/target {FOLDER}",
    "nowhere": "head -c 15M /dev/zero > /dev/shm/somebodys; export TMPDIR=/dev/shm",
}

#: Calls with more data than fits in all, and in the last case in one array.
SCRIPT = """
import os, sys, tempfile, warnings
import numpy as np
import joblib, joblib_distributed
from joblib import Parallel, delayed

size = int(sys.argv[1])

def total(array):
    return float(array.sum()), array[:500_000] + 1

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with joblib.parallel_config(backend="dask.distributed", n_workers=2):
        for megabytes in (size // 4, size // 3, 3 * size // 2):
            arrays = [np.full(megabytes * 125_000, i, dtype=float) for i in range(4)]
            found = Parallel()(delayed(total)(array) for array in arrays)
            for i, (sum_, part) in enumerate(found):
                assert sum_ == i * megabytes * 125_000.0, (megabytes, i, sum_)
                assert (part == i + 1).all()
            del found, part
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
joblib_distributed.shutdown()
print("right", *said, sep="\\n")
"""


@pytest.mark.parametrize("kind", SHM)
def test_whatever_shared_memory_is_like(kind: str, tmp_path: Path) -> None:
    size = 64 if kind == "small" else 16
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={size}m tmpfs /dev/shm"
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            f'{mount} || exit 77; {SHM[kind]}; exec "$0" -c "$1" "$2"',
            *(sys.executable, SCRIPT, str(size)),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    if done.returncode == 77:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    right, *said = done.stdout.splitlines()
    assert right == "right"
    due = {
        "read-only": ["No processes can be started", "Read-only file system"],
        "of another": [f"{FOLDER} belongs to user 65534"],
        "link": [f"{FOLDER} is a link"],
        "nowhere": ["no store has room for"],
    }
    assert len(said) == len(due.get(kind, [])), said
    for line, reason in zip(said, due.get(kind, []), strict=True):
        assert reason in line
    assert list(tmp_path.glob("joblib*")) == []
