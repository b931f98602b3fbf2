"""Which models a server serves, by TorchServe's management API."""

from __future__ import annotations

from pathlib import Path

import httpx

from metavae_client.errors import BadReply, GaveUp, ModelNotNamed, ServerUnreachable, Unauthorized
from metavae_client.transport.address import is_local, management_url, parse_url
from metavae_client.transport.connection import Connection, Patience
from metavae_client.transport.replies import one_line
from metavae_client.transport.tokens import Tokens
from metavae_zoo.errors import MetavaeError

_SOON = 5.0  # seconds: an address that was guessed may be behind a firewall, and never answer
_MOST_PAGES = 100  # of 100 models each
_NAME_IT = "Name the model: --model NAME, or METAVAE_MODEL"


def served_names(url: str, tokens: Tokens, patience: Patience | None = None) -> list[str]:
    """Names of the models that the server with this management URL serves."""
    connection = Connection(url, tokens, "management", patience or Patience())
    names: list[str] = []
    page: str | None = ""
    try:
        for _ in range(_MOST_PAGES):
            query = httpx.QueryParams({"limit": 100} | ({"next_page_token": page} if page else {}))
            listing = connection.send("GET", f"/models?{query}").json()
            names += [one_line(model["modelName"]) for model in listing["models"]]
            if (page := listing.get("nextPageToken")) is None:
                return sorted(names)
            if not isinstance(page, str):
                raise TypeError("a page's token is text")
        raise ValueError("no last page")
    except (ValueError, LookupError, TypeError, RecursionError, httpx.InvalidURL) as error:
        raise BadReply(
            f"what answers at {url} is no management API of TorchServe",
            hint="Give it as --management-url; it listens on the server's own machine only",
            field="management_url",
        ) from error
    finally:
        connection.close()


def served_beside(url: str, tokens: Tokens) -> list[str]:
    """Names of the models of the server with this inference URL, by its own management API.

    Raises what is wrong with the server itself; and ServerUnreachable where it is there and its
    management API is not.
    """
    _ping(url, tokens)
    try:
        return _names_soon(url, tokens)
    except (ServerUnreachable, GaveUp) as error:
        raise ServerUnreachable(
            f"the server at {url} does not tell what it serves: {error.message}",
            hint="The management API listens on the server's own machine only: ask there, or give"
            " --management-url",
            field="management_url",
        ) from error


def only_name(url: str, *, token_file: Path | None = None) -> str:
    """Name of the one model that the server with this inference URL serves.

    Raises ModelNotNamed where it serves several or does not tell, and what `Connection` raises.
    """
    tokens = Tokens(path=token_file, local=is_local(parse_url(url)))
    _ping(url, tokens)
    try:
        names = _names_soon(url, tokens)
    except MetavaeError as error:
        raise ModelNotNamed(
            f"no --model was given, and the server at {url} does not tell which it serves:"
            f" {error.message}",
            hint=f"{_NAME_IT}. {error.hint}" if isinstance(error, Unauthorized) else _NAME_IT,
            field="model",
        ) from error
    if len(names) == 1:
        return names[0]
    raise ModelNotNamed(
        f"no --model was given, and the server at {url} serves {', '.join(names) or 'none'}",
        hint=_NAME_IT,
        field="model",
    )


def names_if_they_can_be_had(url: str, tokens: Tokens) -> list[str]:
    """The names, or none where the management API is out of reach; soon, in any case."""
    try:
        return _names_soon(url, tokens)
    except MetavaeError:
        return []


def _ping(url: str, tokens: Tokens) -> None:
    """Raise what is wrong with the server itself, which comes before what its models are."""
    management_url(url)  # which there is none of for gRPC
    inference = Connection(url, tokens, "inference", Patience())
    try:
        inference.send("GET", "/ping")
    finally:
        inference.close()


def _names_soon(url: str, tokens: Tokens) -> list[str]:
    return served_names(management_url(url), tokens, Patience(timeout=_SOON, give_up_after=_SOON))
