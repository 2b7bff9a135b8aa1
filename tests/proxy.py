"""A TCP proxy between a worker and its server, which delays, throttles and cuts. On the test's own
loop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

PIECE = 2**16


class Proxy:
    """Between `endpoint` and the server: `delay` seconds each way, `rate` bytes a second; `cut`
    ends all connections, and where it is `closed` there are none.
    """

    def __init__(self, target: str, delay: float = 0.0, rate: float = 0.0) -> None:
        self._host, _, self._port = target.removeprefix("tcp://").rpartition(":")
        self.delay, self.rate = delay, rate
        self.closed = False
        self.carried = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        # Connections end with their pipes; their tasks see it in the next turns of the loop.
        while self._writers:  # noqa: ASYNC110  # what it waits for sets no event
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Every connection is reset, with what is in it."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._host, int(self._port))
        async with self._open(writer), self._open(back):
            ways = [asyncio.create_task(self._way(reader, back))]
            ways.append(asyncio.create_task(self._way(there, writer)))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            self._abort(writer, back)
            await asyncio.wait(ways)

    @staticmethod
    def _abort(*writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _open(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                await asyncio.sleep(self.delay + (len(data) / self.rate if self.rate else 0.0))
                writer.write(data)
                await writer.drain()
                self.carried += len(data)
