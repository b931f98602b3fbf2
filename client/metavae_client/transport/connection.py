"""Requests to one server, by HTTP or gRPC: tokens, retries and what its failures mean."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial

import httpx

from metavae_client.errors import GaveUp, ServerUnreachable, Unauthorized
from metavae_client.transport.address import is_local, management_url, parse_url
from metavae_client.transport.forks import PerProcess
from metavae_client.transport.http import SHORTEST_TRY, HttpClient
from metavae_client.transport.replies import (
    REQUEST_ID,
    checked,
    in_words,
    one_line,
    refuses_token,
    retry_after,
)
from metavae_client.transport.tokens import Key, Tokens

logger = logging.getLogger(__name__)

_TRANSIENT = {429, 500, 502, 503, 504, 507}  # TorchServe answers 507 when a worker has died
_FIRST_DELAY = 0.1  # seconds
_LONGEST_DELAY = 5.0
_MOST_TOKENS = 4  # per request: a file that changes all the time must not keep it busy


@dataclass(frozen=True)
class Patience:
    """Seconds: for one try, and for one request with all its retries.

    A try ends with its time even if its reply still trickles in; only while it connects, sends or
    waits for the reply's headers, each of these may take that long by itself.
    """

    timeout: float = 30.0
    give_up_after: float = 60.0


class Connection:
    """A pool of connections to one server, for any number of threads, and in forked processes.

    A request that the server could not take (500, 503, 507, a reset, a timeout) is sent again
    after a random delay that doubles in the mean, or after Retry-After. In place of a refused
    token others are tried, as long as `tokens` has one that this request has not tried; a server
    on this machine is then asked for a new one, once, where `tokens` has the key to do so.
    """

    def __init__(self, url: str, tokens: Tokens, key: Key, patience: Patience) -> None:
        parsed = parse_url(url)
        self.url = str(parsed)
        self._tokens = tokens
        self._key: Key = key
        self._token = tokens.read(key)
        self._patience = patience
        self._reached = False
        self._closed = threading.Event()
        self._http = PerProcess(partial(HttpClient, parsed))

    def send(
        self,
        method: str,
        path: str,
        *,
        model: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the successful (2xx) reply.

        All its tries have one new id as X-Request-Id. Raises ServerUnreachable, Unauthorized or
        ModelNotServed (for `model`); RequestRefused, GaveUp or BadReply, which tell the id.
        """
        started, tries = time.monotonic(), 0
        identity = uuid.uuid4().hex
        refused: set[str | None] = set()
        others = self._others(refused, started)
        while True:
            tries, token = tries + 1, self._token
            sent = {**(headers or {}), REQUEST_ID: identity, **_authorization(token)}
            response, trouble = self._try(method, path, body, sent, self._deadline(started))
            if response is not None and refuses_token(response):
                refused.add(token)
                with self._tokens.held(self._deadline(started), self._closed):
                    other = next(others, None) if len(refused) <= _MOST_TOKENS else None
                if other is None:
                    raise self._unauthorized(token)
                self._token = other
                continue
            if response is not None and response.status_code not in _TRANSIENT:
                return checked(response, self.url, model)
            elapsed = time.monotonic() - started
            left = self._patience.give_up_after - elapsed
            asked = retry_after(response.headers) if response is not None else 0.0
            # The last try comes in time: a delay of our own ends early, the server's is kept.
            delay = max(asked, min(_delay(tries), left - SHORTEST_TRY))
            gave_up = GaveUp(
                self.url, tries=tries, seconds=elapsed, last=trouble, request_id=identity
            )
            if left <= 2 * SHORTEST_TRY or delay >= left or self._closed.is_set():
                raise gave_up
            again = "%s: %s; trying again in %.1f s (request=%s)"
            logger.info(again, self.url, trouble, delay, identity)
            if self._wait(delay):
                raise gave_up

    @property
    def closed(self) -> bool:
        """Whether it was closed: every request gives up at once."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close the connections; requests that wait for a reply or a retry give up."""
        self._closed.set()
        self._http.get().close()

    def _deadline(self, started: float) -> float:
        """When a try that begins now has to end, of a request that was started then."""
        now = time.monotonic()
        return min(now + self._patience.timeout, started + self._patience.give_up_after)

    def _others(self, refused: Set[str | None], started: float) -> Iterator[str]:
        """Tokens that are not among the `refused` when they are asked for; a new one comes last."""
        unrefused = partial(self._tokens.read, self._key, refused)
        yield from iter(unrefused, None)
        self._renew(started)
        yield from iter(unrefused, None)

    def _renew(self, started: float) -> None:
        """Have a server on this machine write a new token into its key file, if it has that key."""
        url = parse_url(self.url)
        if url.scheme == "grpc" or not is_local(url):  # gRPC's address does not tell where
            return
        at = self.url if self._key == "management" else management_url(self.url)
        for api_key in self._tokens.api_keys():
            path, sent = f"{at}/token?type={self._key}", _authorization(api_key)
            response, trouble = self._try("GET", path, None, sent, self._deadline(started))
            if response is not None and response.is_success:
                return
            logger.info("%s makes no new token: %s", at, trouble)

    def _wait(self, seconds: float) -> bool:
        """Wait, for no longer than until the connection is closed; whether it is."""
        return self._closed.wait(seconds)

    def _try(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> tuple[httpx.Response | None, str]:
        """The reply, if one came by the deadline, and what is wrong, in words."""
        if self._closed.is_set():  # a forked process would open connections of its own
            return None, "the connection being closed here"
        try:
            response = self._http.get().reply(method, path, body, headers, deadline)
        except httpx.ConnectError as error:
            # Nothing has ever answered here: it is not a matter of patience.
            if not self._reached:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise ServerUnreachable(
                        f"the certificate of {self.url} is not trusted ({one_line(str(error))})",
                        hint="Give the certificate of the authority that signed it as the file"
                        " SSL_CERT_FILE, and use the host name that it was made for",
                        field="url",
                    ) from error
                raise ServerUnreachable(
                    f"no server answers at {self.url} ({one_line(str(error))})",
                    hint="Start one with `metavae-serve start NAME`, or give its address as --url"
                    " or METAVAE_URL",
                    field="url",
                ) from error
            return None, "the connection being refused"
        except httpx.RemoteProtocolError as error:
            if not self._reached and str(error).startswith("illegal"):
                raise ServerUnreachable(
                    f"what answers at {self.url} does not speak HTTP ({one_line(str(error))})",
                    hint="Check --url: the inference API is at port 8080 by default; gRPC, three"
                    " ports further on, takes grpc:// addresses",
                    field="url",
                ) from error
            return None, f"a {type(error).__name__}"
        except httpx.RequestError as error:
            return None, f"a {type(error).__name__}"
        except RuntimeError:  # httpx's word for a client that another thread has closed
            if not self._closed.is_set():
                raise
            return None, "the connection being closed here"
        self._reached = True
        return response, "" if response.is_success else in_words(response)

    def _unauthorized(self, token: str | None) -> Unauthorized:
        problem = "wants a token and was given" if token is None else "refuses"
        if self._key == "management":
            return Unauthorized(
                f"the management API at {self.url}, which lists the models, wants the management"
                f" token and not the inference one; it {problem} {self._tokens.origin()}",
                hint="Give TorchServe's key_file.json, which holds both, as --token-file or"
                " METAVAE_TOKEN_FILE",
                field="token",
            )
        return Unauthorized(
            f"the server at {self.url} {problem} {self._tokens.origin()}",
            hint="TorchServe makes new tokens at each start and lets them expire: give its"
            " key_file.json as --token-file or METAVAE_TOKEN_FILE, or start it again",
            field="token",
        )


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _delay(tries: int) -> float:
    """Seconds to the next try: exponential with full jitter."""
    ceiling = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(tries - 1, 10))
    return random.uniform(0, ceiling)  # noqa: S311
