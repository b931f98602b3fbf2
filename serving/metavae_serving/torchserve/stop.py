"""Stop a server, after it has answered the requests that it has taken in."""

from __future__ import annotations

import time

from metavae_serving.torchserve import process
from metavae_serving.torchserve.management import UNANSWERED, management
from metavae_serving.torchserve.process import Server
from metavae_serving.torchserve.store import Store
from metavae_serving.torchserve.workers import are_busy

DRAIN_SECONDS = 30.0
_POLL_SECONDS = 0.05
_SEND_SECONDS = 0.5  # for a request to get from the queue to a worker, and a reply to its client


def stop(store: Store, *, drain_seconds: float = DRAIN_SECONDS) -> bool:
    """Stop the server over `store`; return whether it had answered all requests before.

    It is ended once no request has been in its queues or workers for half a second, after
    `drain_seconds` at most, or when this is interrupted. Returns False for 0 seconds, and for a
    server whose management API does not answer. Raises ServerFailed if no server runs, or if
    metavae-serve did not start it.
    """
    server = process.require(store.path)
    process.check_ours(server)
    process.note_stopping(store.path, server)
    try:
        return drain_seconds > 0 and _drain(store, server, time.monotonic() + drain_seconds)
    finally:
        process.end(store.path, server)


def _drain(store: Store, server: Server, deadline: float) -> bool:
    """Wait until the server is quiet, or was ended by another; return whether that came in time."""
    # A request between queue and worker cannot be seen, and a batch may wait there to be filled.
    models = store.settings.models.values()
    delays = [model.max_batch_delay for model in models if model.batch_size > 1]
    window = _SEND_SECONDS + max(delays, default=0) / 1000
    try:
        with management(store) as api:
            busy_at = time.monotonic()
            while time.monotonic() - busy_at < window:
                if time.monotonic() >= deadline:
                    return False
                if api.waiting() or are_busy(store.run_folder):
                    busy_at = time.monotonic()
                time.sleep(_POLL_SECONDS)
    except UNANSWERED:
        return not server.runs
    return True
