"""`make fuzz`: coverage-guided bytes against the decoder, by atheris; it ends with the first crash.

Every body is read as JSON alone and with a JSON part of some length, as a request and as a reply.
Nothing but a BadRequest may come out. It begins with good requests: by chance alone hardly any
bytes are JSON. Arguments are libFuzzer's, such as -max_total_time=300.
"""

# atheris is installed by `make fuzz` alone, and tells a type checker next to nothing.
# pyright: reportMissingModuleSource=false, reportAttributeAccessIssue=false
# pyright: reportMissingImports=false

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["metavae_serving"]):
    from metavae_zoo.protocol.errors import BadRequest
    from metavae_zoo.protocol.wire import (
        HEADER_LENGTH,
        decode_reply,
        decode_request,
        encode_reply,
        encode_request,
    )
from metavae_zoo.embedding.summary import Summary

_LENGTH = 2  # bytes at the start that give the length of the JSON part
_WORDS = (
    "id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "model",
    "binary_data", "binary_data_size", "binary_data_output", "queries", "context", "summary",
    "count", "embedding", "log_variance", "UINT8", "FP32", "FP64", "INT64",
)  # fmt: skip
_VALUES = ("true", "false", "null", "[]", "{}", "-1", "0", "1e999", "2147483647", "NaN", "[[0]]")


def one(data: bytes) -> None:
    """Read some bytes in every way."""
    length, body = int.from_bytes(data[:_LENGTH], "little"), data[_LENGTH:]
    for header_length in (None, length):
        with suppress(BadRequest):
            decode_request(body, header_length)
        with suppress(BadRequest):
            decode_reply(body, header_length)


def seeds() -> Iterator[bytes]:
    """Good requests of every kind, on images of two by two, and the replies to them."""
    images, summary = np.zeros((2, 2, 2), np.uint8), Summary(np.zeros(3), 2, "digest")
    outputs = {"embedding": np.zeros((2, 3), np.float32), "summary": np.zeros(3)}
    for binary in (False, True):
        for request in (
            encode_request(queries=images, context=images, binary=binary),
            encode_request(queries=images / np.float32(255), summary=summary, binary=binary),
            encode_request(queries=images, summary=[summary, summary], binary=binary),
        ):
            yield _seed(*request)
        asked = decode_request(*_parts(encode_request(queries=images, context=images)))
        asked.outputs.clear()
        asked.outputs.update(dict.fromkeys(outputs, binary))
        yield _seed(*encode_reply(outputs, asked, model_name="name", model="digest"))


def _parts(request: tuple[bytes, dict[str, str]]) -> tuple[bytes, int | None]:
    body, headers = request
    return body, int(headers[HEADER_LENGTH]) if HEADER_LENGTH in headers else None


def _seed(body: bytes, headers: dict[str, str]) -> bytes:
    length = int(headers.get(HEADER_LENGTH, len(body)))
    return length.to_bytes(_LENGTH, "little") + body


def main(folder: Path) -> None:
    """Fuzz with the corpus in `folder`, which grows from run to run; does not return."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = [f'\\"{word}\\"' for word in _WORDS] + list(_VALUES)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    atheris.Setup([*sys.argv, f"-dict={folder / 'words'}", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "build" / "fuzz")
