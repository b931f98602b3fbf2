"""TorchServe's side of the server: decode -> embed -> encode, and no more.

TorchServe calls `handle` with a batch of requests; every item is answered by itself, and nothing
that one holds can fail another or the worker. What a client can ask for:

    POST /v2/models/{name}/infer      the Open Inference Protocol, JSON or binary, see `wire`
    POST /predictions/{name}          the same
    GET  /predictions/{name}/1.0/card the model's card, as JSON
"""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metavae_serving.tensors import BadRequest, shown
from metavae_serving.wire import (
    HEADER_LENGTH,
    JSON_TYPE,
    MAX_IMAGES,
    MAX_REPLY_BYTES,
    EmbedRequest,
    decode_request,
    encode_error,
    encode_reply,
)
from metavae_zoo.bundle import open_bundle
from metavae_zoo.cores import usable_cores
from metavae_zoo.embedder import OnnxEmbedder
from metavae_zoo.errors import BadBundle, MetavaeError

logger = logging.getLogger(__name__)

_WARM_UP = (1, 256)  # images per request that the first requests are likely to hold
_JSON_NUMBER_BYTES = 25  # the longest float32 in JSON, and its comma

_embedder: OnnxEmbedder | None = None


class Context(Protocol):
    """What is used of TorchServe's `ts.context.Context`."""

    model_name: str
    system_properties: dict[str, Any]
    model_yaml_config: dict[str, Any]

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Headers of request `idx` of the batch, in the client's own case."""
        ...

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """Set the HTTP status of reply `idx`; the phrase must be ASCII on one line."""
        ...

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of reply `idx`; a value that is not str kills the worker."""
        ...


@dataclass(frozen=True)
class Answer:
    """One reply: HTTP status, headers, body."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


def handle(data: list[dict[str, Any]] | None, context: Context) -> list[bytes] | None:
    """TorchServe's entry point: load the model where `data` is None, else answer a batch.

    Loading raises BadBundle or DeviceUnavailable, which stops the worker; answering never raises.
    """
    global _embedder
    if data is None:
        _embedder = load(context)
        return None
    assert _embedder is not None, "TorchServe loads before it asks"  # noqa: S101
    answers = [
        _answer(_embedder, item, context.get_all_request_header(index))
        for index, item in enumerate(data)
    ]
    for index, answer in enumerate(answers):
        context.set_response_status(answer.status, answer.status.phrase, index)
        for name, value in answer.headers.items():
            context.set_response_header(index, name.lower(), value)
    return [answer.body for answer in answers]


