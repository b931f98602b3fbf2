from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from metavae_zoo.embedding.summary import Summary
from metavae_zoo.protocol.tensors import EXTENSIONS
from metavae_zoo.protocol.wire import (
    HEADER_LENGTH,
    BadRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
images = st.one_of(
    hnp.arrays(np.uint8, shapes),
    hnp.arrays(np.float32, shapes, elements=st.floats(0, 1, width=32)),
)
totals = hnp.arrays(np.float64, st.integers(0, 6), elements=st.floats(-1e9, 1e9))
one_summary = st.builds(Summary, totals, st.integers(1, 2**62), st.text(max_size=70))


def length_of(headers: dict[str, str]) -> int | None:
    return int(headers[HEADER_LENGTH]) if HEADER_LENGTH in headers else None


@given(queries=images, context=images, binary=st.booleans())
def test_a_request_comes_back_as_it_was_sent(queries, context, binary):
    body, headers = encode_request(queries=queries, context=context, binary=binary)
    request = decode_request(body, length_of(headers))
    for sent, came in ((queries, request.queries), (context, request.context)):
        assert came is not None
        assert came.dtype == sent.dtype
        assert_array_equal(came, sent, strict=True)
    assert set(request.outputs.values()) == {binary}


@given(queries=images, summary=one_summary, binary=st.booleans())
def test_a_summary_comes_back_as_it_was_sent(queries, summary, binary):
    body, headers = encode_request(queries=queries, summary=summary, binary=binary)
    assert decode_request(body, length_of(headers)).summaries() == summary


@given(total=hnp.arrays(np.float64, (3, 5), elements=st.floats(-1e9, 1e9)), binary=st.booleans())
def test_one_summary_per_query_comes_back(total, binary):
    summaries = [Summary(row, count + 1, "digest") for count, row in enumerate(total)]
    body, headers = encode_request(
        queries=np.zeros((3, 2, 2), np.uint8), summary=summaries, binary=binary
    )
    assert decode_request(body, length_of(headers)).summaries() == summaries


@given(
    embedding=hnp.arrays(
        np.float32, shapes, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    binary=st.booleans(),
)
def test_a_reply_comes_back_as_it_was_sent(embedding, binary):
    body, headers = encode_request(queries=np.zeros((1, 2, 2), np.uint8), binary=binary)
    request = decode_request(body, length_of(headers))
    outputs = {"embedding": embedding, "log_variance": -embedding}
    body, headers = encode_reply(outputs, request, model_name="name", model="digest")
    reply = decode_reply(body, length_of(headers))
    assert (reply.model_name, reply.model) == ("name", "digest")
    for name, array in outputs.items():
        assert_array_equal(reply.outputs[name], array, strict=True)


@given(request_id=st.text(max_size=9))
def test_a_reply_has_the_id_of_its_request(request_id):
    request = decode_request(request_body(id=request_id), None)
    outputs = dict.fromkeys(request.outputs, np.zeros(1, np.float32))
    body, _ = encode_reply(outputs, request, model_name="name", model="digest")
    assert decode_reply(body, None).id == request_id


@settings(max_examples=400)
@given(data=st.data(), binary=st.booleans())
def test_no_mutated_body_raises_anything_but_a_bad_request(data, binary):
    body, headers = encode_request(
        queries=np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        summary=Summary(np.arange(3.0), 4, "digest"),
        binary=binary,
    )
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(mutated)))
        end = data.draw(st.integers(start, min(start + 12, len(mutated))))
        mutated[start:end] = data.draw(st.binary(max_size=12) | st.sampled_from(TOKENS))
    length = data.draw(st.sampled_from([length_of(headers), None]) | st.integers(-5, len(body) + 5))
    with contextlib.suppress(BadRequest):
        decode_request(mutated, length)


TOKENS = [b"-1", b"1e999", b"null", b"[]", b"{}", b'""', b"99999999999999999999", b"true", b"[["]


def test_binary_tensors_are_views_of_the_body():
    body, headers = encode_request(queries=np.ones((2, 3, 3), np.uint8))
    received = bytearray(body)
    request = decode_request(received, length_of(headers))
    received[-1] = 7
    assert request.queries is not None
    assert request.queries[-1, -1, -1] == 7


def test_nested_data_is_read_like_flat_data():
    image = np.arange(12).reshape(2, 2, 3)
    flat, nested = (
        decode_request(tensor_body(data=data, shape=[2, 2, 3]), None).queries
        for data in (image.ravel().tolist(), image.tolist())
    )
    assert_array_equal(flat, nested, strict=True)


