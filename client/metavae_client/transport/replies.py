"""Replies, read to their end; and what those say that are no success, in words safe to show."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx

from metavae_client.errors import BadReply, ModelNotServed, RequestRefused
from metavae_zoo.protocol.wire import MAX_REPLY_BYTES

REQUEST_ID = "X-Request-Id"

_MOST_DIGITS = 18


def request_id(response: httpx.Response) -> str:
    """The id that the request was sent with which this replies to; empty if none."""
    return response.request.headers.get(REQUEST_ID, "")


def whole_number(headers: httpx.Headers, name: str) -> int | None:
    """The whole number in a header; None where it is absent or holds none."""
    text = headers.get(name, "")
    plain = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if plain else None


def retry_after(headers: httpx.Headers) -> float:
    """Seconds from now that Retry-After asks for, by number or date; 0 or less for none."""
    seconds = whole_number(headers, "Retry-After")
    if seconds is not None:
        return float(seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
        return date.timestamp() - time.time()
    except (ValueError, OverflowError):  # of a year that no clock has
        return 0.0


MOST_BYTES = MAX_REPLY_BYTES + 1_000_000  # of a reply: the JSON that is beside its tensors

_LONGEST = 1000  # characters of a text of the server's
_PACKING = ("content-encoding", "content-length", "transfer-encoding")  # of a reply on its way


def read_reply(reply: httpx.Response, deadline: float) -> httpx.Response:
    """The whole of a reply that is still coming in.

    Raises ReadTimeout where that is not so at the deadline, by `time.monotonic`, and BadReply for
    more than a metavae server sends, or what is packed: that grows where it is unpacked.
    """
    packing = reply.headers.get("Content-Encoding", "identity")
    if packing.lower() != "identity":
        raise _of_another_server(
            f"the reply at {reply.request.url.path} is packed ({one_line(packing)}), which no"
            " metavae server's is, and which was not asked for",
            reply,
        )
    # httpx's own timeout is for each read: a reply could trickle in for ever.
    chunks, came = [], 0
    for chunk in reply.iter_raw():
        chunks.append(chunk)
        came += len(chunk)
        if came > MOST_BYTES:
            raise _of_another_server(
                f"the reply at {reply.request.url.path} has more than {MOST_BYTES} bytes, which no"
                " metavae server sends",
                reply,
            )
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the reply took too long", request=reply.request)
    headers = reply.headers.copy()
    for name in _PACKING:
        headers.pop(name, None)
    return httpx.Response(
        reply.status_code, headers=headers, content=b"".join(chunks), request=reply.request
    )


def checked(response: httpx.Response, url: str, model: str) -> httpx.Response:
    """The reply, where it is a success.

    Raises ModelNotServed (for `model`), RequestRefused with the server's own words, or BadReply for
    what no metavae server answers.
    """
    if response.is_success:
        return response
    fault = _fault(response)
    if fault.get("type") in ("ModelNotFoundException", "ModelVersionNotFoundException"):
        raise ModelNotServed(model, url)
    # TorchServe's other APIs answer 404 and 405 too, but not with our errors.
    elsewhere = "type" in fault and response.status_code in (404, 405)
    if isinstance(fault.get("message"), str) and response.is_client_error and not elsewhere:
        raise RequestRefused(
            one_line(fault["message"]).rstrip("."),
            status=response.status_code,
            code=one_line(fault.get("code")) or "refused",
            hint=one_line(fault.get("hint")),
            field=one_line(fault.get("field")),
            request_id=request_id(response),
        )
    if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise RequestRefused(
            f"the server at {url} takes no request of {len(response.request.content)} bytes",
            status=response.status_code,
            code="too_large",
            hint="Make requests smaller with max_request_bytes",
            request_id=request_id(response),
        )
    raise _of_another_server(
        f"what answers at {url} is not the API of a metavae server (HTTP"
        f" {response.status_code} at {response.request.url.path})",
        response,
    )


def refuses_token(response: httpx.Response) -> bool:
    """Whether it is the token that the server finds fault with."""
    if response.status_code in (401, 403):
        return True
    # TorchServe answers 400 to a bad token.
    return response.status_code == 400 and _fault(response).get("type") == "InvalidKeyException"


def in_words(response: httpx.Response) -> str:
    """The status of a reply, and what it says is wrong."""
    said = one_line(_fault(response).get("message", response.reason_phrase))
    return f"HTTP {response.status_code} ({said[:200]})"


def one_line(said: object) -> str:
    """What a server said, without what a terminal would obey, and cut where it is long.

    Empty for what is neither a text nor a number.
    """
    if not isinstance(said, str | int | float):
        return ""
    text = str(said)[: 2 * _LONGEST]
    words = "".join(one if one.isprintable() else " " for one in text).split()
    line = " ".join(words)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _of_another_server(what: str, reply: httpx.Response) -> BadReply:
    return BadReply(
        what,
        hint="Check --url; the default port of the inference API is 8080",
        field="url",
        request_id=request_id(reply),
    )


def _fault(response: httpx.Response) -> dict[str, Any]:
    """What the body says is wrong: our own error, or TorchServe's; empty if neither."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    ours = content.get("error")
    return content | {"message": ours} if isinstance(ours, str) else content
