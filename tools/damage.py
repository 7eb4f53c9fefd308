"""Large data when something breaks: ours beside joblib's dask backend, and beside loky.

Two tables. In the first a host joins, or dies with what it has, while a call with one
array of 50 MB runs on two hosts; the hosts are network namespaces of this machine. In
the second ``/dev/shm`` is small, full, read-only, somebody else's, or there is no room
at all, and calls have more data than fits. Both take Linux and root.

Each row is a process and a cluster of its own. It says what became of the call: right, if
all results were; else how it ended. Then the seconds that it took; in the first table the
bytes that the client has sent, and the most that one of the hosts which are left at the
end has received; in the second how many warnings were issued. Exits with 1 if a call of
ours is not right.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import hosts_scenes, shm_scenes
from support.network import HostCluster, counted, obstacle

#: Seconds after which a process with its ``/dev/shm`` counts as hung.
ENDED_WITHIN = 60.0

#: Characters of an error that are printed, at most.
WIDTH = 90


def last_line(text: str) -> str:
    """Return what an error says: its last line that is not empty."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:WIDTH] if lines else "nothing said"


def of_hosts(scene: str, backend: str) -> tuple[str, str]:
    """Play a scene; return what became of it, and its figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        HostCluster(2, 1) as cluster,
    ):
        console = hosts_scenes.console_of(cluster, 2, backend)
        received = "-"
        start = time.perf_counter()
        with counted(cluster.client) as traffic:
            try:
                left = hosts_scenes.SCENES[scene](cluster, console, Path(folder))
            except (AssertionError, TimeoutError) as error:
                verdict = last_line(str(error))
            else:
                verdict = "right"
                received = f"{max(host.traffic()[0] for host in left) / 1e6:.1f}"
        seconds = time.perf_counter() - start
    return verdict, f"{seconds:6.1f} s {traffic[0][1] / 1e6:7.1f} {received:>7}"


def of_shm(kind: str, backend: str) -> tuple[str, str]:
    """Run calls with a ``/dev/shm``; return what became of them, and the figures."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            done = shm_scenes.run(kind, Path(folder), ENDED_WITHIN, backend)
        except subprocess.TimeoutExpired:
            return f"hung: no result after {ENDED_WITHIN:g} seconds", ""
        seconds = time.perf_counter() - start
    right, *said = done.stdout.splitlines() or [""]
    if done.returncode == 0 and right == "right":
        return right, f"{seconds:6.1f} s {len(said):3}"
    return f"exit code {done.returncode}: {last_line(done.stderr)}", f"{seconds:6.1f} s"


def kept(backends: Iterable[str], without: Collection[str]) -> list[str]:
    """Return backends in their order, but for some."""
    return [backend for backend in backends if backend not in without]


def rows(given: argparse.Namespace) -> Iterator[bool]:
    """Print the tables; say of each row of ours whether it is right."""
    tables = [
        (
            "MB sent by the client; MB received by a host that is left, at most",
            *(given.scenes, hosts_scenes.BACKENDS, of_hosts),
        ),
        ("/dev/shm: warnings", given.kinds, shm_scenes.BACKENDS, of_shm),
    ]
    for title, played, backends, play in tables:
        print(title)
        for name in played:
            for backend in kept(backends, given.without):
                verdict, figures = play(name, backend)
                print(f"{name:26}{backend:9}{figures}  {verdict}", flush=True)
                yield backend != "ours" or verdict == "right"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    scenes, kinds = list(hosts_scenes.SCENES), list(shm_scenes.KINDS)
    parser.add_argument("--scenes", nargs="*", default=scenes, choices=scenes)
    parser.add_argument("--kinds", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--without", nargs="*", default=[], choices=["loky", "bundled"])
    given = parser.parse_args()
    reason = obstacle() or shm_scenes.obstacle()
    if reason:
        sys.exit(f"This machine cannot have such hosts: {reason}")
    good = list(rows(given))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
