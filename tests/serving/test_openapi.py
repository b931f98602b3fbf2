"""Claims about the OpenAPI document: what it says is what the server does, and all that it has."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import httpx
import pytest
import schemathesis

from metavae_serving.answering.access_log import Journal
from metavae_serving.answering.answerer import RESOURCES, Answerer, Question
from metavae_serving.answering.metrics import Meter
from metavae_serving.torchserve import launch
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.protocol import tensors, wire
from metavae_zoo.protocol.wire import (
    MAX_JSON_BYTES,
    MAX_REQUEST_BYTES,
    decode_request,
    encode_request,
)

DOCUMENT: dict[str, Any] = json.loads(files("metavae_serving").joinpath("openapi.json").read_text())
PARTS = DOCUMENT["components"]
EXAMPLE = PARTS["examples"]["Embed"]["value"]
OPERATIONS = [(path, method) for path, one in DOCUMENT["paths"].items() for method in one]
INFERENCE = [path for path, method in OPERATIONS if method == "post"]
OF_THE_MODEL = "/predictions/{model}/1.0/"

# What TorchServe decides: it answers a bad token with 400 and any method alike. And what no schema
# says: how many numbers a shape takes, or which inputs go together.
NOT_CHECKED = (
    "ignored_auth",
    "missing_required_header",
    "unsupported_method",
    "positive_data_acceptance",
)


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, headers=server.headers(), timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def document(bundle) -> dict[str, Any]:
    """The document, asked of the model that is served."""
    mine = copy.deepcopy(DOCUMENT)
    mine["components"]["parameters"]["model"] |= {
        "schema": {"enum": [bundle.card.name]},
        "example": bundle.card.name,
    }
    return mine


@pytest.fixture(scope="module")
def answerer(bundle) -> Answerer:
    embedder = OnnxEmbedder(bundle, threads=1)
    return Answerer(embedder, 10, Meter("m"), Journal())


def test_schemathesis_finds_nothing(server, document, tmp_path):
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    before = launch.ready(server.store)
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--no-color"]
    command += [
        "--url",
        server.url,
        "--header",
        f"Authorization: {server.headers()['Authorization']}",
    ]
    command += ["--checks", "all", "--exclude-checks", ",".join(NOT_CHECKED)]
    command += ["--max-examples", "30", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"Tested: {len(OPERATIONS)}" in done.stdout
    assert launch.ready(server.store) == before, "no worker has died"


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize("binary", [False, True])
def test_the_example_is_answered_as_the_document_says(http, bundle, document, path, binary):
    body = json.dumps(EXAMPLE | {"parameters": {"binary_data_output": binary}})
    kind = {"Content-Type": "application/json"}
    answer = http.post(path.format(model=bundle.card.name), content=body, headers=kind)
    assert answer.status_code == 200
    schemathesis.openapi.from_dict(document)[path]["POST"].validate_response(answer)
    if not binary:
        named = [output["name"] for output in answer.json()["outputs"]]
        assert named == [output["name"] for output in EXAMPLE["outputs"]]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_wants_a_token_and_says_so_as_the_document_does(
    server, bundle, document, path, method
):
    operation = schemathesis.openapi.from_dict(document)[path][method.upper()]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        url = server.url + path.format(model=bundle.card.name)
        answer = httpx.request(method, url, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["type"] == "InvalidKeyException"
        operation.validate_response(answer)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_the_document_says_of_a_route_is_what_it_answers(http, bundle, document, path, method):
    """Status and body of the route itself, and of an unknown model's, are among those listed."""
    operation = schemathesis.openapi.from_dict(document)[path][method.upper()]
    content = json.dumps(EXAMPLE) if method == "post" else None
    kind = {"Content-Type": "application/json"} if content else {}
    for model, status in ((bundle.card.name, 200), ("no-such-model", 404)):
        if "{model}" in path or status == 200:
            answer = http.request(method, path.format(model=model), content=content, headers=kind)
            assert answer.status_code == status
            operation.validate_response(answer)


