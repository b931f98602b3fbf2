"""`metavae-serve`: pack models into a store, start and stop the server over it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
from tqdm import tqdm

from metavae_serving import launch, process
from metavae_serving.archive import best_device, bundle_of, configure, pack
from metavae_serving.configuration import LOOPBACK, Settings, read_settings
from metavae_serving.errors import ServerFailed
from metavae_zoo.console import HELP_OPTIONS, Commands, GivenPath, version_option
from metavae_zoo.places import default_store, token_file

_DEFAULTS = Settings()

_store = click.option(
    "--store",
    type=GivenPath(file_okay=False, resolve_path=True, path_type=Path),
    default=default_store,
    show_default="METAVAE_STORE, else in the user's state folder",
    help="Folder of the model store.",
)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the commands that pack; None where `start` keeps what was packed."""
    for option in (
        click.option(
            "--host",
            envvar="METAVAE_HOST",
            show_envvar=True,
            help=f"Where inference listens; the rest stays on loopback.  [default: {LOOPBACK}]",
        ),
        click.option(
            "--port",
            type=click.IntRange(1, 65_531),
            envvar="METAVAE_PORT",
            show_envvar=True,
            help="Port of inference; management, metrics and gRPC take the four after it."
            f"  [default: {_DEFAULTS.port}]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 256),
            envvar="METAVAE_WORKERS",
            show_envvar=True,
            help=f"Processes per model.  [default: {_DEFAULTS.workers}]",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            envvar="METAVAE_DEVICE",
            show_envvar=True,
            help="Where models run; auto: CUDA if ONNX Runtime can really use it.  [default: auto]",
        ),
        click.option(
            "--token-minutes",
            type=click.IntRange(1, 10_000_000),
            help=f"How long a token is good for.  [default: {_DEFAULTS.token_minutes}]",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Serve models of the zoo over HTTP, with TorchServe."""


@main.command("pack")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_store
@_options
def pack_command(names: tuple[str, ...], store: Path, **options: Any) -> None:
    """Write a model store of the models NAME... (names of the zoo, or paths of bundles).

    A plain `torchserve --start --ncs --model-store DIR --ts-config DIR/config.properties
    --models all` serves it, and so does `metavae-serve start`.
    """
    _pack(names, store, **options)


@main.command("start")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_store
@_options
@click.option("--foreground", is_flag=True, help="Run until a signal comes, then stop the server.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=launch.START_SECONDS,
    show_default=True,
    help="Seconds until all workers must be ready.",
)
def start_command(
    names: tuple[str, ...], store: Path, foreground: bool, timeout: float, **options: Any
) -> None:
    """Pack the models NAME... and serve them; without a name, serve the store as it was packed.

    Without a name --host, --port and --token-minutes, where given by option or environment, are
    written into the store's configuration; --workers and --device can only be what was packed.
    Returns when every worker is ready.
    """
    process.refuse_if_running(store)  # so that one which runs below is ours to stop
    with _terminable():
        try:
            if names:
                _pack(names, store, starting=True, **options)
            else:
                _reconfigure(store, **options)
            _start(store, timeout)
            if foreground:
                _wait_for_end(store)
        except (KeyboardInterrupt, SystemExit) as end:
            if process.running(store) is not None:
                process.stop(store)
            click.echo("stopped")
            if not foreground:  # where a signal is the way to end it, it is no failure
                raise SystemExit(130 if isinstance(end, KeyboardInterrupt) else end.code) from end


@main.command("ready")
@_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ready_command(store: Path, as_json: bool) -> None:
    """Exit with 0 if every worker of every model is ready, and list them."""
    found = launch.ready(store)
    if as_json:
        listed = [
            {"model": one.model, "id": one.id, "pid": one.pid, "status": one.status}
            for one in found
        ]
        click.echo(json.dumps({"url": read_settings(store).url, "workers": listed}))
        return
    for worker in found:
        click.echo(f"{worker.model}  worker {worker.id}  pid {worker.pid}  {worker.status}")


@main.command("stop")
@_store
def stop_command(store: Path) -> None:
    """Stop the server; returns when all its processes are gone."""
    process.stop(store)
    click.echo("stopped")


def _pack(
    names: tuple[str, ...],
    store: Path,
    *,
    device: str | None,
    starting: bool = False,
    **options: Any,
) -> None:
    bundles = [bundle_of(name) for name in dict.fromkeys(names)]
    if device in (None, "auto"):
        device = best_device(bundles[0])
    given = {name: value for name, value in options.items() if value is not None}
    settings = replace(_DEFAULTS, device=device, **given)
    if starting:
        launch.check_ports(settings)  # before an earlier store is replaced
    pack(bundles, store, settings)
    for bundle in bundles:
        click.echo(f"packed {bundle.card.name} for {settings.device} into {store}")


def _start(store: Path, timeout: float) -> None:
    with tqdm(unit="worker", desc="starting", disable=not sys.stderr.isatty()) as bar:

        def show(up: int, expected: int) -> None:
            bar.total = expected
            bar.update(up - bar.n)

        started = launch.start(store, timeout=timeout, progress=show)
    for worker in started:
        click.echo(f"{worker.model} is ready (worker {worker.id}, pid {worker.pid})")
    click.echo(f"url    {read_settings(store).url}")
    click.echo(f"tokens {token_file(store)}")


def _reconfigure(store: Path, **options: Any) -> None:
    """Let `start` without a name take other addresses than the store was packed with.

    Options may come from the environment, and are no error where they change nothing.
    """
    packed = read_settings(store)
    given = {name: value for name, value in options.items() if value not in (None, "auto")}
    wanted = replace(packed, **given)
    for name in ("workers", "device"):
        if getattr(wanted, name) != getattr(packed, name):
            raise click.UsageError(
                f"the store was packed with {name} {getattr(packed, name)}, and --{name} (or"
                f" METAVAE_{name.upper()}) is {getattr(wanted, name)}: give the model's NAME as"
                " well to pack it again"
            )
    if wanted != packed:
        configure(store, wanted)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C does, so that it cleans up."""

    def exit_now(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, exit_now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _wait_for_end(store: Path) -> None:
    while process.running(store) is not None:
        time.sleep(0.5)
    raise ServerFailed("the server ended by itself", hint=f"See {store / '.run' / 'logs'}")


if __name__ == "__main__":
    main()
