"""What the headers of a request say; their names come in lower case."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from http import HTTPStatus

from metavae_zoo.protocol.errors import BadRequest
from metavae_zoo.protocol.tensors import shown
from metavae_zoo.protocol.wire import HEADER_LENGTH

_LONGEST_QUEUE = 3600.0  # seconds; more is another machine's clock
_MOST_DIGITS = 18
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_START = re.compile(r"t=([0-9]{1,12}(\.[0-9]{1,9})?)")
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(headers: Mapping[str, str]) -> str:
    """The id that the client gave its request (X-Request-Id); empty if none, or none to repeat."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else ""


def trace_parent(headers: Mapping[str, str]) -> str:
    """The W3C trace context of the caller, to be passed on; empty if there is none."""
    given = headers.get("traceparent", "")
    return given if _TRACE.fullmatch(given) else ""


def queue_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds since a proxy took the request in, by its X-Request-Start; None where none says so.

    That is `t=` and seconds since the epoch, as nginx writes `t=${msec}`.
    """
    given = _START.fullmatch(headers.get("x-request-start", ""))
    if given is None:
        return None
    waited = time.time() - float(given[1])
    return waited if 0 <= waited < _LONGEST_QUEUE else None


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise BadRequest for a body that is compressed."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise BadRequest(
            f"the body is compressed ({shown(encoding)}), which is not read",
            hint="Send it uncompressed, images as UINT8",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )


def header_length(headers: Mapping[str, str]) -> int | None:
    """Length of the body's JSON part; None if it is all JSON. Raises BadRequest."""
    text = headers.get(HEADER_LENGTH.lower())
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise BadRequest(
            f"{HEADER_LENGTH} is {shown(text)}, expected a whole number",
            hint="Give the length of the body's JSON part, in bytes",
            field=HEADER_LENGTH,
        )
    return int(text)
