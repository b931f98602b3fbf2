"""The logs of a server: where they are, their last lines, and the line that says why it failed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from metavae_serving.errors import ServerFailed
from metavae_serving.torchserve import process
from metavae_serving.torchserve.store import Store

OUTPUT = "torchserve.log"  # what the server's processes print, in the run folder
MODEL_LOG = "model_log.log"
LOGS = {  # kind -> file
    "model": MODEL_LOG,
    "access": "access_log.log",
    "server": "ts_log.log",
    "output": OUTPUT,
}

_TROUBLE = re.compile(r"worker process died|Load model failed|Failed to load|Exception")
_POLL_SECONDS = 0.2
_LINE_BYTES = 1000  # read for each line that is asked for, and more where lines are longer


def find_log(store: Store, kind: str) -> Path:
    """The log of this kind, of the server that runs or ran last; raises ServerFailed without one.

    A plain `torchserve --start` keeps its logs elsewhere, and its output nowhere.
    """
    server = process.noted(store.path)
    folder = Path(server.logs) if server else store.log_folder
    path = (store.run_folder if kind == "output" else folder) / LOGS[kind]
    if not path.is_file():
        raise ServerFailed(
            f"there is no log {path}",
            hint=f"A server writes it: `metavae-serve start --store {store.path}`",
        )
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, without reading all of it."""
    size, length = path.stat().st_size, (count + 1) * _LINE_BYTES
    while True:
        with path.open("rb") as file:
            file.seek(max(0, size - length))
            lines = file.read(length).decode(errors="replace").splitlines()
        if length >= size or len(lines) > count:  # the first one may be cut
            return lines[-count:] if count else []
        length *= 2


def follow(path: Path) -> Iterator[str]:
    """Lines that are written into a log from now on, also after it is rotated; never ends."""
    file = path.open(errors="replace")
    file.seek(0, os.SEEK_END)
    while True:
        if text := file.read():
            yield text
            continue
        with suppress(FileNotFoundError):
            if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open(errors="replace")
                continue
        time.sleep(_POLL_SECONDS)


def worker_died(store: Store) -> bool:
    """Whether a worker has ended since the start; TorchServe restarts it for five minutes."""
    return "worker process died" in _read(store.run_folder / OUTPUT)


def failure(store: Store, what: str) -> ServerFailed:
    """The error of a start that failed, with the line of the logs that says most."""
    return ServerFailed(
        f"{what}: {_reason(store).rstrip('.')}",
        hint=f"All that was logged is in {places(store)}",
    )


def places(store: Store) -> str:
    """Where the logs of a server that metavae-serve starts are."""
    return f"{store.log_folder} and {store.run_folder / OUTPUT}"


def exception(store: Store) -> str:
    """The exception that ends the first traceback of a worker; empty if there is none."""
    lines = [
        re.sub(r"^\S+ \[\w+ *\] \S+ MODEL_LOG - ", "", line)
        for line in _read(store.log_folder / MODEL_LOG).splitlines()
    ]
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    below = lines[tracebacks[0] + 1 :] if tracebacks else []
    return next((line for line in below if not line.startswith(" ")), "")


def _reason(store: Store) -> str:
    """The exception of a worker, else the first trouble that was printed, else the last line."""
    output = _read(store.run_folder / OUTPUT).splitlines()
    trouble = [line for line in output if _TROUBLE.search(line)]
    last = [line for line in output if line and "[INFO" not in line][-1:]
    return exception(store) or "".join(trouble[:1] or last) or "nothing that was logged says why"


def _read(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""
