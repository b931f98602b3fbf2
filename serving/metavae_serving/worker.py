"""TorchServe's own part of a worker, made lighter: what it does for a request beside our handler.

TorchServe 0.12 reads every number and name of a request with system calls of its own, some sixty a
request, and writes two log lines while the client waits, which say less than ours. No release
will change that. What is replaced here is looked for first: a TorchServe that has it not is left
as it is, and only slower.
"""

from __future__ import annotations

import gc
import inspect
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger(__name__)

_RECEIVE = 1 << 16  # bytes asked for at a time
_PROTOCOL = "ts.protocol.otf_message_handler"

Retrieve = Callable[["Socket", int], bytes | bytearray]


class Socket(Protocol):
    """What is used of a socket."""

    def recv(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...

    def recv_into(self, buffer: memoryview, /) -> int:
        """How many bytes came into `buffer`."""
        ...


def lighten(metrics: Any) -> None:
    """Make the worker that this runs in lighter; `metrics` is its TorchServe context's."""
    protocol: Any = sys.modules.get(_PROTOCOL)
    if protocol is None:  # it is not TorchServe that calls
        return
    if _takes_socket_and_length(protocol):
        protocol._retrieve_buffer = buffered()
    if isinstance(getattr(protocol, "logging", None), ModuleType):
        theirs = logging.getLogger(_PROTOCOL)
        theirs.setLevel(logging.WARNING)  # below: one line for every request
        protocol.logging = theirs
    if hasattr(metrics, "add_time"):
        metrics.add_time = _ignore  # only TorchServe calls it: PredictionTime, of every batch
    # What is loaded stays, torch above all: no collection needs to look at it again.
    gc.collect()
    gc.freeze()


def buffered() -> Retrieve:
    """TorchServe's `_retrieve_buffer(socket, length)`, which ends the process where nothing comes.

    It asks for many bytes at a time and keeps what is left for the next call.
    """
    held, at, of = b"", 0, None

    def retrieve(socket: Socket, length: int) -> bytes | bytearray:
        nonlocal held, at, of
        if socket is not of:
            held, at, of = b"", 0, socket
        end = at + max(length, 0)  # as their own reader takes a negative one
        if end <= len(held):
            found, at = held[at:end], end
            return found
        found, have = bytearray(length), len(held) - at
        found[:have] = held[at:]
        held, at = b"", 0
        with memoryview(found) as rest:
            while length - have >= _RECEIVE:  # straight to where it belongs
                have += _some(socket.recv_into(rest[have:]))
            while have < length:
                held = socket.recv(_RECEIVE)
                at = min(_some(len(held)), length - have)
                rest[have : have + at] = held[:at]
                have += at
        return found

    return retrieve


def _some(received: int) -> int:
    if received == 0:
        logger.info("the front-end has disconnected")
        sys.exit(0)
    return received


def _takes_socket_and_length(protocol: Any) -> bool:
    found = getattr(protocol, "_retrieve_buffer", None)
    return callable(found) and list(inspect.signature(found).parameters) == ["conn", "length"]


def _ignore(*_: object, **__: object) -> None:
    """Take no note."""
