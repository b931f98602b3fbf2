"""Files and folders that are there whole or not at all, and folders of one process at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO


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
    """Yield an empty folder that takes the place of `path` once the block has succeeded.

    If the block fails, `path` stays as it was. Another process that replaces the same folder waits
    for this one. What a killed process left is put back or removed first. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path), _workspace(path.with_name(f".{path.name}.metavae")) as workspace:
        new, old = workspace / "new", workspace / "old"
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        finally:
            if old.exists() and not path.exists():
                os.replace(old, path)  # where that fails too, the next call puts it back
            shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Hold the lock of `folder`, which is made if need be and which its holder may remove."""
    with ExitStack() as held:
        while True:
            with suppress(FileExistsError):
                folder.mkdir()
            with suppress(FileNotFoundError):  # its last holder removed it meanwhile
                lock = held.enter_context(locked_folder(folder))
                if os.path.samestat(os.fstat(lock), folder.stat()):
                    break
            held.close()
        yield folder


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error say what was to be written: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def locked_folder(folder: Path, busy: Exception | None = None) -> Iterator[int]:
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
        yield lock
    finally:
        os.close(lock)


def make_writable(folder: Path) -> None:
    """Make a folder if need be; raises OSError where nothing can be written into it.

    For those who would otherwise find out after hours of work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
