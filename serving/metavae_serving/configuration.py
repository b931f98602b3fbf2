"""What a server is told: TorchServe's configuration, and the settings of ours behind it.

Property names and their meaning are those of TorchServe 0.12; it ignores a name that it does not
know without a word.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metavae_serving.errors import BadHost, BadStore
from metavae_serving.wire import MAX_REPLY_BYTES, MAX_REQUEST_BYTES
from metavae_zoo.embedder import Device

CONFIGURATION = "config.properties"
LOOPBACK = "127.0.0.1"

_WRITTEN_BY = "# Written by metavae-serve, which reads the next line again: settings "
_MARGIN = 1_000_000  # of a request or reply: its headers, and JSON around the tensors
_RESPONSE_SECONDS = 300  # a worker that takes longer is killed
_MAX_PORT = 65_535
_TOKEN_MINUTES = 30 * 24 * 60


@dataclass(frozen=True)
class Settings:
    """How a store is served.

    `host` is where inference listens, an IPv4 address or a name; management and metrics listen on
    loopback only. Inference is at `port`, management, metrics and the two gRPC services at the
    four after it. Each model has `workers` processes, which share the machine's cores. Tokens last
    `token_minutes`. Raises BadHost.
    """

    host: str = LOOPBACK
    port: int = 8080
    workers: int = 1
    device: Device = "cpu"
    token_minutes: int = _TOKEN_MINUTES

    def __post_init__(self) -> None:
        # TorchServe reads an address up to its first colon: there is no way to give it IPv6.
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.host):
            raise BadHost(
                f"the host {self.host!r} is neither an IPv4 address nor a name, and TorchServe"
                " listens on no other",
                hint=f"Give --host {LOOPBACK} for this machine, 0.0.0.0 for its whole network; for"
                " IPv6 put a reverse proxy in front",
                field="host",
            )

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """What listens where: name -> (host, port)."""
        return {
            "inference": (self.host, self.port),
            "management": (LOOPBACK, self.port + 1),
            "metrics": (LOOPBACK, self.port + 2),
            "gRPC inference": (LOOPBACK, self.port + 3),
            "gRPC management": (LOOPBACK, self.port + 4),
        }

    @property
    def url(self) -> str:
        """Where this machine reaches inference."""
        host = LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104
        return f"http://{host}:{self.port}"

    @property
    def management_url(self) -> str:
        """Where this machine reaches management."""
        return f"http://{LOOPBACK}:{self.port + 1}"


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
        # Even with the model API off, TorchServe fetches workflows from any URL that is allowed.
        "allowed_urls": f"file://{_pattern(store)}/.*",
        "ts_open_inference_protocol": "true",
        "decode_input_request": "false",
        "max_request_size": MAX_REQUEST_BYTES,
        "max_response_size": MAX_REPLY_BYTES + _MARGIN,
        "job_queue_size": 256,
        "default_workers_per_model": settings.workers,
        "default_response_timeout": _RESPONSE_SECONDS,
        "number_of_gpu": 0 if settings.device == "cpu" else 64,  # at most, of those there are
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
    }
    ours = ",".join(f"{name}={value}" for name, value in asdict(settings).items())
    lines = [f"{_WRITTEN_BY}{ours}", *(f"{name}={value}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def read_settings(store: Path) -> Settings:
    """The settings that `store` was packed with; raises BadStore where it is no store of ours."""
    hint = f"Make one: `metavae-serve pack NAME --store {store}`"
    if not (store / CONFIGURATION).is_file():
        raise BadStore(f"{store} is no model store: it has no {CONFIGURATION}", hint=hint)
    try:
        first = (store / CONFIGURATION).read_text().splitlines()[0]
        if not first.startswith(_WRITTEN_BY):
            raise ValueError("another program wrote it")
        ours = dict(pair.split("=") for pair in first.removeprefix(_WRITTEN_BY).split(","))
        return Settings(
            host=ours["host"],
            port=int(ours["port"]),
            workers=int(ours["workers"]),
            device="cuda" if ours["device"] == "cuda" else "cpu",
            token_minutes=int(ours["token_minutes"]),
        )
    except (OSError, ValueError, LookupError) as error:
        raise BadStore(
            f"{store} is no model store of metavae-serve"
            f" ({CONFIGURATION}: {error or type(error).__name__})",
            hint=hint,
        ) from error


def model_configuration(settings: Settings) -> str:
    """The text of the `model-config.yaml` inside each archive; `handler.load` reads `metavae`."""
    import yaml

    return yaml.safe_dump(
        {
            "minWorkers": settings.workers,
            "maxWorkers": settings.workers,
            # Requests carry batches of images themselves; a lone one must not wait for others.
            "batchSize": 1,
            "maxBatchDelay": 1,
            "responseTimeout": _RESPONSE_SECONDS,
            "deviceType": "gpu" if settings.device == "cuda" else "cpu",
            "metavae": {"device": settings.device, "workers": settings.workers},
        }
    )


def _pattern(path: Path) -> str:
    """A Java regular expression for the path, without what properties or commas would break."""
    return re.sub(r"[^A-Za-z0-9/_-]", ".", str(path.resolve()))
