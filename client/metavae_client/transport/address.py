"""The URL of a server, and of its management API."""

from __future__ import annotations

import re
from contextlib import suppress

import httpx

from metavae_client.errors import ServerUnreachable
from metavae_client.transport.tokens import Tokens
from metavae_zoo.network import is_local
from metavae_zoo.places import AnyPath, token_file

DEFAULT_URL = "http://127.0.0.1:8080"

_MOST_PORTS = 65_535
_ADDRESS = re.compile(r"^inference_address=http://([^:\s]+):(\d+)\s*$", re.MULTILINE)


def url_of_store(tokens: Tokens) -> str:
    """URL of the server over the store whose key file is read; DEFAULT_URL if there is none."""
    for path in (file.resolve() for file in tokens.files()):
        store = path.parent.parent
        if path == token_file(store):
            with suppress(OSError, UnicodeDecodeError):
                found = _ADDRESS.search((store / "config.properties").read_text())
                if found:
                    host = "127.0.0.1" if found[1] == "0.0.0.0" else found[1]  # noqa: S104
                    return f"http://{host}:{found[2]}"
    return DEFAULT_URL


def parse_url(url: str) -> httpx.URL:
    """The base URL of a server; raises ServerUnreachable for a text that is no such URL."""
    try:
        parsed = httpx.URL(url.rstrip("/"))
        parsed.host.encode("idna")  # as it is resolved later
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL()
    if parsed.userinfo:
        raise ServerUnreachable(
            "the URL of the server has a user or a password in it, which a server does not take",
            hint="Leave out the part before the @; give a token as METAVAE_TOKEN",
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


def tokens_for(url: str | None, *, token: str | None = None, path: AnyPath | None = None) -> Tokens:
    """The tokens for a server; None is one on this machine."""
    return Tokens(token=token, path=path, local=url is None or is_local(parse_url(url)))


def management_url(url: str) -> str:
    """URL of the management API of a server: the port after that of its inference URL."""
    parsed = parse_url(url)
    if parsed.scheme == "grpc":
        raise ServerUnreachable(
            f"{url} is an address of gRPC, which does not list the models",
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
