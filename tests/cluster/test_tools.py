"""A short form of each longer command, so that none of them rots."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import pytest

from support.network import obstacle

ROOT = Path(__file__).parents[2]

#: Workloads that take scikit-learn.
SEARCHES = (
    "randomized search", "forest of 100 trees", "nested grid search", "cold search",
)  # fmt: skip


def workloads() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from workloads import WORKLOADS
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return WORKLOADS


def run(*command: str, timeout: float) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_soak() -> None:
    output = run("tools/soak.py", "--seconds", "2", timeout=110)
    assert "wrong or failed: none; hung: none" in output


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_chaos() -> None:
    faults = ("--faults", "worker-killed", "holder-killed", "joins")
    output = run("tools/chaos.py", "--seconds", "6", *faults, timeout=110)
    assert "calls with results lost: 0" in output
    assert "calls with wrong results: 0" in output
    assert "calls hung: 0" in output


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_faults() -> None:
    rows = ("--rows", "worker-killed", "reset", "error")
    short = ("--backends", "ours", "--deadline", "30", "--variants", "flat-large")
    output = run("tools/faults.py", *rows, *short, "--moments", "before", timeout=110)
    assert "ours: 3 cells: {'right': 3}" in output


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command")
def test_faults_over_tls(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    rows = ("--rows", "reset", "--variants", "flat-large", "--moments", "middle")
    short = ("--backends", "ours", "--markdown", str(table))
    output = run("tools/faults.py", *rows, *short, "--tls", timeout=110)
    assert "TLS: yes" in output
    assert "ours: 1 cells: {'right': 1}" in output
    head, _, row, *_ = table.read_text().splitlines()
    assert head == "| fault | middle: ours |"
    assert row.startswith("| reset | right, ")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_frozen() -> None:
    short = ("--tasks", "8", "--frozen-after", "3", "--rounds", "1")
    output = run("tools/frozen.py", *short, "--slowdown", "100", timeout=110)
    assert "with a worker frozen that has the last task: " in output
    assert output.endswith("good\n")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_poison() -> None:
    short = ("--tasks", "20", "--seconds", "0.01", "--deadly", "7")
    output = run("tools/poison.py", *short, "--deaths-allowed", "1", timeout=110)
    assert "results: 19, of which different: 19" in output
    assert "error: WorkerDiedError: Task 7 (nap) killed" in output


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nested_searches() -> None:
    output = run("tools/nested_searches.py", "--searches", "2", timeout=110)
    assert "threads of ours left here: none" in output


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sharing() -> None:
    short = ("--megabytes", "8", "--rounds", "1", "--without", "bundled")
    what = ("--what", "again", "speed")
    lines = run("tools/sharing.py", *short, *what, timeout=110).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "first call, s", "second call, s", "second call / first",
        "second call, MB sent", "32 x 2 MB in, s", "32 x 2 MB out, s",
    ]  # fmt: skip
    assert all("; ours / loky " in line for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(obstacle()), reason=obstacle())
def test_hosts() -> None:
    short = ("--megabytes", "8", "--shapes", "array", "--bundled", "--reach", "open")
    output = run("tools/hosts.py", *short, "--size", "2", "2", timeout=110)
    head, row = output.splitlines()
    assert head.startswith("MB: sent by the client")
    assert row.startswith("ours    open     array ")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(obstacle()), reason=obstacle())
def test_damage() -> None:
    short = ("--scenes", "every worker with it dies", "--kinds", "full")
    output = run("tools/damage.py", *short, "--without", "bundled", "loky", timeout=110)
    first, scene, second, ours = output.splitlines()
    assert first.startswith("MB sent by the client")
    assert second == "/dev/shm: warnings"
    assert scene.startswith("every worker with it dies ours ")
    assert ours.startswith("full                      ours ")
    assert all(line.endswith("  right") for line in (scene, ours))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(obstacle()), reason=obstacle())
def test_store() -> None:
    short = ("--calls", "8", "--backends", "ours")
    output = run("tools/store.py", *short, timeout=110)
    assert "ours: 8 calls: 8 right\n" in output
    assert "under its cap: True" in output
    assert "left on the host: nothing else" in output


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_conformance() -> None:
    run("conformance/run.py", "--short", timeout=140)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_benchmarks() -> None:
    chosen = ("--workloads", "no-ops", "naps of 5 ms", "--backends", "ours")
    short = ("--tiny", "--rounds", "1")
    lines = run("benchmarks/run.py", *short, *chosen, timeout=110).splitlines()
    assert [line.partition(": ours ")[0] for line in lines] == [
        "20,000 no-ops", "400 naps of 5 ms", "100 calls of 4 no-ops",
    ]  # fmt: skip
    assert "ours / ideal " in lines[1]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_benchmarks_of_other_kinds() -> None:
    """A whole program, and one process of many threads, which takes dask."""
    chosen = ("--workloads", "cold search", "256 threads", "--backends", "ours")
    short = ("--tiny", "--rounds", "1")
    cold, threads = run("benchmarks/run.py", *short, *chosen, timeout=230).splitlines()
    assert cold.startswith("cold search: ours ")
    assert threads.startswith("5,120 naps on 256 threads: ours ")
    assert "ours / ideal " in threads


@pytest.mark.parametrize("name", list(workloads()))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_workload(name: str) -> None:
    """They check their own results."""
    workload = workloads()[name]
    seed = (0,) if workload.is_random else ()
    if name in SEARCHES:
        pytest.importorskip("sklearn")
    with joblib.parallel_config(backend="threading", n_jobs=2):
        workload.run(*workload.tiny, *seed)
    assert len(workload.tiny) == len(workload.arguments)
    for sizes in (workload.tiny, workload.arguments):
        assert workload.ideal is None or workload.ideal(*sizes, *seed, 2) > 0


def test_bounds_are_those_of_the_project() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from bounds import lower_bounds
    finally:
        sys.path.remove(str(ROOT / "tools"))
    names = [pin.split("==")[0] for pin in lower_bounds()]
    assert names == [
        "joblib", "distributed", "cloudpickle", "cryptography", "threadpoolctl", "xxhash",
        "pyyaml", "tqdm", "dask",
    ]  # fmt: skip
