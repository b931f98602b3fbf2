"""Requests and replies as bytes: the Open Inference Protocol v2, JSON and binary tensor data.

The server's language, which the client speaks too: numpy, the zoo's types, and a reader of JSON.

A body is one JSON object and, where the header Inference-Header-Content-Length gives the length
of that object, the bytes of its binary tensors. Inputs are `queries`, `context`, `summary` and
`count`, see EmbedRequest; outputs are `embedding` and `log_variance` when queries came, `summary`
and `count` when a context came, and, only where it is asked for by name, `site` when a context or a
summary came. The request parameter `model` names the model (its card's digest)
that made the summary, the reply's parameter `model` the one that answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import MetavaeError
from metavae_zoo.protocol.body import (
    BINARY_TYPE,
    HEADER_LENGTH,
    JSON_TYPE,
    join_body,
    json_length,
    split_body,
)
from metavae_zoo.protocol.errors import BadRequest, Refused
from metavae_zoo.protocol.tensors import present, read_tensors, shown, supported

# The server's limits, for one request and its reply. Larger work is split, which changes no bit.
MAX_REQUEST_BYTES = 20_000_000
MAX_JSON_BYTES = 8_000_000  # of a request: as Python's numbers it takes 25 times that
MAX_REPLY_BYTES = 64_000_000
MAX_IMAGES = 1024  # by default; the card's reply says how many the server takes
MAX_IMAGES_HEADER = "Metavae-Max-Images"

REQUEST_ID_HEADER = "Metavae-Request-Id"

_IMAGES = ("queries", "context")
_INPUTS = (*_IMAGES, "summary", "count")
_DTYPES = {
    "queries": (np.uint8, np.float32),
    "context": (np.uint8, np.float32),
    "summary": (np.float64,),
    "count": (np.int64,),
}
_MAX_ID = 1000
_TEXTS = {
    "id": "Give any text to know the reply by, or leave it out",
    "model": "Send the parameter `model` of the reply that had the summary",
}


@dataclass(frozen=True)
class EmbedRequest:
    """What a request asks for: arrays as they came, not yet compared with a model.

    queries, context: uint8 or float32 images, [N, H, W] or [N, C, H, W] as sent; summary: float64
    totals, [S] or [B, S]; count: int64, [1] or [B]; `model` is the digest that made the summary.
    `outputs` maps the outputs that were asked for to whether they go as binary.
    """

    outputs: dict[str, bool]
    queries: NDArray | None = None
    context: NDArray | None = None
    summary: NDArray[np.float64] | None = None
    count: NDArray[np.int64] | None = None
    model: str = ""
    id: str = ""

    def summaries(self) -> Summary | list[Summary] | None:
        """The summary that came, or one per query; None if none came."""
        if self.summary is None or self.count is None:
            return None
        if self.summary.ndim == 1:
            return Summary(self.summary, int(self.count[0]), self.model)
        return [
            Summary(total, int(count), self.model)
            for total, count in zip(self.summary, self.count, strict=True)
        ]


@dataclass(frozen=True)
class Reply:
    """An answer: arrays by output name, the digest of the model that answered, the request's id."""

    outputs: dict[str, NDArray]
    model: str = ""
    id: str = ""
    model_name: str = field(default="", kw_only=True)