def test_the_outputs_asked_for_decide_what_comes_and_how():
    fields = tensor_fields(data=[0] * 4, shape=[1, 2, 2])
    fields["outputs"] = [{"name": "embedding", "parameters": {"binary_data": True}}]
    request = decode_request(json.dumps(fields).encode(), None)
    assert request.outputs == {"embedding": True}
    fields["parameters"] = {"binary_data_output": True}
    fields["outputs"] = [{"name": "log_variance"}]
    assert decode_request(json.dumps(fields).encode(), None).outputs == {"log_variance": True}


def tensor_fields(**changes: object) -> dict:
    tensor = {"name": "queries", "datatype": "UINT8", "shape": [1, 2, 2], "data": [0, 1, 2, 3]}
    return {"inputs": [{key: v for key, v in (tensor | changes).items() if v is not None}]}


def tensor_body(**changes: object) -> bytes:
    return json.dumps(tensor_fields(**changes)).encode()


def request_body(**fields: object) -> bytes:
    return json.dumps(tensor_fields() | fields).encode()


def binary_body(size: object, payload: bytes, **changes: object) -> tuple[bytes, int]:
    text = tensor_body(data=None, parameters={"binary_data_size": size}, **changes)
    return text + payload, len(text)


TWICE = json.dumps({"inputs": tensor_fields()["inputs"] * 2}).encode()
DEEP = b'{"inputs":' + b"[" * 200_000
MIXED = [0, 1, 2, "x" * 1_000_000]

