"""How soon the engine passes on what it is given.

distributed collects small messages for a while before it sends them together: a client's
for 10 ms, a scheduler's to a worker for 5 ms. The first of them is sent at once, so that
one who asks seldom does not notice; but a call that sends a batch when another ends waits
each time. Messages are still sent together when there are many: while one lot is being
written, the next one collects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Seconds that a message may wait for others. A guess: a tenth of what a batch takes.
INTERVAL = 0.0005


def send_soon(client: Any) -> None:
    """Have a client send what it is given at once, for as long as it is connected.

    Rests on ``Client.scheduler_comm`` being a `distributed.batched.BatchedSend`, and on
    ``BatchedSend.interval``, in seconds, being read each time (distributed 2025.9 to
    2026.8). Without them, small batches take longer.
    """
    _shorten([getattr(client, "scheduler_comm", None)])


def pass_on_soon(scheduler: Any) -> None:
    """Have a scheduler of our own process do so, to its workers and clients.

    Rests on ``Scheduler.stream_comms`` and ``client_comms``, as above.
    """
    for name in ("stream_comms", "client_comms"):
        _shorten(list(getattr(scheduler, name, {}).values()))


def _shorten(streams: Iterable[Any]) -> None:
    for stream in streams:
        interval = getattr(stream, "interval", None)
        if isinstance(interval, (int, float)) and interval > INTERVAL:
            stream.interval = INTERVAL
