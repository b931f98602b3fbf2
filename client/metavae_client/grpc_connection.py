"""gRPC in place of HTTP: the same bodies through TorchServe's own `Predictions` call.

What comes back is told as the HTTP reply that it would have been, so that tokens, retries and
errors are those of `Connection`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx

from metavae_client.connection import Connection, Patience, is_local, parse_url, seconds_left
from metavae_client.errors import ServerUnreachable
from metavae_client.tokens import Key, Tokens
from metavae_serving.wire import HEADER_LENGTH, MAX_IMAGES_HEADER, json_length

if TYPE_CHECKING:
    import grpc

_INFER = re.compile(r"/v2/models/([^/]+)/infer")
_RESOURCE = re.compile(r"/predictions/([^/]+)/1\.0/(\w+)")
_PORT = 8083


class GrpcConnection(Connection):
    """A channel to one server, for any number of threads; see `Connection`.

    Raises ServerUnreachable where grpcio is not installed.
    """

    def __init__(self, url: str, tokens: Tokens, key: Key, patience: Patience) -> None:
        super().__init__(url, tokens, key, patience)
        try:
            import grpc

            from metavae_client import predictions
        except ImportError as error:
            raise ServerUnreachable(
                f"{url} is an address of gRPC, and {error.name} is not installed",
                hint="`pip install 'metavae[grpc]'`, or give the server's HTTP address",
                field="url",
            ) from error
        parsed = parse_url(url)
        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        # A proxy of the environment is for the network, not for this machine.
        options.append(("grpc.enable_http_proxy", int(not is_local(parsed))))
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        self._channel = grpc.insecure_channel(f"{host}:{parsed.port or _PORT}", options)
        self._request = predictions.PredictionsRequest
        self._call = self._channel.unary_unary(
            predictions.METHOD,
            request_serializer=predictions.PredictionsRequest.SerializeToString,
            response_deserializer=predictions.PredictionResponse.FromString,
        )

    def close(self) -> None:
        """Close the channel; requests that wait for a retry give up."""
        super().close()
        self._channel.close()

    def _reply(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> httpx.Response:
        import grpc

        asked = httpx.Request(method, f"{self.url}{path}", content=body)
        given = dict(headers)
        token = given.pop("Authorization", None)
        metadata = (("authorization", token),) if token else ()

        def call(model: str, **inputs: bytes) -> httpx.Response:
            fields = {name: text.encode() for name, text in given.items()}
            request = self._request(model_name=unquote(model), input=fields | inputs)
            try:
                found = self._call(request, timeout=seconds_left(deadline), metadata=metadata)
            except grpc.RpcError as error:
                return _failure(error, asked)
            except ValueError as error:  # grpc's word for a channel that another thread has closed
                raise RuntimeError("the channel is closed") from error
            return _success(found.prediction, asked)

        if found := _INFER.fullmatch(path):
            return call(found[1], body=body or b"")
        found = _RESOURCE.fullmatch(path)
        assert found is not None, path  # noqa: S101 - one of our own
        response = call(found[1], url_path=found[2].encode())
        limits = call(found[1], url_path=b"limits") if found[2] == "card" else None
        if limits is not None and limits.is_success and response.is_success:
            response.headers[MAX_IMAGES_HEADER] = str(limits.json()["max_images"])
        return response


def _success(content: bytes, asked: httpx.Request) -> httpx.Response:
    """A reply; an error of ours is one too, and says of which status."""
    if content.startswith(b'{"error"'):
        status = json.loads(content)["error"]["status"]
        return httpx.Response(status, content=content, request=asked)
    length = {HEADER_LENGTH: str(json_length(content))}
    return httpx.Response(HTTPStatus.OK, content=content, headers=length, request=asked)


def _failure(error: grpc.RpcError, asked: httpx.Request) -> httpx.Response:
    """TorchServe's own refusal as its HTTP API says it; raises what httpx would for a lost call."""
    import grpc

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
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # a message above its limit
        return httpx.Response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, request=asked)
    elif code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
        return httpx.Response(HTTPStatus.NOT_FOUND, request=asked)  # another API than this
    fault = {
        "code": int(status),
        "type": kind,
        "message": details.splitlines()[0] if details else "",
    }
    return httpx.Response(status, json=fault, request=asked)
