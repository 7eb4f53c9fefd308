"""Whether the processes of a cluster can run calls, by what they say of themselves. Pure.

See Also
--------
joblib_distributed.driver.survey : asks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from joblib_distributed.data.wire import SENT
from joblib_distributed.worker.probe import Described

#: Packages that tasks depend on, as they are imported.
PACKAGES = ("joblib", "distributed", "cloudpickle", "numpy", "scikit-learn")


class Found(NamedTuple):
    """A process, as it was found."""

    #: "driver", "scheduler" or the address of a worker.
    name: str
    #: Version of Python, empty if it did not say.
    python: str = ""
    #: Versions by package; None where it is not installed.
    packages: Mapping[str, str | None] = {}
    threads: int = 0
    #: In bytes; 0 if it has none.
    memory_limit: int = 0
    #: Whether the driver reaches it without the scheduler.
    is_direct: bool | None = None
    described: Described | None = None
    #: Why it has not been described.
    obstacle: str = ""
    #: Seconds in which it answered.
    seconds: float = 0.0


def problems(found: Sequence[Found]) -> tuple[list[str], list[str]]:
    """Say what would make calls fail, and what may surprise; and how to mend it.

    Parameters
    ----------
    found : sequence of Found
        What `survey` returned.
    """
    here, scheduler, *workers = found
    failing: list[str] = []
    notes: list[str] = []
    if not workers:
        failing.append(
            "The scheduler has no worker: start one with `dask worker ADDRESS`, in an "
            "environment like this one; look at the logs of those that should be there."
        )
    for worker in workers:
        failing += _failing(here, worker)
        if worker.is_direct is False and worker.python:
            notes.append(
                f"{worker.name} is reached through the scheduler alone, which large data "
                "then passes through: let this machine connect to the workers' ports."
            )
        if worker.described is not None and not worker.described.folder:
            notes.append(
                f"{worker.name} has no folder for large data: each of its processes has "
                "its own copy. Make /dev/shm, or a local temp_folder, writable."
            )
    for other in (scheduler, *workers):
        notes += _differing(here, other)
    return failing, notes


def _failing(here: Found, worker: Found) -> list[str]:
    if not worker.python:
        return [
            f"{worker.name} does not answer ({worker.obstacle}): it is frozen, or gone. "
            "Restart it."
        ]
    if _minor(worker.python) != _minor(here.python):
        return [
            f"{worker.name} runs Python {worker.python}, this process {here.python}: "
            "functions cannot be sent between them. Start it from an environment with "
            f"Python {_minor(here.python)}."
        ]
    if worker.obstacle:
        return [
            f"{worker.name} cannot run tasks: {worker.obstacle}. Install "
            "joblib-distributed and joblib in its environment, in the versions used here."
        ]
    return []


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _differing(here: Found, other: Found) -> list[str]:
    notes = []
    for package in PACKAGES if other.python else ():
        mine, its = here.packages.get(package), other.packages.get(package)
        if mine is None or mine == its or (other.name == "scheduler" and not its):
            continue
        notes.append(
            f"{other.name} has {f'{package} {its}' if its else f'no {package}'}, this "
            f"process {package} {mine}: install the same there, or what one of them "
            "packs may not be read by the other."
        )
    theirs = other.described
    described = here.described
    if theirs and described and theirs.version not in (described.version, SENT):
        notes.append(
            f"{other.name} has joblib-distributed {theirs.version}, this process "
            f"{described.version}: install the same there."
        )
    return notes
