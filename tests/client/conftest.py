"""What the client's tests share.

A fake server for what TorchServe cannot be made to do, a small probe, and embedders to probe.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from metavae_client.remote import RemoteEmbedder
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embeddings, OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.evaluation.baselines import pixels
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.reporting.result import ProbeResult
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family
from metavae_zoo.images import Images
from metavae_zoo.protocol.wire import HEADER_LENGTH, EmbedRequest, decode_request, encode_reply

# What the fake does in place of an answer: a status, or one with headers and a body. 0 is a reset.
Trouble = int | tuple[int, dict[str, str], bytes]

UNAVAILABLE = b'{"code": 503, "type": "ServiceUnavailable", "message": "no worker"}'
INVALID_TOKEN = (400, {}, b'{"code": 400, "type": "InvalidKeyException", "message": "no"}')


class FakeServer:
    """HTTP with the real wire and a real model behind it, that fails as `trouble` says.

    `trouble` is asked before each inference request is answered: with the request and how many
    came before.
    """

    def __init__(self, embedder: OnnxEmbedder) -> None:
        self.embedder = embedder
        self.trouble: Callable[[EmbedRequest, int], Trouble | None] = lambda request, before: None
        self.accepted_token: str | None = None
        self.requests: list[EmbedRequest] = []
        self.ids: list[str] = []
        self.encodings: list[str | None] = []
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(200, {}, fake.embedder.card.to_json().encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = decode_request(body, int(self.headers[HEADER_LENGTH]))
                fake.ids.append(self.headers["X-Request-Id"])
                fake.encodings.append(self.headers["Accept-Encoding"])
                trouble = fake.judge(request, self.headers.get("Authorization"))
                if trouble is None:
                    body, headers = fake.answer(request)
                    self.reply(200, headers, body)
                elif trouble == 0:
                    self.close_connection = True
                elif isinstance(trouble, int):
                    self.reply(trouble, {}, UNAVAILABLE)
                else:
                    self.reply(*trouble)

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def judge(self, request: EmbedRequest, authorization: str | None) -> Trouble | None:
        with self.lock:
            before = len(self.requests)
            self.requests.append(request)
        if self.accepted_token and authorization != f"Bearer {self.accepted_token}":
            return INVALID_TOKEN
        return self.trouble(request, before)

    def answer(self, request: EmbedRequest) -> tuple[bytes, dict[str, str]]:
        outputs: dict[str, np.ndarray] = {}
        summary = request.summaries()
        if request.context is not None:
            summary = self.embedder.summarize(request.context)
            outputs |= {"summary": summary.total, "count": np.array([summary.count])}
        if "site" in request.outputs:
            assert isinstance(summary, Summary)
            outputs["site"] = self.embedder.site(summary)
        if request.queries is not None:
            embeddings = self.embedder.embed(request.queries, request.summaries())
            outputs |= {"embedding": embeddings.mean, "log_variance": embeddings.log_variance}
        card = self.embedder.card
        return encode_reply(outputs, request, model_name=card.name, model=card.digest)


@contextlib.contextmanager
def running(embedder: OnnxEmbedder) -> Iterator[FakeServer]:
    """A fake server, for as long as a `with` block."""
    server = FakeServer(embedder)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


class Spy:
    """The model, under another card where one is given; it remembers what it is asked.

    `summarized` has contexts, `embedded` has queries and summaries.
    """

    def __init__(self, embedder: OnnxEmbedder, **fields: object) -> None:
        self.embedder = embedder
        self.card = ModelCard.model_validate(embedder.card.model_dump() | fields)
        self.summarized: list[Images] = []
        self.embedded: list[tuple[Images, Summary | None]] = []

    def summarize(self, context: Images) -> Summary:
        self.summarized.append(context)
        return self.embedder.summarize(context)

    def embed(self, queries: Images, summary: Summary | None = None) -> Embeddings:
        self.embedded.append((queries, summary))
        return self.embedder.embed(queries, summary)


class Pixels(Spy):
    """A model without a context, whose codes are the pixels."""

    def __init__(self, embedder: OnnxEmbedder) -> None:
        super().__init__(embedder, feature_dim=0)

    def embed(self, queries: Images, summary: Summary | None = None) -> Embeddings:
        self.embedded.append((queries, summary))
        return Embeddings(pixels(queries), np.zeros_like(pixels(queries)))


@pytest.fixture
def spy(local: OnnxEmbedder) -> Callable[..., Spy]:
    """Makes a Spy; keyword arguments are fields of its card."""

    def make(**fields: object) -> Spy:
        return Spy(local, **fields)

    return make


@pytest.fixture
def contextless(local: OnnxEmbedder) -> Pixels:
    return Pixels(local)


@pytest.fixture(scope="session")
def small() -> ProbeSettings:
    """A probe of seconds."""
    return ProbeSettings(
        "digits-rotation", "contiguous", train_size=100, test_size=60, contexts=2, context_size=20
    )


@pytest.fixture(scope="session")
def result(local: OnnxEmbedder, small: ProbeSettings) -> ProbeResult:
    """What the small probe finds, by the paper's protocol."""
    return run_probe(local, small)


@pytest.fixture(scope="session")
def local(bundle: Bundle) -> OnnxEmbedder:
    """The model in this process."""
    return OnnxEmbedder(bundle)


@pytest.fixture
def fake(local: OnnxEmbedder) -> Iterator[FakeServer]:
    with running(local) as server:
        yield server


@pytest.fixture
def site_server(site_bundle: Bundle) -> Iterator[FakeServer]:
    """A server of a model that infers a site."""
    with running(OnnxEmbedder(site_bundle)) as server:
        yield server


@pytest.fixture
def faked(fake, local) -> Iterator[RemoteEmbedder]:
    with RemoteEmbedder(
        fake.url, local.card.name, max_images_per_request=10, give_up_after=20
    ) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def images() -> Images:
    """Digits at a rotation that the model has not seen."""
    return family("digits-rotation").images(60.0, "train")


@pytest.fixture(autouse=True)
def no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Tests do not see the server, tokens or working directory of whoever runs them."""
    for name in ("METAVAE_TOKEN", "METAVAE_TOKEN_FILE", "METAVAE_URL", "METAVAE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("METAVAE_STORE", str(tmp_path / "no-store"))
    monkeypatch.chdir(tmp_path)
