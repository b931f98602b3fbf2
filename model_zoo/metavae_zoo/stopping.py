"""Ctrl-C and SIGTERM end a command in one way: what was finished is kept, and one line says so."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metavae_zoo.errors import MetavaeError


class Stopped(MetavaeError):
    """Ctrl-C or SIGTERM came; what was finished is kept."""

    code = "stopped"


@contextmanager
def stoppable(
    kept: Callable[[], str], *, hint: str = "The same command goes on from there"
) -> Iterator[None]:
    """Make of Ctrl-C and SIGTERM a Stopped whose message is `kept()`: what is there by then."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped; {kept()}", hint=hint) from None
    finally:
        signal.signal(signal.SIGTERM, before)
