"""A network that delays and drips: a TCP proxy on this machine."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class SlowNetwork:
    """A way to a port of this machine that is slow in both directions.

    Parameters
    ----------
    target : the port it leads to
    delay : seconds that every piece is held back
    piece : bytes that pass at a time

    Attributes
    ----------
    port : the port to connect to instead
    passed : bytes that have passed so far
    """

    target: int
    delay: float = 0.05
    piece: int = 8192
    port: int = 0
    passed: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set, repr=False)

    @contextmanager
    def open(self) -> Iterator["SlowNetwork"]:
        """Let connections through while the block lasts."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result()
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        writer.close()
        there_writer.close()
        self._writers -= {writer, there_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(self.piece):
                await asyncio.sleep(self.delay)
                writer.write(piece)
                await writer.drain()
                self.passed += len(piece)
            writer.write_eof()  # this end says no more; the other may still
        except OSError:
            writer.transport.abort()  # one end has gone; so that the other learns it

    async def _end(self, server: asyncio.Server) -> None:
        """Close the server and all connections through it."""
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*serving, return_exceptions=True)
