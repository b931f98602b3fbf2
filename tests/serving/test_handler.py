"""The handler in process: batches, which the real server only makes under load."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metavae_serving.answering import answerer as answers
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve import handler
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.graph import Device
from metavae_zoo.errors import BadBundle, DeviceUnavailable
from metavae_zoo.protocol.wire import (
    HEADER_LENGTH,
    MAX_IMAGES,
    decode_reply,
    encode_request,
)


@dataclass
class FakeContext:
    """Stands in for `ts.context.Context`: headers in, status and headers out, by batch index."""

    model_name: str
    system_properties: dict[str, Any]
    model_yaml_config: dict[str, Any]
    requests: list[dict[str, Any]] = field(default_factory=list)
    statuses: dict[int, tuple[int, str]] = field(default_factory=dict)
    replies: dict[int, dict[str, str]] = field(default_factory=dict)
    metrics: None = None

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self.requests[idx]

    def get_request_id(self, idx: int) -> str:
        return f"theirs-{idx}"

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.statuses[idx] = (code, phrase)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.replies.setdefault(idx, {})[key] = value


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Load the handler as TorchServe does; returns the context to ask with."""
    monkeypatch.setattr(handler, "_answerer", None)

    def load_from(folder: Path, device: Device = "cpu") -> FakeContext:
        context = FakeContext(
            "the-model",
            {"model_dir": str(folder), "gpu_id": None},
            {"metavae": asdict(ModelSettings(device=device))},
        )
        assert handler.handle(None, context) is None
        return context

    return load_from


@pytest.fixture
def ask(load, bundle: Bundle):
    """Send one batch of (body, headers); returns (status, headers, body) of each."""
    context = load(bundle.path)

    def ask_batch(*batch: tuple[Any, dict[str, Any]]) -> list[tuple[int, dict[str, str], bytes]]:
        asked = replace(context, requests=[headers for _, headers in batch], replies={})
        bodies = handler.handle([{"body": body} for body, _ in batch], asked)
        assert bodies is not None
        for index, body in enumerate(bodies):
            code, phrase = asked.statuses[index]
            assert type(body) is bytes, "what TorchServe sends on without converting"
            assert type(code) in (int, HTTPStatus)
            assert phrase.isascii(), "TorchServe's worker dies of anything else"
            assert "\n" not in phrase
            assert all(type(value) is str for value in asked.replies[index].values())
        return [(asked.statuses[i][0], asked.replies[i], body) for i, body in enumerate(bodies)]

    return ask_batch


@pytest.fixture(scope="module")
def embedder(bundle: Bundle) -> OnnxEmbedder:
    return OnnxEmbedder(bundle)


@pytest.fixture
def images(bundle: Bundle):
    rng = np.random.default_rng(0)
    return lambda count: rng.integers(0, 256, (count, *bundle.card.image_shape), np.uint8)


def error_of(body: bytes) -> dict[str, str]:
    error = json.loads(body)
    assert set(error) == {"error", "code", "field", "hint", "status", "request_id"}
    return error


def test_one_bad_item_does_not_touch_the_others_of_its_batch(ask, embedder, images):
    queries, context = images(3), images(5)
    good = encode_request(queries=queries, context=context)
    bad = [(b"", {}), (b"{", {}), (b"\x00" * 9, {HEADER_LENGTH: "nine"}), (3.5, {})]
    replies = ask(good, bad[0], bad[1], good, bad[2], bad[3], good)
    assert [status for status, *_ in replies] == [200, 400, 400, 200, 400, 500, 200]
    expected = embedder.embed(queries, embedder.summarize(context))
    for number in (0, 3, 6):
        _, headers, body = replies[number]
        reply = decode_reply(body, int(headers[HEADER_LENGTH.lower()]))
        assert reply.model == embedder.card.digest
        assert_array_equal(reply.outputs["embedding"], expected.mean, strict=True)
        assert_array_equal(reply.outputs["log_variance"], expected.log_variance, strict=True)