def encode_request(
    *,
    queries: NDArray | None = None,
    context: NDArray | None = None,
    summary: Summary | Sequence[Summary] | None = None,
    outputs: Sequence[str] | None = None,
    binary: bool = True,
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the HTTP headers of a request, for embeddings or a context's summary.

    `queries` and `context` are uint8 or float32 images, `summary` is one for all queries or one
    per query, all of one model. `outputs` names the outputs that are wanted, None for all but
    `site`. Raises BadRequest for arrays of other types, for numbers that JSON cannot hold where
    `binary` is off, and for summaries of several models.
    """
    arrays: dict[str, NDArray] = {}
    for name, images in (("queries", queries), ("context", context)):
        if images is not None:
            _check_type(name, images)
            arrays[name] = images
    parameters: dict[str, Any] = {"binary_data_output": binary}
    if isinstance(summary, Summary):
        arrays |= {"summary": summary.total, "count": np.array([summary.count])}
        parameters["model"] = summary.model
    elif summary is not None:
        models = {one.model for one in summary}
        if len(models) != 1:
            raise BadRequest(
                f"the summaries are of {len(models)} models, expected one",
                hint="Summarise every context with the model that embeds",
                field="summary",
            )
        arrays["summary"] = np.stack([one.total for one in summary])
        arrays["count"] = np.array([one.count for one in summary], np.int64)
        parameters["model"] = models.pop()
    header: dict[str, Any] = {"parameters": parameters}
    if outputs is not None:
        header["outputs"] = [{"name": name} for name in outputs]
    return join_body(header, "inputs", arrays, dict.fromkeys(arrays, binary))


def decode_request(body: bytes | bytearray | memoryview, header_length: int | None) -> EmbedRequest:
    """Read a request; `header_length` is the length of its JSON part, None if it is all JSON.

    Binary tensors are views of `body`. Raises BadRequest, and nothing else, for whatever is not
    a request.
    """
    if len(body) == 0:
        raise BadRequest(
            "the body is empty, or came as a form or, over gRPC, among too many inputs, which are"
            " not read",
            hint=f"With curl give -H 'Content-Type: {JSON_TYPE}' (or {BINARY_TYPE} for binary"
            " tensors)",
        )
    if (length := len(body) if header_length is None else header_length) > MAX_JSON_BYTES:
        raise BadRequest(
            f"the JSON part has {length} bytes, at most {MAX_JSON_BYTES} are read",
            hint="Send images as binary tensors (`binary_data_size`), or fewer at a time",
            field=HEADER_LENGTH,
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    request, binary = split_body(body, header_length)
    request = present(request)
    arrays: dict[str, NDArray] = {}
    for name, array in read_tensors(request.get("inputs"), binary, field="inputs"):
        if name in arrays or name not in _INPUTS:
            problem = "is given twice" if name in arrays else "is not an input"
            raise BadRequest(
                f"{shown(name)} {problem}", hint=f"Inputs are {', '.join(_INPUTS)}", field="inputs"
            )
        _check_type(name, array)
        arrays[name] = array
    _check_combination(arrays)
    parameters = request.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _no_object("parameters", parameters, field="parameters")
    parameters = supported(parameters, "the request", field="parameters")
    return EmbedRequest(
        outputs=_outputs(request.get("outputs"), parameters, arrays),
        **arrays,
        model=_text(parameters, "model"),
        id=_text(request, "id"),
    )


def encode_reply(
    outputs: dict[str, NDArray], request: EmbedRequest, *, model_name: str, model: str
) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers that answer `request` with the outputs it asked for.

    `model` is the digest of the model that answers.
    """
    # An id in any case: over gRPC TorchServe ends a worker whose reply has none.
    reply: dict[str, Any] = {"model_name": model_name, "model_version": "1.0", "id": request.id}
    reply["parameters"] = {"model": model}
    return join_body(
        reply, "outputs", {name: outputs[name] for name in request.outputs}, request.outputs
    )


def decode_reply(body: bytes | bytearray | memoryview, header_length: int | None) -> Reply:
    """Read an answer; raises BadRequest where it is not one (a proxy's page, say)."""
    reply, binary = split_body(body, header_length)
    outputs = dict(read_tensors(reply.get("outputs"), binary, field="outputs"))
    parameters = reply.get("parameters", {})
    return Reply(
        outputs,
        model=_text(parameters if isinstance(parameters, dict) else {}, "model"),
        id=_text(reply, "id"),
        model_name=_text(reply, "model_name"),
    )


def encode_error(error: MetavaeError, request_id: str, *, over_grpc: bool = False) -> bytes:
    """The JSON body that answers a request with `error`: its message, as the protocol has it.

    Beside that stand code, field and hint, the request's id and, since gRPC clients see no headers,
    the status, and `retry_after` where there is one. `over_grpc` adds the fields that TorchServe
    looks for in every answer to a ModelInfer, and ends the worker where one is missing.
    """
    told: dict[str, Any] = {"error": error.message}
    told |= {name: getattr(error, name) for name in ("code", "field", "hint")}
    told |= {"status": int(status_of(error)), "request_id": request_id}
    if isinstance(error, Refused) and error.retry_after is not None:
        told["retry_after"] = error.retry_after
    if over_grpc:
        told |= {"id": "", "model_name": "", "model_version": "", "outputs": []}
    return json.dumps(told).encode()


def status_of(error: MetavaeError) -> HTTPStatus:
    """The HTTP status that `error` is answered with: 400, unless it has one of its own."""
    return HTTPStatus(error.status) if isinstance(error, Refused) else HTTPStatus.BAD_REQUEST


def _check_type(name: str, array: NDArray) -> None:
    if array.dtype not in _DTYPES[name]:
        raise BadRequest(
            f"{name} is {array.dtype}, expected"
            f" {' or '.join(np.dtype(one).name for one in _DTYPES[name])}",
            hint="Send images as UINT8 or FP32, `summary` as FP64, `count` as INT64",
            field=name,
        )


def _check_combination(arrays: dict[str, NDArray]) -> None:
    if "context" in arrays and "summary" in arrays:
        raise BadRequest(
            "context and summary both came",
            hint="Give either the images of the context or their summary",
            field="summary",
        )
    if ("summary" in arrays) != ("count" in arrays):
        raise BadRequest(
            "summary and count go together, one of them is missing",
            hint="Send both back as the server gave them",
            field="count" if "summary" in arrays else "summary",
        )
    if not arrays.keys() & {"queries", "context", "summary"}:
        raise _nothing_to_do()
    if "summary" in arrays:
        summary, count = arrays["summary"], arrays["count"]
        rows = summary.shape[0] if summary.ndim == 2 else 1
        queries = arrays.get("queries")
        nothing = rows == 0 and queries is None
        if summary.ndim not in (1, 2) or count.shape != (rows,) or nothing:
            raise BadRequest(
                f"summary has shape {list(summary.shape)} and count {list(count.shape)}, expected"
                " [S] and [1], or [B, S] and [B]",
                hint="Send one summary and its count, or one of both per query",
                field="summary",
            )
        if summary.ndim == 2 and queries is not None and queries.shape[:1] != (rows,):
            count = queries.shape[0] if queries.ndim else 0
            raise BadRequest(
                f"summary has shape {list(summary.shape)}, expected {list(summary.shape[1:])} for"
                f" all queries, or [{count}, {summary.shape[1]}], one for each",
                hint="Send one summary without its first axis, or as many as queries",
                field="summary",
            )


def _outputs(
    asked: object, parameters: dict[str, Any], arrays: dict[str, NDArray]
) -> dict[str, bool]:
    unasked = (("embedding", "log_variance") if "queries" in arrays else ()) + (
        ("summary", "count") if "context" in arrays else ()
    )
    possible = unasked + (("site",) if arrays.keys() & {"context", "summary"} else ())
    default = _flag(parameters, "binary_data_output", default=False)
    if not unasked and not asked:
        raise _nothing_to_do()
    if asked is None:
        return dict.fromkeys(unasked, default)
    if not isinstance(asked, list):
        raise BadRequest(
            f"outputs is {shown(asked)}, expected a list",
            hint='Give [{"name": ...}], or leave it out for all that the request has',
            field="outputs",
        )
    chosen: dict[str, bool] = {}
    for output in asked:
        fields = present(output) if isinstance(output, dict) else {}
        name, own = fields.get("name"), fields.get("parameters", {})
        if not isinstance(name, str) or name not in possible or name in chosen:
            raise BadRequest(
                f"the output {shown(name)} is given twice or is none of this request's",
                hint=f"This request's outputs are {', '.join(possible)}",
                field="outputs",
            )
        if not isinstance(own, dict):
            raise _no_object(f"the parameters of output {name}", own, field="outputs")
        own = supported(own, f"output {name}", field="outputs")
        chosen[name] = _flag(own, "binary_data", default=default)
    return chosen or dict.fromkeys(unasked, default)


def _nothing_to_do() -> BadRequest:
    return BadRequest(
        "neither queries nor context came",
        hint="Give `queries` to embed, `context` to summarise, or both; or a `summary` with"
        ' "outputs": [{"name": "site"}] for the site that it tells of',
        field="queries",
    )


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise BadRequest(
            f"{name} is {shown(flag)}, expected true or false",
            hint="true for tensors as bytes after the JSON, false for numbers in it",
            field=name,
        )
    return flag


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields.get(name, "")
    if not isinstance(text, str) or len(text) > _MAX_ID:
        raise BadRequest(
            f"{name} is {shown(text)}, expected a text of at most {_MAX_ID} characters",
            hint=_TEXTS[name],
            field=name,
        )
    return text


def _no_object(what: str, given: object, *, field: str) -> BadRequest:
    return BadRequest(
        f"{what} is {shown(given)}, expected a JSON object",
        hint='Give {"binary_data_output": true} and such, or leave it out',
        field=field,
    )


__all__ = [
    "BINARY_TYPE",
    "HEADER_LENGTH",
    "JSON_TYPE",
    "MAX_IMAGES",
    "MAX_IMAGES_HEADER",
    "MAX_JSON_BYTES",
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "REQUEST_ID_HEADER",
    "BadRequest",
    "EmbedRequest",
    "Reply",
    "decode_reply",
    "decode_request",
    "encode_error",
    "encode_reply",
    "encode_request",
    "json_length",
    "status_of",
]
