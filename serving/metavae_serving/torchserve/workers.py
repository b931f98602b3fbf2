"""What the workers of a server tell metavae-serve: that the server runs, and that they answer."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

from metavae_serving.torchserve import process
from metavae_serving.torchserve.store import Store
from metavae_zoo.errors import MetavaeError

logger = logging.getLogger(__name__)

_JAVA_CLASS = "org.pytorch.serve.ModelServer"
_STORE_OPTION = "-s"  # of that class
_KEY_FILE = "key_file.json"  # TorchServe writes it into its working folder
_BUSY = "busy.lock"


def find_run_folder() -> Path | None:
    """The run folder of the store that this worker's server serves; None if it cannot be had.

    A server that a plain `torchserve --start` started is noted there, and its key file linked, so
    that metavae-serve and the client find them.
    """
    import psutil

    try:
        java = psutil.Process(os.getppid())
        folder, command = Path(java.cwd()), java.cmdline()
        options = command[command.index(_JAVA_CLASS) :]
        store = Store.open(folder / options[options.index(_STORE_OPTION) + 1])
        if folder != store.run_folder.resolve() and not process.running(store.path):
            _note_plain_server(store, java.pid, folder, java.environ().get("LOG_LOCATION", "logs"))
    except (OSError, ValueError, psutil.Error, MetavaeError) as error:
        logger.info("metavae-serve will not find this server: %s", error)
        return None
    return store.run_folder


def _note_plain_server(store: Store, pid: int, folder: Path, logs: str) -> None:
    process.make_private(store.run_folder)
    process.note(store.path, pid, pgid=None, logs=folder / logs)
    store.token_file.unlink(missing_ok=True)
    with suppress(FileExistsError):  # another worker was first
        store.token_file.symlink_to(folder / _KEY_FILE)


class Busy:
    """Marks this worker as busy within a `with` block, by a shared lock in the run folder."""

    def __init__(self, run_folder: Path | None) -> None:
        self._lock = None if run_folder is None else _open(run_folder)

    def __enter__(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def are_busy(run_folder: Path) -> bool:
    """Whether a worker of the server is answering a request right now."""
    lock = _open(run_folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _open(run_folder: Path) -> int:
    return os.open(run_folder / _BUSY, os.O_RDWR | os.O_CREAT, 0o600)
