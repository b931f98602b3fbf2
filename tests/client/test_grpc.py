"""The same server over gRPC: the same bits, and the same errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metavae_client.errors import (
    BadReply,
    Closed,
    GaveUp,
    ModelNotServed,
    RequestRefused,
    ServerUnreachable,
    Unauthorized,
)
from metavae_client.remote import RemoteEmbedder
from metavae_client.transport import grpc as grpc_transport
from metavae_client.transport.catalogue import only_name
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve import launch
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.protocol.errors import Overloaded
from metavae_zoo.protocol.wire import MAX_REQUEST_BYTES, encode_error, encode_request


@pytest.fixture(scope="module")
def url(server) -> str:
    """The server's gRPC address, three ports above HTTP's."""
    return f"grpc://127.0.0.1:{int(server.url.rsplit(':', 1)[1]) + 3}"


@pytest.fixture
def images(bundle, rng):
    return rng.integers(0, 256, (300, *bundle.card.image_shape), np.uint8)


def test_embeddings_over_grpc_are_those_in_process_bit_for_bit(server, url, bundle, images):
    local = OnnxEmbedder(bundle)
    with RemoteEmbedder(
        url, bundle.card.name, token_file=server.token_file, max_images_per_request=70
    ) as remote:
        assert remote.card == bundle.card
        summary = remote.summarize(images)
        assert summary == local.summarize(images)
        found, expected = remote.embed(images, summary), local.embed(images, summary)
    assert_array_equal(found.mean, expected.mean, strict=True)
    assert_array_equal(found.log_variance, expected.log_variance, strict=True)


def test_a_wrong_token_and_an_unknown_model_are_named(server, url, bundle):
    with (
        RemoteEmbedder(url, bundle.card.name, token="wrong") as remote,
        pytest.raises(Unauthorized, match="refuses"),
    ):
        _ = remote.card
    with (
        RemoteEmbedder(url, "no-such-model", token_file=server.token_file) as remote,
        pytest.raises(ModelNotServed, match="no-such-model"),
    ):
        _ = remote.card


def test_what_the_server_refuses_is_refused_with_its_own_words(server, url, bundle, images):
    with RemoteEmbedder(url, bundle.card.name, token_file=server.token_file) as remote:
        with pytest.raises(RequestRefused, match="given a context set") as refused:
            remote._infer(queries=images[:1])
        assert refused.value.code == "bad_summary"
        assert refused.value.status == 400
        blank = np.zeros((5000, *bundle.card.image_shape), np.uint8)
        with pytest.raises(RequestRefused, match="5000 images") as refused:
            remote._infer(context=blank)
        assert refused.value.status == 413


def test_more_than_the_server_takes_is_refused_at_once(server, url, bundle):
    blank = np.zeros((MAX_REQUEST_BYTES, 1, 1), np.uint8)
    with (
        RemoteEmbedder(url, bundle.card.name, token_file=server.token_file) as remote,
        pytest.raises(RequestRefused, match="takes no request of"),
    ):
        remote._infer(context=blank)


def calls_of_others(url: str, headers: dict[str, str], model: str, body: bytes) -> list[str]:
    """What TorchServe's other calls of inference come to, as bytes: those that are no client's."""
    import grpc

    services = {
        "openinference.GRPCInferenceService/ModelInfer": bytes([10, len(model)]) + model.encode(),
        "inference.InferenceAPIsService/StreamPredictions": grpc_transport.PredictionsRequest(
            model_name=model, input={"body": body}
        ).SerializeToString(),
    }
    ends = []
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        for name, message in services.items():
            call = channel.unary_stream(f"/org.pytorch.serve.grpc.{name}")
            metadata = (("authorization", headers["Authorization"]),)
            try:
                ends.append(f"{len(list(call(message, metadata=metadata, timeout=30)))} replies")
            except grpc.RpcError as error:
                ends.append(str(error.code()))
    return ends


def test_no_call_over_grpc_ends_a_worker(server, url, bundle, images):
    """Neither those that only other clients make, nor replies that nobody waits for any more."""
    local, name = OnnxEmbedder(bundle, threads=1), bundle.card.name
    good, _ = encode_request(context=images[:2], binary=False)
    before = launch.ready(server.store)
    for body in (good, b"{}"):
        assert calls_of_others(url, server.headers(), name, body) == ["1 replies", "1 replies"]
    with (
        RemoteEmbedder(
            url, name, token_file=server.token_file, timeout=0.001, give_up_after=1
        ) as hasty,
        pytest.raises(GaveUp),
    ):
        hasty._infer(context=images)
    with RemoteEmbedder(server.url, name, token_file=server.token_file) as remote:
        assert remote.summarize(images) == local.summarize(images)
    assert launch.ready(server.store) == before


def test_what_the_server_takes_is_learned_over_grpc_too(serve, bundle, images):
    settings = {bundle.card.name: ModelSettings(max_images=50)}
    with serve([bundle], **settings) as server:
        url = f"grpc://127.0.0.1:{int(server.url.rsplit(':', 1)[1]) + 3}"
        with RemoteEmbedder(url, bundle.card.name, token_file=server.token_file) as remote:
            assert remote.summarize(images) == OnnxEmbedder(bundle).summarize(images)
        with RemoteEmbedder(server.url, bundle.card.name, token_file=server.token_file) as remote:
            assert remote.summarize(images) == OnnxEmbedder(bundle).summarize(images)


def test_grpc_does_not_tell_which_models_are_served(server, url, bundle):
    with pytest.raises(ServerUnreachable, match="Name the model"):
        only_name(url, token_file=server.token_file)


def test_nothing_that_listens_is_one_clear_error(settings, bundle):
    url = f"grpc://127.0.0.1:{settings.port}"
    with (
        RemoteEmbedder(url, bundle.card.name, token="any", give_up_after=5) as remote,
        pytest.raises(ServerUnreachable, match="no server answers"),
    ):
        _ = remote.card


class Answers:
    """A channel's `Predictions` call that answers as told; each takes a second of its clock."""

    def __init__(self, card: bytes = b"", limits: bytes = b"", infer: bytes = b"") -> None:
        self.replies = {b"card": card, b"limits": limits, b"": infer}
        self.timeouts: list[float] = []

    def monotonic(self) -> float:
        return float(len(self.timeouts))

    def future(self, request, *, metadata: object) -> SimpleNamespace:
        prediction = self.replies[bytes(request.input["url_path"])]

        def result(timeout: float) -> SimpleNamespace:
            self.timeouts.append(timeout)
            return SimpleNamespace(prediction=prediction)

        return SimpleNamespace(result=result)


