"""Files and folders that are there whole or not at all, and folders of one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

# In names that nobody else gives: of a folder that is being made, and of the one that it replaces.
_MARK, _NEW, _OLD = ".metavae-", ".new", ".old"

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, in a folder that is made if need be; what stops halfway leaves the old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with _named(path):
            with new.open("xb") as file:
                yield file
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a `whole_file` of this content."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` only when the block has succeeded.

    Until then, and if anything fails, what was at `path` stays there, or beside it where the disk
    refuses even that. What a process that was killed has left beside it is put back or removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path)
    with _named(path), _scratch_folder(path) as scratch:
        yield scratch
        scratch.chmod(0o755)
        _replace(path, scratch, scratch.with_suffix(_OLD))


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is locked, by which others see that it is in use."""
    prefix = f".{path.name}{_MARK}"
    with ExitStack() as held:
        while True:
            scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=_NEW, dir=path.parent))
            held.callback(shutil.rmtree, scratch, ignore_errors=True)
            with suppress(FileNotFoundError):  # others may tidy it up before it is locked
                held.enter_context(locked_folder(scratch))
                scratch.lstat()
                break
        yield scratch


def _replace(path: Path, new: Path, old: Path) -> None:
    """Put folder `new` at `path`, whatever is there or comes there meanwhile, by way of `old`."""
    while True:
        with suppress(FileNotFoundError):
            os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException as error:
            if getattr(error, "errno", None) in _OCCUPIED:  # by another who does the same
                shutil.rmtree(old, ignore_errors=True)
                continue
            if old.exists():
                os.replace(old, path)  # where that fails too, it stays beside
            raise
        shutil.rmtree(old, ignore_errors=True)
        return


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error say what was to be written: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _tidy(path: Path) -> None:
    """Finish what a `replacing_folder` of `path` left that was killed, where that can be done."""
    ours = re.compile(rf"\.{re.escape(path.name + _MARK)}[a-z0-9_]{{8}}({_NEW}|{_OLD})")
    for left in [one for one in path.parent.iterdir() if ours.fullmatch(one.name)]:
        new, old = left.with_suffix(_NEW), left.with_suffix(_OLD)
        with suppress(OSError), ExitStack() as held:
            # Anybody may give these names in a shared folder: neither is opened or put back then.
            if not all(_is_own_folder(one) for one in (new, old) if os.path.lexists(one)):
                continue
            if new.exists():
                held.enter_context(locked_folder(new, BlockingIOError()))
            if old.exists() and not path.exists():
                os.replace(old, path)
            for one in (new, old):
                shutil.rmtree(one, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


@contextmanager
def locked_folder(folder: Path, busy: Exception | None = None) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process.

    Where another process holds it, raises `busy`, or waits if there is none.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            assert busy is not None  # noqa: S101 - else it waits
            raise busy from None
        yield
    finally:
        os.close(lock)


def make_writable(folder: Path) -> None:
    """Make a folder if need be; raises OSError where nothing can be written into it.

    For those who would otherwise find out after hours of work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
