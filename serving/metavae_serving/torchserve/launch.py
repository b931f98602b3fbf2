"""Start TorchServe over a model store, and know when it is ready."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from metavae_serving.errors import ServerFailed
from metavae_serving.settings import Settings
from metavae_serving.torchserve import drain
from metavae_serving.torchserve.archive import configure, is_configured
from metavae_serving.torchserve.configuration import CONFIGURATION, read_settings
from metavae_serving.torchserve.management import (
    UNANSWERED,
    Management,
    Worker,
    list_workers,
    management,
)
from metavae_serving.torchserve.process import (
    ENDING,
    forget,
    make_private,
    running,
    runs,
    starting,
    stop_group,
    temporary_folder,
)
from metavae_serving.torchserve.requirements import check_installed, java_home
from metavae_serving.torchserve.store import check_contents
from metavae_zoo.places import log_folder, run_folder

START_SECONDS = 180.0
_POLL_SECONDS = 0.1
_LOG_SECONDS = 5.0
_LAUNCH_SECONDS = 20.0  # `torchserve --start` takes one or two
_OUTPUT = "torchserve.log"
# Of whatever it cannot read, gRPC would write a stack trace into that file.
_JAVA_LOGGING = "java-logging.properties"
_QUIET_GRPC = "handlers=java.util.logging.ConsoleHandler\nio.grpc.level=OFF\n"
_JAVA = "JDK_JAVA_OPTIONS"
_GPUS = "CUDA_VISIBLE_DEVICES"
_TROUBLE = re.compile(r"worker process died|Load model failed|Failed to load|Exception")


def start(
    store: Path,
    *,
    timeout: float = START_SECONDS,
    progress: Callable[[int, int], None] = lambda ready, expected: None,
    launched: Callable[[int], None] = lambda group: None,
) -> list[Worker]:
    """Start the server over a packed store; return its workers once every one of them is ready.

    `progress` is called with how many workers are ready, of how many; `launched` once, with the
    server's process group. Raises BadStore where there
    is no store, or one that is not as it was packed; ServerFailed where a port is taken, a server
    runs over it already or is being started, or a worker does not come up in `timeout` seconds;
    then, and when interrupted, no process is left behind.
    """
    store = store.resolve()
    check_installed()
    settings = read_settings(store)
    with starting(store):
        check_contents(store, settings.models)
        check_ports(settings)
        if not is_configured(store, settings):
            configure(store, settings)  # packed in another place, or by another version
        launcher = None
        try:
            with _later_interrupts():
                launcher = _launch(store, _environment(store, settings))
                launched(launcher.pid)
            return _wait_until_ready(store, launcher, timeout, progress)
        except BaseException:
            if launcher is not None:
                _end(launcher, store)
            raise


def ready(store: Path) -> list[Worker]:
    """Workers of the server over `store`, all of which are ready; else raises ServerFailed.

    Then clients get in, too: an inference token that has expired is renewed.
    """
    with _running_server(store) as api:
        if drain.is_stopped(run_folder(store)):
            raise ServerFailed(
                f"the server over {store} is being stopped, and takes no new requests",
                hint=f"When it has ended, start it: `metavae-serve start --store {store}`",
            )
        found = api.workers()
        expected = read_settings(store).workers
        up = sum(worker.ready for worker in found)
        if up < expected:
            raise ServerFailed(
                f"{up} of {expected} workers are ready",
                hint=f"Wait, or see {log_folder(store) / 'model_log.log'}",
            )
        api.check_inference()
    return found


@contextmanager
def _running_server(store: Path) -> Iterator[Management]:
    """The API of the server over `store`; raises ServerFailed where none runs or answers."""
    process = running(store)
    if process is None:
        raise ServerFailed(
            f"no server runs over {store}",
            hint=f"Start it: `metavae-serve start --store {store}`",
        )
    try:
        with management(store) as api:
            yield api
    except UNANSWERED as error:
        raise ServerFailed(
            f"the server over {store} (pid {process.pid}) does not answer ({type(error).__name__})",
            hint=f"If it has just been started, wait; else see {log_folder(store)}",
        ) from error


def check_ports(settings: Settings) -> None:
    """Raise ServerFailed if one of the ports that a server would listen on is taken."""
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


@contextmanager
def _later_interrupts() -> Iterator[None]:
    """Let ENDING signals wait for the end of the block, which starts a process and notes it.

    They come to the main thread alone, and only it can hold them back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = [one for one in ENDING if signal.getsignal(one) is not signal.SIG_IGN]
    earlier = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)
    for number in came[:1]:
        signal.raise_signal(number)


def _end(launcher: subprocess.Popen[bytes], store: Path) -> None:
    """Leave no process of a start that failed, even if another interrupt comes meanwhile."""
    try:
        # It ends once Java's pid is noted, by which Java can be asked to end in good order.
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(_LAUNCH_SECONDS)
    finally:
        stop_group(launcher.pid, running(store))
        forget(store)


