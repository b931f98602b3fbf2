"""What a worker tells, by the lines that it prints: in a thread, and not before it answers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Entry(NamedTuple):
    """What the log says of one request: `time` is when it was answered, in epoch seconds."""

    time: float
    request: str
    operation: str
    outcome: str
    status: int
    queries: int
    context: int
    seconds: float

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        return (
            f"request={self.request} time={at} operation={self.operation} outcome={self.outcome}"
            f" status={self.status} queries={self.queries} context={self.context}"
            f" seconds={self.seconds:.6f}"
        )


class Journal:
    """The requests of one worker, a line each; to take note of one costs next to nothing."""

    def __init__(self) -> None:
        self._noted: deque[Entry] = deque()

    def note(self, entry: Entry) -> None:
        """Add a request that has been answered."""
        self._noted.append(entry)

    def drain(self) -> list[str]:
        """The lines of all requests since the last call."""
        return [str(entry) for entry in taken(self._noted)]


def taken(noted: deque[T]) -> Iterator[T]:
    """Take from the left until nothing is left; others may add meanwhile."""
    with suppress(IndexError):
        while True:
            yield noted.popleft()


def report_forever(lines: Callable[[], list[str]], seconds: float) -> None:
    """Print what `lines` gives every so many seconds, in a thread that ends with the process."""

    def report() -> None:
        while True:
            time.sleep(seconds)
            try:
                if told := lines():
                    logger.info("\n".join(told))
            except Exception:  # of what comes next is still to be told
                logger.exception("a report failed")

    threading.Thread(target=report, name=f"report-{lines.__qualname__}", daemon=True).start()
