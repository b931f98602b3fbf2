"""A model behind metavae's own server: how it is served, where it is asked, with which token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from metavae_serving import launch, process
from metavae_serving.archive import pack
from metavae_serving.configuration import read_settings
from metavae_serving.settings import ModelSettings, Settings
from metavae_zoo.bundle import Bundle
from metavae_zoo.places import token_file
from served.load import Message, run

_WARMING_CLIENTS = 8


@contextmanager
def serving(bundle: Bundle, settings: ModelSettings, port: int) -> Iterator[Path]:
    """A server over one model: its store."""
    with TemporaryDirectory() as folder:
        store = Path(folder, "store")
        pack([bundle], store, Settings(port=port, models={bundle.card.name: settings}))
        launch.start(store)
        try:
            yield store
        finally:
            process.end(store)


def authorization(store: Path, model: str) -> tuple[str, dict[str, str]]:
    """The URL of a model of a running server, and the header that lets one in."""
    key = json.loads(token_file(store).read_text())["inference"]["key"]
    url = f"{read_settings(store).url}/predictions/{model}"
    return url, {"Authorization": f"Bearer {key}"}


def warm_up(messages: Sequence[Message], seconds: float) -> None:
    """Ask a server for each of the messages for so long, before anything is measured.

    Java compiles what it has run some thousand times in the background, which takes half a core
    for tens of seconds: a server that is up has done so.
    """
    for message in messages:
        run(message, clients=_WARMING_CLIENTS, seconds=seconds)
