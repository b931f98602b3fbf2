"""Clients that ask one after another without a pause, all in one thread of one process.

A request is bytes that were made before, and a reply is read to its end and thrown away, so that
next to nothing but the server is measured, whatever server it is.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from metavae_zoo.errors import MetavaeError

_TIMEOUT = 60.0  # seconds without any reply at all
_RECEIVE = 1 << 18


class LoadFailed(MetavaeError):
    """A server that answered a benchmark's request with anything but success."""

    code = "load_failed"


@dataclass(frozen=True)
class Message:
    """One request, ready to send: where to, and all of its bytes."""

    host: str
    port: int
    data: bytes

    @classmethod
    def post(cls, url: str, body: bytes, headers: Mapping[str, str]) -> Message:
        """A POST of `body` to `url` over HTTP/1.1, on a connection that is kept."""
        parts = urlsplit(url)
        given = {"Host": parts.netloc, "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {text}\r\n" for name, text in given.items())
        start = f"POST {parts.path} HTTP/1.1\r\n{head}\r\n"
        return cls(parts.hostname or "", parts.port or 80, start.encode() + body)


@dataclass
class Run:
    """What clients saw: seconds from request to the end of its reply, and how long all took."""

    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


def repeat(call: Callable[[], object], seconds: float) -> Run:
    """Call over and over for so many seconds, once at least."""
    latencies, began = [], time.perf_counter()
    last = began
    while not latencies or last - began < seconds:
        call()
        now = time.perf_counter()
        latencies.append(now - last)
        last = now
    return Run(last - began, latencies)


def run(message: Message, *, clients: int, seconds: float) -> Run:
    """Let `clients` send a message over and over for so long; raises LoadFailed."""
    connections = [_Connection(message) for _ in range(clients)]
    try:
        return _run(connections, seconds)
    finally:
        for connection in connections:
            connection.socket.close()


def _run(connections: list[_Connection], seconds: float) -> Run:
    latencies: list[float] = []
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, connection.begin(), connection)
        deadline, busy = began + seconds, len(connections)
        while busy:
            ready = selector.select(_TIMEOUT)
            if not ready:
                raise LoadFailed(f"no reply came for {_TIMEOUT:g} s", hint="See the server's log")
            for key, events in ready:
                connection = key.data
                if events & selectors.EVENT_WRITE:
                    wanted = connection.write()
                elif connection.read():
                    now = time.perf_counter()
                    latencies.append(now - connection.began)
                    if now >= deadline:
                        selector.unregister(connection.socket)
                        busy -= 1
                        continue
                    wanted = connection.begin()
                else:
                    continue
                if wanted != key.events:
                    selector.modify(connection.socket, wanted, connection)
        return Run(time.perf_counter() - began, latencies)


class _Connection:
    """One client: it sends, then reads its reply, and begins again."""

    def __init__(self, message: Message) -> None:
        self._message = memoryview(message.data)
        self.socket = socket.create_connection((message.host, message.port), timeout=_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.began = 0.0
        self._unsent = memoryview(b"")
        self._head = bytearray()
        self._missing: int | None = None  # bytes of the reply's body; None before its headers end

    def begin(self) -> int:
        """Start a request; what to wait for next."""
        self.began = time.perf_counter()
        self._unsent, self._head, self._missing = self._message, bytearray(), None
        return self.write()

    def write(self) -> int:
        """Send what the system takes; what to wait for next."""
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        return selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ

    def read(self) -> bool:
        """Take what has come; whether the reply is whole."""
        received = self.socket.recv(_RECEIVE)
        if not received:
            raise LoadFailed("the server closed the connection", hint="See the server's log")
        if self._missing is None:
            self._head += received
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._missing = _length(bytes(self._head[:end])) - (len(self._head) - end - 4)
        else:
            self._missing -= len(received)
        return self._missing <= 0


def _length(head: bytes) -> int:
    """Content-Length of a successful reply."""
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(":", 1) for line in lines)
    if status.split()[1] != "200" or "content-length" not in fields:
        raise LoadFailed(
            f"the server answered {status!r}, expected 200 and a Content-Length",
            hint="See the server's log",
        )
    return int(fields["content-length"])
