"""Stop a server: what it has taken in is answered first, for as long as one cares to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metavae_serving.errors import BadStore
from metavae_serving.settings import Settings
from metavae_serving.torchserve import drain, process
from metavae_serving.torchserve.configuration import read_settings
from metavae_serving.torchserve.management import UNANSWERED, Management, management
from metavae_zoo.places import run_folder

if TYPE_CHECKING:
    import psutil

DRAIN_SECONDS = 30.0
_POLL_SECONDS = 0.05
_SEND_SECONDS = 0.5  # for a request to get from the queue to a worker, and a reply to its client


def stop(store: Path, *, drain_seconds: float = DRAIN_SECONDS) -> bool:
    """Stop the server over `store`; returns when all its processes are gone.

    Requests that were taken in are answered for up to `drain_seconds`, later ones sent away with
    a 503. Returns whether all were answered in time; False too where nobody waited for that, and
    for a server whose management API does not answer. Raises ServerFailed if no server runs, or
    if it is not ours to stop. Where another command is stopping it, waits for that as long.
    """
    server = process.running(store)
    if server is None or drain_seconds <= 0:
        process.end(store, server)
        return False
    process.check_ours(server, store)
    deadline = time.monotonic() + drain_seconds
    drained = False
    with ExitStack() as until_it_has_ended:
        try:
            until_it_has_ended.enter_context(_alone(store, server, deadline))
            drained = not process.runs(server) or _drain(store, deadline)
        except (BadStore, *UNANSWERED):
            pass
        finally:
            process.end(store, server)
    return drained


@contextmanager
def _alone(store: Path, server: psutil.Process, deadline: float) -> Iterator[None]:
    """Be the one that stops the server, or see another one do it; raises BlockingIOError."""
    with ExitStack() as held:
        while process.runs(server):
            try:
                held.enter_context(drain.stopping(run_folder(store)))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_SECONDS)
        yield


def _drain(store: Path, deadline: float) -> bool:
    settings, folder = read_settings(store), run_folder(store)
    # A request that TorchServe has taken from its queue, and no worker has begun, is not to be
    # seen: everything must have been quiet for as long as that can last.
    delays = [one.max_batch_delay for one in settings.models.values() if one.batch_size > 1]
    window = _SEND_SECONDS + max(delays, default=0) / 1000
    with management(store) as api:
        drain.close(folder, _taken_in(api, settings))
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < window:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
            tickets = drain.left(folder)
            unanswered = any(count and tickets.get(name) for name, count in api.waiting().items())
            if unanswered or not drain.idle(folder):
                quiet_since = time.monotonic()
    return True


def _taken_in(api: Management, settings: Settings) -> dict[str, int]:
    """Requests of each model that wait, and as many as its workers may have in their hands."""
    return {
        name: count + settings.of(name).workers * settings.of(name).batch_size
        for name, count in api.waiting().items()
    }
