"""The body of a request or reply: one JSON object, and the bytes of its binary tensors after it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from metavae_zoo.protocol.errors import BadRequest
from metavae_zoo.protocol.tensors import array_bytes, declare, shown

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"

_WINDOW = 4096  # more than the JSON of a reply takes whose tensors are binary


def join_body(
    header: dict[str, Any], kind: str, arrays: dict[str, NDArray], binary: dict[str, bool]
) -> tuple[bytes, dict[str, str]]:
    """Return a body and its HTTP headers: `header` with `arrays` declared as its `kind`.

    `binary` says of each array whether its bytes follow the JSON.
    """
    header[kind] = [declare(name, array, binary=binary[name]) for name, array in arrays.items()]
    text = to_json(header)
    if not any(binary.values()):
        return text, {"Content-Type": JSON_TYPE}
    parts = [array_bytes(array) for name, array in arrays.items() if binary[name]]
    return b"".join([text, *parts]), {
        "Content-Type": BINARY_TYPE,
        HEADER_LENGTH: str(len(text)),
    }


def split_body(
    body: bytes | bytearray | memoryview, header_length: int | None
) -> tuple[dict[str, Any], memoryview]:
    """The JSON object at the start of `body`, and what follows it.

    `header_length` is the length of the JSON, None if it is all. Raises BadRequest.
    """
    whole = memoryview(body)
    length = len(whole) if header_length is None else header_length
    if not 0 < length <= len(whole):
        raise BadRequest(
            f"{HEADER_LENGTH} is {shown(length)}, the body has {len(whole)} bytes",
            hint="Give the length of the body's JSON part, in bytes",
            field=HEADER_LENGTH,
        )
    try:
        content = from_json(bytes(whole[:length]), allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(
            f"the first {length} bytes of the body are not JSON ({error})",
            hint='Send one object, {"inputs": [...]}, of finite numbers; where binary'
            f" tensors follow it, give its length as {HEADER_LENGTH}",
        ) from error
    if not isinstance(content, dict):
        raise BadRequest(
            f"the body is {shown(content)}, expected a JSON object",
            hint='Give {"inputs": [...]}, or see the README for a whole request',
        )
    return content, whole[length:]


def json_length(body: bytes) -> int:
    """Length of the JSON object that `body` starts with, where no header says it; 0 if none does.

    Read as Latin-1, in which every character is a byte.
    """
    for window in (_WINDOW, len(body)):
        with suppress(ValueError, RecursionError):
            return _FINDER.raw_decode(body[:window].decode("latin-1"))[1]
    return 0


_FINDER = json.JSONDecoder()
