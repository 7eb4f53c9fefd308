"""What a whole process does: start, Ctrl-C, exit, a violent end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.tasks import marks
from support.waiting import wait_until

HEAD = """
import os, sys, time
import joblib, joblib_distributed
from joblib import Parallel, delayed
config = dict(backend="dask.distributed", n_workers=2)
"""

SPIN = """
def spin(folder, i):
    import os, time
    open(os.path.join(folder, f"running-{os.getpid()}-{i}"), "w").close()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(1000))
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as a terminal makes one
    )


def run(script: str, *arguments: object) -> tuple[str, str]:
    with start(script, *arguments) as process:
        try:
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out, err


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_a_script_leaves_nothing_and_says_nothing(tmp_path: Path) -> None:
    out, err = run(
        """
with joblib.parallel_config(**config):
    print(*Parallel()(delayed(os.getpid)() for _ in range(8)))
"""
    )
    assert err == ""
    for pid in set(map(int, out.split())):
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), 10, lambda: "worker left")


def test_an_unused_backend_starts_nothing() -> None:
    out, err = run(
        """
import psutil
with joblib.parallel_config(**config):
    print(joblib.effective_n_jobs(-1), joblib.effective_n_jobs(-2))
    Parallel(n_jobs=1)([delayed(abs)(1)])
print(len(psutil.Process().children(recursive=True)))
"""
    )
    assert (out, err) == ("2 1\n0\n", "")


def test_only_loopback_is_listened_on() -> None:
    out, _ = run(
        """
import psutil
with joblib.parallel_config(**config):
    Parallel()(delayed(abs)(i) for i in range(4))
me = psutil.Process()
for process in [me, *me.children(recursive=True)]:
    for c in process.net_connections("inet"):
        if c.status == psutil.CONN_LISTEN:
            print(c.laddr.ip)
"""
    )
    assert set(out.split()) == {"127.0.0.1"}


def test_workers_do_not_run_the_script_again() -> None:
    """Started by loky's method; a release that lost it would run the script in each."""
    out, err = run(
        """
print("the script runs")
with joblib.parallel_config(**config):
    print(sum(Parallel()(delayed(abs)(-i) for i in range(4))))
"""
    )
    assert (out, err) == ("the script runs\n6\n", "")


def test_ctrl_c_of_the_whole_process_group(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the workers, too; the next call must find them."""
    process = start(
        SPIN
        + """
with joblib.parallel_config(**config):
    try:
        Parallel()(delayed(spin)(sys.argv[1], i) for i in range(4))
    except KeyboardInterrupt:
        print("interrupted")
    print(Parallel()(delayed(abs)(-i) for i in range(4)))
""",
        tmp_path,
    )
    with process:
        wait_until(lambda: len(marks(tmp_path)) >= 2, 30, lambda: "nothing runs")
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (out, process.returncode) == ("interrupted\n[0, 1, 2, 3]\n", 0), err


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_leaves_no_worker(
    sign: signal.Signals, tmp_path: Path
) -> None:
    process = start(
        SPIN
        + """
with joblib.parallel_config(**config):
    Parallel()(delayed(spin)(sys.argv[1], i) for i in range(4))
""",
        tmp_path,
    )
    with process:
        wait_until(lambda: len(marks(tmp_path)) >= 2, 30, lambda: "nothing runs")
        workers = family(process.pid)
        assert len(workers) >= 2
        process.send_signal(sign)
        process.communicate(timeout=20)
    assert_gone(workers)


def test_exit_while_a_generator_is_alive(tmp_path: Path) -> None:
    process = start(
        SPIN
        + """
joblib.parallel_config(**config)
results = Parallel(return_as="generator")(delayed(spin)(sys.argv[1], i) for i in range(4))
while len(os.listdir(sys.argv[1])) < 2:
    time.sleep(0.01)
import psutil
print(*[child.pid for child in psutil.Process().children(recursive=True)])
""",
        tmp_path,
    )
    with process:
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    for pid in map(int, out.split()):
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), 20, lambda: "worker left")


def test_a_forked_child_runs_alone_and_says_why() -> None:
    out, err = run(
        """
import warnings
with joblib.parallel_config(**config):
    Parallel()(delayed(abs)(i) for i in range(4))
    read, write = os.pipe()
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of the fork
    pid = os.fork()
    if not pid:
        jobs = joblib.effective_n_jobs(-1)
        found = jobs, Parallel()(delayed(abs)(-i) for i in range(4))
        os.write(write, str(found).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    print(os.read(read, 100).decode())
    print(Parallel()(delayed(abs)(-i) for i in range(4)))
"""
    )
    assert out == "(1, [0, 1, 2, 3])\n[0, 1, 2, 3]\n", err
    assert "dask does not survive a fork" in err
