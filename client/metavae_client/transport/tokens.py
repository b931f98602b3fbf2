"""The token of a server: where it is read, and what happens when the server refuses it.

TorchServe makes new tokens at each start and lets them expire. No token is ever part of an error,
a log or a `repr`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx

from metavae_client.errors import Unauthorized
from metavae_client.transport.replies import refuses_token
from metavae_zoo.parsing import parse_json
from metavae_zoo.places import AnyPath, default_store, token_file

Key = Literal["inference", "management"]

KEY_FILE = "key_file.json"  # TorchServe writes it into its working directory

_LONGEST = 1000  # characters of a token
_MOST_TOKENS = 4  # per request: a file that always changes must not keep it busy
_READS = 5
_WRITE_SECONDS = 0.01  # more than TorchServe takes to write the file


class Tokens:
    """The tokens for one server: a given token, or a key file of TorchServe.

    The order is `token`, `path`, METAVAE_TOKEN, METAVAE_TOKEN_FILE. For a server on this machine
    (`local`) the key file of the default store follows, then ./key_file.json.
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
        """The first token that was not `refused`; None if there is none.

        Files are read anew each time. Raises Unauthorized for a file that holds no token.
        """
        if self._token is not None:
            tokens = iter([_checked(self._token, "the token that was given")])
        else:
            tokens = (_checked(_from_key_file(path, key), f"{path}") for path in self.files())
        return next((token for token in tokens if token not in refused), None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the first key file: one thread or process renews its token, the others then read."""
        with ExitStack() as stack:
            for path in self.files()[:1]:
                with suppress(OSError):  # the file is gone, or on a disk without locks
                    fcntl.flock(stack.enter_context(path.open()), fcntl.LOCK_EX)
            yield

    def api_keys(self) -> list[str]:
        """Keys with which TorchServe makes new tokens; they never leave this machine.

        Only a store's own key file counts: a copy of it would never be written again, and the new
        token would end the one that others have.
        """
        keys = []
        for path in [] if self._token is not None else self.files():
            if path.resolve() == token_file(path.resolve().parent.parent):
                with suppress(Unauthorized):  # a file may hold tokens only
                    keys.append(_checked(_from_key_file(path, "API"), f"{path}"))
        return keys

    def origin(self) -> str:
        """Where the token comes from, in words."""
        if self._token is not None:
            return "the token that was given (METAVAE_TOKEN)"
        if files := self.files():
            return f"the token of {' and that of '.join(map(str, files))}"
        searched = ", ".join(map(str, self._found)) or "no file named"
        return f"no token (looked at METAVAE_TOKEN, METAVAE_TOKEN_FILE, {searched})"

    def files(self) -> list[Path]:
        """The key files that are read, in their order."""
        if self._token is not None:
            return []
        if self._path is not None:
            return [self._path]
        return [path for path in self._found if os.path.lexists(path)]


class TokenAuth(httpx.Auth):
    """Sends the token of a kind; for a refused one it tries the next, and has one renewed.

    `renew` has the server write a new token into its key file, given the extensions of the request
    (its time limits). Each request calls it once at most. A last refusal is returned as the reply.
    """

    def __init__(
        self, tokens: Tokens, key: Key, renew: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._tokens = tokens
        self._key: Key = key
        self._renew = renew
        self._token: str | None = None  # the one that was taken last

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request until its token is taken, or there is no other."""
        refused: set[str | None] = set()
        token = self._token or self._tokens.read(self._key)
        while True:
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if not refuses_token(response):
                self._token = token
                return
            refused.add(token)
            token = self._other(refused, request) if len(refused) < _MOST_TOKENS else None
            if token is None:
                self._token = None
                return

    def _other(self, refused: Set[str | None], request: httpx.Request) -> str | None:
        with self._tokens.locked():
            token = self._tokens.read(self._key, refused)
            if token is None and "renewed" not in request.extensions:
                request.extensions["renewed"] = True
                self._renew(request.extensions)
                token = self._tokens.read(self._key, refused)
            return token


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
    """The JSON of a key file. TorchServe overwrites it in place: half a file is read again."""
    for _ in range(_READS - 1):
        with suppress(ValueError):
            return parse_json(path.read_text())
        time.sleep(_WRITE_SECONDS)
    return parse_json(path.read_text())


def _checked(token: str, origin: str) -> str:
    token = token.strip()
    # Other characters cannot stand in a header, and the HTTP library's error would show them.
    printable = token.isascii() and token.isprintable() and " " not in token
    if not token or not printable or len(token) > _LONGEST:
        raise Unauthorized(
            f"{origin} is not a token",
            hint=f"A token is one word of printable ASCII characters, {_LONGEST} at most",
            field="token",
        )
    return token
