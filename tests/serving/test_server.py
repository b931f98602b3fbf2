"""The real server over real HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http
import tritonclient.utils
from numpy.testing import assert_array_equal

from metavae_serving.torchserve import launch
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.protocol.wire import HEADER_LENGTH, Reply, decode_reply, encode_request

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def embedder(bundle) -> OnnxEmbedder:
    return OnnxEmbedder(bundle)


@pytest.fixture
def queries(bundle, rng):
    return rng.integers(0, 256, (7, *bundle.card.image_shape), np.uint8)


@pytest.fixture
def context(bundle, rng):
    return rng.integers(0, 256, (40, *bundle.card.image_shape), np.uint8)


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers(), timeout=60) as client:
        yield client


@pytest.fixture
def paths(bundle) -> tuple[str, str]:
    """The two ways to ask the model."""
    return f"/v2/models/{bundle.card.name}/infer", f"/predictions/{bundle.card.name}"


@pytest.fixture
def ask(http, paths):
    def ask_for(*, path: str = "", **inputs) -> Reply:
        body, headers = encode_request(**inputs)
        answer = http.post(path or paths[0], content=body, headers=headers).raise_for_status()
        length = answer.headers.get(HEADER_LENGTH)
        return decode_reply(answer.content, int(length) if length else None)

    return ask_for


@pytest.fixture
def unharmed(server) -> Iterator[None]:
    """The claim that a test's requests kill no worker."""
    before = launch.ready(server.store)
    yield
    assert launch.ready(server.store) == before


@pytest.mark.parametrize("binary", [True, False])
def test_the_server_answers_what_the_model_says_in_process(
    ask, paths, embedder, queries, context, binary
):
    summary = embedder.summarize(context)
    expected = embedder.embed(queries, summary)
    for path in paths:
        reply = ask(path=path, queries=queries, context=context, binary=binary)
        assert_array_equal(reply.outputs["embedding"], expected.mean, strict=True)
        assert_array_equal(reply.outputs["log_variance"], expected.log_variance, strict=True)
        assert_array_equal(reply.outputs["summary"], summary.total, strict=True)
        assert reply.outputs["count"].tolist() == [len(context)]
        assert reply.model == embedder.card.digest


@pytest.mark.parametrize("binary", [True, False])
def test_a_context_can_be_summarised_first_and_used_later(ask, embedder, queries, context, binary):
    reply = ask(context=context, binary=binary)
    assert set(reply.outputs) == {"summary", "count"}
    summary = Summary(reply.outputs["summary"], int(reply.outputs["count"][0]), reply.model)
    assert summary == embedder.summarize(context)
    later = ask(queries=queries, summary=summary, binary=binary)
    assert set(later.outputs) == {"embedding", "log_variance"}
    assert_array_equal(later.outputs["embedding"], embedder.embed(queries, summary).mean)


def test_the_order_of_the_context_does_not_matter_and_its_content_does(ask, rng, queries, context):
    once = ask(queries=queries, context=context).outputs["embedding"]
    shuffled = ask(queries=queries, context=rng.permutation(context)).outputs["embedding"]
    other = ask(queries=queries, context=255 - context).outputs["embedding"]
    assert_array_equal(once, shuffled)
    assert not np.array_equal(once, other)


def test_n_queries_at_once_are_n_single_ones_bit_for_bit(ask, queries, context):
    at_once = ask(queries=queries, context=context).outputs["embedding"]
    singly = [ask(queries=one[None], context=context).outputs["embedding"] for one in queries]
    assert_array_equal(at_once, np.concatenate(singly))


def test_summaries_of_two_parts_merge_into_that_of_the_whole(ask, context):
    def summarise(images) -> Summary:
        reply = ask(context=images)
        return Summary(reply.outputs["summary"], int(reply.outputs["count"][0]), reply.model)

    assert summarise(context[:11]).merge(summarise(context[11:])) == summarise(context)


def test_each_query_can_have_a_summary_of_its_own(ask, embedder, queries, context):
    summaries = [embedder.summarize(context[: 1 + number]) for number in range(len(queries))]
    rows = ask(queries=queries, summary=summaries).outputs["embedding"]
    for query, summary, row in zip(queries, summaries, rows, strict=True):
        assert_array_equal(ask(queries=query[None], summary=summary).outputs["embedding"][0], row)


def test_fp32_images_are_the_uint8_images_they_round_to(ask, queries, context):
    as_bytes = ask(queries=queries, context=context).outputs["embedding"]
    scaled = [(images / 255).astype(np.float32) for images in (queries, context)]
    as_floats = ask(queries=scaled[0], context=scaled[1]).outputs["embedding"]
    assert_array_equal(as_bytes, as_floats)


