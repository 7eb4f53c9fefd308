"""What a client that looks for its scheduler makes of errors, without a cluster."""

from __future__ import annotations

import asyncio

import pytest

from joblib_distributed.driver.reconnecting import reconnect_for


class FakeClient:
    """What `reconnect_for` rests on; connecting fails."""

    def __init__(self, error: Exception) -> None:
        self.id = "client"
        self.status = "running"
        self.connection_args: dict[str, object] = {}
        self._pending_msg_buffer: list[object] = []
        self._timeout = 30
        self._error = error

    async def _reconnect(self) -> None:
        raise AssertionError("the connection is not lost")

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        raise self._error


class OldTimeout(Exception):
    """What `asyncio.TimeoutError` is before Python 3.11: no `OSError`."""


@pytest.mark.parametrize(
    "error",
    [OSError("refused"), ValueError("IOStream is not idle"), OldTimeout("too late")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_keeps_a_client_from_connecting_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an `OSError` dask tries again, and after nothing else."""
    monkeypatch.setattr(asyncio, "TimeoutError", OldTimeout)
    client = FakeClient(error)
    reconnect_for(client, 300)
    with pytest.raises(OSError, match=str(error)):
        asyncio.run(client._ensure_connected(timeout=1))


def test_an_error_of_another_kind_is_left_to_dask() -> None:
    client = FakeClient(ImportError("versions"))
    reconnect_for(client, 300)
    with pytest.raises(ImportError):
        asyncio.run(client._ensure_connected(timeout=1))
