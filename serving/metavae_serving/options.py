"""The options of serving, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from metavae_serving.settings import (
    CORES_PER_WORKER,
    LOOPBACK,
    MOST,
    MOST_BATCH_IMAGES,
    MOST_WORKERS,
    WORKER_BYTES,
    ModelSettings,
    Settings,
    default_workers,
)
from metavae_serving.torchserve.archive import best_device
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import GOLDEN_TOLERANCE, TF32_TOLERANCE
from metavae_zoo.machine import usable_cores, usable_memory

Given = Sequence[tuple[str, Any]]  # a model's name, or "" for all, and the value


class PortOption(click.Option):
    """A port. METAVAE_PORT=tcp://..., which Kubernetes sets for a Service, counts as unset."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The port that the environment names."""
        value = super().resolve_envvar_value(ctx)
        return None if value is None or value.startswith("tcp://") else value


class PerModel(click.ParamType):
    """A value of another type, or NAME=VALUE."""

    def __init__(self, inner: click.ParamType) -> None:
        self.inner = inner
        self.name = inner.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How help shows it."""
        choices = self.inner.choices if isinstance(self.inner, click.Choice) else ["N"]
        return f"[NAME=]{'|'.join(choices)}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The name ("" for all models) and the value of a word."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).rpartition("=")
        if equals and not name:
            self.fail(f"{value!r} names no model before the =", param, ctx)
        return name, self.inner.convert(text, param, ctx)


def value_for(model: str, given: Given) -> Any:
    """The value of a model: the last of its own, else the last for all; None without either."""
    words = dict(given)
    return words.get(model, words.get(""))


def check_names(option: str, given: Given, models: Sequence[str]) -> None:
    """Raise UsageError for a value of a model that is not among `models`."""
    for name, _ in given:
        if name and name not in models:
            raise click.UsageError(
                f"--{option} is given for {name!r}, which is none of the models:"
                f" {', '.join(models)}"
            )


_SERVER = Settings()
_MODEL = ModelSettings()
_OF_SERVER = ("host", "port", "token_minutes")


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that pack; their default is None."""
    options = (
        click.option(
            "--host",
            envvar="METAVAE_HOST",
            show_envvar=True,
            help=f"Where inference listens; the rest stays on loopback.  [default: {LOOPBACK}]",
        ),
        click.option(
            "--port",
            cls=PortOption,
            type=click.IntRange(1, MOST["port"]),
            envvar="METAVAE_PORT",
            show_envvar=True,
            help="Port of inference; management, metrics and gRPC take the four after it."
            f"  [default: {_SERVER.port}]",
        ),
        click.option(
            "--token-minutes",
            type=click.IntRange(1, MOST["token_minutes"]),
            help=f"How long a token is good for.  [default: {_SERVER.token_minutes}]",
        ),
        _per_model(
            "--workers",
            click.IntRange(1, MOST["workers"]),
            "Processes of a model, which share the cores.  [default: one for every"
            f" {CORES_PER_WORKER} cores, {MOST_WORKERS} at most, and one on a GPU]",
        ),
        _per_model(
            "--threads",
            click.IntRange(1, MOST["threads"]),
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
            click.IntRange(1, MOST["batch_size"]),
            "Requests that a worker takes at a time, to run them as one."
            f"  [default: {_MODEL.batch_size}]",
        ),
        _per_model(
            "--max-batch-delay",
            click.IntRange(1, MOST["max_batch_delay"]),
            "Milliseconds that a batch which is not full waits for more; with a batch size of 1"
            f" there is nothing to wait for.  [default: {_MODEL.max_batch_delay}]",
        ),
        _per_model(
            "--max-images",
            click.IntRange(1, MOST["max_images"]),
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


def asked_settings(bundles: Sequence[Bundle], options: Mapping[str, Any]) -> Settings:
    """The settings of `bundles` from the options that are given; raises UsageError."""
    names = [bundle.card.name for bundle in bundles]
    given = _of_models(options, names)
    models = {}
    for bundle, name in zip(bundles, names, strict=True):
        values = _those_given({option: value_for(name, words) for option, words in given.items()})
        if values.get("device", "auto") == "auto":
            in_int8 = values.get("precision") == "int8"
            values["device"] = "cpu" if in_int8 else best_device(bundle)
        values.setdefault("workers", default_workers(values["device"]))
        models[name] = replace(_MODEL, **values)
        _check_batch(name, models[name])
    _check_workers(models)
    return replace(_SERVER, **_of_server(options), models=models)


def changed_settings(packed: Settings, options: Mapping[str, Any]) -> Settings:
    """A packed store's settings, with the addresses and tokens of `options`.

    Options of models may come from the environment, and then say what was packed. Raises UsageError
    if they say anything else: only packing can change them.
    """
    given = _of_models(options, list(packed.models))
    for option, words in given.items():
        for name, model in packed.models.items():
            wanted, kept = value_for(name, words), getattr(model, option)
            if wanted not in (None, "auto", kept):
                flag = _flag(option)
                raise click.UsageError(
                    f"{name} was packed with {flag} {kept}, and --{flag} (or"
                    f" METAVAE_{option.upper()}) is {wanted}: give the models' NAMEs as well to"
                    " pack them again"
                )
    return replace(packed, **_of_server(options))


def _of_server(options: Mapping[str, Any]) -> dict[str, Any]:
    return _those_given({option: options[option] for option in _OF_SERVER})


def _of_models(options: Mapping[str, Any], models: Sequence[str]) -> dict[str, Given]:
    given = {option: words for option, words in options.items() if option not in _OF_SERVER}
    for option, words in given.items():
        check_names(_flag(option), words, models)
    return given


def _those_given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _flag(option: str) -> str:
    return option.replace("_", "-")


def _check_batch(name: str, model: ModelSettings) -> None:
    """Raise UsageError for batches that would keep a small request waiting for too long."""
    images = model.batch_size * model.max_images
    if images > MOST_BATCH_IMAGES and model.batch_size > 1:
        raise click.UsageError(
            f"a batch of {name} may hold {model.batch_size} requests of {model.max_images} images,"
            f" all of which are answered together: {images} images, {MOST_BATCH_IMAGES} at most."
            " Lower --batch-size or --max-images"
        )


def _check_workers(models: Mapping[str, ModelSettings]) -> None:
    """Raise UsageError for more workers than the memory holds; warn of more than cores."""
    workers = sum(model.workers for model in models.values())
    cores, memory = usable_cores(), usable_memory()
    most = max(model.workers for model in models.values())
    said = (
        f"{workers} workers take some {workers * WORKER_BYTES / 1e9:.0f} GB"
        f" ({WORKER_BYTES / 1e6:.0f} MB each); this machine has {memory / 1e9:.0f} GB and {cores}"
        f" core{'s' if cores > 1 else ''}. Lower --workers"
    )
    if workers * WORKER_BYTES > memory:
        raise click.UsageError(said)
    if most > cores:
        click.echo(f"warning: {said}", err=True)
