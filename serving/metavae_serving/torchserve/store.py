"""A model store: the archives that TorchServe serves, how it serves them, and its server's files.

TorchServe unpacks every archive and serves every folder that it finds in a store, and an archive
holds code. So packing writes the sha256 of each archive into SHA256SUMS, in the format of
`sha256sum`. A start of a store that was packed earlier compares them before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from metavae_serving.errors import BadStore
from metavae_serving.settings import Settings
from metavae_serving.torchserve.configuration import (
    CONFIGURATION,
    WRITTEN_BY,
    configuration_files,
)
from metavae_zoo.bundles.bundle import sha256_of
from metavae_zoo.files import write_whole
from metavae_zoo.parsing import parse_json
from metavae_zoo.places import log_folder, run_folder, token_file

ARCHIVE = ".mar"
SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_MAX_SUMS = 1_000_000  # bytes
_MAX_BYTES = 2_000_000_000  # of one archive
_MAX_SOCKET_FOLDER = 80  # a unix socket's path has some 104 bytes, its name takes 14 and more

_settings = TypeAdapter(Settings)


@dataclass(frozen=True)
class Store:
    """A packed store: where it is, and how it is served."""

    path: Path
    settings: Settings

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at `path`; raises BadStore if metavae-serve did not pack it."""
        path = path.resolve()
        hint = f"Make one: `metavae-serve pack NAME --store {path}`"
        if not (path / CONFIGURATION).is_file():
            raise BadStore(f"{path} is no model store: it has no {CONFIGURATION}", hint=hint)
        try:
            return cls(path, _settings.validate_json(_packed(path)))
        except (OSError, ValueError) as error:
            if packed_models(path) is None:  # which packing would refuse to replace
                hint = f"Move it away. {hint}"
            raise BadStore(
                f"{path} is no model store of metavae-serve ({CONFIGURATION}: {_reason(error)})",
                hint=hint,
            ) from error

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return sorted(self.settings.models)

    @property
    def run_folder(self) -> Path:
        """State of the server: run.json, tokens, sockets, logs."""
        return run_folder(self.path)

    @property
    def log_folder(self) -> Path:
        """Logs of the servers that `metavae-serve start` started."""
        return log_folder(self.path)

    @property
    def token_file(self) -> Path:
        """Tokens of the server; TorchServe writes them at each start."""
        return token_file(self.path)

    @property
    def temporary_folder(self) -> Path:
        """Sockets of the workers, and TorchServe's own pid file.

        It is in the run folder, unless that path is too long for a socket: then it is in the
        system's temporary folder, and its name is made from the store's path.
        """
        inside = self.run_folder / "tmp"
        if len(os.fsencode(inside)) <= _MAX_SOCKET_FOLDER:
            return inside
        name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"metavae-{os.getuid()}-{name}"

    def configured(self, settings: Settings) -> Store:
        """The store, served by `settings` from now on; raises BadStore if it cannot be written.

        The files are written anew where they differ: for other settings, and for a store that was
        moved, packed by another version, or packed on a machine with more memory.
        """
        try:
            for name, text in configuration_files(self.path, settings).items():
                file = self.path / name
                if not file.exists() or file.read_text() != text:
                    write_whole(file, text.encode())
        except OSError as error:
            raise BadStore(
                f"{self.path / CONFIGURATION} cannot be written ({error.strerror or error})",
                hint="Pack the model into a store of your own with --store",
            ) from error
        return Store(self.path, settings)

    def check(self) -> None:
        """Raise BadStore unless the store holds the archives that were packed, and no others."""
        expected = {f"{name}{ARCHIVE}" for name in self.models}
        try:
            for path in sorted(self.path.iterdir()):
                if path.is_symlink():
                    raise ValueError(f"{path.name} is a symbolic link to {path.readlink()}")
                if path.suffix in (ARCHIVE, ".model") and path.name not in expected:
                    raise ValueError(f"{path.name} is none of the models that were packed")
                if path.is_dir() and not path.name.startswith("."):  # TorchServe skips hidden ones
                    raise ValueError(f"{path.name} is a folder, and would be served as a model")
            packed = _read_sums(self.path / SUMS)
            for name in sorted(expected):
                _check_archive(self.path / name, packed.get(name, ""))
        except (OSError, ValueError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
            raise BadStore(
                f"the store {self.path} is not as `metavae-serve pack` wrote it: {reason}",
                hint="Remove unexpected files, or pack the models again:"
                f" `metavae-serve pack NAME --store {self.path}`",
            ) from error


def sums(folder: Path) -> str:
    """The text of a store's `SHA256SUMS`: a line for each archive in `folder`."""
    archives = sorted(folder.glob(f"*{ARCHIVE}"))
    return "".join(f"{sha256_of(archive)}  {archive.name}\n" for archive in archives)


def packed_models(path: Path) -> list[str] | None:
    """Names of the models that any version of metavae-serve packed; None if it is no store."""
    try:
        return list(parse_json(_packed(path))["models"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _packed(path: Path) -> str:
    """The settings as JSON, from the configuration's first line; raises OSError or ValueError."""
    first, _, _ = (path / CONFIGURATION).read_text().partition("\n")
    if not first.startswith(WRITTEN_BY):
        raise ValueError("it is empty, or another program or version wrote it")
    return first.removeprefix(WRITTEN_BY)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
    return " ".join(str(error or type(error).__name__).split())


def _read_sums(path: Path) -> dict[str, str]:
    """The sha256 of each archive by name; raises OSError or ValueError."""
    _check_file(path, _MAX_SUMS)
    lines = path.read_text().splitlines()
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    if len(found) < len(lines):
        raise ValueError(f"{path.name} has lines that are no sha256 of an archive")
    return {match[2]: match[1] for match in found}


def _check_archive(path: Path, sha256: str) -> None:
    """Raise OSError or ValueError unless `path` is the archive of this sha256."""
    _check_file(path, _MAX_BYTES)
    if (found := sha256_of(path)) != sha256:
        said = f"{sha256[:12]}…" if sha256 else "nothing of it"
        raise ValueError(
            f"{path.name} has changed since it was packed: sha256 {found[:12]}…, {SUMS} says {said}"
        )


def _check_file(path: Path, most: int) -> None:
    size = path.stat().st_size
    if not path.is_file():  # reading a pipe would wait
        raise ValueError(f"{path.name} is no file")
    if size > most:
        raise ValueError(f"{path.name} has {size} bytes, at most {most} are read")
