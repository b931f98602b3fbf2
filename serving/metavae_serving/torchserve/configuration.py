"""What TorchServe is told: its configuration, with our settings behind it.

Property names and their meaning are those of TorchServe 0.12; it ignores a name that it does not
know without a word.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metavae_serving.errors import BadStore
from metavae_serving.settings import LOOPBACK, ModelSettings, Settings
from metavae_zoo.machine import usable_memory
from metavae_zoo.parsing import parse_json
from metavae_zoo.protocol.wire import MAX_REPLY_BYTES, MAX_REQUEST_BYTES

CONFIGURATION = "config.properties"
METRICS = "metrics.yaml"
LOGGING = "log4j2.xml"

_WRITTEN_BY = "# Written by metavae-serve, which reads the settings in this line again: "
_MARGIN = 1_000_000  # of a request or reply: its headers, and JSON around the tensors
_QUEUED = 100  # requests of a model that may wait, where there is memory for the largest ones
_FEWEST_QUEUED = 8
_SHARE = 0.25  # of the memory: for requests that wait, and as much for what comes and goes
_RESPONSE_SECONDS = 120  # a worker that takes longer is killed
_MAX_PORT = 65_535

_settings = TypeAdapter(Settings)


def properties(store: Path, settings: Settings) -> str:
    """The text of the `config.properties` that serves `store`."""
    at = settings.ports
    values: dict[str, Any] = {
        "inference_address": f"http://{settings.host}:{settings.port}",
        "management_address": settings.management_url,
        "metrics_address": f"http://{LOOPBACK}:{at['metrics'][1]}",
        "grpc_inference_address": LOOPBACK,
        "grpc_management_address": LOOPBACK,
        "grpc_inference_port": at["gRPC inference"][1],
        "grpc_management_port": at["gRPC management"][1],
        # Names the workers' sockets: two servers with one temporary folder must differ.
        "initial_worker_port": min(settings.port + 10, _MAX_PORT),
        "disable_token_authorization": "false",
        "token_expiration_min": settings.token_minutes,
        "enable_model_api": "false",
        # Even with the model API off, TorchServe fetches workflows from any URL that this matches,
        # before it looks at them.
        "allowed_urls": "none",
        "ts_open_inference_protocol": "true",
        "decode_input_request": "false",
        "max_request_size": MAX_REQUEST_BYTES,
        "max_response_size": MAX_REPLY_BYTES + _MARGIN,
        "job_queue_size": queued(settings),
        "default_response_timeout": _RESPONSE_SECONDS,
        "number_of_gpu": 64 if settings.on_gpu else 0,  # at most, of those there are
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "metrics_config": _escaped(str(store.resolve() / METRICS)),
        "vmargs": " ".join(_java_options(store)),
    }
    ours = _settings.dump_json(settings).decode()
    lines = [f"{_WRITTEN_BY}{ours}", *(f"{name}={value}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def queued(settings: Settings) -> int:
    """Requests of each model that may wait for a worker, on this machine.

    So many that full queues of the largest fill half of the front-end's heap, but a few at least,
    whatever the memory: a request that finds none on its way to a worker is lost, and TorchServe
    waits for the worker's answer in vain.
    """
    most = usable_memory() * _SHARE / 2 / MAX_REQUEST_BYTES / max(1, len(settings.models))
    return max(_FEWEST_QUEUED, min(_QUEUED, int(most)))


def _java_options(store: Path) -> list[str]:
    megabytes = int((usable_memory() >> 20) * _SHARE)
    return [
        f"-Xmx{megabytes}m",
        f"-XX:MaxDirectMemorySize={megabytes}m",
        # Its pool keeps the memory of requests that were cut off for want of memory.
        "-Dio.netty.allocator.type=unpooled",
        # An address, not a path: TorchServe parts the arguments of Java at every space.
        f"-Dlog4j.configurationFile={(store.resolve() / LOGGING).as_uri()}",
    ]


def read_settings(store: Path) -> Settings:
    """The settings that `store` was packed with; raises BadStore where it is no store of ours."""
    hint = f"Make one: `metavae-serve pack NAME --store {store}`"
    if not (store / CONFIGURATION).is_file():
        raise BadStore(f"{store} is no model store: it has no {CONFIGURATION}", hint=hint)
    try:
        return _settings.validate_json(_packed(store))
    except (OSError, ValueError) as error:
        if packed_models(store) is None:  # which packing would refuse to replace
            hint = f"Move it away. {hint}"
        raise BadStore(
            f"{store} is no model store of metavae-serve ({CONFIGURATION}: {_reason(error)})",
            hint=hint,
        ) from error


def packed_models(store: Path) -> list[str] | None:
    """Names of the models that a metavae-serve of any version packed; None in no store of ours."""
    try:
        return list(parse_json(_packed(store))["models"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _packed(store: Path) -> str:
    """What packing wrote of the settings, as JSON; raises OSError or ValueError."""
    first, _, _ = (store / CONFIGURATION).read_text().partition("\n")
    if not first.startswith(_WRITTEN_BY):
        raise ValueError("it is empty, or another program or version wrote it")
    return first.removeprefix(_WRITTEN_BY)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
    return " ".join(str(error or type(error).__name__).split())


def logging_configuration() -> str:
    """The text of a store's `log4j2.xml`."""
    return files("metavae_serving").joinpath(LOGGING).read_text()


def model_configuration(settings: ModelSettings) -> str:
    """The text of the `model-config.yaml` inside an archive; `handler.load` reads `metavae`."""
    import yaml

    return yaml.safe_dump(
        {
            "minWorkers": settings.workers,
            "maxWorkers": settings.workers,
            "batchSize": settings.batch_size,
            "maxBatchDelay": settings.max_batch_delay,
            "responseTimeout": _RESPONSE_SECONDS,
            "deviceType": "gpu" if settings.device == "cuda" else "cpu",
            "metavae": asdict(settings),
        }
    )


def _escaped(text: str) -> str:
    """A value as Java reads properties: what is not ASCII as UTF-16, and backslashes doubled."""
    pairs = text.encode("utf-16-be")
    units = [int.from_bytes(pairs[at : at + 2]) for at in range(0, len(pairs), 2)]
    return "".join(
        f"\\u{unit:04x}" if unit > 126 or chr(unit) == "\\" else chr(unit) for unit in units
    )