def test_tritonclient_is_told_what_is_wrong(server, bundle, queries):
    """It reads `error` as a text, as the protocol has it."""
    images = tritonclient.http.InferInput("queries", list(queries.shape), "UINT8")
    images.set_data_from_numpy(queries)
    with (
        tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as client,
        pytest.raises(tritonclient.utils.InferenceServerException) as refusal,
    ):
        client.infer(bundle.card.name, [images], headers=server.headers())
    assert "context" in str(refusal.value)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_the_same_numbers(server, embedder, queries, context, binary):
    inputs = []
    for name, images in (("queries", queries), ("context", context)):
        inputs.append(tritonclient.http.InferInput(name, list(images.shape), "UINT8"))
        inputs[-1].set_data_from_numpy(images, binary_data=binary)
    summary = embedder.summarize(context)
    expected = {
        "embedding": embedder.embed(queries, summary).mean,
        "summary": summary.total,
    }
    chosen = [
        # One of each kind in a reply: binary and JSON tensors may be mixed.
        tritonclient.http.InferRequestedOutput("embedding", binary_data=binary),
        tritonclient.http.InferRequestedOutput("summary", binary_data=not binary),
    ]
    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        for outputs in (None, chosen):
            result = client.infer(
                embedder.card.name,
                inputs,
                headers=server.headers(),
                outputs=outputs,
                request_id="7",
            )
            assert result.get_response()["id"] == "7"
            for name, array in expected.items():
                assert_array_equal(result.as_numpy(name), array, strict=True)
            assert (result.as_numpy("log_variance") is None) == (outputs is chosen)
        assert client.is_server_ready(headers=server.headers())


