"""Files that are there whole or not at all, and folders of one process at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from metavae_zoo.errors import MetavaeError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, in a folder that is made if need be; what stops halfway leaves the old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with new.open("xb") as file:
            yield file
        new.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say which
            error.filename = str(path)
        raise
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a `whole_file` of this content."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def locked_folder(folder: Path, busy: MetavaeError | None = None) -> Iterator[None]:
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
