"""Stop a server: what it has taken in is answered first, for as long as one cares to wait."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from metavae_serving import drain, process
from metavae_serving.configuration import read_settings
from metavae_serving.errors import BadStore
from metavae_serving.management import UNANSWERED, Management, management
from metavae_serving.settings import Settings
from metavae_zoo.places import run_folder

DRAIN_SECONDS = 30.0
_POLL_SECONDS = 0.05
_SEND_SECONDS = 0.5  # for a request to get from the queue to a worker, and a reply to its client


def stop(store: Path, *, drain_seconds: float = DRAIN_SECONDS) -> bool:
    """Stop the server over `store`; returns when all its processes are gone.

    Requests that were taken in are answered for up to `drain_seconds`, later ones sent away with
    a 503. Returns whether all were answered in time; False too where nobody waited for that, and
    for a server whose management API does not answer. Raises ServerFailed if no server runs.
    """
    ran = process.running(store) is not None
    drained = drain_seconds > 0 or not ran
    with ExitStack() as until_it_has_ended:
        try:
            if drain_seconds > 0 and ran:
                until_it_has_ended.enter_context(drain.stopping(run_folder(store)))
                drained = _drain(store, drain_seconds)
        except (BadStore, *UNANSWERED):
            drained = False
        finally:
            if ran and process.running(store) is None:
                process.forget(store)  # another one has stopped it meanwhile
            else:
                process.end(store)
    return drained


def _drain(store: Path, seconds: float) -> bool:
    settings, folder = read_settings(store), run_folder(store)
    deadline = time.monotonic() + seconds
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