def curl(*arguments: str) -> tuple[int, dict]:
    command = shutil.which("curl")
    if command is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        [command, "-sS", "-w", "\n%{http_code}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)


def test_curl_embeds_with_plain_json(server, paths, embedder, queries, context):
    body, _ = encode_request(queries=queries[:2], context=context[:3], binary=False)
    token = f"Authorization: {server.headers()['Authorization']}"
    kind = f"Content-Type: {JSON['Content-Type']}"
    status, reply = curl("-H", token, "-H", kind, "-d", body.decode(), server.url + paths[0])
    assert status == 200
    expected = embedder.embed(queries[:2], embedder.summarize(context[:3])).mean
    [embedding] = [one for one in reply["outputs"] if one["name"] == "embedding"]
    assert embedding["shape"] == list(expected.shape)
    assert_array_equal(np.float32(embedding["data"]), expected.ravel())


def test_curl_without_a_content_type_is_told_which_one_to_give(server, paths):
    token = f"Authorization: {server.headers()['Authorization']}"
    for path in paths:
        status, reply = curl("-H", token, "-d", '{"inputs": []}', server.url + path)
        assert status == 400
        assert "-H 'Content-Type: application/json'" in reply["hint"]


def test_the_card_is_served_beside_the_model(http, bundle):
    answer = http.get(f"/predictions/{bundle.card.name}/1.0/card").raise_for_status()
    assert ModelCard.from_json(answer.content, source="server") == bundle.card


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic wrong", "Bearer"])
def test_a_missing_or_wrong_token_is_refused(server, paths, queries, context, authorization):
    body, headers = encode_request(queries=queries, context=context)
    if authorization:
        headers["Authorization"] = authorization
    for path in paths:
        answer = httpx.post(server.url + path, content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["type"] == "InvalidKeyException"


def test_an_expired_token_is_refused_and_the_token_file_has_the_new_one(server, http, bundle):
    card = f"/predictions/{bundle.card.name}/1.0/card"
    assert http.get(card).status_code == 200
    httpx.get(
        f"{server.management_url}/token?type=inference", headers=server.headers("API")
    ).raise_for_status()
    refused = http.get(card)
    assert refused.status_code == 400
    assert "expired" in refused.json()["message"]
    assert http.get(card, headers=server.headers()).status_code == 200


def test_ready_renews_an_inference_token_that_has_expired(server, bundle):
    keys = json.loads(server.token_file.read_text())
    keys["inference"]["key"] = "expired"
    server.token_file.write_text(json.dumps(keys))
    card = f"{server.url}/predictions/{bundle.card.name}/1.0/card"
    assert httpx.get(card, headers=server.headers()).status_code == 400
    assert launch.ready(server.store)
    renewed = server.headers()
    assert httpx.get(card, headers=renewed).status_code == 200
    assert launch.ready(server.store)
    assert server.headers() == renewed, "one that works is left as it is"


def test_an_unknown_model_is_404(http):
    for path in ("/v2/models/nope/infer", "/predictions/nope", "/predictions/nope/1.0/card"):
        answer = http.post(path, content=b"{}", headers=JSON)
        assert answer.status_code == 404
        assert "nope" in answer.json()["message"]


def images_body(shape, datatype="UINT8", value: object = 0, **more) -> dict:
    size = int(np.prod(shape))
    return {"name": "queries", "datatype": datatype, "shape": list(shape), "data": [value] * size}


SIDE = 28
CONTEXT = images_body((1, SIDE, SIDE)) | {"name": "context"}
COUNT = {"name": "count", "datatype": "INT64", "shape": [1], "data": [1]}
BAD_INPUTS = {
    "wrong size": ([images_body((1, 5, 5)), CONTEXT], "bad_images", "shape [1, 5, 5]"),
    "wrong channels": ([images_body((1, 3, SIDE, SIDE)), CONTEXT], "bad_images", "shape"),
    "wrong rank": ([images_body((SIDE * SIDE,)), CONTEXT], "bad_images", "shape"),
    "wrong type": ([images_body((1, SIDE, SIDE), "INT64"), CONTEXT], "bad_request", "int64"),
    "above 1": ([images_body((1, SIDE, SIDE), "FP32", 1.5), CONTEXT], "bad_images", "0 to 1"),
    "infinite": ([images_body((1, SIDE, SIDE), "FP32", 1e300), CONTEXT], "bad_", "FP32|infinite"),
    "no queries": ([images_body((0, SIDE, SIDE)), CONTEXT], "bad_images", "queries is empty"),
    "empty context": (
        [images_body((0, SIDE, SIDE)) | {"name": "context"}], "bad_images", "context is empty"),
    "no context": ([images_body((1, SIDE, SIDE))], "bad_summary", "given a context"),
    "context and summary": (
        [CONTEXT, images_body((3,), "FP64") | {"name": "summary"}, COUNT], "bad_request", "both"),
    "summary of another model": (
        [images_body((1, SIDE, SIDE)), images_body((3,), "FP64") | {"name": "summary"}, COUNT],
        "bad_summary", "another|made by model"),
    "huge shape": (
        [images_body((1, SIDE, SIDE)) | {"shape": [2**31 - 1] * 4}, CONTEXT], "bad_request",
        "numbers"),
}  # fmt: skip


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(("inputs", "code", "fragment"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_clear_4xx(http, paths, inputs, code, fragment):
    for path in paths:
        answer = http.post(path, content=json.dumps({"inputs": inputs}), headers=JSON)
        check_error(answer, code, fragment)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("cut", "length"),
    [(1, "{}"), (-1, "{}"), (None, "-{}"), (None, "1{}"), (None, "x"), (None, "9" * 5000)],
    ids=["truncated", "too long", "negative", "beyond the body", "no number", "5000 digits"],
)
def test_a_broken_binary_body_is_one_clear_4xx(http, paths, queries, context, cut, length):
    body, headers = encode_request(queries=queries, context=context)
    headers[HEADER_LENGTH] = length.format(headers[HEADER_LENGTH])
    broken = body + b"0" if cut == -1 else body[: -cut if cut else None]
    for path in paths:
        check_error(http.post(path, content=broken, headers=headers), "bad_request", "")


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"inputs":' + b"[" * 200_000, b"[NaN]", b"7"])
def test_json_that_is_not_a_request_is_one_clear_4xx(http, paths, body):
    for path in paths:
        check_error(http.post(path, content=body, headers=JSON), "bad_request", "JSON")


@pytest.mark.usefixtures("unharmed")
def test_nan_is_one_clear_4xx(http, paths, queries, context):
    broken = (queries / 255).astype(np.float32)
    broken[0, 0, 3, 3] = np.nan
    body, headers = encode_request(queries=broken, context=context)
    check_error(http.post(paths[0], content=body, headers=headers), "bad_images", "NaN")


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("number", [2.0**29, -(2.0**29), 1e300, np.inf, np.nan])
def test_a_summary_beyond_the_exact_range_is_one_clear_4xx(http, paths, embedder, queries, number):
    total = np.zeros(embedder.card.feature_dim)
    total[3] = number
    summary = Summary(total, 1, embedder.card.digest)
    body, headers = encode_request(queries=queries, summary=summary)
    for path in paths:
        answer = http.post(path, content=body, headers=headers)
        check_error(answer, "bad_summary", "numbers below")


@pytest.mark.usefixtures("unharmed")
def test_a_body_above_the_servers_limit_is_413(http, paths):
    answer = http.post(paths[0], content=bytes(64_000_001), headers=JSON)
    assert answer.status_code == 413


def check_error(answer: httpx.Response, code: str, fragment: str) -> None:
    assert 400 <= answer.status_code < 500
    assert answer.headers["Content-Type"].startswith("application/json")
    error = answer.json()
    assert error["code"].startswith(code)
    assert any(part in error["error"] for part in fragment.split("|"))
    assert error["hint"] or error["field"]
