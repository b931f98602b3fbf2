"""`metavae-serve`: pack models into a store, start and stop the server over it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from tqdm import tqdm

from metavae_serving.errors import ServerFailed
from metavae_serving.options import asked_settings, changed_settings, settings_options
from metavae_serving.torchserve import launch, process, stop
from metavae_serving.torchserve.archive import bundle_of, configure, pack
from metavae_serving.torchserve.configuration import read_settings
from metavae_zoo.console import (
    HELP_OPTIONS,
    PATH,
    Commands,
    GivenPath,
    Seconds,
    version_option,
)
from metavae_zoo.places import default_store, log_folder, token_file

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
    help="How long requests that were taken in may still be answered; 0 cuts them off.",
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

    That is what `pack --precision int8` serves; `metavae-zoo quantize NAME` measures what it costs.
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

    Without a name --host, --port and --token-minutes, where given by option or environment, are
    written into the store's configuration; the options of models can only be what was packed.
    Returns when every worker is ready.
    """
    process.refuse_if_running(store)  # before anything is packed
    launched: list[int] = []
    with _terminable():
        try:
            if names:
                _pack(names, store, options, starting=True)
            else:
                _reconfigure(store, options)
            _start(store, timeout, launched)
            if foreground:
                _wait_for_end(store)
        except (KeyboardInterrupt, SystemExit) as end:
            if process.group_of(store) in launched:  # and not one that somebody else has started
                stop.stop(store, drain_seconds=drain_seconds)
            click.echo("stopped")
            if not foreground:  # where a signal is the way to end it, it is no failure
                raise SystemExit(130 if isinstance(end, KeyboardInterrupt) else end.code) from end


@main.command("ready")
@_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ready_command(store: Path, as_json: bool) -> None:
    """Exit with 0 if every worker of every model is ready, and list them and their devices.

    A token that has expired is renewed, in the key file.
    """
    found, settings = launch.ready(store), read_settings(store)
    if as_json:
        listed = [
            {
                "model": one.model,
                "device": settings.of(one.model).device,
                "id": one.id,
                "pid": one.pid,
                "status": one.status,
            }
            for one in found
        ]
        click.echo(json.dumps({"url": settings.url, "workers": listed}))
        return
    for one in found:
        where = f"worker {one.id} on {settings.of(one.model).device}"
        click.echo(f"{one.model}  {where}  pid {one.pid}  {one.status}")


@main.command("stop")
@_store
@_drain_seconds
def stop_command(store: Path, drain_seconds: float) -> None:
    """Stop the server; returns when all its processes are gone.

    Requests that it has taken in are answered first, later ones get a 503 with Retry-After.
    """
    with _terminable():
        drained = stop.stop(store, drain_seconds=drain_seconds)
    click.echo("stopped" if drained else "stopped; some requests may not have been answered")


def _pack(
    names: tuple[str, ...], store: Path, options: dict[str, Any], *, starting: bool = False
) -> None:
    bundles = [bundle_of(name) for name in dict.fromkeys(names)]
    settings = asked_settings(bundles, options)
    if starting:
        launch.check_ports(settings)  # before an earlier store is replaced
    pack(bundles, store, settings)
    for name, model in settings.models.items():
        click.echo(f"packed {name} for {model.device} into {store}")


def _start(store: Path, timeout: float, launched: list[int]) -> None:
    """Start the server, noting its process group in `launched`, and tell where it is."""
    with tqdm(unit="worker", desc="starting", disable=not sys.stderr.isatty()) as bar:

        def show(up: int, expected: int) -> None:
            bar.total = expected
            bar.update(up - bar.n)

        started = launch.start(store, timeout=timeout, progress=show, launched=launched.append)
    for worker in started:
        click.echo(f"{worker.model} is ready (worker {worker.id}, pid {worker.pid})")
    click.echo(f"url    {read_settings(store).url}")
    click.echo(f"tokens {token_file(store)}")


def _reconfigure(store: Path, options: dict[str, Any]) -> None:
    """Let `start` without a name take other addresses than the store was packed with."""
    packed = read_settings(store)
    if (asked := changed_settings(packed, options)) != packed:
        with process.starting(store):
            configure(store, asked)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block like Ctrl-C does, so that it cleans up."""

    def exit_now(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = {*process.ENDING} - {signal.SIGINT}
    earlier = {one: signal.getsignal(one) for one in numbers}
    heeded = [one for one in numbers if earlier[one] is not signal.SIG_IGN]  # as nohup has it
    for one in heeded:
        signal.signal(one, exit_now)
    try:
        yield
    finally:
        for one in heeded:
            signal.signal(one, earlier[one])


def _wait_for_end(store: Path) -> None:
    """Return once `metavae-serve stop` has ended the server; raises ServerFailed where it died."""
    server = process.running(store)
    while server is not None and process.runs(server):
        time.sleep(0.5)
    if not process.was_stopped(store):
        raise ServerFailed("the server ended by itself", hint=f"See {log_folder(store)}")
    click.echo("stopped")


if __name__ == "__main__":
    main()