def test_header_names_of_any_case_are_read(ask, images):
    body, headers = encode_request(context=images(2))
    shouted = {key.upper(): value for key, value in headers.items()}
    assert [status for status, *_ in ask((body, shouted))] == [200]


def test_parts_of_a_form_among_the_headers_are_no_headers(ask):
    [(status, _, body)] = ask((b"", {"Host": "here", "x": {"content-type": "text/plain"}}))
    assert status == 400
    assert "Content-Type: application/json" in error_of(body)["hint"]


def test_a_bug_is_a_500_for_its_item_and_is_logged_without_content(
    ask, images, monkeypatch, caplog
):
    good = encode_request(context=images(2))
    body, headers = encode_request(queries=images(1), context=images(2), binary=False)
    secret = json.dumps(json.loads(body) | {"id": "secret"}).encode(), headers

    def broken(_: OnnxEmbedder, queries: list) -> list:
        if queries:
            raise ZeroDivisionError("-".join("pixels"))  # not as the source shows it
        return []

    monkeypatch.setattr(OnnxEmbedder, "embed_each", broken)
    with caplog.at_level(logging.DEBUG):
        replies = ask(good, secret, good)
    assert [status for status, *_ in replies] == [200, 500, 200]
    assert "ZeroDivisionError" in error_of(replies[1][2])["error"]
    assert "ZeroDivisionError" in caplog.text
    for content in ("secret", "p-i-x-e-l-s"):
        assert content not in caplog.text + replies[1][2].decode()


def test_more_images_than_a_request_may_hold_are_refused_with_a_way_to_split(ask, bundle):
    blank = np.zeros((MAX_IMAGES + 1, *bundle.card.image_shape), np.uint8)
    [(status, _, body)] = ask(encode_request(context=blank))
    assert status == 413
    assert str(MAX_IMAGES) in error_of(body)["error"]
    assert "summary" in error_of(body)["hint"]


def test_a_reply_above_the_servers_limit_is_refused_before_it_is_computed(ask, images, monkeypatch):
    monkeypatch.setattr(answers, "MAX_REPLY_BYTES", 20_000)
    body, headers = encode_request(queries=images(30), context=images(2), binary=False)
    binary = encode_request(queries=images(30), context=images(2))
    replies = ask((body, headers), binary)
    assert [status for status, *_ in replies] == [413, 200]
    assert "binary" in error_of(replies[0][2])["hint"]


def test_a_compressed_body_is_refused_by_name(ask):
    [(status, _, body)] = ask((b"\x1f\x8b", {"Content-Encoding": "gzip"}))
    assert status == 415
    assert "gzip" in error_of(body)["error"]


def test_codings_have_names_of_any_case(ask, images):
    body, headers = encode_request(context=images(2))
    [(status, *_)] = ask((body, headers | {"Content-Encoding": "Identity"}))
    assert status == 200


def test_what_a_batch_has_no_time_to_read_is_sent_away(ask, images, monkeypatch):
    """All of a batch are answered together: TorchServe ends a worker that takes too long."""
    clock = iter(range(0, 1000, 8))  # seconds, at every look
    monkeypatch.setattr(answers.time, "perf_counter", lambda: float(next(clock)))
    good = encode_request(context=images(2))
    replies = ask(*[good] * 5)
    statuses = [status for status, *_ in replies]
    assert statuses == sorted(statuses), "those that came first were read"
    assert set(statuses) == {200, 503}
    error = json.loads(replies[-1][2])
    assert (error["code"], error["status"], error["retry_after"]) == ("overloaded", 503, 1)
    assert replies[-1][1]["retry-after"] == "1"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_between_batches_and_not_within(ask, images, monkeypatch, enabled):
    during = []

    def read(content: bytes, **_: object) -> object:
        during.append(gc.isenabled())
        return json.loads(content)

    monkeypatch.setattr("metavae_zoo.protocol.body.from_json", read)
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        replies = ask(encode_request(context=images(2)), (b"{", {}))
        assert gc.isenabled() is enabled, "as it was found"
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert [status for status, *_ in replies] == [200, 400]
    assert during == [False, False]


