"""Headers: the id that a request is sent with, and what those of a reply say, if anything."""

from __future__ import annotations

import email.utils
import time

import httpx

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
