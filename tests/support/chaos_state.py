"""What there is to say of a call that hangs, or has failed: see ``tools/chaos.py``."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import traceback
from typing import Any

from distributed import Client

from joblib_distributed.driver.call import Call
from support.chaos_scene import ChaosScene

#: Seconds that the scheduler and its workers may take to tell.
ANSWER_WITHIN = 20


def brief(error: BaseException) -> str:
    """Return an error and what it comes from, with the places that are ours."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        lines.append(f"    {type(cause).__name__}: {str(cause)[:600]}")
        lines += [
            f"        {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(cause.__traceback__)
            if "site-packages" not in frame.filename
        ]
        cause = cause.__cause__ or (
            None if cause.__suppress_context__ else cause.__context__
        )
    return "\n".join(lines)


def known_tasks(dask_scheduler: Any) -> dict[str, Any]:
    """Return what the scheduler knows: tasks, workers and clients."""
    return {
        "tasks": {
            str(key): (
                task.state,
                task.processing_on and task.processing_on.address,
                # A session that was replaced has the name of its successor.
                [
                    (name, dask_scheduler.clients.get(name) is client)
                    for client in task.who_wants or ()
                    for name in [client.client_key]
                ],
            )
            for key, task in dask_scheduler.tasks.items()
        },
        "workers": {
            address: (worker.status.name, worker.nthreads, worker.last_seen)
            for address, worker in dask_scheduler.workers.items()
        },
        "clients": {
            key: len(client.wants_what) for key, client in dask_scheduler.clients.items()
        },
    }


def _ledgers() -> list[str]:
    """Return what the calls of this process wait for."""
    return [
        f"{call.name}: in flight {list(call.in_flight)}"
        for call in gc.get_objects()
        if isinstance(call, Call) and call.in_flight
    ]


def _told() -> list[str]:
    """Return what the clients of this process have been told of their attempts."""
    return [
        f"{client.id}, {client.status}: "
        f"{ ({key: state.status for key, state in client.futures.items()}) }"
        for client in gc.get_objects()
        if isinstance(client, Client)
    ]


def print_state(scene: ChaosScene) -> None:
    """Print where the driver is, and what its cluster knows."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(
            f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        )
    print(f"ledgers: {_ledgers()}")
    print(f"clients: {_told()}")

    def ask() -> None:
        with contextlib.suppress(Exception):
            print(f"scheduler: {scene.observer.run_on_scheduler(known_tasks)}")
            for worker, stacks in (scene.observer.call_stack() or {}).items():
                for key, lines in stacks.items():
                    print(f"{worker} {key}:\n{''.join(lines)}")

    # Nobody knows whether they answer.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_WITHIN)
    if asking.is_alive():
        print("the scheduler or a worker does not answer")
