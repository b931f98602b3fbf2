"""What a store may hold when a server starts over it: the archives that were packed, and no others.

TorchServe unpacks every archive and serves every folder that it finds in a store. So each is looked
at before: an archive of ours has a few members of plain names, stored as they are, one after the
other from its first byte to its directory. That leaves no place for a name that leads elsewhere, a
link, a member that unpacks to more than its bytes, or one that the directory does not tell of. The
bundle in it is verified by the worker that loads it.
"""

from __future__ import annotations

import json
import re
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from metavae_serving.errors import BadStore

ARCHIVE = ".mar"

_MANIFEST = "MAR-INF/MANIFEST.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MAX_BYTES = 2_000_000_000  # of one archive
_MAX_MANIFEST = 100_000  # bytes
_MAX_MEMBERS = 100
_MAX_DIRECTORY = 100_000  # bytes
_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = 20  # bytes, of where a 64-bit directory ends
_LOCATOR_MAGIC = b"PK\x06\x07"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_LOCAL_MAGIC = b"PK\x03\x04"


def check_contents(store: Path, models: Iterable[str]) -> None:
    """Raise BadStore unless `store` has the archives of these models and nothing else to serve."""
    expected = {f"{name}{ARCHIVE}" for name in models}
    for path in sorted(store.iterdir()):
        if path.is_symlink():
            raise _bad(store, f"{path.name} is a symbolic link to {path.readlink()}")
        if path.suffix in (ARCHIVE, ".model") and path.name not in expected:
            raise _bad(store, f"{path.name} is none of the models that were packed")
        if path.is_dir() and not path.name.startswith("."):  # hidden ones are passed over
            raise _bad(store, f"{path.name} is a folder, and would be served as a model")
    for name in sorted(expected):
        try:
            _check_archive(store / name)
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _bad(store, f"{name} is no archive of ours: {error}") from error


def _bad(store: Path, problem: str) -> BadStore:
    return BadStore(
        f"the store {store} is not as `metavae-serve pack` wrote it: {problem}",
        hint=f"Move that away, or pack the models again: `metavae-serve pack NAME --store {store}`",
    )


def _check_archive(path: Path) -> None:
    """Raise ValueError, OSError or BadZipFile unless `path` is an archive as we write them."""
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is no file")
    if size > _MAX_BYTES:
        raise ValueError(f"it has {size} bytes, at most {_MAX_BYTES} are read")
    with path.open("rb") as file:
        _check_directory(file, size)
        _check_members(file, path.stem)


def _check_members(file: IO[bytes], model: str) -> None:
    with zipfile.ZipFile(file) as packed:
        members = packed.infolist()
        if len(members) > _MAX_MEMBERS:  # whatever the directory's end says of their number
            raise ValueError(f"it has {len(members)} members, at most {_MAX_MEMBERS} are read")
        if len({one.filename for one in members}) < len(members):
            raise ValueError("it has two members of one name")
        for one in members:
            _check_member(one)
        _check_layout(file, members, packed.start_dir)
        _check_manifest(packed, model)


def _check_directory(file: IO[bytes], size: int) -> None:
    """Raise ValueError for a directory that is larger than ours, before it is read into memory.

    A 64-bit one, which would be read in its place, stands between the directory and its end.
    """
    file.seek(max(0, size - _END.size - _LOCATOR))
    before, end = file.read(_LOCATOR), file.read()
    if len(end) < _END.size:
        raise ValueError("it is no zip file")
    magic, _, _, here, members, length, _, comment = _END.unpack(end)
    if magic != _END_MAGIC or here != members or comment or before.startswith(_LOCATOR_MAGIC):
        raise ValueError("it does not end as a 32-bit zip file without a comment")
    if members > _MAX_MEMBERS or length > _MAX_DIRECTORY:
        raise ValueError(
            f"its directory has {members} members in {length} bytes, at most {_MAX_MEMBERS} in"
            f" {_MAX_DIRECTORY} are read"
        )


def _check_member(one: zipfile.ZipInfo) -> None:
    if not (_PLAIN_NAME.fullmatch(one.orig_filename) or one.orig_filename == _MANIFEST):
        raise ValueError(f"a member is named {one.orig_filename!r:.100}")
    if stat.S_IFMT(one.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ValueError(f"{one.filename} is no plain file")
    if one.compress_type != zipfile.ZIP_STORED or one.compress_size != one.file_size:
        raise ValueError(
            f"{one.filename} is compressed, {one.compress_size} bytes that unpack to"
            f" {one.file_size}"
        )


def _check_layout(file: IO[bytes], members: Iterable[zipfile.ZipInfo], end: int) -> None:
    """Raise ValueError if anything but the members of the directory lies before `end`.

    TorchServe unpacks by the header before each member, from the first byte on.
    """
    at = 0
    for one in sorted(members, key=lambda one: one.header_offset):
        file.seek(at)
        header = file.read(_LOCAL_HEADER.size)
        if one.header_offset != at or len(header) < _LOCAL_HEADER.size:
            raise ValueError(f"{one.filename} does not begin where the one before it ends")
        magic, _, flags, method, _, _, _, packed, unpacked, name, extra = _LOCAL_HEADER.unpack(
            header
        )
        found = (magic, flags, method, packed, unpacked, extra, file.read(name))
        size = one.file_size
        if found != (_LOCAL_MAGIC, 0, zipfile.ZIP_STORED, size, size, 0, one.filename.encode()):
            raise ValueError(f"the header of {one.filename} and the directory differ")
        at += _LOCAL_HEADER.size + name + size
    if at != end:
        raise ValueError(f"{end - at} of its bytes are no member's")


def _check_manifest(packed: zipfile.ZipFile, model: str) -> None:
    try:
        if packed.getinfo(_MANIFEST).file_size > _MAX_MANIFEST:
            raise ValueError("its manifest is too large")
        named = json.loads(packed.read(_MANIFEST))["model"]["modelName"]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("its manifest names no model") from error
    if named != model:
        raise ValueError(f"its manifest names the model {named!r:.100}")