def test_what_was_read_of_a_refused_request_is_not_kept_till_the_batch_is_answered(
    ask, monkeypatch
):
    """A request's JSON takes 25 times its bytes once it is read, and a batch may have many."""
    kept = []

    class Noted(list):
        """What can be looked at from outside."""

    def noted(*_: object, **__: object) -> dict[str, Any]:
        tensors = Noted([{}])
        kept.append(weakref.ref(tensors))
        alive.append(sum(one() is not None for one in kept))
        return {"inputs": tensors}

    alive: list[int] = []
    monkeypatch.setattr("metavae_zoo.protocol.body.from_json", noted)
    replies = ask(*[(b"{}", {})] * 5)
    assert {status for status, *_ in replies} == {400}
    assert alive == [1] * 5


def test_an_unknown_path_below_the_model_is_404(ask):
    [(status, _, body)] = ask((b"", {"url_path": "cards"}))
    assert status == 404
    assert "card" in error_of(body)["hint"]


def copy_of(bundle: Bundle, folder: Path) -> Path:
    for file in bundle.files:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["encode.onnx", "summarize.onnx", "golden.safetensors"])
def test_a_bundle_with_one_byte_changed_is_never_served(load, bundle, tmp_path, name):
    folder = copy_of(bundle, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BadBundle, match="changed"):
        load(folder)


def test_a_bundle_without_one_of_its_files_is_never_served(load, bundle, tmp_path):
    folder = copy_of(bundle, tmp_path)
    (folder / "encode.onnx").unlink()
    with pytest.raises(BadBundle, match="missing"):
        load(folder)


def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(load, bundle):
    import onnxruntime

    try:
        OnnxEmbedder(bundle, device="cuda")
    except DeviceUnavailable:
        pass
    else:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} runs on a GPU here")
    with pytest.raises(DeviceUnavailable):
        load(bundle.path, "cuda")


@pytest.fixture
def ask_site(load, site_bundle):
    """Ask the model that infers a site one request; returns its status and body."""
    context = load(site_bundle.path)

    def ask_one(body: bytes, headers: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        asked = replace(context, requests=[headers], statuses={}, replies={})
        [answer] = handler.handle([{"body": body}], asked) or []
        return asked.statuses[0][0], answer, asked.replies[0]

    return ask_one


@pytest.mark.parametrize("binary", [True, False])
def test_a_site_is_answered_where_it_is_asked_for(ask_site, site_bundle, images, binary):
    embedder = OnnxEmbedder(site_bundle)
    summaries = [embedder.summarize(images(count)) for count in (1, 2, 3)]
    expected = np.stack([embedder.site(summary) for summary in summaries])
    for summary, site in ((summaries, expected), (summaries[1], expected[1])):
        request = encode_request(summary=summary, outputs=["site"], binary=binary)
        status, body, headers = ask_site(*request)
        assert status == 200
        length = headers.get(HEADER_LENGTH.lower())
        reply = decode_reply(body, int(length) if length else None)
        assert list(reply.outputs) == ["site"]
        assert_array_equal(reply.outputs["site"], site, strict=True)


def test_a_site_of_a_model_that_infers_none_is_refused_in_words(ask, embedder, images):
    request = encode_request(context=images(2), outputs=["site"])
    [(status, _, body)] = ask(request)
    assert status == 400
    assert error_of(body)["code"] == "no_site"
    assert "infers no site" in error_of(body)["error"]


def test_more_sites_than_a_request_may_hold_images_are_refused(ask_site, site_bundle, images):
    embedder = OnnxEmbedder(site_bundle)
    summary = embedder.summarize(images(2))
    request = encode_request(summary=[summary] * (MAX_IMAGES + 1), outputs=["site"])
    status, body, _ = ask_site(*request)
    assert status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert f"holds {MAX_IMAGES + 1} summaries" in error_of(body)["error"]
    request = encode_request(summary=[summary] * MAX_IMAGES, outputs=["site"])
    assert ask_site(*request)[0] == HTTPStatus.OK
