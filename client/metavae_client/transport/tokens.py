"""The token that a server wants, and where it is found.

TorchServe makes new tokens at each start and lets them expire, so a file is read again whenever
a token is refused, and the next file is tried: one may be what a server left that has ended. No
token is ever part of an error, a log or a `repr`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from metavae_client.errors import Unauthorized
from metavae_zoo.parsing import parse_json
from metavae_zoo.places import AnyPath, default_store, token_file

Key = Literal["inference", "management"]

KEY_FILE = "key_file.json"  # what TorchServe writes into its working directory

_LONGEST = 1000  # characters of a token
_READS = 5
_POLL_SECONDS = 0.01
_WRITE_SECONDS = 0.01  # more than writing it takes


class Tokens:
    """Where the tokens for one server come from: a given token, or a key file of TorchServe.

    In this order: `token`, `path`, METAVAE_TOKEN, METAVAE_TOKEN_FILE; and for a server on this
    machine (`local`) the default store's key file, then ./key_file.json. A file that was merely
    found is not sent to another machine.
    """

    def __init__(
        self, *, token: str | None = None, path: AnyPath | None = None, local: bool = False
    ) -> None:
        self._token = token or None
        self._path = None if path is None else Path(path)
        if token is None and path is None:
            self._token = os.environ.get("METAVAE_TOKEN") or None
            named = os.environ.get("METAVAE_TOKEN_FILE")
            self._path = Path(named) if named else None
        self._found = [token_file(default_store()), Path(KEY_FILE)] if local else []

    def read(self, key: Key, refused: Set[str | None] = frozenset()) -> str | None:
        """The first token as it is now that was not `refused`; None where there is none.

        Raises Unauthorized for a file that holds no token.
        """
        if self._token is not None:
            tokens = iter([_checked(self._token, "the token that was given")])
        else:
            tokens = (_checked(_from_key_file(path, key), f"{path}") for path in self._files())
        return next((token for token in tokens if token not in refused), None)

    @contextmanager
    def held(self, deadline: float, dropped: threading.Event) -> Iterator[None]:
        """Hold the key file (of two, the first) against other threads and processes.

        So that of all who miss a token one has it renewed, and the others read it. It is waited for
        until `deadline` (of the monotonic clock) at most, or until `dropped` is set: who holds it
        may be stopped.
        """
        with ExitStack() as stack:
            for path in self._files()[:1]:
                with suppress(OSError):  # a file that is gone, or on a disk without locks
                    file = stack.enter_context(path.open())
                    while not _locked(file) and time.monotonic() < deadline:
                        if dropped.wait(_POLL_SECONDS):
                            break
            yield

    def api_keys(self) -> list[str]:
        """Keys with which TorchServe makes new tokens; they are for no other machine to see.

        Of a store's own file alone: where a server writes elsewhere, as for a copy of the file, a
        new token would end the one that others have, and never be read.
        """
        if self._token is not None:
            return []
        keys = []
        for path in filter(_is_of_a_store, self._files()):
            with suppress(Unauthorized):  # a file may hold its tokens without it
                keys.append(_checked(_from_key_file(path, "API"), f"{path}"))
        return keys

    def origin(self) -> str:
        """Where the token comes from, for people."""
        if self._token is not None:
            return "the token that was given (METAVAE_TOKEN)"
        files = self._files()
        if files:
            return f"the token of {' and that of '.join(map(str, files))}"
        searched = ", ".join(str(path) for path in self._found) or "no file named"
        return f"no token (looked at METAVAE_TOKEN, METAVAE_TOKEN_FILE, {searched})"

    def _files(self) -> list[Path]:
        if self._path is not None:
            return [self._path]
        return [path for path in self._found if _is_file(path)]


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file(path: Path) -> bool:
    """Whether it is there, or behind a door: the error that then follows names it."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def _is_of_a_store(path: Path) -> bool:
    found = path.resolve()
    return found == token_file(found.parent.parent)


def _from_key_file(path: Path, key: Key | Literal["API"]) -> str:
    try:
        return str(_contents(path)[key]["key"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no {key!r} key in it"
        raise Unauthorized(
            f"the token file {path} cannot be read ({reason})",
            hint=f"Give the {KEY_FILE} that TorchServe wrote when it started, as --token-file or"
            " METAVAE_TOKEN_FILE",
            field="token_file",
        ) from error


def _contents(path: Path) -> Any:
    """What a key file says. TorchServe writes over it in place: a half of one is read again."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")  # a pipe would be waited for, and read once
    for _ in range(_READS - 1):
        with suppress(ValueError):
            return parse_json(path.read_text())
        time.sleep(_WRITE_SECONDS)
    return parse_json(path.read_text())


def _checked(token: str, origin: str) -> str:
    token = token.strip()
    # Anything else could not stand in a header, and the HTTP library's error would show it.
    printable = token.isascii() and token.isprintable() and " " not in token
    if not token or not printable or len(token) > _LONGEST:
        raise Unauthorized(
            f"{origin} is not a token",
            hint=f"A token is one word of printable ASCII characters, {_LONGEST} at most",
            field="token",
        )
    return token
