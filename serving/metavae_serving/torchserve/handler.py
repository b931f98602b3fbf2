"""TorchServe's handler: it is called to load a model, and with every batch of requests."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metavae_serving.answering.access_log import Journal, report_forever
from metavae_serving.answering.answerer import Answerer, Question
from metavae_serving.answering.metrics import Meter
from metavae_serving.answering.tracing import open_tracer
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve.patch import TOO_MANY_INPUTS, patch_torchserve
from metavae_serving.torchserve.workers import Busy, find_run_folder
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.graph import BUCKETS
from metavae_zoo.errors import BadBundle
from metavae_zoo.machine import usable_cores

logger = logging.getLogger(__name__)

METER_SECONDS = 1.0
JOURNAL_SECONDS = 0.25  # shorter than a stop waits, so that no line is lost

_WARM_UP = (1, 256)  # images of typical requests

_answerer: Answerer | None = None
_busy = Busy(None)


class Context(Protocol):
    """The part of TorchServe's `ts.context.Context` that is used here."""

    model_name: str
    system_properties: dict[str, Any]
    model_yaml_config: dict[str, Any]
    metrics: Any

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Headers of request `idx` of the batch, in the client's own case."""
        ...

    def get_request_id(self, idx: int) -> str | None:
        """TorchServe's own id of request `idx`."""
        ...

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """Set the HTTP status of reply `idx`; the phrase must be ASCII on one line."""
        ...

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of reply `idx`; a value that is not str kills the worker."""
        ...


def handle(data: list[dict[str, Any]] | None, context: Context) -> list[bytes] | None:
    """TorchServe's entry point: load the model where `data` is None, else answer a batch.

    Loading raises BadBundle or DeviceUnavailable, which stops the worker; answering never raises.
    """
    global _answerer, _busy
    if data is None:
        _answerer, _busy = load(context), Busy(find_run_folder())
        return None
    assert _answerer is not None, "TorchServe loads before it asks"  # noqa: S101
    questions = [
        _question(item, context.get_all_request_header(index), context.get_request_id(index))
        for index, item in enumerate(data)
    ]
    with _busy:
        answers = _answerer.answer(questions)
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        context.set_response_status(answer.status, answer.status.phrase, index)
        for name, value in answer.headers.items():
            context.set_response_header(index, name.lower(), value)
        if question.over_grpc:  # without it TorchServe ends a worker that was asked for a stream
            context.set_response_header(index, "ts_stream_next", "false")
    return [answer.body for answer in answers]


def _question(item: dict[str, Any], headers: dict[str, Any], its_id: str | None) -> Question:
    # Of a form TorchServe makes an input for each field; there is no body.
    body = b"" if TOO_MANY_INPUTS in item else item.get("body", b"")
    # TorchServe keeps the client's case, and mixes the parts of a form (dicts) among them.
    fields = {key.lower(): text for key, text in headers.items() if isinstance(text, str)}
    over_grpc = not fields  # gRPC has no headers: they come as inputs beside the body
    if over_grpc:
        fields = {
            key.lower(): value.decode("latin-1")
            for key, value in item.items()
            if key != "body" and isinstance(value, bytes | bytearray)
        }
    content = body.encode() if isinstance(body, str) else body
    return Question(content, fields, its_id or "", over_grpc)


def load(context: Context) -> Answerer:
    """Open the archive's bundle on the device that it was packed for, checked and warm.

    Raises BadBundle for a bundle that has changed, and DeviceUnavailable if there is no such
    device: the worker must not serve then.
    """
    # An archive of an earlier version has fewer settings.
    settings = ModelSettings(**context.model_yaml_config["metavae"])
    device = settings.device
    if device == "cuda":
        _choose_gpu(context.system_properties.get("gpu_id"))
    try:
        bundle = open_bundle(Path(context.system_properties["model_dir"]))
    except BadBundle as error:
        raise BadBundle(
            f"the archive of {context.model_name} is damaged: {error.message}",
            hint=f"Pack the model again: `metavae-serve pack {context.model_name}`",
        ) from None
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    tf32 = settings.precision == "tf32"
    embedder = OnnxEmbedder(bundle, device=device, threads=threads, tf32=tf32)
    for images in BUCKETS if device == "cuda" else _WARM_UP:
        blank = np.zeros((images, *embedder.card.image_shape), np.uint8)
        embedder.embed(blank, embedder.summarize(blank))
    logger.info("serving %s on %s, %d threads", embedder.card.name, device, threads)
    meter, journal = Meter(context.model_name), Journal()
    report_forever(meter.drain, METER_SECONDS)
    report_forever(journal.drain, JOURNAL_SECONDS)
    tracer = open_tracer(embedder.card.name)
    patch_torchserve(context.metrics)
    return Answerer(embedder, settings.max_images, meter, journal, tracer)


def _choose_gpu(gpu: int | None) -> None:
    """Let this worker see only the GPU that TorchServe gave it, before CUDA is initialised."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
