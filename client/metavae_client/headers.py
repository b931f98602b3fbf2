"""What the headers of a reply say, which may be anything."""

from __future__ import annotations

import email.utils
import time

import httpx

_MOST_DIGITS = 18


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
    except ValueError:
        return 0.0
