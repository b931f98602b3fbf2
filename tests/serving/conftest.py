"""What the server's tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from metavae_serving.torchserve.archive import pack
from metavae_zoo.images import Images
from metavae_zoo.protocol.wire import encode_request

Requests: TypeAlias = list[tuple[bytes, dict[str, str]]]  # bodies and headers


@pytest.fixture
def store(bundle, settings, tmp_path) -> Path:
    """A packed store of the test's own, on free ports."""
    pack([bundle], tmp_path / "store", settings)
    return tmp_path / "store"


@pytest.fixture(scope="session")
def requests_of() -> Callable[[Sequence[tuple[Images, Images]]], Requests]:
    """Requests of many clients, from the queries and the context of each.

    Every third is in JSON, and every sixth, from the first, is one byte short.
    """

    def requests(asked: Sequence[tuple[Images, Images]]) -> Requests:
        whole = [
            encode_request(queries=queries, context=context, binary=client % 3 > 0)
            for client, (queries, context) in enumerate(asked)
        ]
        return [
            (body if client % 6 else body[:-1], headers)
            for client, (body, headers) in enumerate(whole)
        ]

    return requests
