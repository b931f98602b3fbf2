"""A peer that runs: started, answering, and gone with all of its processes."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from metavae_zoo.bundles.bundle import Bundle
from served.peers.catalog import Peer, PeerFailed
from served.peers.model import BUNDLE, PORT, THREADS

_ROOT = Path(__file__).parents[3]
_MARK = "PEER_MARK"  # all processes that a peer starts inherit it, whoever their parent is
_READY_SECONDS = 120.0
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1


class Running:
    """A peer's process, and all that it started in turn."""

    def __init__(self, command: list[str | Path], environment: dict[str, str], folder: Path):
        self._mark = uuid.uuid4().hex
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment | {_MARK: self._mark},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def first_reply(self, url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """The first good reply to a request, as soon as the peer gives one; raises PeerFailed."""
        deadline, answer = time.monotonic() + _READY_SECONDS, "no answer"
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                reply = httpx.post(url, content=body, headers=headers, timeout=_READY_SECONDS)
                if reply.is_success:
                    return reply
                answer = f"{reply.status_code} {reply.text[:200]}"
            if (ended := self._process.poll()) is not None:
                raise PeerFailed(f"it ended with {ended} when it was started: {self._last_words()}")
            time.sleep(_POLL_SECONDS)
        raise PeerFailed(f"it was not ready after {_READY_SECONDS:g} s: {answer}")

    def stop(self) -> None:
        """Ask it to end, and end what has not after a while."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while (left := self._living()) and time.monotonic() < deadline:
            self._process.poll()  # collects it
            time.sleep(_POLL_SECONDS)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, _STOP_SECONDS)
        self._process.wait(_STOP_SECONDS)

    def _living(self) -> list[psutil.Process]:
        """What has not ended; some peers leave the session, others overwrite their environment."""
        living = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                own = os.getsid(process.pid) == self._process.pid
                if own or process.environ().get(_MARK) == self._mark:
                    living.append(process)
        return living

    def _last_words(self) -> str:
        """The last line of its log that names an error, or else the last of all."""
        lines = self._log.read_text(errors="replace").replace(str(_ROOT), ".").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        errors = [line for line in told if re.search("error", line, re.IGNORECASE)]
        return (errors or told or ["it said nothing"])[-1]


@contextmanager
def running(
    peer: Peer, python: Path, bundle: Bundle, *, threads: int, port: int
) -> Iterator[Running]:
    """A peer over a bundle, just started; at the end nothing of it is left."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {
            BUNDLE: str(bundle.path.absolute()),
            PORT: str(port),
            THREADS: str(threads),
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(_ROOT / one) for one in ("benchmarks", "model_zoo")),
            # What a peer writes goes with the folder, and nothing of it goes to its makers.
            "BENTOML_HOME": folder,
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTRITON_HOME": folder,
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        arguments = [one.format(port=port) for one in peer.arguments]
        process = Running([python, *arguments], environment, Path(folder))
        try:
            yield process
        finally:
            process.stop()
