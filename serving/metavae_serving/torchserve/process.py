"""The server's processes: TorchServe's Java and the Python workers that it starts.

A server is one process group, which holds nothing else, so that stopping it leaves nothing
behind. It is known by what it is at work on, its folder and its command line: TorchServe's own pid
file lies in a temporary folder, which may be cleaned, or be another one for who asks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metavae_serving.errors import ServerFailed
from metavae_serving.torchserve.drain import RUN_FOLDER_VARIABLE
from metavae_zoo.files import locked_folder
from metavae_zoo.places import run_folder, token_file

if TYPE_CHECKING:
    import psutil

# What ends a command in good order: Ctrl-C, an order to end, and a terminal that is gone.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_JAVA_CLASS = "org.pytorch.serve.ModelServer"
_STORE_OPTION = "-s"  # of that class
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_FORGET_SECONDS = 5.0
_MAX_SOCKET_FOLDER = 80  # a unix socket's path has some 104 bytes, its name takes 14 and more


def temporary_folder(store: Path) -> Path:
    """Where the server over `store` keeps its workers' sockets, and TorchServe its pid file.

    In the store's run folder; in the system's temporary folder, under a name made from the
    store's, where that path would be too long for a socket.
    """
    inside = run_folder(store.resolve()) / "tmp"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_FOLDER:
        return inside
    name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"metavae-{os.getuid()}-{name}"


def make_private(folder: Path) -> None:
    """Make a folder, or one that is there, the user's alone; raises OSError where it is not theirs.

    In the system's temporary folder anybody may have made it before.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{folder} is a link, or another user's")
    folder.chmod(0o700)


def running(store: Path) -> psutil.Process | None:
    """The Java process of the server over `store`, the store's owner's or ours; None if none runs.

    One that metavae-serve has started comes before one that a plain `torchserve` has.
    """
    import psutil

    store = store.resolve()
    owners = {os.getuid()} | ({store.stat().st_uid} if store.exists() else set())
    found = None
    for process in psutil.process_iter():
        try:
            if process.uids().real not in owners:
                continue
            command = process.cmdline()
            if _JAVA_CLASS not in command or not runs(process):
                continue
            ours = _is_ours(process)
            if _is_over(process.pid, command, store, ours=ours):
                if ours:
                    return process
                found = found or process
        except psutil.Error:  # it has just ended
            continue
    return found


def runs(process: psutil.Process) -> bool:
    """Whether a process, itself and no later one of its number, has not ended."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_over(pid: int, command: Sequence[str], store: Path, *, ours: bool) -> bool:
    """Whether a server is at work on `store`, and not on one of this name elsewhere."""
    # One that we start has the run folder for its own, wherever the store has been moved to: what
    # has the store's earlier name by now is not its. Once that folder is deleted, the name is all.
    if _same(f"/proc/{pid}/cwd", run_folder(store)):
        return True
    if ours and _has_folder(pid):
        return False
    named = (*command, "")[command.index(_STORE_OPTION) + 1] if _STORE_OPTION in command else ""
    if not named:
        return False
    # As it sees it: in a container, another folder has this name.
    there = f"/proc/{pid}/root{named}" if os.path.isabs(named) else f"/proc/{pid}/cwd/{named}"
    same_name = os.path.realpath(named) == str(store)
    try:
        os.stat(there)
    except FileNotFoundError:  # its store is gone, or the system does not tell
        return same_name and (not store.exists() or not os.path.exists("/proc/self"))
    except OSError:  # it is another user's
        return same_name
    return _same(there, store)


def _has_folder(pid: int) -> bool:
    """Whether the folder that a process is at work in is still somewhere."""
    try:
        return not os.readlink(f"/proc/{pid}/cwd").endswith(" (deleted)")
    except OSError:  # the system does not tell
        return False


def _same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _is_ours(server: psutil.Process) -> bool:
    """Whether metavae-serve has started it, in a process group of its own."""
    import psutil

    try:
        return RUN_FOLDER_VARIABLE in server.environ()
    except psutil.Error:
        return False


@contextmanager
def starting(store: Path) -> Iterator[None]:
    """Be the one that starts a server over `store`, or replaces it, until the block ends.

    Raises ServerFailed where another does so, or where a server runs over it.
    """
    busy = ServerFailed(
        f"another command is packing {store}, or starting a server over it",
        hint="Wait until it has ended, or choose another --store",
    )
    with locked_folder(store, busy):
        refuse_if_running(store)
        yield


def refuse_if_running(store: Path) -> None:
    """Raise ServerFailed if a server runs over `store`."""
    process = running(store)
    if process is not None:
        raise ServerFailed(
            f"a server runs over {store} already (pid {process.pid})",
            hint=f"Stop it: `metavae-serve stop --store {store}`, or choose another --store",
        )


def end(store: Path, server: psutil.Process | None = None) -> None:
    """End the server over `store`, whatever it is doing, and wait until its processes are gone.

    `server` is the one that is meant, where another may run by now. Raises ServerFailed if none
    runs, or if it is not ours to end.
    """
    server = server or running(store)
    if server is None:
        raise ServerFailed(
            f"no server runs over {store}",
            hint="`metavae-serve start NAME` starts one; --store says which store",
        )
    check_ours(server, store)
    with suppress(ProcessLookupError):  # it has just ended by itself
        if server.is_running():  # and no other process has its number
            stop_group(os.getpgid(server.pid), server)
    with suppress(ServerFailed, OSError), starting(store):  # what a next one has made is its own
        forget(store)


def group_of(store: Path) -> int | None:
    """The process group of the server over `store`; None if none runs."""
    server = running(store)
    try:
        return os.getpgid(server.pid) if server else None
    except ProcessLookupError:  # it has just ended
        return None


def check_ours(server: psutil.Process, store: Path) -> None:
    """Raise ServerFailed for a server that shares its process group with who knows what."""
    if not runs(server) or _is_ours(server):
        return
    theirs = server.uids().real != os.getuid()
    raise ServerFailed(
        f"the server over {store} (pid {server.pid}) "
        + ("is another user's" if theirs else "was not started by metavae-serve"),
        hint="Run this as the user that started it, or choose another --store"
        if theirs
        else "`torchserve --stop` ends what `torchserve --start` has started",
    )


def forget(store: Path) -> None:
    """Remove what a server has left: its pid, and its tokens, which clients would try."""
    (temporary_folder(store) / ".model_server.pid").unlink(missing_ok=True)
    token_file(store).unlink(missing_ok=True)


def was_stopped(store: Path) -> bool:
    """Whether a server that runs no longer was told to end, and did not die."""
    # Whoever stops it waits for the last of its processes, and forgets it then.
    deadline = time.monotonic() + _FORGET_SECONDS
    while token_file(store).exists() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return not token_file(store).exists()


def stop_group(group: int, java: psutil.Process | None) -> None:
    """Ask Java to end its workers and itself, and kill what is left of the group after a while."""
    import psutil

    try:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if java is not None:
                java.terminate()
            else:
                os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _members(group) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    finally:
        if _members(group):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def _members(group: int) -> list[psutil.Process]:
    """Living processes of a group; one that has ended and is not yet collected does not count."""
    import psutil

    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (OSError, psutil.Error):
            continue
    return members
