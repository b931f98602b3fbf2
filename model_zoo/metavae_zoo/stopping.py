"""Ctrl-C and SIGTERM end a command in one way: what was finished is kept, and one line says so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metavae_zoo.errors import MetavaeError

STARTER = "METAVAE_STARTED_BY"  # the process that a command works for, and ends with: its id

_LOOK = 0.5  # seconds between two looks at it


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


def end_with_starter() -> None:
    """End this process by SIGTERM when the one that STARTER names is gone, even by SIGKILL."""
    starter = os.environ.pop(STARTER, "")
    if not starter.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(starter):
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-starter", daemon=True).start()