@pytest.fixture
def answering(bundle, monkeypatch) -> Iterator[Callable[[Answers], RemoteEmbedder]]:
    """Makes embedders over a channel that answers as told."""
    made = []

    def make(answers: Answers) -> RemoteEmbedder:
        remote = RemoteEmbedder("grpc://127.0.0.1:1", bundle.card.name, give_up_after=5)
        made.append(remote)
        monkeypatch.setattr(remote._connection._transport.inner, "_predict", answers)
        return remote

    yield make
    for remote in made:
        remote.close()


@pytest.mark.parametrize(
    "reply",
    [
        b'{"error": "x"}',
        b'{"error"',
        b'{"error": "no", "code": "bad_images"}',
        b'{"error": "no", "status": "400"}',
        b'{"error": "no", "status": 1e999}',
        b'{"error": ' + b"[" * 200_000,
        b'{"error": "no", "status": 200}',
        b"",
        b"\xff",
    ],
)
def test_a_reply_of_no_metavae_server_is_a_bad_reply(answering, bundle, images, reply):
    card = bundle.card.to_json().encode()
    with pytest.raises(BadReply):
        _ = answering(Answers(card=reply, limits=b'{"max_images": 9}')).card
    remote = answering(Answers(card=card, limits=b'{"max_images": 9}', infer=reply))
    with pytest.raises(BadReply):
        remote.summarize(images[:2])


def test_when_to_come_back_is_told_over_grpc_too():
    reply = grpc_transport._success(encode_error(Overloaded(21), "an id"))
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == str(Overloaded.retry_after)


@pytest.mark.parametrize("limits", [b"{}", b"[]", b"7", b'{"max_images": null}', b"{", b"\xff"])
def test_limits_that_say_nothing_are_a_bad_reply(answering, bundle, limits):
    with pytest.raises(BadReply, match="not the API of a metavae server"):
        _ = answering(Answers(card=bundle.card.to_json().encode(), limits=limits)).card


def test_both_calls_for_a_card_share_one_deadline(answering, bundle, monkeypatch):
    answers = Answers(card=bundle.card.to_json().encode(), limits=b'{"max_images": 9}')
    monkeypatch.setattr(grpc_transport, "time", answers)
    assert answering(answers).card == bundle.card
    first, second = answers.timeouts
    assert second == first - 1


def test_a_request_over_a_channel_that_was_closed_is_given_up(server, url, bundle, images):
    with RemoteEmbedder(url, bundle.card.name, token_file=server.token_file) as remote:
        remote.summarize(images[:2])
    with pytest.raises(Closed, match="is closed"):
        remote.summarize(images[:2])


def test_without_grpcio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "metavae_client.transport.grpc")
    with pytest.raises(ServerUnreachable, match=r"clone of metavae: `pip install -e '.\[grpc\]'"):
        RemoteEmbedder("grpc://127.0.0.1:8083", "any")


def test_the_token_goes_as_metadata_and_in_no_message(server, url, bundle, monkeypatch):
    token = json.loads(server.token_file.read_text())["inference"]["key"]
    with RemoteEmbedder(url, bundle.card.name, token=token) as remote:
        transport = remote._connection._transport.inner
        assert isinstance(transport, grpc_transport.GrpcTransport)
        sent = []

        def spied(request, predict=transport._predict, **options):
            sent.append(request.SerializeToString())
            return predict.future(request, **options)

        monkeypatch.setattr(transport, "_predict", SimpleNamespace(future=spied))
        _ = remote.card
    assert sent
    assert token.encode() not in b"".join(sent)
