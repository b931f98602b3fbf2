"""Requests to one server: tokens, retries, and errors that name the cause."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import tenacity

from metavae_client.errors import Closed, GaveUp, ServerUnreachable, Unauthorized
from metavae_client.transport.address import management_url, parse_url
from metavae_client.transport.http import WholeReplies, open_transport
from metavae_client.transport.replies import (
    REQUEST_ID,
    checked,
    in_words,
    one_line,
    refuses_token,
    retry_after,
)
from metavae_client.transport.tokens import Key, TokenAuth, Tokens
from metavae_zoo.network import explain, is_local

logger = logging.getLogger(__name__)

_TRANSIENT = {429, 500, 502, 503, 504, 507}  # TorchServe answers 507 when a worker has died
_SHORTEST_TRY = 0.1  # seconds
_jitter = tenacity.wait_random_exponential(multiplier=0.1, max=5.0)


@dataclass(frozen=True)
class Patience:
    """Seconds for one try, and for one request with all its retries.

    A try ends with its time even if its reply still trickles in. While it connects, sends or waits
    for the reply's headers, each of these may take that long by itself.
    """

    timeout: float = 30.0
    give_up_after: float = 60.0


class _Transient(Exception):
    """A try that failed and may succeed later; `delay` is what the server asks for, in seconds."""

    def __init__(self, trouble: str, delay: float = 0.0) -> None:
        super().__init__(trouble)
        self.delay = delay


class Connection:
    """A pool of connections to one server, for any number of threads of one process.

    A request that the server could not take (500, 503, 507, a reset, a timeout) is sent again after
    a random delay that doubles in the mean, or after Retry-After. All requests are safe to repeat.
    In place of a refused token another is sent, see `TokenAuth`.
    """

    def __init__(
        self,
        url: str,
        tokens: Tokens,
        key: Key,
        patience: Patience,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parsed = parse_url(url)
        self.url = str(parsed)
        self._tokens = tokens
        self._key: Key = key
        self._patience = patience
        self._reached = False
        self._closed = threading.Event()
        self._transport = WholeReplies(transport or open_transport(parsed))
        self._http = httpx.Client(
            base_url=parsed,
            auth=TokenAuth(tokens, key, self._renew),
            transport=self._transport,
            headers={"Accept-Encoding": "identity"},  # a packed reply may be a bomb
        )

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

        All tries have the same new id as X-Request-Id. Raises ServerUnreachable, Unauthorized or
        ModelNotServed (for `model`); RequestRefused, GaveUp, Closed or BadReply, which tell the id.
        """
        started, identity = time.monotonic(), uuid.uuid4().hex
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            wait=_delay,
            stop=tenacity.stop_before_delay(self._patience.give_up_after),
            sleep=self._wait,
            before_sleep=lambda state: self._log(state, identity),
            reraise=True,
        )
        request = {
            "method": method,
            "url": path,
            "content": body,
            "headers": {**(headers or {}), REQUEST_ID: identity},
        }
        try:
            response = retrying(self._try, request, started)
        except _Transient as last:
            raise GaveUp(
                self.url,
                tries=retrying.statistics["attempt_number"],
                seconds=time.monotonic() - started,
                last=str(last),
                request_id=identity,
            ) from last
        if refuses_token(response):
            raise self._unauthorized(had_token="Authorization" in response.request.headers)
        return checked(response, self.url, model)

    @property
    def closed(self) -> bool:
        """Whether it was closed: every request then raises Closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close the connections; requests that wait for a reply or a retry raise Closed."""
        self._closed.set()
        self._http.close()

    def _try(self, request: dict[str, Any], started: float) -> httpx.Response:
        """The reply of one try; raises _Transient where another may help."""
        identity = request["headers"][REQUEST_ID]
        if self._closed.is_set():
            raise Closed(self.url, request_id=identity)
        now = time.monotonic()
        deadline = min(now + self._patience.timeout, started + self._patience.give_up_after)
        try:
            response = self._http.request(
                **request,
                timeout=max(deadline - now, _SHORTEST_TRY),
                extensions={"deadline": deadline},
            )
        except (httpx.TransportError, RuntimeError) as error:
            if self._closed.is_set():
                raise Closed(self.url, request_id=identity) from error
            if isinstance(error, RuntimeError):  # a bug of ours
                raise
            raise self._trouble(error) from error
        self._reached = True
        if response.status_code in _TRANSIENT and not refuses_token(response):
            raise _Transient(in_words(response), retry_after(response.headers))
        return response

    def _trouble(self, error: httpx.TransportError) -> Exception:
        """The error for a failed connection: final if nothing has ever answered here."""
        if not self._reached and isinstance(error, httpx.ConnectError | httpx.ProxyError):
            cause, hint = explain(self.url, error)
            start = "Start one with `metavae-serve start NAME`, or give its address as --url or"
            return ServerUnreachable(
                one_line(cause), hint=hint or f"{start} METAVAE_URL", field="url"
            )
        illegal = isinstance(error, httpx.RemoteProtocolError) and str(error).startswith("illegal")
        if not self._reached and illegal:
            return ServerUnreachable(
                f"what answers at {self.url} does not speak HTTP ({one_line(str(error))})",
                hint="Check --url: the inference API is at port 8080 by default; gRPC, three ports"
                " further on, takes grpc:// addresses",
                field="url",
            )
        return _Transient(f"a {type(error).__name__} ({one_line(str(error))})")

    def _renew(self, limits: Mapping[str, Any]) -> None:
        """Have a server on this machine write a new token into the key file of its store."""
        url = parse_url(self.url)
        if url.scheme == "grpc" or not is_local(url):  # gRPC's address does not tell where
            return
        at = self.url if self._key == "management" else management_url(self.url)
        for api_key in self._tokens.api_keys():
            with suppress(httpx.TransportError):
                self._http.get(
                    f"{at}/token?type={self._key}",
                    headers={"Authorization": f"Bearer {api_key}"},
                    auth=None,
                    extensions=dict(limits),
                )

    def _wait(self, seconds: float) -> None:
        """Wait, or until the connection is closed."""
        self._closed.wait(seconds)

    def _log(self, state: tenacity.RetryCallState, identity: str) -> None:
        trouble = state.outcome and state.outcome.exception()
        again = "%s: %s; trying again in %.1f s (request=%s)"
        logger.info(again, self.url, trouble, state.upcoming_sleep, identity)

    def _unauthorized(self, *, had_token: bool) -> Unauthorized:
        problem = "refuses" if had_token else "wants a token and was given"
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


def _delay(state: tenacity.RetryCallState) -> float:
    """Seconds to the next try: exponential with full jitter, or as long as the server asks."""
    last = state.outcome and state.outcome.exception()
    return max(_jitter(state), last.delay if isinstance(last, _Transient) else 0.0)
