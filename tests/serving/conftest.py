"""What the server's tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from metavae_serving.torchserve import launch, process
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.store import Store
from metavae_zoo.images import Images
from metavae_zoo.protocol.wire import encode_request

Requests: TypeAlias = list[tuple[bytes, dict[str, str]]]  # bodies and headers


@pytest.fixture
def store(bundle, settings, tmp_path) -> Store:
    """A packed store of the test's own, on free ports."""
    return pack([bundle], tmp_path / "store", settings)


@pytest.fixture(scope="session")
def requests_of() -> Callable[[Sequence[tuple[Images, Images]]], Requests]:
    """Requests of many clients, from the queries and the context of each.

    Every third is in JSON, and every sixth, from the first, is one byte short.
    """

    def requests(asked: Sequence[tuple[Images, Images]]) -> Requests:
        whole = [
            encode_request(queries=queries, context=context, binary=client % 3 > 0)
            for client, (queries, context) in enumerate(asked)
        ]
        return [
            (body if client % 6 else body[:-1], headers)
            for client, (body, headers) in enumerate(whole)
        ]

    return requests


STUB_CLI = Path(__file__).with_name("stub_cli.py")


def _heed_signals() -> None:
    """Undo what whoever runs the tests ignores: SIGINT in a shell's background, SIGHUP by nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def processes_of(store: Store) -> list[str]:
    """Commands of living processes that name this store, or work in its run folder."""
    found = []
    for one in psutil.process_iter():
        try:
            words = [*one.cmdline(), one.cwd()]
            named = any(
                place in word
                for place in (str(store.path), str(store.temporary_folder))
                for word in words
            )
            if named and one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(words))
        except psutil.Error:
            continue
    return found


Serving: TypeAlias = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def stub_server(monkeypatch) -> None:
    """Lets a start in this process start the fake in place of TorchServe."""
    command = [sys.executable, str(STUB_CLI.with_name("stub_server.py"))]
    monkeypatch.setattr(launch, "server_command", lambda store: [*command, str(store.path)])


@pytest.fixture
def stub_serve(store) -> Iterator[Serving]:
    """Runs `metavae-serve` over `store` in a process of its own, with the fake for TorchServe."""
    running = []

    def run(*words: str, state: str = "ready", **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(STUB_CLI), *words, "--store", str(store.path)]
        running.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"METAVAE_STUB": state},
                preexec_fn=_heed_signals,
                **options,
            )
        )
        return running[-1]

    yield run
    for one in running:
        if one.poll() is None:
            one.kill()
        one.communicate()
    if (server := process.running(store.path)) is not None and server.pgid:
        os.killpg(server.pgid, signal.SIGKILL)
