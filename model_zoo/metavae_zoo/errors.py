"""Every error that a user of metavae can cause or meet.

MetavaeError            says what was given, what was expected and what to do
├── UnknownName         a model, recipe, family or split that does not exist
├── BadImages           images of a wrong shape, type or range, or none at all
├── BadSummary          a summary that is missing, of another model, or out of range
├── NoSite              a site that was asked of a model that infers none
├── BadBundle           a model on disk that is incomplete, changed or too new
├── BadFile             an input that cannot be read, or an output that cannot be written
├── DataUnavailable     a data set that can be neither found nor downloaded, or is damaged
└── DeviceUnavailable   an execution provider that was asked for and is not there
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetavaeError(Exception):
    """A known failure: one clear message for a person, a code for a program.

    `message` says what was given and what was expected, `hint` what to do next, `field` which
    input is at fault. A command line prints one line and exits with 1; the server answers 4xx.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UnknownName(MetavaeError):
    """No model, recipe, family or split has the name that was given."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str) -> None:
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        super().__init__(f"no {kind} {name!r}", hint=f"{guess}{listing}", field=kind)

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


class BadImages(MetavaeError):
    """Images whose size, channels, type or range the model cannot take."""

    code = "bad_images"


class BadSummary(MetavaeError):
    """A context summary that is missing, made by another model, or outside the exact range."""

    code = "bad_summary"


class NoSite(MetavaeError):
    """The site of a context was asked for, and the model infers none."""

    code = "no_site"


class BadBundle(MetavaeError):
    """A model on disk that is incomplete, changed since it was made, or of a newer schema."""

    code = "bad_bundle"


class DataUnavailable(MetavaeError):
    """A data set that can be neither found nor downloaded, or whose files are damaged."""

    code = "data_unavailable"


class DeviceUnavailable(MetavaeError):
    """An execution provider that was asked for and cannot be had; there is no silent fall-back."""

    code = "device_unavailable"


class BadFile(MetavaeError):
    """A file that cannot be read as what it should hold, or cannot be written."""

    code = "bad_file"


def install(extra: str) -> str:
    """A hint: the command that brings an extra of the package, which is on no registry."""
    return f"In a clone of metavae: `pip install -e '.[{extra}]'`"
