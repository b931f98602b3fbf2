"""A real server on a GPU: chosen by itself, near the CPU's answers, whoever is in the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from metavae_client.remote import RemoteEmbedder
from metavae_serving.cli import main
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve import process
from metavae_serving.torchserve.store import Store
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.embedding.embedder import (
    GOLDEN_TOLERANCE,
    TF32_TOLERANCE,
    OnnxEmbedder,
    golden_gap,
)
from metavae_zoo.places import run_folder, token_file
from metavae_zoo.protocol.wire import HEADER_LENGTH, MAX_IMAGES, decode_reply

pytestmark = pytest.mark.usefixtures("cuda")

TOLERANCE = GOLDEN_TOLERANCE["cuda"]
MODEL = "metavae-digits-rotation-contiguous"
PLAIN = "vae-mnist-rotation-contiguous"
CLIENTS = 24


def call(*words: object) -> str:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def store(cuda, tmp_path_factory, find_settings) -> Iterator[Path]:
    """A store of two models over which a server runs, that `metavae-serve start` has made."""
    store = tmp_path_factory.mktemp("cuda") / "store"
    words = ["--store", store, "--port", find_settings().port]
    words += ["--device", f"{MODEL}=cuda"]  # the other finds the GPU by itself
    words += ["--batch-size", 8, "--max-batch-delay", 50]
    call("start", MODEL, PLAIN, *words)
    try:
        yield store
    finally:
        process.end(store)


@pytest.fixture(scope="module")
def cpu() -> OnnxEmbedder:
    return OnnxEmbedder(find_bundle(MODEL))


@pytest.fixture
def images(rng):
    return lambda count: rng.integers(0, 256, (count, 1, 28, 28), np.uint8)


def remote(store: Path, model: str = MODEL) -> RemoteEmbedder:
    return RemoteEmbedder(Store.open(store).settings.url, model, token_file=token_file(store))


def test_a_gpu_is_found_by_itself_and_told(store):
    models = Store.open(store).settings.models
    assert {name: (one.device, one.workers) for name, one in models.items()} == {
        MODEL: ("cuda", 1),
        PLAIN: ("cuda", 1),
    }
    workers = json.loads(call("ready", "--store", store, "--json"))["workers"]
    told = {(one["model"], one["device"], one["status"]) for one in workers}
    assert told == {(MODEL, "cuda", "READY"), (PLAIN, "cuda", "READY")}
    log = (run_folder(store) / "logs" / "model_log.log").read_text()
    for name in (MODEL, PLAIN):
        assert f"serving {name} on cuda" in log


@pytest.mark.parametrize("count", [1, 9, 256, MAX_IMAGES + 3])
def test_the_server_answers_as_the_cpu_does_within_what_is_stated(store, cpu, images, count):
    context, queries = images(150), images(count)
    expected = cpu.embed(queries, cpu.summarize(context))
    with remote(store) as embedder:
        found = embedder.embed(queries, embedder.summarize(context))
    assert golden_gap(found.mean, expected.mean) <= TOLERANCE
    assert golden_gap(found.log_variance, expected.log_variance) <= TOLERANCE


def test_a_model_without_contexts_is_served_on_it_too(store, images):
    queries = images(33)
    expected = OnnxEmbedder(find_bundle(PLAIN)).embed(queries)
    with remote(store, PLAIN) as embedder:
        assert golden_gap(embedder.embed(queries).mean, expected.mean) <= TOLERANCE


def test_clients_of_one_batch_get_their_own_answers_and_bad_ones_theirs(
    store, cpu, images, requests_of
):
    asked = [(images(1 + client % 5), images(1 + client % 7)) for client in range(CLIENTS)]
    asked[1] = (images(300), images(100))
    requests = requests_of(asked)
    key = json.loads(token_file(store).read_text())["inference"]["key"]
    with httpx.Client(
        base_url=Store.open(store).settings.url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ) as http:

        def post(request: tuple[bytes, dict[str, str]]) -> httpx.Response:
            body, headers = request
            return http.post(f"/v2/models/{MODEL}/infer", content=body, headers=headers)

        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in range(3):
                answers = list(clients.map(post, requests))
                for client, answer in enumerate(answers):
                    if client % 6 == 0:
                        assert answer.status_code == 400
                        continue
                    length = answer.headers.get(HEADER_LENGTH)
                    reply = decode_reply(answer.content, int(length) if length else None)
                    queries, context = asked[client]
                    expected = cpu.embed(queries, cpu.summarize(context))
                    assert golden_gap(reply.outputs["embedding"], expected.mean) <= TOLERANCE
    workers = json.loads(call("ready", "--store", store, "--json"))["workers"]
    assert {one["status"] for one in workers} == {"READY"}


def test_two_workers_of_a_model_in_tf32_share_a_gpu(serve, cpu, images):
    settings = ModelSettings(workers=2, device="cuda", precision="tf32")
    context, queries = images(150), images(64)
    expected = cpu.embed(queries, cpu.summarize(context))
    with (
        serve([find_bundle(MODEL)], **{MODEL: settings}) as server,
        RemoteEmbedder(server.url, MODEL, token_file=server.token_file) as embedder,
        ThreadPoolExecutor(8) as clients,
    ):
        summary = embedder.summarize(context)
        for found in clients.map(lambda _: embedder.embed(queries, summary), range(32)):
            assert golden_gap(found.mean, expected.mean) <= TF32_TOLERANCE
