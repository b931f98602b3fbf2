"""The processes of a server, and the file that says which they are.

A server that `metavae-serve start` started is one process group, which holds nothing else.
`STORE/.run/run.json` names its first process. The workers of a plain `torchserve --start` write
that file too, with no group: metavae-serve finds that server, and leaves stopping it to TorchServe.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metavae_serving.errors import ServerFailed
from metavae_zoo.files import locked_folder, write_whole
from metavae_zoo.places import run_folder, token_file

if TYPE_CHECKING:
    import psutil

_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_CLOCK_SECONDS = 2.0  # by which two readings of a start time may differ


@dataclass(frozen=True)
class Server:
    """A server: its first process, when that began, its process group, the folder of its logs.

    `since_boot` tells the process from a later one of its number: unlike `create_time` it does not
    change when the clock is set. `pgid` is None for a server that a plain `torchserve --start`
    started. `stopping` is the process that stops the server.
    """

    pid: int
    create_time: float
    since_boot: float
    pgid: int | None
    logs: str
    stopping: int | None = None

    @property
    def runs(self) -> bool:
        """Whether a process of the server lives."""
        import psutil

        try:
            first = psutil.Process(self.pid)
            if abs(_since_boot(first) - self.since_boot) > _CLOCK_SECONDS:
                return False  # a later process has the number
            if first.status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            pass
        return self.pgid is not None and bool(members(self.pgid))

    @property
    def is_stopping(self) -> bool:
        """Whether a command is stopping the server right now."""
        import psutil

        return self.stopping is not None and psutil.pid_exists(self.stopping)


def run_file(store: Path) -> Path:
    """The file that says which processes a server over `store` has."""
    return run_folder(store) / "run.json"


def running(store: Path) -> Server | None:
    """The server over `store`; None if none runs."""
    server = noted(store)
    return server if server and server.runs else None


def noted(store: Path) -> Server | None:
    """The server that the run file names, which may have ended; None if there is no such file."""
    try:
        return Server(**json.loads(run_file(store).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None


def note(store: Path, pid: int, *, pgid: int | None, logs: Path) -> Server:
    """Write the run file of a server that has just started."""
    import psutil

    first = psutil.Process(pid)
    server = Server(pid, first.create_time(), _since_boot(first), pgid, str(logs))
    _write(store, server)
    return server


def note_stopping(store: Path, server: Server) -> None:
    """Let the run file say that this process stops the server."""
    if _is_noted(store, server):
        _write(store, replace(server, stopping=os.getpid()))


def forget(store: Path, server: Server) -> None:
    """Remove the run file and the tokens of a server that has ended; those of a later one stay."""
    if _is_noted(store, server):
        token_file(store).unlink(missing_ok=True)
        run_file(store).unlink(missing_ok=True)


def _since_boot(process: psutil.Process) -> float:
    import psutil

    boot = psutil.boot_time()  # create_time is made from it, and it moves with the clock
    return process.create_time() - boot


def _write(store: Path, server: Server) -> None:
    write_whole(run_file(store), json.dumps(asdict(server)).encode())


def _is_noted(store: Path, server: Server) -> bool:
    found = noted(store)
    return found is not None and (found.pid, found.since_boot) == (server.pid, server.since_boot)


def require(store: Path) -> Server:
    """The server over `store`; raises ServerFailed if none runs."""
    server = running(store)
    if server is None:
        raise ServerFailed(
            f"no server runs over {store} (none that runs is in {run_file(store)})",
            hint=f"Start one: `metavae-serve start --store {store}`. A plain `torchserve --start`"
            " is found once it has loaded a model; `torchserve --stop` ends it",
        )
    return server


def refuse_if_running(store: Path) -> None:
    """Raise ServerFailed if a server runs over `store`."""
    server = running(store)
    if server is not None:
        stop = f"metavae-serve stop --store {store}" if server.pgid else "torchserve --stop"
        raise ServerFailed(
            f"a server runs over {store} already (pid {server.pid})",
            hint=f"Stop it: `{stop}`, or choose another --store",
        )


@contextmanager
def starting(store: Path) -> Iterator[None]:
    """Hold the store's start lock; raises ServerFailed if another holds it, or a server runs."""
    busy = ServerFailed(
        f"another command is packing {store}, or starting a server over it",
        hint="Wait until it has ended, or choose another --store",
    )
    with locked_folder(store, busy):
        refuse_if_running(store)
        yield


def check_ours(server: Server) -> None:
    """Raise ServerFailed for a server that metavae-serve did not start."""
    if server.pgid is None:
        raise ServerFailed(
            f"the server (pid {server.pid}) was not started by metavae-serve",
            hint="`torchserve --stop` ends it, with the TMPDIR of the `torchserve --start`",
        )


def end(store: Path, server: Server | None = None) -> None:
    """End a server (that over `store`, by default) and wait until its processes are gone.

    Raises ServerFailed if none runs, or if metavae-serve did not start it.
    """
    server = server or require(store)
    check_ours(server)
    assert server.pgid is not None  # noqa: S101 - it is ours
    note_stopping(store, server)
    if server.runs:
        end_group(server.pgid)
    forget(store, server)


def end_group(group: int) -> None:
    """Ask the processes of a group to end; kill what is left after a while or an interrupt."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while members(group) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    finally:
        if members(group):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def members(group: int) -> list[psutil.Process]:
    """Living processes of a group; one that has ended and is not yet collected does not count."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def make_private(folder: Path) -> None:
    """Make a folder the user's alone; raises OSError if it is another user's.

    In the system's temporary folder anybody may have made it before.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{folder} is a link, or another user's")
    folder.chmod(0o700)
