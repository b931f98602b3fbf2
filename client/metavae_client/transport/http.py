"""Whole replies by HTTP or gRPC, within limits of size and time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import httpx

from metavae_client.errors import ServerUnreachable
from metavae_client.transport.replies import read_reply
from metavae_zoo.errors import install
from metavae_zoo.network import EnvironmentTransport, is_local


class WholeReplies(httpx.BaseTransport):
    """A transport that reads each reply to its end; `close` ends the pending ones.

    The extension `deadline` of a request is when its reply has to be complete, by
    `time.monotonic`.
    """

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self.inner = inner
        self._streams: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The whole reply; raises what `read_reply` does."""
        request.extensions["trace"] = self._note
        reply = self.inner.handle_request(request)
        try:
            return read_reply(reply, request)
        finally:
            reply.close()

    def close(self) -> None:
        """Close the connections; pending requests fail, except those that still connect."""
        with self._lock:
            for stream in self._streams:
                # Closing would not wake the reader. The shutdown of TLS drops the keys first: other
                # threads would go on in the clear.
                with suppress(OSError):
                    socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
        self.inner.close()

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        """Note each stream that is opened; httpcore calls it at every step of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._streams.add(details["return_value"])


def open_transport(url: httpx.URL) -> httpx.BaseTransport:
    """The transport to a server; raises ServerUnreachable where gRPC is not installed."""
    if url.scheme != "grpc":
        return EnvironmentTransport()
    try:
        from metavae_client.transport.grpc import GrpcTransport
    except ImportError as error:
        raise ServerUnreachable(
            f"{url} is an address of gRPC, and {error.name} is not installed",
            hint=f"{install('grpc')}, or give the server's HTTP address",
            field="url",
        ) from error
    return GrpcTransport(url, proxied=not is_local(url))
