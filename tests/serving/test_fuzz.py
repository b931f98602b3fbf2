"""Claims about requests that nobody would write: each is an answer or one clear 4xx."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metavae_serving.answering.access_log import Journal
from metavae_serving.answering.answerer import Answerer, Question
from metavae_serving.answering.headers import header_length
from metavae_serving.answering.metrics import Meter
from metavae_serving.torchserve import launch
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.protocol.errors import BadRequest
from metavae_zoo.protocol.wire import (
    HEADER_LENGTH,
    MAX_IMAGES,
    EmbedRequest,
    decode_request,
    encode_request,
)

IN_PROCESS = 100_000
LIVE = 10_000
BATCH = 20

Request = tuple[bytes, dict[str, str]]

_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, -(2**70), 1.5, 1e308, "", "x" * 5000, "UINT8",
    "FP32", "FP64", "INT64", "BYTES", "queries", "context", "summary", "count", [], [[]], {}, [0],
    [[0], [0, 0]], [2**31 - 1] * 4, [-1, 28, 28], {"name": "queries"}, "\ud800", "\x00",
)  # fmt: skip


def mutated(requests: Sequence[Request], rng: random.Random) -> Request:
    """One of the requests, changed in one to three ways."""
    body, headers = rng.choice(requests)
    length = int(headers.get(HEADER_LENGTH, len(body)))
    text, tail = body[:length], body[length:]
    headers = dict(headers)
    for _ in range(rng.randint(1, 3)):
        change = rng.choice((_fields, _fields, _bytes, _cut, _tail, _length))
        text, tail, headers = change(text, tail, headers, rng)
    return text + tail, headers


def _fields(text: bytes, tail: bytes, headers: dict[str, str], rng: random.Random) -> Any:
    """Another value, or none, somewhere in the JSON; the header keeps up with its length."""
    try:
        content = json.loads(text)
        _change_somewhere(content, rng)
        changed = json.dumps(content).encode()
    except (ValueError, IndexError, TypeError):  # an earlier change left no JSON, or an empty one
        return text, tail, headers
    if HEADER_LENGTH in headers:
        headers = headers | {HEADER_LENGTH: str(len(changed))}
    return changed, tail, headers


def _change_somewhere(content: Any, rng: random.Random) -> None:
    while True:
        if isinstance(content, dict):
            key = rng.choice(list(content))
        else:
            key = rng.randrange(len(content))
        inner = content[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
            content = inner
            continue
        if rng.random() < 0.25:
            del content[key]
        else:
            content[key] = rng.choice(_VALUES)
        return


def _bytes(text: bytes, tail: bytes, headers: dict[str, str], rng: random.Random) -> Any:
    """Other bytes in the JSON."""
    changed = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed), tail, headers


def _cut(text: bytes, tail: bytes, headers: dict[str, str], rng: random.Random) -> Any:
    """A piece of the JSON taken out, or doubled."""
    start = rng.randint(0, len(text))
    stop = min(len(text), start + rng.randint(0, 40))
    piece = text[start:stop] * rng.choice((0, 2))
    return text[:start] + piece + text[stop:], tail, headers


def _tail(text: bytes, tail: bytes, headers: dict[str, str], rng: random.Random) -> Any:
    """Too few or too many bytes of tensors."""
    return text, rng.choice((tail[: rng.randint(0, len(tail))], tail + rng.randbytes(9))), headers


def _length(text: bytes, tail: bytes, headers: dict[str, str], rng: random.Random) -> Any:
    """A wrong length of the JSON, or one that is none."""
    given = rng.choice(("", "-1", "0", "x", "1e9", "9" * 30, "٣", str(rng.randint(0, 2000))))
    if not given.isascii():  # which no client can send as a header
        given = "%D9%A3"
    return text, tail, headers | {HEADER_LENGTH: given}


@pytest.fixture(scope="module")
def answerer(bundle) -> Answerer:
    embedder = OnnxEmbedder(bundle, threads=1)
    return Answerer(embedder, MAX_IMAGES, Meter("m"), Journal())


def requests_of(images: NDArray, summary: Summary) -> list[Request]:
    """Good requests of every kind."""
    kinds: tuple[dict[str, Any], ...] = (
        {"queries": images, "context": images},
        {"context": images[:1]},
        {"queries": images[:1], "summary": summary},
        {"queries": images, "summary": [summary] * len(images)},
        {"queries": (images / 255).astype(np.float32), "context": images},
    )
    return [encode_request(**kind, binary=binary) for kind in kinds for binary in (True, False)]


def lowered(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


def test_the_decoder_raises_nothing_but_a_bad_request():
    """On images of 3 by 3, which the decoder does not mind: it knows no model."""
    requests = requests_of(np.zeros((2, 3, 3), np.uint8), Summary(np.zeros(5), 2, "digest"))
    rng = random.Random(1)  # noqa: S311
    read = 0
    for _ in range(IN_PROCESS):
        body, headers = mutated(requests, rng)
        with suppress(BadRequest):
            found = decode_request(body, header_length(lowered(headers)))
            assert isinstance(found, EmbedRequest)
            read += 1
    assert IN_PROCESS / 100 < read < IN_PROCESS / 2, "most are wrong, and some are right"


def told(body: bytes) -> dict:
    """An error without the id of its request."""
    error = json.loads(body)
    assert error.pop("request_id")
    assert set(error) == {"error", "code", "field", "hint", "status"}
    return error


def test_the_server_answers_each_as_the_model_does_in_process(server, bundle, answerer, rng):
    """And a good request among them, every time, to the same bits; no worker dies.

    In process they are answered in batches, one good request in each.
    """
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    requests = requests_of(images, OnnxEmbedder(bundle, threads=1).summarize(images))
    draws = random.Random(2)  # noqa: S311
    before = launch.ready(server.store)
    address = server.url.removeprefix("http://")
    path, authorized = f"/predictions/{bundle.card.name}", server.headers()
    connection = http.client.HTTPConnection(address, timeout=60)
    for number in range(LIVE // BATCH):
        good = draws.randrange(BATCH)
        batch = [mutated(requests, draws) for _ in range(BATCH)]
        batch[good] = requests[number % len(requests)]
        questions = [Question(body, lowered(headers), "theirs") for body, headers in batch]
        expectations = answerer.answer(questions)
        for place, ((body, headers), expected) in enumerate(zip(batch, expectations, strict=True)):
            connection.request("POST", path, body, headers | authorized)
            answer = connection.getresponse()
            found = answer.read()
            assert answer.status == expected.status
            if answer.status == 200:
                assert found == expected.body
            else:
                assert place != good
                assert 400 <= answer.status < 500
                assert told(found) == told(expected.body)
    connection.close()
    assert launch.ready(server.store) == before
