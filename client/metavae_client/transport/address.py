"""Where a server is: its URL, whether that is of this machine, and its management API."""

from __future__ import annotations

import ipaddress

import httpx

from metavae_client.errors import ServerUnreachable

_MOST_PORTS = 65_535


def parse_url(url: str) -> httpx.URL:
    """Return a server's base URL, or raise ServerUnreachable for what is none."""
    try:
        parsed = httpx.URL(url.rstrip("/"))
        parsed.host.encode("idna")  # as it is resolved later
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL()
    if parsed.userinfo:
        raise ServerUnreachable(
            "the URL of the server has a user or a password in it, which a server does not take",
            hint="Leave out what stands before the @; give a token as METAVAE_TOKEN",
            field="url",
        )
    if parsed.port is not None and not 1 <= parsed.port <= _MOST_PORTS:
        raise ServerUnreachable(
            f"the URL of the server names port {parsed.port}, expected 1 to {_MOST_PORTS}",
            hint="The default port of the inference API is 8080",
            field="url",
        )
    if parsed.scheme not in ("http", "https", "grpc") or not parsed.host:
        raise ServerUnreachable(
            f"{url!r} is not the URL of a server",
            hint="Give one like http://127.0.0.1:8080 (METAVAE_URL), or grpc://127.0.0.1:8083",
            field="url",
        )
    return parsed


def is_local(url: httpx.URL) -> bool:
    """Whether the URL is of this machine, by the loopback interface."""
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def management_url(url: str) -> str:
    """Where `metavae-serve` puts the management API of an inference URL: the next port."""
    parsed = parse_url(url)
    if parsed.scheme == "grpc":
        raise ServerUnreachable(
            f"{url} is an address of gRPC, which does not tell what is served",
            hint="Name the model (`embed --model NAME`), or give the management API of HTTP"
            " (`models --management-url URL`)",
            field="url",
        )
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    if port == _MOST_PORTS:
        raise ServerUnreachable(
            f"{url} has the last port, and no management API at the next one",
            hint="Give the management API as --management-url",
            field="url",
        )
    return str(parsed.copy_with(port=port + 1))
