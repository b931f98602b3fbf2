"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable

import click

from metavae_zoo.console import PATH

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
