"""Makes sure, before the first task is sent, that a cluster can run it.

Uses a client that `driver.cluster` lends it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import pickle
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from joblib_distributed.data.payload import pack_invocation
from joblib_distributed.driver import ourselves, refusals
from joblib_distributed.driver.losses import LOST
from joblib_distributed.worker.probe import describe_worker

#: Seconds a worker may take to answer what is asked outside of tasks. One that does not
#: is busy or frozen, and is trusted. A guess.
ANSWER_TIMEOUT = 10.0

#: Seconds after which it is looked whether a worker that has not answered is still there.
#: A guess.
ANSWER_INTERVAL = 0.5


def check_workers(client: Any, seen: set[str], members: Callable[[], Any]) -> None:
    """Make sure that workers not seen before can run our tasks.

    Parameters
    ----------
    client : distributed.Client
    seen : set of str
        Addresses of those that passed; is added to, and those that are gone removed.
    members : callable
        Returns the addresses of all.

    Raises
    ------
    EnvironmentMismatchError
        If one runs another minor version of Python, lacks a package, or has another
        version of this one. It is sent to those that lack it.
    """
    deadline = time.monotonic() + ANSWER_TIMEOUT
    present = set(members())
    seen &= present
    unanswered = present - seen
    questions = {_question(client, address): address for address in unanswered}
    sent_to: set[str] = set()
    while questions and time.monotonic() < deadline:
        done, _ = concurrent.futures.wait(questions, ANSWER_INTERVAL)
        for question in done:
            address, answer = questions.pop(question), question.result()
            if refusals.lacks_us(answer) and address not in sent_to:
                sent_to.add(address)
                questions[_question(client, address, sends=True)] = address
            elif refusals.check_answer(address, answer):
                seen.add(address)
        # One that died meanwhile will not answer.
        present = set(members() if questions else ())
        questions = {q: a for q, a in questions.items() if a in present}


def _question(
    client: Any, address: str, sends: bool = False
) -> concurrent.futures.Future[object]:
    """Ask one worker what it is; the answer may be an exception, or None for none.

    Once it has been sent this package, if that is to be.
    """
    return asyncio.run_coroutine_threadsafe(
        _ask_worker(client, address, sends), client.loop.asyncio_loop
    )


async def _ask_worker(client: Any, address: str, sends: bool) -> object:
    if sends:
        await ourselves.send(client)
    try:
        answers = await client.run(
            pickle.loads,
            pack_invocation(describe_worker),
            workers=[address],
            on_error="return",
        )
    except (asyncio.TimeoutError, RuntimeError, *LOST):
        return None  # the client's own connection: that tells nothing of the worker
    return answers.get(address)


def check_names(
    client: Any, names: Iterable[str], ask: Callable[[Callable[[], Any]], Any]
) -> None:
    """Make sure that the scheduler can look up the addresses in ``workers``.

    It stumbles over one that it cannot, forgets the task, and says nothing.

    Parameters
    ----------
    client : distributed.Client
    names : iterable of str
        Names and addresses of workers.
    ask : callable
        Returns what a function is told by the scheduler, however often its connection is
        lost meanwhile.

    Raises
    ------
    OptionValueError
        If there is one.
    """
    for name in (name for name in names if ":" in name):
        error = ask(functools.partial(_look_up, client, name))
        if error is not None:
            raise refusals.unknown_host(name, error) from error


async def _look_up(client: Any, name: str) -> socket.gaierror | None:
    """Return what the scheduler says of an address that it cannot look up."""
    try:
        await client.nthreads([name])
    except socket.gaierror as error:
        return error
    return None
