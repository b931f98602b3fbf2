"""A server that is told to stop answers what it has taken in, and sends later requests away.

Whoever stops it writes into its run folder how many requests of each model wait in TorchServe's
queue. A model's workers answer that many more; what comes after them is new, and gets a 503 with
Retry-After. A worker holds a lock while it answers, so that one can see when all have done; and so
does whoever stops it, so that a server whose stop was killed is open again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from metavae_zoo.files import write_whole

RUN_FOLDER_VARIABLE = "METAVAE_RUN_FOLDER"  # set by `metavae-serve start` for its workers

_TICKETS = "drain.json"
_BUSY = "busy.lock"
_STOPPING = "stopping.lock"
# What a folder can be that was taken away, or that locks cannot be had in.
_NO_FOLDER = (OSError, ValueError, LookupError, TypeError)


class Gate:
    """A worker's side; without a folder, it is open for ever."""

    def __init__(self, folder: Path | None, model: str) -> None:
        self._model = model
        self._tickets = str(folder / _TICKETS) if folder else ""
        self._busy: int | None = None
        if folder:
            with suppress(OSError):
                self._busy = os.open(folder / _BUSY, os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def admitting(self, requests: int) -> Iterator[int]:
        """How many of the next `requests`, the first ones, are to be answered in the block."""
        self._lock(fcntl.LOCK_SH)
        try:
            admitted = requests
            if self._tickets and os.path.exists(self._tickets):
                admitted = self._admitted(requests)
                if not admitted:
                    self._lock(fcntl.LOCK_UN)  # to send away is nothing to wait for
            yield admitted
        finally:
            self._lock(fcntl.LOCK_UN)

    def _lock(self, operation: int) -> None:
        if self._busy is not None:
            with suppress(OSError):
                fcntl.flock(self._busy, operation)

    def _admitted(self, requests: int) -> int:
        tickets = Path(self._tickets)
        with suppress(*_NO_FOLDER), _locked(tickets.with_suffix(".lock")):
            if not _somebody_stops(tickets.parent):  # whoever wrote them was killed
                return requests
            left = json.loads(tickets.read_text())
            admitted = min(requests, left[self._model])
            if admitted:
                left[self._model] -= admitted
                write_whole(tickets, json.dumps(left).encode())
            return admitted
        return requests


@contextmanager
def stopping(folder: Path) -> Iterator[None]:
    """Be the one that stops the server over a run folder, until the block ends.

    Raises BlockingIOError where another does so, OSError where no lock can be had.
    """
    with _locked(folder / _STOPPING, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


def is_stopped(folder: Path) -> bool:
    """Whether somebody is stopping the server over a run folder, and it takes no new requests."""
    return (folder / _TICKETS).exists() and _somebody_stops(folder)


def close(folder: Path, waiting: Mapping[str, int]) -> None:
    """Let workers over a run folder answer so many more requests of each model, and no others.

    For as long as somebody is `stopping` it.
    """
    write_whole(folder / _TICKETS, json.dumps(dict(waiting)).encode())


def reopen(folder: Path) -> None:
    """Take away what an earlier `close` has left."""
    (folder / _TICKETS).unlink(missing_ok=True)


def left(folder: Path) -> dict[str, int]:
    """How many more requests of each model are to be answered, since `close`."""
    return json.loads((folder / _TICKETS).read_text())


def idle(folder: Path) -> bool:
    """Whether no worker is answering anything right now."""
    return not _held(folder / _BUSY, fcntl.LOCK_EX)


def _somebody_stops(folder: Path) -> bool:
    # By a shared lock, since others ask at the same time.
    return _held(folder / _STOPPING, fcntl.LOCK_SH)


def _held(path: Path, operation: int) -> bool:
    """Whether another process keeps this lock from being had."""
    try:
        with _locked(path, operation | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


@contextmanager
def _locked(path: Path, operation: int = fcntl.LOCK_EX) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, operation)
        yield
    finally:
        os.close(lock)
