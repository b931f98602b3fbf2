"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metavae_zoo.console import PATH

if TYPE_CHECKING:
    from metavae_client.sites import SiteEmbedder

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options --url and --token-file."""
    for option in (
        click.option(
            "--token-file",
            type=PATH,
            help="TorchServe's key_file.json.  [default: the token in METAVAE_TOKEN, the file in"
            " METAVAE_TOKEN_FILE; for a server on this machine the default store's, then"
            " ./key_file.json]",
        ),
        click.option(
            "--url",
            envvar="METAVAE_URL",
            show_envvar=True,
            help="The server's inference API.  [default: that of the server over the store whose"
            " key file is read, else http://127.0.0.1:8080]",
        ),
    ):
        command = option(command)
    return command


def sample_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options --in-process, --seed and --data-root of a measurement."""
    for option in (
        click.option(
            "--data-root",
            type=PATH,
            help="Folder that holds MNIST/raw.  [default: METAVAE_DATA, else the cache, else"
            " downloaded]",
        ),
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True),
        click.option(
            "--in-process", is_flag=True, help="Run the zoo's model here, without a server."
        ),
    ):
        command = option(command)
    return command


def open_embedder(
    name: str, url: str | None, token_file: Path | None, in_process: bool
) -> AbstractContextManager[SiteEmbedder]:
    """The served model, or the zoo's in this process."""
    if not in_process:
        from metavae_client.remote import RemoteEmbedder  # httpx takes a while to load

        return RemoteEmbedder(url, name, token_file=token_file)
    from metavae_zoo.bundles.index import find_bundle
    from metavae_zoo.embedding.embedder import OnnxEmbedder

    return nullcontext(OnnxEmbedder(find_bundle(name)))
