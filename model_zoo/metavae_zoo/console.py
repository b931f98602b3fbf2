"""What the four command lines share: a known error is one line, a bug keeps its traceback."""

from __future__ import annotations

from typing import Any

import click

from metavae_zoo import __version__
from metavae_zoo.errors import MetavaeError


class Commands(click.Group):
    """A group of commands whose known errors end in one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except MetavaeError as error:
            raise click.ClickException(str(error)) from error


version_option = click.version_option(__version__, message="%(prog)s %(version)s")
