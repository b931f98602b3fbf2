"""From the requests of a batch to the answers, one each: nothing that one holds can fail another.

POST /v2/models/{name}/infer          the Open Inference Protocol, JSON or binary, see `wire`
POST /predictions/{name}              the same
GET  /predictions/{name}/1.0/card     the model's card, as JSON
GET  /predictions/{name}/1.0/limits   how many images a request may hold, and bytes its JSON
GET  /predictions/{name}/1.0/openapi  all of this as an OpenAPI document
"""

from __future__ import annotations

import gc
import json
import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from metavae_serving.answering.access_log import Entry, Journal
from metavae_serving.answering.batch import Outputs, embed_batch
from metavae_serving.answering.headers import (
    check_encoding,
    header_length,
    queue_seconds,
    request_id,
    trace_parent,
)
from metavae_serving.answering.metrics import IMAGES, REJECTIONS, REQUESTS, STAGE, Meter
from metavae_serving.answering.tracing import Tracer
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.errors import BadSummary, MetavaeError
from metavae_zoo.protocol.errors import BadRequest, Failed, Overloaded, Refused
from metavae_zoo.protocol.tensors import shown
from metavae_zoo.protocol.wire import (
    JSON_TYPE,
    MAX_IMAGES_HEADER,
    MAX_JSON_BYTES,
    MAX_REPLY_BYTES,
    REQUEST_ID_HEADER,
    EmbedRequest,
    decode_request,
    encode_error,
    encode_reply,
    status_of,
)

logger = logging.getLogger(__name__)

RESOURCES = ("card", "limits", "openapi")  # below a model's own address
_JSON_NUMBER_BYTES = 25  # the longest float32 in JSON, and its comma
_READ_SECONDS = 20.0  # for a batch: what is read later is too late for those before it


@dataclass(frozen=True)
class Question:
    """One request as it came: its body, its headers by their names in lower case, TorchServe's id.

    The id is what TorchServe answers as x-request-id, whatever the client sent. `over_grpc` is
    whether it came over gRPC.
    """

    body: bytes | bytearray
    headers: dict[str, str]
    id: str
    over_grpc: bool = False


