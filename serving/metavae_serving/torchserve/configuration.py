"""TorchServe's configuration, made from our settings.

Property names are those of TorchServe 0.12, which silently ignores names that it does not know.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from metavae_serving.answering.metrics import metrics_configuration
from metavae_serving.settings import LOOPBACK, ModelSettings, Settings
from metavae_zoo.machine import usable_memory
from metavae_zoo.protocol.wire import MAX_REPLY_BYTES, MAX_REQUEST_BYTES

CONFIGURATION = "config.properties"
METRICS = "metrics.yaml"
LOGGING = "log4j2.xml"
MODEL_CONFIGURATION = "model-config.yaml"  # of an archive: TorchServe's name for it

WRITTEN_BY = "# Written by metavae-serve, which reads the settings in this line again: "
_MARGIN = 1_000_000  # of a request or reply: its headers, and JSON around the tensors
_QUEUED = 100  # requests of a model that may wait, if there is memory for the largest ones
_FEWEST_QUEUED = 8
_SHARE = 0.25  # of the memory: for requests that wait, and as much again for bodies on their way
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
        # Even with the model API off, TorchServe fetches workflows from any URL that matches.
        "allowed_urls": "none",
        "ts_open_inference_protocol": "true",
        "decode_input_request": "false",
        "max_request_size": MAX_REQUEST_BYTES,
        "max_response_size": MAX_REPLY_BYTES + _MARGIN,
        "job_queue_size": queued(settings),
        "default_response_timeout": _RESPONSE_SECONDS,
        "number_of_gpu": 64 if settings.on_gpu else 0,  # at most
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "metrics_config": _escaped(str(store.resolve() / METRICS)),
        "vmargs": " ".join(_java_options(store)),
    }
    ours = _settings.dump_json(settings).decode()
    lines = [f"{WRITTEN_BY}{ours}", *(f"{name}={value}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def queued(settings: Settings) -> int:
    """Requests of each model that may wait for a worker, on this machine.

    Full queues of the largest requests fill half of the front-end's heap. A few may wait whatever
    the memory is: a request that finds no memory on its way to a worker is lost, and TorchServe
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
        # A URI, not a path: TorchServe splits the arguments of Java at every space.
        f"-Dlog4j.configurationFile={(store.resolve() / LOGGING).as_uri()}",
    ]


def configuration_files(store: Path, settings: Settings) -> dict[str, str]:
    """Name and text of every file of a store but its archives and their sums."""
    return {
        METRICS: metrics_configuration(),
        LOGGING: files("metavae_serving").joinpath(LOGGING).read_text(),
        CONFIGURATION: properties(store, settings),
    }


def model_configuration(settings: ModelSettings) -> str:
    """The text of an archive's `model-config.yaml`; `handler.load` reads its part `metavae`."""
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
