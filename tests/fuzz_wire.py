"""`make fuzz`: coverage-guided bytes against the decoder, by atheris; it ends with the first crash.

Every body is read as JSON alone and with a JSON part of some length. Nothing but a BadRequest may
come out. Arguments are libFuzzer's, such as -max_total_time=300.
"""

# atheris is installed by `make fuzz` alone, and tells a type checker next to nothing.
# pyright: reportMissingModuleSource=false, reportAttributeAccessIssue=false
# pyright: reportMissingImports=false

from __future__ import annotations

import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["metavae_serving"]):
    from metavae_serving.tensors import BadRequest
    from metavae_serving.wire import decode_reply, decode_request


def one(data: bytes) -> None:
    """Read some bytes in every way."""
    provider = atheris.FuzzedDataProvider(data)
    length = provider.ConsumeIntInRange(0, 2000)
    body = provider.ConsumeBytes(len(data))
    for header_length in (None, length):
        with suppress(BadRequest):
            decode_request(body, header_length)
        with suppress(BadRequest):
            decode_reply(body, header_length)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
