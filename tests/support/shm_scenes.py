"""Processes with a ``/dev/shm`` of their own, of every kind that there is.

Takes Linux, root and ``unshare``; see ``tests/cluster/test_shm.py``, and
``tools/damage.py``, which has others beside ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from support.processes import die_with_parent

#: Where our store would be.
FOLDER = f"/dev/shm/joblib-distributed-{os.getuid()}"

#: What a process finds, as commands that are run before it in a mount namespace.
KINDS = {
    "small": "true",
    "full": "head -c 15M /dev/zero > /dev/shm/somebodys",
    "read-only": "mount -o remount,ro /dev/shm",
    "of another": f"mkdir -m 700 {FOLDER}; chown 65534 {FOLDER}",
    "link": f"mkdir -m 700 /dev/shm/target; ln -s /dev/shm/target {FOLDER}",
    "nowhere": "head -c 15M /dev/zero > /dev/shm/somebodys; export TMPDIR=/dev/shm",
}

#: What is run of each backend, by name: two workers.
BACKENDS = {
    "ours": """
import joblib_distributed
parameters, close = {"backend": "dask.distributed", "n_workers": 2}, (
    joblib_distributed.shutdown
)
""",
    "loky": """
parameters, close = {"backend": "loky", "n_jobs": 2}, lambda: None
""",
    "bundled": """
from distributed import Client
client = Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
parameters, close = {"backend": "dask"}, client.shutdown
""",
}

#: Calls with more data than fits in all, and in the last case in one array.
_SCRIPT = """
import os, sys, tempfile, warnings
import numpy as np
import joblib
from joblib import Parallel, delayed

size = int(sys.argv[1])

def total(array):
    return float(array.sum()), array[:500_000] + 1

if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(sys.argv[2])
        with joblib.parallel_config(**parameters):
            for megabytes in (size // 4, size // 3, 3 * size // 2):
                arrays = [np.full(megabytes * 125_000, i, dtype=float) for i in range(4)]
                found = Parallel()(delayed(total)(array) for array in arrays)
                for i, (sum_, part) in enumerate(found):
                    assert sum_ == i * megabytes * 125_000.0, (megabytes, i, sum_)
                    assert (part == i + 1).all()
                del found, part
        said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    close()
    print("right", *said, sep="\\n")
"""

#: What a process exits with that cannot have a ``/dev/shm`` of its own.
CANNOT_MOUNT = 77


def obstacle() -> str:
    """Say what keeps this machine from such processes; empty if nothing does."""
    if sys.platform != "linux" or os.getuid() or not shutil.which("unshare"):
        return "a /dev/shm of its own needs Linux, root and unshare"
    return ""


def run(
    kind: str, folder: Path, timeout: float, backend: str = "ours"
) -> subprocess.CompletedProcess[str]:
    """Return what became of a process, which prints ``right`` and then its warnings.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    folder : Path
        For temporary files elsewhere.
    timeout : float
        Seconds.
    backend : str, default="ours"
        One of `BACKENDS`.

    Raises
    ------
    subprocess.TimeoutExpired
        If it has not ended in time; then all that it has started is killed.
    """
    size = 64 if kind == "small" else 16
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={size}m tmpfs /dev/shm"
    enter = f'{mount} || exit {CANNOT_MOUNT}; {KINDS[kind]}; exec "$0" -c "$@"'
    with subprocess.Popen(
        [
            *("unshare", "--mount", "sh", "-c", enter, sys.executable, _SCRIPT),
            *(str(size), BACKENDS[backend]),
        ],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
