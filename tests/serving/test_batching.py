"""The real server, told to gather requests: many clients, own contexts, two workers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from numpy.testing import assert_array_equal

from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve import launch
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.protocol.wire import HEADER_LENGTH, decode_reply

CLIENTS = 24


def batches(server, until) -> int:
    """How many batches all those requests came in, by the server's metrics."""
    port = int(server.url.rsplit(":", 1)[1]) + 2

    def told(name: str) -> list[str]:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        return re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)

    until(lambda: sum(map(float, told("metavae_requests_total"))) == CLIENTS)
    [count] = told("metavae_batch_images_count")
    return int(float(count))


def test_clients_of_one_batch_get_their_own_answers_bit_for_bit(
    serve, bundle, rng, until, requests_of
):
    embedder = OnnxEmbedder(bundle)
    shape, name = bundle.card.image_shape, bundle.card.name

    def images(count: int):
        return rng.integers(0, 256, (count, *shape), np.uint8)

    asked = [(images(1 + client % 5), images(1 + client % 7)) for client in range(CLIENTS)]
    asked[1] = (images(256), images(100))

    settings = ModelSettings(workers=2, batch_size=8, max_batch_delay=100)
    with serve([bundle], **{name: settings}) as server:
        with httpx.Client(base_url=server.url, headers=server.headers(), timeout=60) as http:

            def post(request: tuple[bytes, dict[str, str]]) -> httpx.Response:
                body, headers = request
                return http.post(f"/v2/models/{name}/infer", content=body, headers=headers)

            with ThreadPoolExecutor(CLIENTS) as clients:
                answers = list(clients.map(post, requests_of(asked)))
        launch.ready(server.store)
        gathered = batches(server, until)
        log = server.store.log_folder / "model_log.log"
        until(lambda: log.read_text().count("operation=embed") == CLIENTS * 5 // 6)
        answered_by = set(re.findall(r" (W-\d+)-.* operation=embed ", log.read_text()))
    assert gathered < CLIENTS, "some were answered together"
    assert len(answered_by) == 2

    for client, ((queries, context), answer) in enumerate(zip(asked, answers, strict=True)):
        if client % 6 == 0:
            assert answer.status_code == 400
            assert answer.json()["code"] == "bad_request"
            continue
        length = answer.headers.get(HEADER_LENGTH)
        reply = decode_reply(answer.content, int(length) if length else None)
        expected = embedder.embed(queries, embedder.summarize(context))
        assert_array_equal(reply.outputs["embedding"], expected.mean, strict=True)
        assert_array_equal(reply.outputs["log_variance"], expected.log_variance, strict=True)
