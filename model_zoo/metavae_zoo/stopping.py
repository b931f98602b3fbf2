"""Ctrl-C and SIGTERM end a command alike: finished work is kept, and one line says so."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metavae_zoo.errors import MetavaeError

STARTER = "METAVAE_STARTED_BY"  # the process that a command works for, and ends with: its id

_PR_SET_PDEATHSIG = 1  # of prctl(2)


class Stopped(MetavaeError):
    """Ctrl-C or SIGTERM came; what was finished is kept."""

    code = "stopped"


@contextmanager
def stoppable(
    kept: Callable[[], str], *, hint: str = "The same command goes on from there"
) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a Stopped whose message says what `kept()` returns by then."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped; {kept()}", hint=hint) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_starter() -> None:
    """Have the kernel send SIGTERM to this process when the one that STARTER names is gone.

    Linux alone can do so; elsewhere the process goes on to its own end.
    """
    starter = os.environ.pop(STARTER, "")
    if not starter.isdigit() or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(starter):  # it was gone before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)