BAD_REQUESTS = {
    "empty": (b"", None, "content-type"),
    "not JSON": (b"{", None, "not json"),
    "not UTF-8": (b'{"\xff": 1}', None, "not json"),
    "NaN in JSON": (
        tensor_body(datatype="FP32", data=[0.0, 0.0, 0.0, float("nan")]),
        None,
        "finite numbers",
    ),
    "nested without end": (DEEP, None, "not json"),
    "a list": (b"[]", None, "object"),
    "no inputs": (b"{}", None, "inputs is missing"),
    "inputs no list": (b'{"inputs": 3}', None, "expected a list"),
    "no tensors": (b'{"inputs": []}', None, "neither queries nor context"),
    "a tensor that is a number": (b'{"inputs": [1]}', None, "without a name"),
    "unknown input": (tensor_body(name="images"), None, "queries, context, summary, count"),
    "input twice": (TWICE, None, "given twice"),
    "unknown datatype": (tensor_body(datatype="FP16"), None, "fp32"),
    "datatype no text": (tensor_body(datatype=["UINT8"]), None, "datatype"),
    "images of INT64": (tensor_body(datatype="INT64"), None, "uint8 or float32"),
    "no shape": (tensor_body(shape=None), None, "shape"),
    "no sides": (tensor_body(shape=[], data=[1]), None, "1 to 8 whole numbers"),
    "a size without end": (*binary_body(10**4000, b"abcd"), "declares binary_data_size 1000"),
    "negative shape": (tensor_body(shape=[-1, 2, 2]), None, "shape"),
    "fractional shape": (tensor_body(shape=[1.0, 2, 2]), None, "shape"),
    "true as shape": (tensor_body(shape=[True, 2, 2]), None, "shape"),
    "huge shape": (tensor_body(shape=[2**31 - 1] * 4), None, "numbers"),
    "huger shape": (tensor_body(shape=[2**40, 2, 2]), None, "shape"),
    "huge empty shape": (tensor_body(shape=[0] + [2**31 - 1] * 4, data=[]), None, "range"),
    "shape of another size": (tensor_body(shape=[2, 2, 2]), None, "8 uint8 numbers"),
    "nested otherwise": (tensor_body(data=[[[0, 1, 2, 3]]]), None, "nested"),
    "ragged": (tensor_body(data=[[[0, 1], [2]]]), None, "nested"),
    "no data": (tensor_body(data=None), None, "numbers"),
    "a long text among numbers": (tensor_body(data=MIXED), None, "numbers only"),
    "true as pixel": (tensor_body(data=[0, 1, 2, True]), None, "numbers only"),
    "half a pixel": (tensor_body(data=[0, 1, 2, 0.5]), None, "whole"),
    "pixel of 256": (tensor_body(data=[0, 1, 2, 256]), None, "0 to 255"),
    "pixel of -1": (tensor_body(data=[0, 1, 2, -1]), None, "0 to 255"),
    "number beyond all": (tensor_body(datatype="FP32", data=[0, 1, 2, 10**400]), None,
        "fp32 is -3.40282e+38 to 3.40282e+38"),
    "whole number beyond all": (
        tensor_body(datatype="INT64", data=[0, 1, 2, 2**63]), None,
        "int64 is -9223372036854775808 to 9223372036854775807"),
    "parameters no object": (tensor_body(parameters=7), None, "parameters"),
    "data and binary": (tensor_body(parameters={"binary_data_size": 4}), None, "both"),
    "truncated": (*binary_body(4, b"abc"), "3 came"),
    "too long": (*binary_body(4, b"abcde"), "5 bytes follow"),
    "size of another shape": (*binary_body(5, b"abcde"), "takes 4 bytes"),
    "negative size": (*binary_body(-4, b"abcd"), "binary_data_size"),
    "size no number": (*binary_body("4", b"abcd"), "binary_data_size"),
    "huge binary shape": (*binary_body(4, b"abcd", shape=[2**31 - 1] * 8), "takes"),
    "no header length": (binary_body(4, b"abcd")[0], None, HEADER_LENGTH.lower()),
    "header length too short": (binary_body(4, b"abcd")[0], 9, "not json"),
    "header length negative": (tensor_body(), -1, "-1"),
    "header length zero": (tensor_body(), 0, "0"),
    "header length beyond the body": (tensor_body(), 10**18, "bytes"),
    "outputs unknown": (request_body(outputs=[{"name": "x"}]), None, "embedding, log_variance"),
    "outputs of no name": (request_body(outputs=[[]]), None, "output"),
    "summary of no context": (request_body(outputs=[{"name": "summary"}]), None, "output"),
    "outputs no list": (request_body(outputs={"name": "embedding"}), None, "expected a list"),
    "outputs a number": (request_body(outputs=0), None, "expected a list"),
    "output's parameters no object": (
        request_body(outputs=[{"name": "embedding", "parameters": 5}]), None, "object"),
    "binary_data no flag": (
        request_body(outputs=[{"name": "embedding", "parameters": {"binary_data": "yes"}}]), None,
        "binary_data is 'yes', expected true or false"),
    "binary_data_output no flag": (
        request_body(parameters={"binary_data_output": 1}), None, "true or false"),
    "id no text": (request_body(id=5), None, "id"),
    "model no text": (request_body(parameters={"model": 5}), None, "model"),
    "request parameters no object": (request_body(parameters=[]), None, "parameters"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "length", "fragment"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_with_a_reason(body, length, fragment):
    with pytest.raises(BadRequest) as refusal:
        decode_request(body, length)
    assert fragment in str(refusal.value).lower()
    assert len(refusal.value.message) < 400, "what a client sent is not echoed at length"


def test_refusing_a_huge_shape_allocates_nothing():
    body, length = binary_body(4, b"abcd", shape=[2**31 - 1, 2**31 - 1])
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            decode_request(body, length)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_more_json_than_is_read_is_refused_before_it_is_read(monkeypatch):
    body = b'{"inputs": [' + b"[]," * 3_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        for given, length in ((body, None), (body + b"tensors", len(body))):
            with pytest.raises(BadRequest, match="at most 8000000 are read") as refusal:
                decode_request(given, length)
            assert refusal.value.status == 413
        assert tracemalloc.get_traced_memory()[1] < 20_000_000  # a body of 9 MB, made twice
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("inputs", "fragment"),
    [
        ({"context": (1, 2, 2), "summary": (4,), "count": (1,)}, "both"),
        ({"queries": (1, 2, 2), "summary": (4,)}, "count"),
        ({"queries": (1, 2, 2), "count": (1,)}, "summary"),
        ({"summary": (4,), "count": (1,)}, "neither"),
        ({"queries": (1, 2, 2), "summary": (2, 4), "count": (1,)}, "count"),
        ({"queries": (1, 2, 2), "summary": (1, 1, 4), "count": (1,)}, "count"),
        ({"queries": (1, 2, 2), "summary": (2, 4), "count": (2,)}, r"expected \[4\] for all"),
        ({"queries": (1, 2, 2), "summary": (900, 0), "count": (900,)}, r"expected \[0\] for all"),
        ({"queries": (1, 2, 2), "summary": (4,), "count": (1, 1)}, "count"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(inputs, fragment):
    types = {"summary": "FP64", "count": "INT64"}
    tensors = [
        {
            "name": name,
            "datatype": types.get(name, "UINT8"),
            "shape": list(shape),
            "data": [1] * int(np.prod(shape)),
        }
        for name, shape in inputs.items()
    ]
    with pytest.raises(BadRequest, match=fragment):
        decode_request(json.dumps({"inputs": tensors}).encode(), None)


def test_summaries_of_several_models_are_not_sent():
    summaries = [Summary(np.zeros(2), 1, model) for model in ("one", "other")]
    with pytest.raises(BadRequest, match="2 models"):
        encode_request(queries=np.zeros((2, 2, 2), np.uint8), summary=summaries)


def test_arrays_of_other_types_are_not_sent():
    for name, kind in (("complex64", np.complex64), ("float64", np.float64), ("int64", np.int64)):
        with pytest.raises(BadRequest, match=f"queries is {name}, expected uint8 or float32"):
            encode_request(queries=np.zeros((2, 2, 2), kind))


def test_numbers_that_json_cannot_hold_are_not_sent():
    with pytest.raises(BadRequest, match="not finite"):
        encode_request(queries=np.full((1, 2, 2), np.nan, np.float32), binary=False)


TOTALS = [Summary(np.array([1.5, -2.0]), count, "digest") for count in (3, 4)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("summary", [TOTALS[0], TOTALS], ids=["one", "several"])
def test_a_summary_alone_is_enough_to_ask_for_its_site(summary, binary):
    body, headers = encode_request(summary=summary, outputs=["site"], binary=binary)
    request = decode_request(body, length_of(headers))
    assert request.outputs == {"site": binary}
    assert request.queries is None
    assert request.summaries() == summary


def test_a_site_is_an_output_only_where_it_is_named():
    images = np.zeros((1, 2, 2), np.uint8)
    kinds: list[dict[str, Any]] = [{"context": images}, {"queries": images, "summary": TOTALS[0]}]
    for inputs in kinds:
        for outputs in (None, []):
            body, headers = encode_request(**inputs, outputs=outputs)
            assert "site" not in decode_request(body, length_of(headers)).outputs
        body, headers = encode_request(**inputs, outputs=["site"])
        assert list(decode_request(body, length_of(headers)).outputs) == ["site"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ({"summary": TOTALS[0]}, None, "neither queries nor context"),
        ({"summary": TOTALS[0]}, [], "neither queries nor context"),
        ({"summary": TOTALS[0]}, ["site", "embedding"], "none of this request's"),
        ({"summary": TOTALS[0]}, ["site", "site"], "given twice"),
        ({"queries": np.zeros((1, 2, 2), np.uint8)}, ["site"], "none of this request's"),
    ],
)
def test_a_site_of_nothing_is_refused(inputs, outputs, says):
    body, headers = encode_request(**inputs, outputs=outputs)
    with pytest.raises(BadRequest, match=says):
        decode_request(body, length_of(headers))


def test_the_site_of_no_summaries_is_refused():
    inputs = [
        {"name": "summary", "datatype": "FP64", "shape": [0, 2], "data": []},
        {"name": "count", "datatype": "INT64", "shape": [0], "data": []},
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "site"}]}).encode()
    with pytest.raises(BadRequest, match="summary has shape"):
        decode_request(body, None)


def a_tensor(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "queries", "datatype": "UINT8", "shape": [1, 2, 2], "data": [0, 1, 2, 3]}
    return tensor | changes


def decoded(**request: Any):
    return decode_request(json.dumps(request).encode(), None)


@pytest.mark.parametrize("field", ["id", "parameters", "outputs"])
def test_a_field_that_is_null_is_absent(field):
    assert decoded(inputs=[a_tensor()], **{field: None}).queries is not None


@pytest.mark.parametrize("name", ["model", "binary_data_output", "sequence_id", "timeout"])
def test_a_parameter_that_is_null_is_absent(name):
    assert decoded(inputs=[a_tensor()], parameters={name: None}).model == ""


def test_nulls_within_tensors_and_outputs_are_absent():
    nothing = {"binary_data_size": None, "shared_memory_region": None}
    for tensor in (a_tensor(parameters=None), a_tensor(parameters=nothing)):
        assert decoded(inputs=[tensor]).queries is not None
    for parameters in (None, {"binary_data": None, "classification": None}):
        outputs = [{"name": "embedding", "parameters": parameters}]
        assert decoded(inputs=[a_tensor()], outputs=outputs).outputs == {"embedding": False}
    body, headers = encode_request(queries=np.zeros((1, 2, 2), np.uint8))
    header = json.loads(body[: length_of(headers)])
    header["inputs"][0]["data"] = None
    text = json.dumps(header).encode()
    assert decode_request(text + body[length_of(headers) :], len(text)).queries is not None


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_that_is_not_there_is_refused_by_its_name(name):
    asked = {name: 1}
    for request in (
        {"inputs": [a_tensor()], "parameters": asked},
        {"inputs": [a_tensor(parameters=asked)]},
        {"inputs": [a_tensor()], "outputs": [{"name": "embedding", "parameters": asked}]},
    ):
        with pytest.raises(BadRequest, match=f"the parameter {name}, an extension"):
            decoded(**request)
