"""What the four command lines share: a known error is one line, a bug keeps its traceback."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import click

from metavae_zoo import __version__
from metavae_zoo.errors import MetavaeError, install

# What the base install leaves out, and the extra that brings it.
_EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "onnxruntime": "runtime",
    "psutil": "serve",
    "yaml": "serve",
}


# A disk, a quota, or a file that may not grow: these come without the name of a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINTS = {
    **dict.fromkeys(_FULL, "Free some space, or give another place"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "A file is in the way of a folder: move it"),
    errno.ENOENT: "Check the path",
}


class ShowsErrors(click.Command):
    """A command whose known errors end in one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MetavaeError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            # A full disk, a folder that is not ours: the system's own words, and where.
            if error.filename is None and error.errno not in _FULL:
                raise
            place = f"{error.filename}: " if error.filename else ""
            hint = _HINTS.get(error.errno or 0, "Give another place")
            raise click.ClickException(f"{place}{error.strerror}. {hint}") from error
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").split(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"{error.name} is not installed. {install(extra)}"
            ) from error


class Commands(ShowsErrors, click.Group):
    """A group of such commands."""


class GivenPath(click.Path):
    """A path; an empty one, as of a variable that is not set, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of a word."""
        if value == "":
            self.fail("an empty path was given; expected a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds, which NaN is not."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number of a word."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} was given; expected a number", param, ctx)
        return found


PATH = GivenPath(path_type=Path)
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

version_option = click.version_option(__version__, message="%(prog)s %(version)s")
