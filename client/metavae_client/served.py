"""Which models a server serves, by TorchServe's management API."""

from __future__ import annotations

import httpx

from metavae_client.connection import Connection, Patience, parse_url
from metavae_client.errors import BadReply
from metavae_client.tokens import Tokens
from metavae_zoo.errors import MetavaeError


def management_url(url: str) -> str:
    """Where `metavae-serve` puts the management API of an inference URL: the next port."""
    parsed = parse_url(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return str(parsed.copy_with(port=port + 1))


def served_names(url: str, tokens: Tokens, patience: Patience | None = None) -> list[str]:
    """Names of the models that the server with this management URL serves."""
    connection = Connection(url, tokens, "management", patience or Patience())
    names: list[str] = []
    page: str | None = ""
    try:
        while page is not None:
            query = httpx.QueryParams({"limit": 100} | ({"next_page_token": page} if page else {}))
            listing = connection.send("GET", f"/models?{query}").json()
            names += [model["modelName"] for model in listing["models"]]
            page = listing.get("nextPageToken")
    except (ValueError, LookupError, TypeError) as error:
        raise BadReply(
            f"what answers at {url} is no management API of TorchServe",
            hint="Give it as --management-url; it listens on the server's own machine only",
            field="management_url",
        ) from error
    finally:
        connection.close()
    return sorted(names)


def names_if_they_can_be_had(url: str, tokens: Tokens) -> list[str]:
    """The names, or none where the management API is out of reach; soon, in any case."""
    try:
        return served_names(management_url(url), tokens, Patience(timeout=2.0, give_up_after=2.0))
    except MetavaeError:
        return []
