"""Asks every process of a cluster what it is.

Uses a client that `driver.cluster` lends it.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Mapping
from typing import Any

from distributed.versions import get_versions

from joblib_distributed.data.payload import pack_invocation
from joblib_distributed.driver import ourselves, refusals
from joblib_distributed.driver.fitness import PACKAGES, Found
from joblib_distributed.driver.losses import LOST
from joblib_distributed.worker.probe import Described, describe_host

#: Seconds in which a process is to answer. A guess.
ANSWER_TIMEOUT = 10.0


async def survey(client: Any) -> list[Found]:
    """Return the driver, the scheduler and the workers of a client's cluster.

    On the client's event loop. What does not answer in time is there, too, with the
    reason why nothing is known of it.
    """
    here = _found("driver", get_versions(PACKAGES))
    here = here._replace(described=Described(*describe_host()))
    info = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), ANSWER_TIMEOUT)
    workers: dict[str, Any] = info["workers"]
    return [
        here,
        await _ask_scheduler(client),
        *await asyncio.gather(
            *(_ask_worker(client, address, workers[address]) for address in workers)
        ),
    ]


def _found(name: str, versions: Mapping[str, Any]) -> Found:
    python = ".".join(versions["host"]["python"].split(".")[:3])
    known = versions["packages"]
    packages = {package: _version(known.get(package)) for package in PACKAGES}
    return Found(name, python, packages)


def _version(known: str | None) -> str | None:
    return None if known == "MISSING" else known


async def _ask_scheduler(client: Any) -> Found:
    start = time.perf_counter()
    asked = client.scheduler.versions(packages=list(PACKAGES))
    versions, obstacle = await _answer(asked)
    if versions is None:
        return Found("scheduler", obstacle=obstacle)
    seconds = time.perf_counter() - start
    return _found("scheduler", versions)._replace(seconds=seconds)


async def _ask_worker(client: Any, address: str, known: Mapping[str, Any]) -> Found:
    threads, limit = known["nthreads"], known.get("memory_limit") or 0
    start = time.perf_counter()
    versions, direct = await _answer(client.rpc(address).versions(packages=PACKAGES))
    seconds = time.perf_counter() - start
    is_direct = versions is not None
    obstacle = ""
    if versions is None:
        message = {"op": "versions", "packages": list(PACKAGES)}
        asked = client.scheduler.proxy(msg=message, worker=address)
        versions, obstacle = await _answer(asked)
    if versions is None:
        return Found(address, "", {}, threads, limit, False, obstacle=obstacle or direct)
    found = _found(address, versions)._replace(
        threads=threads, memory_limit=limit, is_direct=is_direct, seconds=seconds
    )
    answer, obstacle = await _describe(client, address)
    if refusals.lacks_us(answer):  # as a call would
        await ourselves.send(client)
        answer, obstacle = await _describe(client, address)
    if isinstance(answer, BaseException):
        return found._replace(obstacle=f"{type(answer).__name__}: {answer}")
    if answer is None:
        return found._replace(obstacle=obstacle or "it is gone")
    return found._replace(described=Described(*answer))


async def _describe(client: Any, address: str) -> tuple[Any, str]:
    asked = client.run(
        pickle.loads,
        pack_invocation(describe_host),
        workers=[address],
        on_error="return",
    )
    answers, obstacle = await _answer(asked)
    return (answers or {}).get(address), obstacle


async def _answer(asked: Any) -> tuple[Any, str]:
    """Return what is answered, or None and why nothing is."""
    asking = asyncio.ensure_future(asked)
    done, _ = await asyncio.wait({asking}, timeout=ANSWER_TIMEOUT)
    if not done:
        asking.cancel()
        return None, f"no answer within {ANSWER_TIMEOUT:g} seconds"
    try:
        return asking.result(), ""
    except LOST as error:
        return None, f"{type(error).__name__}: {error}"
