"""Errors between a client and its server.

MetavaeError (metavae_zoo.errors)
├── ServerUnreachable   nothing answers at the URL, or it is no URL
├── Unauthorized        a token that is missing, wrong or expired
├── ModelNotServed      the server has no model of that name
├── ModelNotNamed       several models are served, and none was named
└── RequestFailed       a request that ended badly, by the id that the server's log has it under
    ├── RequestRefused  a 4xx with the server's own code, message, field and hint
    ├── GaveUp          the server kept failing, for a stated number of tries and seconds
    ├── Closed          the embedder was closed
    └── BadReply        an answer that no metavae server gives, or of another model than before
"""

from __future__ import annotations

from collections.abc import Sequence

from metavae_zoo.errors import MetavaeError


class ServerUnreachable(MetavaeError):
    """No server answers at the URL."""

    code = "server_unreachable"


class Unauthorized(MetavaeError):
    """The server refuses the token, or wants one and got none."""

    code = "unauthorized"


class ModelNotServed(MetavaeError):
    """The server runs, without a model of this name; `served` lists those it has, if known."""

    code = "model_not_served"

    def __init__(self, model: str, url: str, served: Sequence[str] = ()) -> None:
        hint = f"It serves {', '.join(served)}; or " if served else ""
        super().__init__(
            f"the server at {url} does not serve model {model!r}",
            hint=f"{hint}start it with that model: `metavae-serve start {model}`",
            field="model",
        )
        self.served = tuple(served)


class ModelNotNamed(MetavaeError):
    """A model must be named: the server serves several, or does not tell."""

    code = "model_not_named"


class RequestFailed(MetavaeError):
    """A request that ended badly; `request_id` is its X-Request-Id, if known.

    The message ends with the id, which the server's `model_log.log` has too.
    """

    code = "request_failed"

    def __init__(
        self, message: str, *, hint: str = "", field: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, hint=hint, field=field)
        self.request_id = request_id

    def __str__(self) -> str:
        said = super().__str__()
        return f"{said} (request={self.request_id})" if self.request_id else said


class RequestRefused(RequestFailed):
    """The server refused a request; code, message, field and hint are its own."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "refused",
        hint: str = "",
        field: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message, hint=hint, field=field, request_id=request_id)
        self.status = status
        self.code = code


class GaveUp(RequestFailed):
    """The server kept failing: overloaded, restarting, or broken."""

    code = "gave_up"

    def __init__(
        self, url: str, *, tries: int, seconds: float, last: str, request_id: str = ""
    ) -> None:
        super().__init__(
            f"gave up on {url} after {tries} tries in {seconds:.0f} s; the last one ended with"
            f" {last}",
            hint="See the server's log; ask for less at once with a lower concurrency",
            request_id=request_id,
        )
        self.tries = tries
        self.seconds = seconds


class Closed(RequestFailed):
    """The embedder was closed, before the request or while it waited."""

    code = "closed"

    def __init__(self, url: str, *, request_id: str = "") -> None:
        super().__init__(
            f"this embedder of {url} is closed",
            hint="Make a new RemoteEmbedder, or embed before the end of its `with` block",
            request_id=request_id,
        )


class BadReply(RequestFailed):
    """The reply is not one of a metavae server, or its model is another than before."""

    code = "bad_reply"
