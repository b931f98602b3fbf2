"""`metavae-serve`: pack models into a store, start and stop the server over it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
from tqdm import tqdm

from metavae_serving import launch, process, stop
from metavae_serving.archive import best_device, bundle_of, configure, pack
from metavae_serving.configuration import read_settings
from metavae_serving.errors import ServerFailed
from metavae_serving.per_model import Given, PerModel, check_names, value_for
from metavae_serving.settings import (
    CORES_PER_WORKER,
    LOOPBACK,
    MOST_BATCH_IMAGES,
    MOST_WORKERS,
    ModelSettings,
    Settings,
    default_workers,
)
from metavae_zoo.bundle import Bundle
from metavae_zoo.console import (
    HELP_OPTIONS,
    PATH,
    Commands,
    GivenPath,
    Seconds,
    version_option,
)
from metavae_zoo.embedder import GOLDEN_TOLERANCE, TF32_TOLERANCE
from metavae_zoo.places import default_store, log_folder, token_file

_SERVER = Settings()
_MODEL = ModelSettings()

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


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the commands that pack; None where `start` keeps what was packed."""
    options = (
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
            f"  [default: {_SERVER.port}]",
        ),
        click.option(
            "--token-minutes",
            type=click.IntRange(1, 10_000_000),
            help=f"How long a token is good for.  [default: {_SERVER.token_minutes}]",
        ),
        _per_model(
            "--workers",
            click.IntRange(1, 256),
            "Processes of a model, which share the cores.  [default: one for every"
            f" {CORES_PER_WORKER} cores, {MOST_WORKERS} at most, and one on a GPU]",
        ),
        _per_model(
            "--threads",
            click.IntRange(1, 256),
            "CPU threads of one worker.  [default: the cores, shared evenly among the workers]",
        ),
        _per_model(
            "--device",
            click.Choice(["auto", "cpu", "cuda"]),
            "Where a model runs; auto: CUDA if ONNX Runtime can really use it.  [default: auto]",
        ),
        _per_model(
            "--precision",
            click.Choice(["fp32", "int8", "tf32"]),
            "What matrix products are computed in. int8 (on the CPU only) may be faster, and is"
            " offered for models whose cards say what it costs in accuracy. tf32 (on CUDA only) may"
            f" be faster; embeddings then differ from the CPU's by up to {TF32_TOLERANCE:g}, where"
            f" fp32 differs by up to {GOLDEN_TOLERANCE['cuda']:g}.  [default: {_MODEL.precision}]",
        ),
        _per_model(
            "--batch-size",
            click.IntRange(1, 1024),
            "Requests that a worker takes at a time, to run them as one."
            f"  [default: {_MODEL.batch_size}]",
        ),
        _per_model(
            "--max-batch-delay",
            click.IntRange(1, 10_000),
            "Milliseconds that a batch which is not full waits for more; with a batch size of 1"
            f" there is nothing to wait for.  [default: {_MODEL.max_batch_delay}]",
        ),
        _per_model(
            "--max-images",
            click.IntRange(1, 1_000_000),
            "Images that one request may hold; our client splits what is larger."
            f"  [default: {_MODEL.max_images}]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _per_model(option: str, kind: click.ParamType, text: str) -> Callable[..., Any]:
    return click.option(
        option,
        type=PerModel(kind),
        multiple=True,
        envvar=f"METAVAE_{option.strip('-').replace('-', '_').upper()}",
        show_envvar=True,
        help=f"{text} NAME=VALUE is for one model alone.",
    )


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


@main.command("quantize")
@click.argument("name")
@click.option("--out", type=PATH, required=True, help="The bundle's own folder; a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quantize_command(name: str, out: Path, as_json: bool) -> None:
    """Write the bundle of model NAME (of the zoo, or a path) in int8.

    That is what `pack --precision int8` serves; `metavae-zoo quantize NAME` measures what it costs.
    """
    from metavae_serving.quantize import quantize

    made = quantize(bundle_of(name), out)
    said = {"path": str(made.path), "digest": made.card.digest}
    click.echo(json.dumps(said) if as_json else made.path)


@main.command("start")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_store
@_options
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
    drained = stop.stop(store, drain_seconds=drain_seconds)
    click.echo("stopped" if drained else "stopped; some requests may not have been answered")


def _pack(
    names: tuple[str, ...],
    store: Path,
    *,
    host: str | None,
    port: int | None,
    token_minutes: int | None,
    starting: bool = False,
    **given: Given,
) -> None:
    bundles = [bundle_of(name) for name in dict.fromkeys(names)]
    of_server = {"host": host, "port": port, "token_minutes": token_minutes}
    settings = replace(_SERVER, **_those_given(of_server), models=_models(bundles, given))
    if starting:
        launch.check_ports(settings)  # before an earlier store is replaced
    pack(bundles, store, settings)
    for name, model in settings.models.items():
        click.echo(f"packed {name} for {model.device} into {store}")


def _models(bundles: Sequence[Bundle], given: dict[str, Given]) -> dict[str, ModelSettings]:
    names = [bundle.card.name for bundle in bundles]
    for option, words in given.items():
        check_names(option.replace("_", "-"), words, names)
    models = {}
    for bundle in bundles:
        name = bundle.card.name
        values = _those_given({option: value_for(name, words) for option, words in given.items()})
        if values.get("device", "auto") == "auto":
            in_int8 = values.get("precision") == "int8"
            values["device"] = "cpu" if in_int8 else best_device(bundle)
        values.setdefault("workers", default_workers(values["device"]))
        models[name] = replace(_MODEL, **values)
        _check_batch(name, models[name])
    return models


def _check_batch(name: str, model: ModelSettings) -> None:
    """Raise UsageError for batches that would keep a small request waiting for too long."""
    images = model.batch_size * model.max_images
    if images > MOST_BATCH_IMAGES and model.batch_size > 1:
        raise click.UsageError(
            f"a batch of {name} may hold {model.batch_size} requests of {model.max_images} images,"
            f" all of which are answered together: {images} images, {MOST_BATCH_IMAGES} at most."
            " Lower --batch-size or --max-images"
        )


def _those_given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


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


def _reconfigure(
    store: Path,
    *,
    host: str | None,
    port: int | None,
    token_minutes: int | None,
    **given: Given,
) -> None:
    """Let `start` without a name take other addresses than the store was packed with.

    Options may come from the environment, and are no error where they change nothing.
    """
    packed = read_settings(store)
    for option, words in given.items():
        check_names(option.replace("_", "-"), words, list(packed.models))
        for name, model in packed.models.items():
            wanted, kept = value_for(name, words), getattr(model, option)
            if wanted not in (None, "auto", kept):
                flag = option.replace("_", "-")
                raise click.UsageError(
                    f"{name} was packed with {flag} {kept}, and --{flag} (or"
                    f" METAVAE_{option.upper()}) is {wanted}: give the models' NAMEs as well to"
                    " pack them again"
                )
    of_server = {"host": host, "port": port, "token_minutes": token_minutes}
    settings = replace(packed, **_those_given(of_server))
    if settings != packed:
        configure(store, settings)


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
    """Return once `metavae-serve stop` has ended the server; raises ServerFailed where it died."""
    while process.running(store) is not None:
        time.sleep(0.5)
    if not process.was_stopped(store):
        raise ServerFailed("the server ended by itself", hint=f"See {log_folder(store)}")
    click.echo("stopped")


if __name__ == "__main__":
    main()
