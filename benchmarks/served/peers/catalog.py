"""Which peers there are: what they are installed from, how they start, and how one asks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from metavae_zoo.embedding.embedder import Embeddings
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import MetavaeError
from metavae_zoo.protocol.wire import HEADER_LENGTH, decode_reply, encode_request
from served.peers.model import RAW_TYPE

Request = Callable[[NDArray[np.uint8], Summary], tuple[bytes, dict[str, str]]]


class PeerFailed(MetavaeError):
    """A peer that cannot be installed or started, or that answers with anything but the truth."""

    code = "peer_failed"


@dataclass(frozen=True)
class Wire:
    """How queries and their summary become a request, and how its reply is read.

    `request` gives a body and its headers; `read` gets the reply and the model's latent width.
    """

    described: str
    request: Request
    read: Callable[[httpx.Response, int], Embeddings]


@dataclass(frozen=True)
class Peer:
    """One server: its package first among `requirements`, and its file among ours.

    `arguments` follow the environment's Python; `{port}` in them is where the server is to listen.
    """

    name: str
    key: str  # names its environment
    package: str
    requirements: tuple[str, ...]
    path: str
    wire: Wire
    arguments: tuple[str, ...]


def _raw_request(queries: NDArray[np.uint8], summary: Summary) -> tuple[bytes, dict[str, str]]:
    count = np.array([summary.count], np.int64)
    body = summary.total.tobytes() + count.tobytes() + queries.tobytes()
    return body, {"Content-Type": RAW_TYPE}


def _kserve_request(queries: NDArray[np.uint8], summary: Summary) -> tuple[bytes, dict[str, str]]:
    # Octet-stream would be JSON to it.
    return _raw_request(queries, summary)[0], {"Content-Type": "application/x-raw"}


def _raw_reply(reply: httpx.Response, latent: int) -> Embeddings:
    mean, log_variance = np.frombuffer(reply.content, np.float32).reshape(2, -1, latent)
    return Embeddings(mean, log_variance)


def _v2_request(queries: NDArray[np.uint8], summary: Summary) -> tuple[bytes, dict[str, str]]:
    return encode_request(queries=queries, summary=summary)


def _v2_reply(reply: httpx.Response, latent: int) -> Embeddings:
    outputs = decode_reply(reply.content, int(reply.headers[HEADER_LENGTH])).outputs
    return Embeddings(outputs["embedding"], outputs["log_variance"])


def _raw(through: str, request: Request = _raw_request) -> Wire:
    return Wire(f"raw bytes over HTTP, {through}", request, _raw_reply)


_V2 = Wire("v2 protocol over HTTP, binary tensors", _v2_request, _v2_reply)


PEERS = (
    Peer(
        name="LitServe",
        key="litserve",
        package="litserve",
        requirements=("litserve>=0.2.19,<0.3",),
        path="/predict",
        wire=_raw("FastAPI and its fast queue"),
        arguments=("-m", "served.peers.litserve_server"),
    ),
    Peer(
        name="MLServer",
        key="mlserver",
        package="mlserver",
        requirements=("mlserver>=1.7,<1.8",),
        path="/embed",
        wire=_raw("a custom handler"),
        arguments=("-m", "served.peers.mlserver_server"),
    ),
    Peer(
        name="BentoML",
        key="bentoml",
        package="bentoml",
        requirements=("bentoml>=1.4.40,<1.5",),
        path="/embed",
        wire=_raw("a mounted ASGI app"),
        arguments=("-m", "bentoml", "serve", "served.peers.bentoml_server:Embed",
                   "--host", "127.0.0.1", "--port", "{port}"),
    ),
    Peer(
        name="KServe",
        key="kserve",
        package="kserve",
        requirements=("kserve>=0.21,<0.22",),
        path="/v1/models/embed:predict",
        wire=_raw("its v1 protocol", _kserve_request),
        arguments=("-m", "served.peers.kserve_server"),
    ),
    Peer(
        name="Ray Serve",
        key="ray",
        package="ray",
        requirements=("ray[serve]>=2.60,<2.61",),
        path="/embed",
        wire=_raw("its HAProxy"),
        arguments=("-m", "served.peers.ray_server"),
    ),
    Peer(
        name="PyTriton",
        key="pytriton",
        package="nvidia-pytriton",
        requirements=("nvidia-pytriton>=0.7,<0.8",),
        path="/v2/models/embed/infer",
        wire=_V2,
        arguments=("-m", "served.peers.pytriton_server"),
    ),
)  # fmt: skip
