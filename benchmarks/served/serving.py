"""A model behind metavae's own server: how it is served, where it is asked, with which token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, process
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.store import Store
from metavae_zoo.bundles.bundle import Bundle
from served.load import Message, run
from served.noop import NAME as NOOP
from served.noop import add_noop

_WARMING_CLIENTS = 8


@contextmanager
def serving(
    bundle: Bundle, settings: ModelSettings, port: int, *, floor: bool = False
) -> Iterator[Store]:
    """A server over one model, and over a handler that does nothing with `floor`: its store."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "store")
        store = pack([bundle], path, Settings(port=port, models={bundle.card.name: settings}))
        if floor:
            store = add_noop(store, settings)
        launch.start(store)
        try:
            yield store
        finally:
            process.end(path)


def authorization(store: Store, model: str) -> tuple[str, dict[str, str]]:
    """The URL of a model of a running server, and the header that lets one in."""
    key = json.loads(store.token_file.read_text())["inference"]["key"]
    url = f"{store.settings.url}/predictions/{model}"
    return url, {"Authorization": f"Bearer {key}"}


def floor_message(store: Store, url: str, body: bytes, headers: dict[str, str]) -> Message:
    """As large a request to the handler that does nothing, for as large a reply as the model's."""
    reply = httpx.post(url, content=body, headers=headers, timeout=60).raise_for_status()
    size = {"Reply-Bytes": str(len(reply.content))}
    return Message.post(authorization(store, NOOP)[0], body, headers | size)


def warm_up(messages: Sequence[Message], seconds: float) -> None:
    """Ask a server for each of the messages for so long, before anything is measured.

    Java compiles what it has run some thousand times in the background, which takes half a core
    for tens of seconds: a server that is up has done so.
    """
    for message in messages:
        run(message, clients=_WARMING_CLIENTS, seconds=seconds)