def _environment(store: Path, settings: Settings) -> dict[str, str]:
    """The environment of the server; raises ServerFailed for one that TorchServe cannot read."""
    temporary, logs = str(temporary_folder(store)), str(log_folder(store))
    java = [os.environ.get(_JAVA, ""), f"-Djava.util.logging.config.file={_JAVA_LOGGING}"]
    environment = os.environ | {
        drain.RUN_FOLDER_VARIABLE: str(run_folder(store)),
        "TMPDIR": temporary,
        "TEMP": temporary,
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
        _JAVA: " ".join(java).strip(),
    }
    environment.pop("TS_CONFIG_FILE", None)  # it would win over --ts-config
    home = java_home()
    if home is None:
        environment.pop("JAVA_HOME", None)
    else:
        environment["JAVA_HOME"] = str(home)
    if not settings.on_gpu:
        environment.pop(_GPUS, None)
    elif not re.fullmatch(r"\d+(,\d+)*", gpus := environment.get(_GPUS, "0")):
        raise ServerFailed(
            f"{_GPUS} is {gpus!r}, and TorchServe reads numbers alone",
            hint="Give the GPUs by their numbers, such as 0,1 (`nvidia-smi -L` lists them)",
        )
    return environment


def _launch(store: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Run `torchserve --start`, which leaves Java in a process group of its own and ends."""
    folder = run_folder(store)
    try:
        for private in (folder, temporary_folder(store), log_folder(store)):
            make_private(private)
        forget(store)
        # What a server that was killed had unpacked.
        shutil.rmtree(temporary_folder(store) / "models", ignore_errors=True)
        drain.reopen(folder)
        (folder / _JAVA_LOGGING).write_text(_QUIET_GRPC)
        output = (folder / _OUTPUT).open("wb")
    except OSError as error:
        raise ServerFailed(
            f"the server's own folder {folder} cannot be written ({error.strerror})",
            hint="Pack the model into a store of your own with --store",
        ) from error
    command = [sys.executable, "-m", "ts.model_server", "--start", "--ncs", "--models", "all"]
    command += ["--model-store", str(store), "--ts-config", str(store / CONFIGURATION)]
    with output:
        return subprocess.Popen(
            command,
            cwd=folder,  # where TorchServe writes its tokens, and Java finds _JAVA_LOGGING
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )


def _wait_until_ready(
    store: Path,
    launcher: subprocess.Popen[bytes],
    timeout: float,
    progress: Callable[[int, int], None],
) -> list[Worker]:
    expected, up = read_settings(store).workers, 0
    java = None  # once it is launched
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if launcher.poll() is not None:
            java = java or running(store)
            if java is None or not runs(java):
                raise _failure(store, "TorchServe ended while it started")
        if _worker_died(store):
            # This line is logged first, and what the worker died of a moment later.
            grace = time.monotonic() + _LOG_SECONDS
            while not _exception(store) and time.monotonic() < grace:
                time.sleep(_POLL_SECONDS)
            raise _failure(store, "a worker could not load its model")
        try:
            found = list_workers(store)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            # The API opens after the archives have been read: an unknown model stays unknown.
            if status == httpx.codes.NOT_FOUND:
                raise _failure(store, "TorchServe could not read a model's archive") from error
            what = f"TorchServe answers {status} at {error.request.url.path}"
            raise _failure(store, what) from error
        except UNANSWERED:
            found = []  # Java is not up yet, or has not written its tokens
        up = sum(worker.ready for worker in found)
        progress(up, expected)
        if up >= expected:
            return found
        time.sleep(_POLL_SECONDS)
    cause = _exception(store)
    raise ServerFailed(
        f"{up} of {expected} workers are ready after {timeout:g} s"
        + (f": {cause}" if cause else ""),
        hint=f"Give them longer with --timeout, or see what was logged, in {_logs(store)}",
    )


def _worker_died(store: Path) -> bool:
    # TorchServe starts a worker that fails to load again and again, for five minutes.
    return "worker process died" in _read(run_folder(store) / _OUTPUT)


def _failure(store: Path, what: str) -> ServerFailed:
    return ServerFailed(
        f"{what}: {_reason(store).rstrip('.')}",
        hint=f"All that was logged is in {_logs(store)}",
    )


def _logs(store: Path) -> str:
    return f"{log_folder(store)} and {run_folder(store) / _OUTPUT}"


def _reason(store: Path) -> str:
    """The line of the logs that says most: what a worker failed on, else the first trouble."""
    output = _read(run_folder(store) / _OUTPUT).splitlines()
    trouble = [line for line in output if _TROUBLE.search(line)]
    last = [line for line in output if line and "[INFO" not in line][-1:]
    return _exception(store) or "".join(trouble[:1] or last) or "nothing that was logged says why"


def _exception(store: Path) -> str:
    """The exception that ends the first traceback of a worker; empty if there is none."""
    lines = [
        re.sub(r"^\S+ \[\w+ *\] \S+ MODEL_LOG - ", "", line)
        for line in _read(log_folder(store) / "model_log.log").splitlines()
    ]
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    below = lines[tracebacks[0] + 1 :] if tracebacks else []
    return next((line for line in below if not line.startswith(" ")), "")


def _read(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""
