"""HTTP to one server: what the environment says of the way, and an end that wakes who reads."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import httpx

from metavae_client.errors import ServerUnreachable
from metavae_client.transport.address import is_local
from metavae_client.transport.replies import read_reply

SHORTEST_TRY = 0.1  # seconds

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class HttpClient:
    """A pool of connections to the server at `url`, by HTTP or gRPC, for any number of threads.

    Raises ServerUnreachable where the environment does not let it be.
    """

    def __init__(self, url: httpx.URL) -> None:
        self._streams: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()  # of the streams, and whether there may be more
        self._closed = False
        self._client = _open_client(url)

    def reply(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> httpx.Response:
        """The whole reply; raises what httpx and `read_reply` do."""
        left = max(deadline - time.monotonic(), SHORTEST_TRY)
        with self._client.stream(
            method,
            path,
            content=body,
            headers=headers,
            timeout=left,
            extensions={"trace": self._note},
        ) as response:
            return read_reply(response, deadline)

    def close(self) -> None:
        """Close the connections; requests under way fail.

        But for those that only connect: they have their time.
        """
        with self._lock:
            self._closed = True
            for stream in self._streams:
                _end(stream)
        self._client.close()

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        """Note each stream to the server that is opened; httpx calls it with all that happens."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        with self._lock:
            self._streams.add(details["return_value"])
            if self._closed:
                _end(details["return_value"])


def _end(stream: Any) -> None:
    """Wake who reads from a stream: closing it would not."""
    # Not by a method of TLS's: it would let go of the keys first, and who sends meanwhile would
    # send in the clear.
    with suppress(OSError):
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def _open_client(url: httpx.URL) -> httpx.Client:
    """A client for `url`; raises ServerUnreachable where the environment does not let it be."""
    # A proxy of the environment is for the network, not for this machine.
    proxied = not is_local(url)
    authorities = _authorities()
    transport = _grpc(url, proxied) if url.scheme == "grpc" else None
    try:
        return httpx.Client(
            base_url=url,
            trust_env=proxied,
            verify=authorities,
            transport=transport,
            headers={"Accept-Encoding": "identity"},  # a reply that is packed may be a bomb
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        given = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.upper())]
        hint = "Give a proxy like http://HOST:PORT, and none of IPv6's ranges in NO_PROXY"
        if isinstance(error, ImportError):
            hint = "`pip install 'httpx[socks]'`, or give a proxy like http://HOST:PORT"
        # Without its value, which may have a password in it.
        raise ServerUnreachable(
            f"what the environment says of proxies ({', '.join(given).upper()}) cannot be used",
            hint=hint,
            field="url",
        ) from error


def _grpc(url: httpx.URL, proxied: bool) -> httpx.BaseTransport:
    from metavae_client.transport.grpc import GrpcTransport  # an optional dependency

    return GrpcTransport(url, proxied=proxied)


def _authorities() -> ssl.SSLContext:
    """Whose certificates are trusted: those in SSL_CERT_FILE or SSL_CERT_DIR, else certifi's."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # an SSLError is one
        variable = next((one for one in _CERTIFICATES if os.environ.get(one)), "SSL_CERT_FILE")
        if error.filename is not None:  # the only one of which the error says which it is
            variable = "SSLKEYLOGFILE"
        raise ServerUnreachable(
            f"{os.environ.get(variable)}, which is {variable}, cannot be used"
            f" ({error.strerror or error})",
            hint="Give a file of certificates in PEM as SSL_CERT_FILE, or unset it",
        ) from error
