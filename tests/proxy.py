"""A proxy between a client and a server that loses, delays, slices and swallows what passes through it.

It listens on a free port of the loopback and forwards to a unix socket or another port. Faults are set as
attributes and hold for every connection until they are taken back; `reset` cuts what is open now.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from urllib.parse import unquote, urlsplit

#: Whether a fault concerns this piece of a request.
Match = Callable[[bytes], bool]

_CHUNK = 65_536


def nothing(_: bytes) -> bool:
    """Match no request."""
    return False


class Connection:
    """One client and its server."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._reply_is_lost = False

    async def run(self, requests: asyncio.StreamReader, replies: asyncio.StreamReader) -> None:
        """Forward both ways until one side ends."""
        pumps = {
            asyncio.create_task(self._forward_requests(requests)),
            asyncio.create_task(self._forward_replies(replies)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.cut()

    def cut(self) -> None:
        """End the connection with a reset, as a firewall or a dying host does."""
        for writer in (self._client, self._server):
            link = writer.get_extra_info("socket")
            if link is not None and link.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _forward_requests(self, requests: asyncio.StreamReader) -> None:
        proxy = self._proxy
        while data := await requests.read(_CHUNK):
            proxy.requests += 1
            if proxy.black_hole:
                continue
            self._reply_is_lost = self._reply_is_lost or proxy.lose_reply(data)
            await self._write(self._server, data)
            if proxy.cut_after_request(data):
                proxy.cuts += 1
                # The server reads what it was sent before it hears that the client is gone.
                self._server.write_eof()
                self._client.transport.abort()
                return

    async def _forward_replies(self, replies: asyncio.StreamReader) -> None:
        proxy = self._proxy
        while data := await replies.read(_CHUNK):
            if proxy.black_hole:
                continue
            if self._reply_is_lost:
                proxy.cuts += 1
                return
            await self._write(self._client, data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        proxy = self._proxy
        if proxy.delay:
            await asyncio.sleep(proxy.delay)
        for start in range(0, len(data), proxy.slice or _CHUNK):
            writer.write(data[start : start + (proxy.slice or _CHUNK)])
            await writer.drain()
            if proxy.slice:
                # Let the piece leave before the next one, or the kernel would join them again.
                await asyncio.sleep(0)


class Proxy:
    """``async with Proxy(server_url) as proxy:`` then connect to ``proxy.url``."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._open: dict[asyncio.Task[None], Connection] = {}
        #: Connections accepted so far, pieces of requests seen, connections cut by a fault.
        self.connections = self.requests = self.cuts = 0
        #: The server executes a matching request; the reply is dropped and the connection cut.
        self.lose_reply: Match = nothing
        #: A matching request is passed on and the connection cut at once, executed or not.
        self.cut_after_request: Match = nothing
        #: Seconds that each piece is held back in each direction.
        self.delay = 0.0
        #: Bytes in one piece; 0 = as they come.
        self.slice = 0
        #: Swallow everything in both directions and keep the connections open.
        self.black_hole = False

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    async def __aenter__(self) -> Proxy:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()

    async def listen(self) -> None:
        """Accept clients, on the same port as before if there was one."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def hang_up(self) -> None:
        """Cut everything and refuse new clients."""
        if self._listener is not None:
            self._listener.close()
        self.reset()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def reset(self) -> None:
        """Cut every connection that is open now."""
        for connection in list(self._open.values()):
            connection.cut()

    async def _accept(self, requests: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        try:
            replies, server = await self._connect()
        except OSError:
            client.transport.abort()
            return
        self._open[task] = connection = Connection(self, client, server)
        try:
            # Cut connections are what this is for.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await connection.run(requests, replies)
        finally:
            del self._open[task]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = urlsplit(self._target)
        if target.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(target.path))
        return await asyncio.open_connection(target.hostname, target.port)
