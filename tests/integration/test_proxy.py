"""The proxy does what the tests that use it believe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.proxy import Proxy


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each piece with itself and remembers it."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100_000):
                seen.append(data)
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


@asynccontextmanager
async def caller(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_what_goes_in_comes_out() -> None:
    async with echo() as (url, _), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        writer.write(b"hello")

        assert await reader.readexactly(5) == b"hello"


async def test_it_forwards_to_a_unix_socket(tmp_path: object) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    path = f"{tmp_path}/s"
    server = await asyncio.start_unix_server(answer, path)
    async with Proxy(f"unix://{path}") as proxy, caller(proxy) as (reader, writer):
        writer.write(b"hello")

        assert await reader.readexactly(5) == b"hello"
    server.close()


async def test_a_lost_reply_was_answered_by_the_server() -> None:
    async with echo() as (url, seen), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        proxy.lose_reply = lambda data: data == b"second"
        writer.write(b"first")
        assert await reader.readexactly(5) == b"first"
        writer.write(b"second")

        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(6)
        assert seen == [b"first", b"second"]
        assert proxy.cuts == 1


async def test_a_cut_after_the_request_still_delivers_it() -> None:
    async with echo() as (url, seen), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        proxy.cut_after_request = lambda _: True
        writer.write(b"only")

        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(4)
        async with asyncio.timeout(5):
            while not seen:
                await asyncio.sleep(0.001)
        assert seen == [b"only"]


async def test_one_byte_slices_arrive_as_such() -> None:
    async with echo() as (url, seen), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        proxy.slice = 1
        writer.write(b"x" * 50)

        assert await reader.readexactly(50) == b"x" * 50
        assert len(seen) > 5


async def test_a_delay_holds_back_both_ways() -> None:
    async with echo() as (url, _), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        proxy.delay = 0.05
        begun = time.monotonic()
        writer.write(b"x")
        await reader.readexactly(1)

        assert time.monotonic() - begun >= 0.1


async def test_a_black_hole_keeps_the_connection_open_and_silent() -> None:
    async with echo() as (url, seen), Proxy(url) as proxy, caller(proxy) as (reader, writer):
        proxy.black_hole = True
        writer.write(b"anybody?")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        assert seen == []
        assert proxy.open_connections == 1


async def test_reset_cuts_and_hanging_up_refuses() -> None:
    async with echo() as (url, _), Proxy(url) as proxy:
        async with caller(proxy) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            proxy.reset()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        await proxy.hang_up()
        with pytest.raises(ConnectionRefusedError):
            async with caller(proxy):
                pass
        await proxy.listen()
        async with caller(proxy) as (reader, writer):
            writer.write(b"back")
            assert await reader.readexactly(4) == b"back"
