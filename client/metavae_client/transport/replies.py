"""Replies: read within limits, checked, and their errors in words that are safe to show."""

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
    """The id of the request that this replies to; empty if it has none."""
    return response.request.headers.get(REQUEST_ID, "")


def whole_number(headers: httpx.Headers, name: str) -> int | None:
    """The whole number in a header; None if there is none."""
    text = headers.get(name, "")
    plain = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if plain else None


def retry_after(headers: httpx.Headers) -> float:
    """Seconds from now that Retry-After asks for, as a number or a date; 0 or less for none."""
    seconds = whole_number(headers, "Retry-After")
    if seconds is not None:
        return float(seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("Retry-After", ""))
        return date.timestamp() - time.time()
    except (ValueError, OverflowError):  # a year that no clock has
        return 0.0


MOST_BYTES = MAX_REPLY_BYTES + 1_000_000  # of a reply: the JSON that is beside its tensors

_LONGEST = 1000  # characters of a text of the server's
_PACKING = ("content-encoding", "content-length", "transfer-encoding")  # of a reply on its way


def read_reply(reply: httpx.Response, request: httpx.Request) -> httpx.Response:
    """The whole of a reply that still comes in.

    Raises ReadTimeout if it is incomplete at the deadline (an extension of the request), and
    BadReply if it is longer than a metavae server sends, or packed: it could grow without limit.
    """
    path, deadline = request.url.path, request.extensions["deadline"]
    packing = reply.headers.get("Content-Encoding", "identity")
    if packing.lower() != "identity":
        raise _of_another_server(
            f"the reply at {path} is packed ({one_line(packing)}), which no metavae server's is,"
            " and which was not asked for",
            request,
        )
    # httpx's own timeout is for each read: a reply could trickle in for ever.
    chunks, size = [], 0
    for chunk in reply.iter_raw():
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise _of_another_server(
                f"the reply at {path} has more than {MOST_BYTES} bytes, which no metavae server"
                " sends",
                request,
            )
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the reply took too long", request=request)
    headers = reply.headers.copy()
    for name in _PACKING:
        headers.pop(name, None)
    return httpx.Response(reply.status_code, headers=headers, content=b"".join(chunks))


def checked(response: httpx.Response, url: str, model: str) -> httpx.Response:
    """The reply, if it is a success.

    Raises ModelNotServed (for `model`), RequestRefused with the server's own words, or BadReply for
    a reply that no metavae server sends.
    """
    if response.is_success:
        return response
    if response.is_redirect:
        target = one_line(response.headers["Location"])
        raise BadReply(
            f"{url} redirects to {target}, and a metavae server redirects nowhere",
            hint="Give the address of the server itself as --url or METAVAE_URL",
            field="url",
            request_id=request_id(response),
        )
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
        response.request,
    )


def refuses_token(response: httpx.Response) -> bool:
    """Whether the server refuses the token."""
    if response.status_code in (401, 403):
        return True
    # TorchServe answers 400 to a bad token.
    return response.status_code == 400 and _fault(response).get("type") == "InvalidKeyException"


def in_words(response: httpx.Response) -> str:
    """The status of a reply, and its error."""
    said = one_line(_fault(response).get("message", response.reason_phrase))
    return f"HTTP {response.status_code} ({said[:200]})"


def one_line(said: object) -> str:
    """A server's text, cut if it is long, without characters that a terminal would obey.

    Empty for anything but a text or a number.
    """
    if not isinstance(said, str | int | float):
        return ""
    text = str(said)[: 2 * _LONGEST]
    words = "".join(one if one.isprintable() else " " for one in text).split()
    line = " ".join(words)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _of_another_server(problem: str, request: httpx.Request) -> BadReply:
    return BadReply(
        problem,
        hint="Check --url; the default port of the inference API is 8080",
        field="url",
        request_id=request.headers.get(REQUEST_ID, ""),
    )


def _fault(response: httpx.Response) -> dict[str, Any]:
    """The error in the body: ours, or TorchServe's; empty if there is none."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    ours = content.get("error")
    return content | {"message": ours} if isinstance(ours, str) else content
