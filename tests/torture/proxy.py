"""A TCP proxy that can cut, stall or delay connections, or drop the data of one direction."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """A fault of some of a proxy's connections.

    Attributes:
        kind: "cut" (the connections end), "stall" (no data moves), "delay" (each piece of data waits), "drop-up" (data
            to the server is dropped) or "drop-down" (data from the server is dropped).
        share: the share of the connections with the fault, from 0 to 1.
        delay_s: the delay of each piece for "delay", in seconds.
    """

    kind: str
    share: float = 1.0
    delay_s: float = 0.0


KINDS = ("cut", "stall", "delay", "drop-up", "drop-down")


@dataclass(eq=False, slots=True)
class Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_hit: bool
    #: Whether bytes were dropped. The later bytes make no sense without them, so the link ends with the fault.
    is_broken: bool = False
    flows: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()
        self.flows.set()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes the data to `target_port`, in its own thread."""

    def __init__(self, target_port: int, seed: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._random = random.Random(seed)
        self._links: set[Link] = set()
        self._fault: ConnectionFault | None = None
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="torture-proxy", daemon=True)
        self._thread.start()
        ready.wait()

    def begin(self, fault: ConnectionFault) -> None:
        """Begin a fault of the present connections. Except for a cut, new connections have it too, until `heal`."""
        self._loop.call_soon_threadsafe(self._begin, fault)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._heal)

    def abandon(self) -> None:
        """Move no more data on the present connections, and do not end them either. New connections work."""
        self._loop.call_soon_threadsafe(lambda: [link.flows.clear() for link in self._links])

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def serve() -> None:
            server = await asyncio.start_server(self._accept, HOST, 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        self._loop.run_until_complete(serve())

    def _begin(self, fault: ConnectionFault) -> None:
        hit = [link for link in self._links if self._random.random() < fault.share]
        if fault.kind == "cut":
            for link in hit:
                link.cut()
            return
        self._fault = fault
        for link in hit:
            link.is_hit = True
            if fault.kind == "stall":
                link.flows.clear()

    def _heal(self) -> None:
        self._fault = None
        for link in list(self._links):
            link.is_hit = False
            link.flows.set()
            if link.is_broken:
                link.cut()

    async def _accept(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            client.transport.abort()
            return
        fault = self._fault
        link = Link(client, server, fault is not None and self._random.random() < fault.share)
        if not (link.is_hit and fault is not None and fault.kind == "stall"):
            link.flows.set()
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, client_reader, server, "drop-up"), self._pump(link, server_reader, client, "drop-down")
            )
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                fault = self._fault if link.is_hit else None
                if fault is not None and fault.kind == direction:
                    link.is_broken = True
                    continue
                if fault is not None and fault.kind == "delay":
                    await asyncio.sleep(fault.delay_s)
                await link.flows.wait()
                writer.write(data)
                await writer.drain()
        # One side has ended. The other side ends too, unless a fault keeps it from noticing.
        await link.flows.wait()
        if not writer.is_closing():
            writer.close()