def load(context: Context) -> OnnxEmbedder:
    """Open the archive's bundle on the device that it was packed for, checked and warm.

    Raises BadBundle for a bundle that has changed and DeviceUnavailable where the device is not
    there: the worker must not serve then.
    """
    settings = context.model_yaml_config["metavae"]
    device = settings["device"]
    if device == "cuda":
        _choose_gpu(context.system_properties.get("gpu_id"))
    try:
        bundle = open_bundle(Path(context.system_properties["model_dir"]))
    except BadBundle as error:
        raise BadBundle(
            f"the archive of {context.model_name} is damaged: {error.message}",
            hint=f"Pack the model again: `metavae-serve pack {context.model_name}`",
        ) from None
    threads = max(1, usable_cores() // settings["workers"])
    embedder = OnnxEmbedder(bundle, device=device, threads=threads)
    for images in _WARM_UP:
        blank = np.zeros((images, *embedder.card.image_shape), np.uint8)
        embedder.embed(blank, embedder.summarize(blank))
    logger.info("serving %s on %s, %d threads", embedder.card.name, device, threads)
    return embedder


def _choose_gpu(gpu: int | None) -> None:
    """Let this worker see only the GPU that TorchServe gave it, before CUDA is initialised."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)


def _answer(embedder: OnnxEmbedder, item: dict[str, Any], headers: dict[str, Any]) -> Answer:
    # TorchServe keeps the client's case, and mixes the parts of a form (dicts) into the headers.
    fields = {key.lower(): text for key, text in headers.items() if isinstance(text, str)}
    try:
        return _answer_path(embedder, item, fields)
    except MetavaeError as error:
        status = getattr(error, "status", HTTPStatus.BAD_REQUEST)
        return Answer(HTTPStatus(status), {"Content-Type": JSON_TYPE}, encode_error(error))
    except Exception as error:
        # Where it happened, without the message: that may hold what the client sent.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a request failed with %s\n%s", type(error).__name__, where)
        failure = MetavaeError(
            f"the server failed on this request ({type(error).__name__})",
            hint="The server's model_log.log says where; please report it",
        )
        return Answer(
            HTTPStatus.INTERNAL_SERVER_ERROR, {"Content-Type": JSON_TYPE}, encode_error(failure)
        )


def _answer_path(embedder: OnnxEmbedder, item: dict[str, Any], headers: dict[str, str]) -> Answer:
    path = headers.get("url_path", "")
    if path == "card":
        body = embedder.card.to_json().encode()
        return Answer(HTTPStatus.OK, {"Content-Type": JSON_TYPE}, body)
    if path:
        raise BadRequest(
            f"there is nothing at {shown(path)} of this model",
            hint="The card is at /predictions/{name}/1.0/card, embedding at /predictions/{name}",
            status=HTTPStatus.NOT_FOUND,
        )
    if headers.get("content-encoding", "identity") != "identity":
        raise BadRequest(
            f"the body is compressed ({shown(headers['content-encoding'])}), which is not read",
            hint="Send it uncompressed, images as UINT8",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    request = decode_request(_body(item), _header_length(headers))
    _check_limits(embedder, request)
    body, reply_headers = encode_reply(
        _outputs(embedder, request),
        request,
        model_name=embedder.card.name,
        model=embedder.card.digest,
    )
    return Answer(HTTPStatus.OK, reply_headers, body)


def _body(item: dict[str, Any]) -> bytes | bytearray:
    body = item.get("body", b"")
    return body.encode() if isinstance(body, str) else body


def _header_length(headers: dict[str, str]) -> int | None:
    text = headers.get(HEADER_LENGTH.lower())
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest(
            f"{HEADER_LENGTH} is {shown(text)}, expected a whole number",
            hint="Give the length of the body's JSON part, in bytes",
            field=HEADER_LENGTH,
        )
    return int(text)


def _check_limits(embedder: OnnxEmbedder, request: EmbedRequest) -> None:
    """Refuse what TorchServe would cut off: a reply above its limit kills the worker."""
    counts = {
        name: images.shape[0]
        for name, images in (("queries", request.queries), ("context", request.context))
        if images is not None and images.ndim
    }
    if sum(counts.values()) > MAX_IMAGES:
        raise BadRequest(
            f"the request holds {sum(counts.values())} images, at most {MAX_IMAGES} are taken",
            hint="Send fewer queries at a time; summarise a large context in parts and add up"
            " `summary` and `count`",
            field=max(counts, key=counts.__getitem__),
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    numbers = counts.get("queries", 0) * embedder.card.latent_dim
    reply = sum(
        numbers * (4 if binary else _JSON_NUMBER_BYTES)
        for name, binary in request.outputs.items()
        if name in ("embedding", "log_variance")
    )
    if reply + embedder.card.feature_dim * _JSON_NUMBER_BYTES > MAX_REPLY_BYTES:
        raise BadRequest(
            f"the reply to {counts['queries']} queries may take {reply} bytes, at most"
            f" {MAX_REPLY_BYTES} are sent",
            hint="Send fewer queries at a time, or ask for binary outputs (binary_data_output)",
            field="queries",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


def _outputs(embedder: OnnxEmbedder, request: EmbedRequest) -> dict[str, NDArray]:
    summary = request.summaries()
    outputs: dict[str, NDArray] = {}
    if request.context is not None:
        summary = embedder.summarize(request.context)
        outputs |= {"summary": summary.total, "count": np.array([summary.count], np.int64)}
    if request.queries is not None:
        embeddings = embedder.embed(request.queries, summary)
        outputs |= {"embedding": embeddings.mean, "log_variance": embeddings.log_variance}
    return outputs
