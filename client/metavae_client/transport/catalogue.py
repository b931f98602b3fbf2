"""Names of the models that a server serves, from TorchServe's management API."""

from __future__ import annotations

import httpx

from metavae_client.errors import BadReply, GaveUp, ModelNotNamed, ServerUnreachable, Unauthorized
from metavae_client.transport.address import management_url, tokens_for, url_of_store
from metavae_client.transport.connection import Connection, Patience
from metavae_client.transport.replies import one_line
from metavae_client.transport.tokens import Tokens
from metavae_zoo.errors import MetavaeError
from metavae_zoo.places import AnyPath

_SOON = 5.0  # seconds: a guessed address may be behind a firewall, and never answer
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
    except (ValueError, LookupError, TypeError, httpx.InvalidURL) as error:
        raise BadReply(
            f"what answers at {url} is no management API of TorchServe",
            hint="Give it as --management-url; it listens on the server's own machine only",
            field="management_url",
        ) from error
    finally:
        connection.close()


def served_beside(url: str, tokens: Tokens) -> list[str]:
    """Names of the models of the server with this inference URL, by its own management API.

    Raises the error of the server itself if it does not answer, and ServerUnreachable if only its
    management API does not.
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


def only_name(url: str | None, *, token_file: AnyPath | None = None) -> str:
    """Name of the one model that the server serves; `url` None is as for RemoteEmbedder.

    Raises ModelNotNamed if it serves several or does not tell, and what `Connection` raises.
    """
    tokens = tokens_for(url, path=token_file)
    url = url or url_of_store(tokens)
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


def try_served_names(url: str, tokens: Tokens) -> list[str]:
    """The names, within a short time; none if the management API is out of reach."""
    try:
        return _names_soon(url, tokens)
    except MetavaeError:
        return []


def _ping(url: str, tokens: Tokens) -> None:
    """Raise the error of the server itself, if there is one."""
    management_url(url)  # gRPC has none
    inference = Connection(url, tokens, "inference", Patience())
    try:
        inference.send("GET", "/ping")
    finally:
        inference.close()


def _names_soon(url: str, tokens: Tokens) -> list[str]:
    return served_names(management_url(url), tokens, Patience(timeout=_SOON, give_up_after=_SOON))
