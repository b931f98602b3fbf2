"""Start TorchServe over a model store, and know when it is ready."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from metavae_serving.errors import ServerFailed
from metavae_serving.settings import Settings
from metavae_serving.torchserve import logs, process
from metavae_serving.torchserve.configuration import CONFIGURATION
from metavae_serving.torchserve.management import UNANSWERED, Worker, list_workers, management
from metavae_serving.torchserve.requirements import check_installed, java_home
from metavae_serving.torchserve.store import Store

START_SECONDS = 180.0
_POLL_SECONDS = 0.1
_LOG_SECONDS = 5.0
# gRPC would write a stack trace into the output for each call that it cannot read.
_JAVA_LOGGING = "java-logging.properties"
_QUIET_GRPC = "handlers=java.util.logging.ConsoleHandler\nio.grpc.level=OFF\n"
_JAVA = "JDK_JAVA_OPTIONS"
_GPUS = "CUDA_VISIBLE_DEVICES"


def start(
    store: Store,
    *,
    timeout: float = START_SECONDS,
    progress: Callable[[int, int], None] = lambda ready, expected: None,
    check: bool = True,
) -> list[Worker]:
    """Start the server over a packed store; return its workers once all of them are ready.

    `progress` is called with the number of workers that are ready, and that of all. `check`
    compares the archives with their sums. Raises BadStore if the store has changed since it was
    packed; ServerFailed if a port is taken, a server runs or starts over the store, or a worker is
    not ready in `timeout` seconds. Then, and after an interrupt, no process is left.
    """
    check_installed()
    with process.starting(store.path):
        if check:
            store.check()
        check_ports(store.settings)
        store = store.configured(store.settings)
        # Signals interrupt the main thread alone: in another thread a launch is never cut short.
        with ThreadPoolExecutor(1) as thread:
            launch = thread.submit(_launch, store, environment(store))
            try:
                return _wait_until_ready(store, launch.result(), timeout, progress)
            except BaseException:
                if not launch.exception():
                    _abandon(store, launch.result())
                raise


def ready(store: Store) -> list[Worker]:
    """Workers of the server over `store`, all of which are ready; else raises ServerFailed.

    An inference token that has expired is renewed, so that clients get in.
    """
    server = process.require(store.path)
    if server.is_stopping:
        raise ServerFailed(
            f"the server over {store.path} is being stopped",
            hint=f"When it has ended, start it: `metavae-serve start --store {store.path}`",
        )
    try:
        with management(store) as api:
            found = api.workers()
            expected = store.settings.workers
            up = sum(worker.ready for worker in found)
            if up < expected:
                raise ServerFailed(
                    f"{up} of {expected} workers are ready",
                    hint=f"Wait, or see {Path(server.logs) / logs.MODEL_LOG}",
                )
            api.check_inference()
    except UNANSWERED as error:
        raise ServerFailed(
            f"the server over {store.path} (pid {server.pid}) does not answer"
            f" ({type(error).__name__})",
            hint=f"If it has just been started, wait; else see {server.logs}",
        ) from error
    return found


def check_ports(settings: Settings) -> None:
    """Raise ServerFailed if a port that a server would listen on is taken."""
    for service, (host, port) in settings.ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except socket.gaierror as error:
                raise ServerFailed(
                    f"the host {host} is not known ({error.strerror})",
                    hint="Give an address of this machine, or a name of it, as --host",
                ) from error
            except (OSError, OverflowError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise ServerFailed(
                    f"port {port} ({service}) of {host} cannot be had ({reason})",
                    hint="Choose others with --port: inference listens there, management, metrics"
                    " and gRPC on the four after it",
                ) from error


def environment(store: Store) -> dict[str, str]:
    """The environment of the server; raises ServerFailed for one that TorchServe cannot read."""
    temporary, log_folder = str(store.temporary_folder), str(store.log_folder)
    java = [os.environ.get(_JAVA, ""), f"-Djava.util.logging.config.file={_JAVA_LOGGING}"]
    changed = os.environ | {
        "TMPDIR": temporary,
        "TEMP": temporary,
        "LOG_LOCATION": log_folder,
        "METRICS_LOCATION": log_folder,
        _JAVA: " ".join(java).strip(),
    }
    changed.pop("TS_CONFIG_FILE", None)  # it would win over --ts-config
    home = java_home()
    if home is None:
        changed.pop("JAVA_HOME", None)
    else:
        changed["JAVA_HOME"] = str(home)
    if not store.settings.on_gpu:
        changed.pop(_GPUS, None)
    elif not re.fullmatch(r"\d+(,\d+)*", gpus := changed.get(_GPUS, "0")):
        raise ServerFailed(
            f"{_GPUS} is {gpus!r}, and TorchServe reads numbers only",
            hint="Give the GPUs by their numbers, such as 0,1 (`nvidia-smi -L` lists them)",
        )
    return changed


def server_command(store: Store) -> list[str]:
    """The command of the server, which runs until the server ends."""
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
    command += ["--models", "all", "--model-store", str(store.path)]
    return [*command, "--ts-config", str(store.path / CONFIGURATION)]


def _launch(store: Store, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own, and note it in the run file."""
    folder = store.run_folder
    try:
        for private in (folder, store.temporary_folder, store.log_folder):
            process.make_private(private)
        # What a server that was killed has left: tokens, which clients would try, and models.
        store.token_file.unlink(missing_ok=True)
        shutil.rmtree(store.temporary_folder / "models", ignore_errors=True)
        (folder / _JAVA_LOGGING).write_text(_QUIET_GRPC)
        output = (folder / logs.OUTPUT).open("wb")
    except OSError as error:
        raise ServerFailed(
            f"the server's own folder {folder} cannot be written ({error.strerror})",
            hint="Pack the model into a store of your own with --store",
        ) from error
    with output:
        launched = subprocess.Popen(
            server_command(store),
            cwd=folder,  # where TorchServe writes its tokens, and Java finds _JAVA_LOGGING
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    process.note(store.path, launched.pid, pgid=launched.pid, logs=store.log_folder)
    return launched


def _abandon(store: Store, launched: subprocess.Popen[bytes]) -> None:
    """Leave no process of a start that failed."""
    server = process.noted(store.path)
    try:
        process.end_group(launched.pid)
    finally:
        launched.wait()
        if server is not None:
            process.forget(store.path, server)


def _wait_until_ready(
    store: Store,
    launched: subprocess.Popen[bytes],
    timeout: float,
    progress: Callable[[int, int], None],
) -> list[Worker]:
    expected, up = store.settings.workers, 0
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if launched.poll() is not None:
            raise logs.failure(store, "TorchServe ended while it started")
        if logs.worker_died(store):
            # TorchServe logs this line first, and the cause a moment later.
            grace = time.monotonic() + _LOG_SECONDS
            while not logs.exception(store) and time.monotonic() < grace:
                time.sleep(_POLL_SECONDS)
            raise logs.failure(store, "a worker could not load its model")
        try:
            found = list_workers(store)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            # The API opens after the archives have been read: an unknown model stays unknown.
            if status == httpx.codes.NOT_FOUND:
                raise logs.failure(store, "TorchServe could not read a model's archive") from error
            what = f"TorchServe answers {status} at {error.request.url.path}"
            raise logs.failure(store, what) from error
        except UNANSWERED:
            found = []  # Java is not up yet, or has not written its tokens
        up = sum(worker.ready for worker in found)
        progress(up, expected)
        if up >= expected:
            return found
        time.sleep(_POLL_SECONDS)
    cause = logs.exception(store)
    raise ServerFailed(
        f"{up} of {expected} workers are ready after {timeout:g} s"
        + (f": {cause}" if cause else ""),
        hint=f"Give them longer with --timeout, or see what was logged, in {logs.places(store)}",
    )
