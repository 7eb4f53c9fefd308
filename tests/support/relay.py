"""A TCP relay between a client and its scheduler, whose connections can be broken.

What a real network does to a connection is done here to one on loopback: it is reset,
nothing comes through for a while, or one of its ends is gone and the other is not told.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

DEADLINE = 30

#: ``struct linger``: closing sends a reset rather than what is left, and a farewell.
_RESET = struct.pack("ii", 1, 0)


class _End(asyncio.Protocol):
    """One end of a connection that goes through the relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.peer: _End | None = None
        self.transport: Any = None
        #: Whether what comes in is thrown away: its peer is gone, which it does not know.
        self.is_void = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET
        )
        self._relay.ends.add(self)
        if self._relay.is_cut:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if not self.is_void and self.peer is not None:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self._relay.is_cut:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.ends.discard(self)
        if self.peer is not None and not self.peer.is_void:
            self.peer.transport.close()


class _NearEnd(_End):
    """The end that somebody has connected to."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Nothing is read before there is somebody to pass it on to.
        transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        far = _End(self._relay)
        far.peer = self
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: far, "127.0.0.1", self._relay.target
            )
        except OSError:
            self.transport.abort()
            return
        self.peer = far
        if not self._relay.is_cut:
            self.transport.resume_reading()


class Relay:
    """Listens on loopback and passes on to a port there.

    Use as a context manager. Its methods may be called from any thread, and return when
    it is done.

    Parameters
    ----------
    target : int
        The port to pass on to.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.ends: set[_End] = set()
        #: Whether nothing comes through.
        self.is_cut = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="relay", daemon=True
        )
        self._server: Any = None
        self._port = 0

    def __enter__(self) -> Relay:
        self._thread.start()
        self._run(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where it listens, as ``tcp://HOST:PORT``."""
        return f"tcp://127.0.0.1:{self._port}"

    def _run(self, what: Callable[[], Any]) -> Any:
        done = asyncio.run_coroutine_threadsafe(what(), self._loop)
        return done.result(DEADLINE)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _NearEnd(self), "127.0.0.1", self._port
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._abort(lambda _: True)

    async def _abort(self, which: Callable[[_End], bool]) -> None:
        for end in [end for end in self.ends if which(end)]:
            end.transport.abort()

    def reset(self) -> None:
        """Reset every connection, at both ends; new ones are welcome."""
        self._run(lambda: self._abort(lambda _: True))

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones until `heal`."""

        async def refuse() -> None:
            self._server.close()
            await self._abort(lambda _: True)

        self._run(refuse)

    def cut(self) -> None:
        """Let nothing through until `heal`; nobody is told, and nothing is lost."""

        async def cut() -> None:
            self.is_cut = True
            for end in self.ends:
                end.transport.pause_reading()

        self._run(cut)

    def heal(self) -> None:
        """End `cut` or `refuse`."""

        async def heal() -> None:
            self.is_cut = False
            if not self._server.is_serving():
                await self._listen()
            for end in self.ends:
                with contextlib.suppress(RuntimeError):  # it is closing
                    end.transport.resume_reading()

        self._run(heal)

    def deafen(self, port: int) -> None:
        """Throw away what is said to whoever connected from this port; nobody is told."""

        async def deafen() -> None:
            (near,) = [
                end
                for end in self.ends
                if end.transport.get_extra_info("peername")[1] == port
            ]
            assert near.peer is not None
            near.peer.is_void = True

        self._run(deafen)

    def lose(self, near: bool) -> Callable[[], None]:
        """Reset one end of every connection, and keep the other, which is not told.

        Parameters
        ----------
        near : bool
            Whether it is the end of who connected that is reset.

        Returns
        -------
        callable
            Resets the ends that were kept.
        """

        async def lose() -> list[_End]:
            kept = [
                end
                for end in self.ends
                if end.peer is not None and isinstance(end, _NearEnd) != near
            ]
            for end in kept:
                end.is_void = True
                assert end.peer is not None
                end.peer.transport.abort()
            return kept

        kept: list[_End] = self._run(lose)
        return lambda: self._run(lambda: self._abort(lambda end: end in kept))
