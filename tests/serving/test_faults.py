"""Faults of the network and of servers, under load: our client beside them loses nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import httpx
import numpy as np
import psutil
import pytest
from numpy.testing import assert_array_equal

from metavae_client.remote import RemoteEmbedder
from metavae_client.transport.tokens import Tokens
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve import configuration, launch, process, stop
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.configuration import _FEWEST_QUEUED, queued
from metavae_zoo.embedding.embedder import Embeddings, OnnxEmbedder
from metavae_zoo.protocol.wire import HEADER_LENGTH, decode_reply, encode_request

TOO_MANY = 50  # requests beside those that TorchServe lets wait
SMALL = 2_400_000_000  # bytes of memory
LARGE = 24  # requests of 12 MB at once
CLIENTS, QUERIES, PER_REQUEST = 2, 40, 10  # of ours, beside a fault
OURS = CLIENTS * QUERIES // PER_REQUEST  # requests of theirs that wait at most


@pytest.fixture(scope="module")
def local(bundle) -> OnnxEmbedder:
    return OnnxEmbedder(bundle)


@pytest.fixture
def images(bundle, rng):
    return lambda count: rng.integers(0, 256, (count, *bundle.card.image_shape), np.uint8)


@pytest.fixture
def request_bytes(server, bundle, images):
    """A whole HTTP request that summarises so many images, as bytes."""

    def build(count: int) -> bytes:
        body, headers = encode_request(context=images(count))
        headers |= server.headers() | {"Host": "here", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        return f"POST /predictions/{bundle.card.name} HTTP/1.1\r\n{head}\r\n".encode() + body

    return build


@pytest.fixture
def load(server, bundle, local, images, until) -> Callable[[], AbstractContextManager[None]]:
    """Clients of ours that embed for as long as a block lasts: every answer of theirs is exact."""

    @contextmanager
    def embedding() -> Iterator[None]:
        queries, summary = images(QUERIES), local.summarize(images(50))
        expected, over, answered = local.embed(queries, summary), threading.Event(), []

        def ask() -> None:
            with RemoteEmbedder(
                server.url,
                bundle.card.name,
                token_file=server.token_file,
                max_images_per_request=PER_REQUEST,
            ) as remote:
                last = False
                while not last:
                    last = over.is_set()  # one more, which begins after the fault
                    found = remote.embed(queries, summary)
                    assert_array_equal(found.mean, expected.mean, strict=True)
                    assert_array_equal(found.log_variance, expected.log_variance, strict=True)
                    answered.append(last)

        with ThreadPoolExecutor(CLIENTS) as clients:
            asking = [clients.submit(ask) for _ in range(CLIENTS)]
            try:
                until(lambda: bool(answered))
                yield
            finally:
                over.set()
            for client in asking:
                client.result()
        assert answered.count(True) == CLIENTS

    return embedding


def connect(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def summarized(server, bundle, context) -> np.ndarray:
    """The summary that the server answers to a good request."""
    body, headers = encode_request(context=context)
    answer = httpx.post(
        f"{server.url}/predictions/{bundle.card.name}",
        content=body,
        headers=headers | server.headers(),
        timeout=60,
    ).raise_for_status()
    return decode_reply(answer.content, int(answer.headers[HEADER_LENGTH])).outputs["summary"]


def test_connections_that_are_cut_harm_nobody(server, bundle, local, images, request_bytes, load):
    before = launch.ready(server.store)
    request = request_bytes(1000)
    with load():
        for sent in (1, 100, len(request) // 2, len(request) - 1, len(request)):
            with connect(server) as cut:
                cut.sendall(request[:sent])  # and gone, without a look at the reply
        with connect(server) as cut:
            cut.sendall(request)
            assert cut.recv(20).startswith(b"HTTP/1.1 200")  # and gone in the middle of it
    context = images(9)
    assert_array_equal(summarized(server, bundle, context), local.summarize(context).total)
    assert launch.ready(server.store) == before


def test_a_client_that_sends_byte_by_byte_keeps_nobody_waiting(
    server, bundle, local, images, request_bytes, load
):
    request, context = request_bytes(1), images(5)
    expected = local.summarize(context).total
    with load(), connect(server) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent in range(len(request) - 40, len(request)):
            slow.sendall(request[:sent] if sent == len(request) - 40 else request[sent - 1 : sent])
            assert_array_equal(summarized(server, bundle, context), expected)
        slow.sendall(request[-1:])
        assert slow.recv(20).startswith(b"HTTP/1.1 200")


def test_a_full_queue_sends_away_and_answers_the_rest_exactly(
    server, bundle, local, images, until, load
):
    before = launch.ready(server.store)
    context = images(20)
    body, headers = encode_request(context=context)
    path = f"{server.url}/predictions/{bundle.card.name}"
    answers: list[httpx.Response] = []
    waiting = queued(server.store.settings)
    full = waiting + TOO_MANY
    with (
        load(),
        httpx.Client(
            headers=server.headers() | headers,
            limits=httpx.Limits(max_connections=full),
            timeout=120,
        ) as http,
        ThreadPoolExecutor(full) as clients,
    ):
        for worker in before:
            os.kill(worker.pid, signal.SIGSTOP)  # as busy as can be
        try:
            for _ in range(full):
                clients.submit(lambda: answers.append(http.post(path, content=body)))
            until(lambda: len(answers) >= TOO_MANY - 1)
        finally:
            for worker in before:
                os.kill(worker.pid, signal.SIGCONT)
    seen = Counter(answer.status_code for answer in answers)
    assert set(seen) == {200, 503}
    assert seen[200] >= waiting - OURS
    expected = local.summarize(context).total
    for answer in answers:
        if answer.status_code == 200:
            reply = decode_reply(answer.content, int(answer.headers[HEADER_LENGTH]))
            assert_array_equal(reply.outputs["summary"], expected)
    assert launch.ready(server.store) == before


def test_many_large_requests_on_a_small_machine_are_answered_or_sent_away(
    store, bundle, local, images, monkeypatch
):
    monkeypatch.setattr(configuration, "usable_memory", lambda: SMALL)
    settings = store.settings
    taking_many = {bundle.card.name: ModelSettings(max_images=4096)}
    store = pack([bundle], store.path, dataclasses.replace(settings, models=taking_many))
    assert _FEWEST_QUEUED <= queued(settings) < LARGE
    context = images(4000).astype(np.float32) / 255
    body, headers = encode_request(context=context)
    launch.start(store)
    try:
        [java] = psutil.Process(process.require(store.path).pid).children()
        assert f"-Xmx{(SMALL >> 20) // 4}m" in java.cmdline()
        token = Tokens(path=store.token_file).read("inference")
        path = f"{settings.url}/predictions/{bundle.card.name}"
        limits = httpx.Limits(max_connections=4 * LARGE)
        with (
            httpx.Client(headers=headers, limits=limits, timeout=60) as http,
            ThreadPoolExecutor(4 * LARGE) as clients,
        ):

            def status(token: str | None) -> int | None:
                key = {"Authorization": f"Bearer {token}"}
                try:
                    return http.post(path, content=body, headers=key).status_code
                except httpx.TransportError:
                    return None  # cut off

            for _ in range(2):
                seen = Counter(clients.map(status, [token] * LARGE))
                assert set(seen) <= {200, 503}
                assert seen[200] >= queued(settings)
            # More than there is memory for: TorchServe reads them whole before it refuses a token.
            assert 4 * LARGE * len(body) > SMALL / 4
            assert set(clients.map(status, ["of nobody"] * 4 * LARGE)) <= {400, 507, None}
        with RemoteEmbedder(
            settings.url, bundle.card.name, token_file=store.token_file, give_up_after=180
        ) as remote:
            found = remote.summarize(context)
        assert_array_equal(found.total, local.summarize(context).total)
        assert launch.ready(store)
    finally:
        process.end(store.path)


def test_a_server_that_is_stopped_and_started_loses_no_request(
    store, bundle, local, images, until, monkeypatch
):
    queries = images(4000)
    summary = local.summarize(queries[:50])
    found: list[Embeddings] = []
    launch.start(store)
    try:
        with RemoteEmbedder(
            store.settings.url,
            bundle.card.name,
            token_file=store.token_file,
            max_images_per_request=5,
            give_up_after=120,
        ) as remote:
            answered = []
            embed = remote._embed

            def counted(*arguments):
                answered.append(embed(*arguments))
                return answered[-1]

            monkeypatch.setattr(remote, "_embed", counted)
            asking = threading.Thread(target=lambda: found.append(remote.embed(queries, summary)))
            asking.start()
            until(lambda: len(answered) > 10)
            stop.stop(store, drain_seconds=0.3)  # the client asks without a pause
            assert not found, "there is work left for the next server"
            launch.start(store)
            asking.join()
    finally:
        if process.running(store.path) is not None:
            process.end(store.path)
    expected = local.embed(queries, summary)
    assert_array_equal(found[0].mean, expected.mean, strict=True)
    assert_array_equal(found[0].log_variance, expected.log_variance, strict=True)