def test_the_handler_has_the_routes_of_the_document_and_no_others(answerer):
    documented = {
        path.removeprefix(OF_THE_MODEL) for path, _ in OPERATIONS if path.startswith(OF_THE_MODEL)
    }
    assert documented == set(RESOURCES)
    asked = [*sorted(documented), "nothing"]
    answers = answerer.answer([Question(b"", {"url_path": path}, "1") for path in asked])
    assert [answer.status for answer in answers] == [200] * len(documented) + [404]
    hint = json.loads(answers[-1].body)["hint"]
    assert all(f"/predictions/{{name}}/1.0/{path}" in hint for path in documented)


def test_the_inputs_and_outputs_of_the_document_are_those_of_the_wire(bundle, rng):
    tensors_in = [
        PARTS["schemas"][one["$ref"].rsplit("/", 1)[1]]["properties"]
        for one in PARTS["schemas"]["Request"]["properties"]["inputs"]["items"]["oneOf"]
    ]
    named = {one["name"]["const"]: set(one["datatype"]["enum"]) for one in tensors_in}
    types = {dtype: name for name, dtype in tensors.DATATYPES.items()}
    assert named == {
        name: {types[wire.np.dtype(one)] for one in dtypes} for name, dtypes in wire._DTYPES.items()
    }
    images = rng.integers(0, 256, (1, *bundle.card.image_shape), wire.np.uint8)
    body, _ = encode_request(queries=images, context=images, binary=False)
    unasked = decode_request(body, None).outputs
    assert PARTS["schemas"]["Output"]["properties"]["name"]["enum"] == [*unasked, "site"]
    reply = PARTS["schemas"]["Reply"]["properties"]["outputs"]["items"]["properties"]
    assert reply["name"]["enum"] == [*unasked, "site"]
    for limit in (MAX_REQUEST_BYTES, MAX_JSON_BYTES):
        assert f"{limit:,}" in DOCUMENT["info"]["description"]
    assert set(PARTS["schemas"]["Card"]["required"]) <= set(ModelCard.model_fields)
    assert PARTS["parameters"]["model"]["schema"] == {
        "type": "string",
        "pattern": ModelCard.model_json_schema()["properties"]["name"]["pattern"],
        "maxLength": ModelCard.model_json_schema()["properties"]["name"]["maxLength"],
    }


def test_other_methods_are_answered_alike_as_the_document_says(http, bundle):
    """A TorchServe that looks at methods would make the document's description wrong."""
    limits = f"/predictions/{bundle.card.name}/1.0/limits"
    found = {method: http.request(method, limits) for method in ("GET", "PUT", "DELETE")}
    assert {answer.content for answer in found.values()} == {found["GET"].content}
    assert http.options(limits).json()["openapi"] == "3.0.1", "TorchServe's own"


def test_a_header_is_passed_on_or_ignored_as_the_document_says(http, bundle):
    limits = f"/predictions/{bundle.card.name}/1.0/limits"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = {"X-Request-Id": "mine", "traceparent": trace, "X-Request-Start": "soon"}
    answer = http.get(limits, headers=given)
    assert answer.headers["Metavae-Request-Id"] == "mine"
    assert answer.headers["traceparent"] == trace
    answer = http.get(limits, headers={"X-Request-Id": "not mine", "traceparent": "x"})
    assert answer.headers["Metavae-Request-Id"] == answer.headers["X-Request-Id"]
    assert "traceparent" not in answer.headers


def test_the_document_names_the_address_that_was_asked_and_the_model(http, server, bundle):
    served = http.get(f"/predictions/{bundle.card.name}/1.0/openapi").json()
    assert served["servers"] == [{"url": server.url}]
    assert served["components"]["parameters"]["model"]["schema"]["enum"] == [bundle.card.name]
    assert served["paths"] == DOCUMENT["paths"]
