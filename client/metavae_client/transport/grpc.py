"""gRPC in place of HTTP: the same bodies through TorchServe's own `Predictions` call.

It is a transport under httpx: each result becomes the HTTP reply that it would have been, so that
tokens, retries and errors are those of `Connection`.
"""

from __future__ import annotations

import json
import re
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import grpc
import httpx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from metavae_client.transport.replies import MOST_BYTES
from metavae_zoo.parsing import parse_json
from metavae_zoo.protocol.wire import (
    HEADER_LENGTH,
    MAX_IMAGES_HEADER,
    MAX_REQUEST_BYTES,
    json_length,
)

METHOD = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
_FIELD = descriptor_pb2.FieldDescriptorProto
_INFER = re.compile(r"/v2/models/([^/]+)/infer")
_RESOURCE = re.compile(r"/predictions/([^/]+)/1\.0/(\w+)")
_PORT = 8083


def _messages() -> tuple[Any, Any]:
    """The request and the response; field names and numbers are those of inference.proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="metavae/predictions.proto", package="metavae.predictions", syntax="proto3"
    )
    request = file.message_type.add(name="PredictionsRequest")
    request.field.add(name="model_name", number=1, type=_FIELD.TYPE_STRING, label=1)
    request.field.add(name="model_version", number=2, type=_FIELD.TYPE_STRING, label=1)
    request.field.add(
        name="input",
        number=3,
        type=_FIELD.TYPE_MESSAGE,
        label=_FIELD.LABEL_REPEATED,
        type_name=".metavae.predictions.PredictionsRequest.InputEntry",
    )
    entry = request.nested_type.add(name="InputEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=_FIELD.TYPE_BYTES, label=1)
    response = file.message_type.add(name="PredictionResponse")
    response.field.add(name="prediction", number=1, type=_FIELD.TYPE_BYTES, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = ("PredictionsRequest", "PredictionResponse")
    request_type, response_type = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in names
    )
    return request_type, response_type


PredictionsRequest, PredictionResponse = _messages()


class GrpcTransport(httpx.BaseTransport):
    """A channel to one server, for any number of threads.

    `proxied`: whether a proxy of the environment is used.
    """

    def __init__(self, url: httpx.URL, *, proxied: bool) -> None:
        options = (
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.enable_http_proxy", int(proxied)),
        )
        host = f"[{url.host}]" if ":" in url.host else url.host
        self._channel = grpc.insecure_channel(f"{host}:{url.port or _PORT}", options)
        self._predict = self._channel.unary_unary(
            METHOD,
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        self._channel.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One call, or two for a card: its reply has no headers, which would tell the limits.

        Both end within the read timeout of the request, in seconds.
        """
        deadline = time.monotonic() + request.extensions["timeout"]["read"]
        path = request.url.raw_path.decode()
        if found := _INFER.fullmatch(path):
            return self._call(request, deadline, found[1], body=request.read())
        if not (found := _RESOURCE.fullmatch(path)):
            return _another_api()
        response = self._call(request, deadline, found[1], url_path=found[2].encode())
        if found[2] == "card" and response.is_success:
            limits = self._call(request, deadline, found[1], url_path=b"limits")
            if limits.is_success:
                most = _whole_number(limits.read(), "max_images")
                if most is None:
                    return _another_api()
                response.headers[MAX_IMAGES_HEADER] = str(most)
        return response

    def _call(
        self, request: httpx.Request, deadline: float, model: str, **inputs: bytes
    ) -> httpx.Response:
        headers = httpx.Headers(request.headers)
        token = headers.pop("Authorization", None)  # as metadata: a message may be logged
        fields = {name: text.encode() for name, text in headers.items()}
        message = PredictionsRequest(model_name=unquote(model), input=fields | inputs)
        metadata = (("authorization", token),) if token else ()
        if message.ByteSize() > MAX_REQUEST_BYTES:  # TorchServe resets the call without a word
            return _response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            # The call has no timeout of its own: TorchServe answers a cancelled call with an
            # exception that takes the worker down.
            call = self._predict.future(message, metadata=metadata)
            found = call.result(timeout=deadline - time.monotonic())
        except grpc.FutureTimeoutError as error:
            raise httpx.ReadTimeout("no reply in time", request=request) from error
        except grpc.RpcError as error:
            return _failure(error, request)
        except ValueError as error:  # another thread has closed the channel
            raise RuntimeError("the channel is closed") from error
        return _success(found.prediction)


def _success(content: bytes) -> httpx.Response:
    """The HTTP reply of a successful call; an error of ours is one, and has its status in it."""
    if not content.startswith(b'{"error"'):
        return _response(HTTPStatus.OK, content, {HEADER_LENGTH: str(json_length(content))})
    status = _whole_number(content, "status")
    if status is None:
        return _another_api()
    seconds = _whole_number(content, "retry_after")
    return _response(status, content, {} if seconds is None else {"Retry-After": str(seconds)})


def _whole_number(content: bytes, name: str) -> int | None:
    """The whole number of this name in a JSON object; None if there is none."""
    try:
        found = parse_json(content)[name]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, int) else None


def _failure(error: grpc.RpcError, asked: httpx.Request) -> httpx.Response:
    """The HTTP reply of TorchServe's own refusal; raises httpx's errors for a lost call."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        raise httpx.ConnectError(details, request=asked) from error
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        raise httpx.ReadTimeout(details, request=asked) from error
    status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableException"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        status, kind = HTTPStatus.BAD_REQUEST, "InvalidKeyException"
    elif "ModelNotFoundException" in details or "ModelVersionNotFoundException" in details:
        status, kind = HTTPStatus.NOT_FOUND, "ModelNotFoundException"
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and "Received message larger" in details:
        return _another_api()
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # a message above its limit
        return _response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    elif code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
        return _another_api()
    message = details.splitlines()[0] if details else ""
    fault = {"code": int(status), "type": kind, "message": message}
    return _response(status, json.dumps(fault).encode())


def _another_api() -> httpx.Response:
    """The reply of an API that is not ours."""
    return _response(HTTPStatus.NOT_FOUND)


def _response(
    status: int, content: bytes = b"", headers: dict[str, str] | None = None
) -> httpx.Response:
    """A reply whose body is still to be read, as over HTTP."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))
