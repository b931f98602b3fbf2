"""`metavae-serve`: pack models into a store; start, watch and stop the server over it."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click
from tqdm import tqdm

from metavae_serving.errors import ServerFailed
from metavae_serving.options import asked_settings, changed_settings, settings_options
from metavae_serving.torchserve import launch, logs, process, stop
from metavae_serving.torchserve.archive import bundle_of, pack
from metavae_serving.torchserve.management import UNANSWERED, Worker, list_workers
from metavae_serving.torchserve.process import Server
from metavae_serving.torchserve.store import Store
from metavae_zoo.console import (
    HELP_OPTIONS,
    PATH,
    Commands,
    GivenPath,
    Seconds,
    version_option,
)
from metavae_zoo.places import default_store

NOT_RUNNING = 3  # exit code of `status`, as of service commands

_store = click.option(
    "--store",
    type=GivenPath(file_okay=False, resolve_path=True, path_type=Path),
    default=default_store,
    show_default="METAVAE_STORE, else in the user's state folder",
    help="Folder of the model store.",
)


_drain_seconds = click.option(
    "--drain-seconds",
    type=Seconds(min=0),
    default=stop.DRAIN_SECONDS,
    show_default=True,
    help="How long to wait until all requests are answered; 0 cuts them off.",
)


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Serve models of the zoo over HTTP, with TorchServe."""


@main.command("pack")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_store
@settings_options
def pack_command(names: tuple[str, ...], store: Path, **options: Any) -> None:
    """Write a model store of the models NAME... (names of the zoo, or paths of bundles).

    A plain `torchserve --start --ncs --model-store DIR --ts-config DIR/config.properties
    --models all` serves it, and so does `metavae-serve start`.
    """
    _pack(names, store, options)