@dataclass(frozen=True)
class Answer:
    """One reply: HTTP status, headers, body."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


class Answerer:
    """A model that answers; `max_images` are taken in one request."""

    def __init__(
        self,
        embedder: OnnxEmbedder,
        max_images: int,
        meter: Meter,
        journal: Journal,
        tracer: Tracer | None = None,
    ) -> None:
        self._embedder = embedder
        self._max_images = max_images
        self._meter = meter
        self._journal = journal
        self._tracer = tracer

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer a batch, in its order; never raises."""
        with _uncollected():
            return self._answer(questions)

    def _answer(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.perf_counter()
        exchanges = [_Exchange(question) for question in questions]
        for exchange in exchanges:
            if (seconds := time.perf_counter() - began) > _READ_SECONDS:
                exchange.fail(Overloaded(seconds))
            else:
                self._decode(exchange)
        waiting = [(one, one.request) for one in exchanges if one.request is not None]
        outcomes = self._embed([request for _, request in waiting])
        for (exchange, request), outcome in zip(waiting, outcomes, strict=True):
            self._reply(exchange, request, outcome)
        seconds = time.perf_counter() - began
        for exchange in exchanges:
            self._record(exchange, seconds)
        return [exchange.answer for exchange in exchanges]

    def _decode(self, exchange: _Exchange) -> None:
        """Read what is asked; what asks for no embedding is answered here."""
        headers = exchange.question.headers
        if (waited := queue_seconds(headers)) is not None:
            self._meter.observe(STAGE, "queue", value=waited)
        try:
            if path := headers.get("url_path", ""):
                self._send_resource(exchange, path)
                return
            began = time.perf_counter()
            try:
                check_encoding(headers)
                request = decode_request(exchange.question.body, header_length(headers))
            finally:
                self._meter.since(began, "decode")
            exchange.take(request)
            self._check_limits(exchange, request)
        except Exception as error:
            exchange.fail(error)
            return
        exchange.request = request

    def _send_resource(self, exchange: _Exchange, path: str) -> None:
        """Answer a GET below the model's own address."""
        if path not in RESOURCES:
            there = ", ".join(f"/predictions/{{name}}/1.0/{one}" for one in RESOURCES)
            raise BadRequest(
                f"there is nothing at {shown(path)} of this model",
                hint=f"There are {there}; embedding is at /predictions/{{name}}",
                status=HTTPStatus.NOT_FOUND,
            )
        exchange.operation = path
        headers = {"Content-Type": JSON_TYPE}
        if path == "card":
            headers[MAX_IMAGES_HEADER] = str(self._max_images)
            body = self._embedder.card.to_json().encode()
        elif path == "limits":  # what the card's header says: gRPC clients see no headers
            limits = {"max_images": self._max_images, "max_json_bytes": MAX_JSON_BYTES}
            body = json.dumps(limits).encode()
        else:
            body = json.dumps(self._document(exchange.question.headers)).encode()
        exchange.send(HTTPStatus.OK, headers, body)

    def _document(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The OpenAPI document, with the address that was asked and the model that answers."""
        document = json.loads(files("metavae_serving").joinpath("openapi.json").read_bytes())
        if host := headers.get("host"):
            scheme = headers.get("x-forwarded-proto", "http")
            document["servers"] = [{"url": f"{scheme}://{host}"}]
        name = self._embedder.card.name
        model = {"schema": {"type": "string", "enum": [name]}, "example": name}
        document["components"]["parameters"]["model"] |= model
        return document

    def _embed(self, requests: Sequence[EmbedRequest]) -> list[Outputs | Exception]:
        """Outputs of each request, or its error."""
        try:
            return list(embed_batch(self._embedder, requests, self._meter))
        except Exception as error:
            if len(requests) == 1:
                return [error]
        return [outcome for request in requests for outcome in self._embed([request])]

    def _reply(
        self, exchange: _Exchange, request: EmbedRequest, outcome: Outputs | Exception
    ) -> None:
        if isinstance(outcome, Exception):
            exchange.fail(outcome)
            return
        card = self._embedder.card
        try:
            began = time.perf_counter()
            body, headers = encode_reply(outcome, request, model_name=card.name, model=card.digest)
            self._meter.since(began, "reply")
        except Exception as error:
            exchange.fail(error)
            return
        exchange.send(HTTPStatus.OK, headers, body)

    def _check_limits(self, exchange: _Exchange, request: EmbedRequest) -> None:
        """Refuse what would keep others waiting, and a reply that TorchServe dies of."""
        if exchange.images > self._max_images:
            raise BadRequest(
                f"the request holds {exchange.images} images, at most {self._max_images} are taken",
                hint="Send fewer queries at a time; summarise a large context in parts and add up"
                " `summary` and `count`",
                field="queries" if exchange.queries > exchange.context else "context",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        if exchange.summaries > self._max_images:
            raise BadRequest(
                f"the request holds {exchange.summaries} summaries, at most {self._max_images} are"
                " taken",
                hint="Send fewer summaries at a time",
                field="summary",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        card = self._embedder.card
        numbers = {
            "embedding": exchange.queries * card.latent_dim,
            "log_variance": exchange.queries * card.latent_dim,
            "site": max(1, exchange.summaries) * len(card.site),
        }
        reply = sum(
            numbers.get(name, 0) * (4 if binary else _JSON_NUMBER_BYTES)
            for name, binary in request.outputs.items()
        )
        if reply + card.feature_dim * _JSON_NUMBER_BYTES > MAX_REPLY_BYTES:
            raise BadRequest(
                f"the reply to {exchange.queries} queries may take {reply} bytes, at most"
                f" {MAX_REPLY_BYTES} are sent",
                hint="Send fewer queries at a time, or ask for binary outputs (binary_data_output)",
                field="queries",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )

    def _record(self, exchange: _Exchange, seconds: float) -> None:
        """Count a request that is answered, and note one line of it, without content."""
        labels = (exchange.operation, exchange.outcome)
        self._meter.count(REQUESTS, *labels)
        if exchange.images:
            self._meter.count(IMAGES, *labels, amount=exchange.images)
        if isinstance(exchange.error, BadSummary):
            self._meter.count(REJECTIONS, exchange.error.field or "summary")
        self._journal.note(
            Entry(
                time.time(),
                exchange.id,
                exchange.operation,
                exchange.outcome,
                int(exchange.answer.status),
                exchange.queries,
                exchange.context,
                seconds,
            )
        )
        if self._tracer is not None:
            attributes = {
                "metavae.request_id": exchange.id,
                "metavae.outcome": exchange.outcome,
                "metavae.queries": exchange.queries,
                "metavae.context": exchange.context,
                "http.response.status_code": int(exchange.answer.status),
            }
            failed = exchange.outcome == "failed"
            headers = exchange.question.headers
            try:
                self._tracer.record(exchange.operation, seconds, headers, attributes, failed=failed)
            except Exception as error:  # no span is worth an answer
                logger.warning("no span could be made: %s", type(error).__name__)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage within the block: looking through JSON takes longer than to read it.

    What a request leaves holds no cycles, and is gone by then.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Exchange:
    """A question on its way to its answer, and what is told of it."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.id = request_id(question.headers) or question.id
        self.operation = "unknown"
        self.queries = self.context = 0  # images
        self.summaries = 0  # of a request that has one for each query or site
        self.request: EmbedRequest | None = None
        self.error: MetavaeError | None = None
        self.answer: Answer

    @property
    def images(self) -> int:
        """Images that came."""
        return self.queries + self.context

    @property
    def outcome(self) -> str:
        """Ok, refused (the client's fault), or failed (ours)."""
        if self.answer.status < HTTPStatus.BAD_REQUEST:
            return "ok"
        return "failed" if self.answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"

    def take(self, request: EmbedRequest) -> None:
        """Note what is asked, as it came."""
        if request.queries is not None:
            self.operation = "embed"
        else:
            self.operation = "site" if request.context is None else "summarize"
        if request.summary is not None and request.summary.ndim == 2:
            self.summaries = len(request.summary)
        self.queries, self.context = (
            images.shape[0] if images is not None and images.size else 0  # no more than came
            for images in (request.queries, request.context)
        )

    def send(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        """Answer."""
        headers = headers | {REQUEST_ID_HEADER: self.id}
        if parent := trace_parent(self.question.headers):
            headers["Traceparent"] = parent
        self.answer = Answer(status, headers, body)

    def fail(self, error: Exception) -> None:
        """Answer with an error of the client's, or one that is ours."""
        if not isinstance(error, MetavaeError):
            # Where it happened, without the message: that may hold what the client sent.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("request=%s failed with %s\n%s", self.id, type(error).__name__, where)
            error = Failed(type(error).__name__)
        # Its frames would keep what was read of this request until the whole batch is answered.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self.error = error
        headers = {"Content-Type": JSON_TYPE}
        if isinstance(error, Refused) and error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        body = encode_error(error, self.id, over_grpc=self.question.over_grpc)
        self.send(status_of(error), headers, body)
