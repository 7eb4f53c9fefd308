"""Sends this package to workers that do not have it.

Uses a client that `driver.cluster` lends it, on that client's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import weakref
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin

import joblib_distributed
from joblib_distributed.driver.own_modules import files_of
from joblib_distributed.worker import bootstrap

PACKAGE = "joblib_distributed"

#: What only the driver uses, on its own command line.
_AT_HOME = (f"{PACKAGE}.command",)

#: Seconds that sending may take before one goes on without. A guess: 0.1 MB for each
#: worker.
TIMEOUT = 10.0

#: What is evaluated where nothing of ours is: source, as compiled code of another version
#: of Python ends the process.
_MADE = (
    "(lambda names: (exec({code!r}, names), "
    "names['Plugin']({package!r}, {sources!r}))[1])"
    "({{'__name__': {package!r} + '_bootstrap'}})"
)

#: By client: whether it was sent, once that is known.
_sendings: weakref.WeakKeyDictionary[Any, asyncio.Future[bool]] = (
    weakref.WeakKeyDictionary()
)


class Ourselves(WorkerPlugin):  # type: ignore[misc]
    """Becomes `worker.bootstrap.Plugin`, without anything of ours, where it arrives."""

    name = f"{PACKAGE} of a driver"

    def __reduce__(self) -> tuple[Any, ...]:
        code = Path(bootstrap.__file__).read_text(encoding="utf-8")
        made = _MADE.format(code=code, package=PACKAGE, sources=_sources())
        return eval, (made,)


async def send(client: Any) -> None:
    """Send this package to all workers that lack it, now and later; once.

    Not to those of another version of Python, which are told of in another way; if there
    is one, to none.
    """
    sending = _sendings.get(client)
    if sending is None or (sending.done() and not _has_sent(sending)):
        sending = _sendings[client] = asyncio.ensure_future(_send(client))
    # Never cancelled: others wait for it, too.
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait({sending}, timeout=TIMEOUT)


def _has_sent(sending: asyncio.Future[bool]) -> bool:
    return not sending.cancelled() and sending.result()


async def _send(client: Any) -> bool:
    # Whoever cannot be told will be tried again.
    with contextlib.suppress(Exception):
        versions = await client.run(
            eval,
            "tuple(__import__('sys').version_info[:2])",
            on_error="return",
        )
        if set(versions.values()) == {sys.version_info[:2]}:
            await client.register_plugin(Ourselves())
            return True
    return False


def _sources() -> dict[str, tuple[bool, str, bytes]]:
    folder = Path(joblib_distributed.__file__).parent
    return {
        name: (is_package, filename, Path(filename).read_bytes())
        for name, (filename, is_package) in files_of(folder, PACKAGE)
        if not name.startswith(_AT_HOME)
    }