@main.command("quantize")
@click.argument("name")
@click.option("--out", type=PATH, required=True, help="The bundle's own folder; a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quantize_command(name: str, out: Path, as_json: bool) -> None:
    """Write the bundle of model NAME (of the zoo, or a path) in int8.

    `pack --precision int8` serves such a bundle; `metavae-zoo quantize NAME` measures its cost.
    """
    from metavae_zoo.embedding.int8 import quantize

    made = quantize(bundle_of(name), out)
    said = {"path": str(made.path), "digest": made.card.digest}
    click.echo(json.dumps(said) if as_json else made.path)


@main.command("start")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_store
@settings_options
@click.option("--foreground", is_flag=True, help="Run until a signal comes, then stop the server.")
@_drain_seconds
@click.option(
    "--timeout",
    type=Seconds(min=1),
    default=launch.START_SECONDS,
    show_default=True,
    help="Seconds until all workers must be ready.",
)
def start_command(
    names: tuple[str, ...],
    store: Path,
    foreground: bool,
    drain_seconds: float,
    timeout: float,
    **options: Any,
) -> None:
    """Pack the models NAME... and serve them; without a name, serve the store as it was packed.

    Without a name, --host, --port and --token-minutes are written into the store's configuration.
    Options of models can only be those that were packed. Returns when every worker is ready.
    """
    process.refuse_if_running(store)  # before anything is packed
    _end_by_exception()
    opened, server = None, None
    try:
        if names:
            opened = _pack(names, store, options, starting=True)
        else:
            opened = Store.open(store)
            opened = replace(opened, settings=changed_settings(opened.settings, options))
        _start(opened, timeout, check=not names)
        server = process.running(store)
        if foreground:
            _wait_for_end(opened, server)
    except (KeyboardInterrupt, SystemExit) as end:
        if opened is not None and server is not None and server.runs:
            stop.stop(opened, drain_seconds=drain_seconds)
        click.echo("stopped")
        if not foreground:  # a signal is the way to end a foreground server, and no failure
            raise SystemExit(130 if isinstance(end, KeyboardInterrupt) else end.code) from end


@main.command("ready")
@_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ready_command(store: Path, as_json: bool) -> None:
    """Exit with 0 if every worker of every model is ready, and list them and their devices.

    A token that has expired is renewed, in the key file.
    """
    opened = Store.open(store)
    found = launch.ready(opened)
    if as_json:
        listed = _listed(opened, found)
        click.echo(json.dumps({"url": opened.settings.url, "workers": listed}))
    else:
        _show_workers(opened, found)


@main.command("status")
@_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_command(store: Path, as_json: bool) -> None:
    """Show the server over the store: models, workers, ports, process, since when.

    Exits with 0 if a server runs, ready or not, and with 3 if none runs.
    """
    opened, server = Store.open(store), process.running(store)
    if server is None:
        if as_json:
            click.echo(json.dumps({"running": False, "store": str(store)}))
        else:
            click.echo(f"no server runs over {store} (looked at {process.run_file(store)})")
        raise SystemExit(NOT_RUNNING)
    try:
        workers = list_workers(opened)
    except UNANSWERED:  # it has just been started
        workers = []
    since = datetime.fromtimestamp(server.create_time).astimezone().isoformat(timespec="seconds")
    ports = {service: f"{host}:{port}" for service, (host, port) in opened.settings.ports.items()}
    ready = sum(worker.ready for worker in workers)
    told = {
        "running": True,
        "state": _state(server, ready, opened.settings.workers),
        "pid": server.pid,
        "since": since,
        "started_by": "metavae-serve" if server.pgid else "torchserve",
        "url": opened.settings.url,
        "ports": ports,
        "models": opened.models,
        "workers": _listed(opened, workers),
        "store": str(opened.path),
        "tokens": str(opened.token_file),
        "logs": server.logs,
    }
    if as_json:
        click.echo(json.dumps(told))
        return
    for name in ("state", "pid", "since", "started_by", "url", "store", "tokens", "logs"):
        click.echo(f"{name.replace('_', ' '):<11}{told[name]}")
    click.echo(f"{'ports':<11}" + ", ".join(f"{name} {at}" for name, at in ports.items()))
    click.echo(f"{'models':<11}" + ", ".join(opened.models))
    _show_workers(opened, workers)


@main.command("logs")
@_store
@click.option("-n", "count", type=click.IntRange(0), default=20, show_default=True, help="Lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with lines that are written later.")
@click.option(
    "--log",
    "kind",
    type=click.Choice(list(logs.LOGS)),
    default="model",
    show_default=True,
    help="model: a line for each request, and errors of workers; access and server: TorchServe's;"
    " output: what the processes print.",
)
def logs_command(store: Path, count: int, follow: bool, kind: str) -> None:
    """Print the last lines of a log of the server over the store."""
    path = logs.find_log(Store.open(store), kind)
    for line in logs.last_lines(path, count):
        click.echo(line)
    if follow:
        try:
            for text in logs.follow(path):
                click.echo(text, nl=False)
        except KeyboardInterrupt:  # the way to end it
            pass


@main.command("stop")
@_store
@_drain_seconds
def stop_command(store: Path, drain_seconds: float) -> None:
    """Stop the server; returns when all its processes are gone.

    Requests that it has taken in are answered first. Stop sending requests before: those that come
    late may find their connection closed.
    """
    _end_by_exception()
    drained = stop.stop(Store.open(store), drain_seconds=drain_seconds)
    click.echo("stopped" if drained else "stopped; some requests may not have been answered")


def _pack(
    names: tuple[str, ...], store: Path, options: dict[str, Any], *, starting: bool = False
) -> Store:
    bundles = [bundle_of(name) for name in dict.fromkeys(names)]
    settings = asked_settings(bundles, options)
    if starting:
        launch.check_ports(settings)  # before an earlier store is replaced
    packed = pack(bundles, store, settings)
    for name, model in settings.models.items():
        click.echo(f"packed {name} for {model.device} into {store}")
    return packed


def _start(store: Store, timeout: float, *, check: bool) -> None:
    """Start the server, and say where it is."""
    with tqdm(unit="worker", desc="starting", disable=not sys.stderr.isatty()) as bar:

        def show(up: int, expected: int) -> None:
            bar.total = expected
            bar.update(up - bar.n)

        started = launch.start(store, timeout=timeout, progress=show, check=check)
    for worker in started:
        click.echo(f"{worker.model} is ready (worker {worker.id}, pid {worker.pid})")
    click.echo(f"url    {store.settings.url}")
    click.echo(f"tokens {store.token_file}")


def _state(server: Server, ready: int, expected: int) -> str:
    if server.is_stopping:
        return "stopping"
    return "ready" if ready >= expected else f"{ready} of {expected} workers are ready"


def _listed(store: Store, workers: list[Worker]) -> list[dict[str, Any]]:
    return [
        {
            "model": worker.model,
            "device": store.settings.of(worker.model).device,
            "id": worker.id,
            "pid": worker.pid,
            "status": worker.status,
        }
        for worker in workers
    ]


def _show_workers(store: Store, workers: list[Worker]) -> None:
    for one in _listed(store, workers):
        where = f"worker {one['id']} on {one['device']}"
        click.echo(f"{one['model']}  {where}  pid {one['pid']}  {one['status']}")


def _end_by_exception() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt.

    A signal that is ignored, as SIGHUP is by nohup, stays so.
    """

    def exit_now(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, exit_now)


def _wait_for_end(store: Store, server: Server | None) -> None:
    """Return once `metavae-serve stop` has ended the server; raise ServerFailed if it died."""
    while server is not None and server.runs:
        time.sleep(0.5)
    left = process.noted(store.path)
    if server is None or (left and left.pid == server.pid and left.stopping is None):
        raise ServerFailed("the server ended by itself", hint=f"See {store.log_folder}")
    click.echo("stopped")


if __name__ == "__main__":
    main()
