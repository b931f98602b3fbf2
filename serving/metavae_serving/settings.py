"""How a store is served: the server as a whole, and each of its models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from metavae_serving.errors import BadHost
from metavae_zoo.embedding.graph import Device
from metavae_zoo.machine import usable_cores
from metavae_zoo.protocol.wire import MAX_IMAGES

LOOPBACK = "127.0.0.1"
CORES_PER_WORKER = 4  # one request has little work for more threads
MOST_BATCH_IMAGES = 16_384  # images of a batch: all of its requests wait for them
MOST_WORKERS = 4  # by default
WORKER_BYTES = 400_000_000  # of memory, that one takes

ServedPrecision = Literal["fp32", "int8", "tf32"]

MOST = {  # of each setting that is a number; all are 1 or more
    "port": 65_531,  # and the four after it
    "token_minutes": 10_000_000,
    "workers": 256,
    "threads": 256,
    "batch_size": 1024,
    "max_batch_delay": 10_000,
    "max_images": 1_000_000,
}

_TOKEN_MINUTES = 30 * 24 * 60


def _number(setting: str) -> FieldInfo:
    return Field(ge=1, le=MOST[setting])


@dataclass(frozen=True)
class ModelSettings:
    """How one model is served: by `workers` processes of `threads` CPU threads each.

    Without a number of threads, the workers share the machine's cores evenly. A worker takes up to
    `batch_size` requests at a time, and waits `max_batch_delay` milliseconds for them. A request
    may hold `max_images` images. `precision` is that of matrix products: `int8` runs on the CPU
    only, `tf32` on CUDA only.
    """

    workers: Annotated[int, _number("workers")] = 1
    threads: Annotated[int, _number("threads")] | None = None
    batch_size: Annotated[int, _number("batch_size")] = 1
    max_batch_delay: Annotated[int, _number("max_batch_delay")] = 1
    max_images: Annotated[int, _number("max_images")] = MAX_IMAGES
    device: Device = "cpu"
    precision: ServedPrecision = "fp32"


def default_workers(device: Device) -> int:
    """Workers of a model on this machine, by default."""
    if device == "cuda":
        return 1
    return min(MOST_WORKERS, max(1, usable_cores() // CORES_PER_WORKER))


@dataclass(frozen=True)
class Settings:
    """How a store is served.

    `host` is where inference listens, an IPv4 address or a name; management and metrics listen on
    loopback only. Inference is at `port`; management, metrics and the two gRPC services are at the
    four after it. Tokens last `token_minutes`. `models` are settings by name: of a packed store,
    those of all models. Raises BadHost.
    """

    host: str = LOOPBACK
    port: Annotated[int, _number("port")] = 8080
    token_minutes: Annotated[int, _number("token_minutes")] = _TOKEN_MINUTES
    models: Mapping[str, ModelSettings] = field(default_factory=dict)

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

    def of(self, model: str) -> ModelSettings:
        """The settings of one model, by default the defaults."""
        return self.models.get(model, ModelSettings())

    @property
    def on_gpu(self) -> bool:
        """Whether a model runs on CUDA."""
        return any(one.device == "cuda" for one in self.models.values())

    @property
    def workers(self) -> int:
        """Processes of all of `models`."""
        return sum(one.workers for one in self.models.values())

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
