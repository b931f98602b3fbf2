"""TorchServe's own part of a worker, made lighter: what it does for a request beside our handler.

TorchServe 0.12 reads every number and name of a request with system calls of its own, some sixty a
request, and writes two log lines while the client waits, which say less than ours. Of a form it
makes an input of each field, of which 20 MB hold ten million. No release will change that. What is
replaced here is looked for first: a TorchServe that has it not is left as it is, and only slower.
"""

from __future__ import annotations

import gc
import inspect
import logging
import struct
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger(__name__)

MOST_INPUTS = 32  # of one request, its headers over gRPC among them; it needs a handful
TOO_MANY_INPUTS = "metavae: too many inputs"  # an input of this name stands for those left out

_RECEIVE = 1 << 16  # bytes asked for at a time
_PROTOCOL = "ts.protocol.otf_message_handler"
_LENGTH = struct.Struct("!i")

Input = dict[str, Any]


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
    if _takes(protocol, "_retrieve_buffer", ["conn", "length"]):
        reader = Reader()
        protocol._retrieve_buffer = reader.take
        if _takes(protocol, "_retrieve_input_data", ["conn"]):
            protocol._retrieve_input_data = at_most(
                MOST_INPUTS, protocol._retrieve_input_data, reader
            )
    if isinstance(getattr(protocol, "logging", None), ModuleType):
        theirs = logging.getLogger(_PROTOCOL)
        theirs.setLevel(logging.WARNING)  # below: one line for every request
        protocol.logging = theirs
    if hasattr(metrics, "add_time"):
        metrics.add_time = _ignore  # only TorchServe calls it: PredictionTime, of every batch
    # What is loaded stays, torch above all: no collection needs to look at it again.
    gc.collect()
    gc.freeze()


class Reader:
    """Reads a socket many bytes at a time, and keeps what is left for the next call.

    The process ends where nothing comes, as TorchServe's own does.
    """

    def __init__(self) -> None:
        self._held, self._at = b"", 0
        self._of: Socket | None = None

    def take(self, socket: Socket, length: int) -> bytes | bytearray:
        """The next `length` bytes: TorchServe's `_retrieve_buffer`."""
        self._turn_to(socket)
        held, at = self._held, self._at
        end = at + max(length, 0)  # as their own reader takes a negative one
        if end <= len(held):
            self._at = end
            return held[at:end]
        found, have = bytearray(length), len(held) - at
        found[:have] = held[at:]
        self._held, self._at = b"", 0
        with memoryview(found) as rest:
            while length - have >= _RECEIVE:  # straight to where it belongs
                have += _some(socket.recv_into(rest[have:]))
            while have < length:
                self._held = socket.recv(_RECEIVE)
                self._at = min(_some(len(self._held)), length - have)
                rest[have : have + self._at] = self._held[: self._at]
                have += self._at
        return found

    def skip(self, socket: Socket) -> None:
        """Pass over a list to its end: parts, each after its length, then -1 for a length."""
        self._turn_to(socket)
        held, at, length_at = self._held, self._at, _LENGTH.unpack_from
        while True:
            try:
                while (length := length_at(held, at)[0]) >= 0:
                    at += _LENGTH.size + length
            except struct.error:  # the next length lies behind what is held
                at -= len(held)
                rest, held = held[at:] if at < 0 else b"", socket.recv(_RECEIVE)
                _some(len(held))
                held, at = rest + held, max(at, 0)
            else:
                self._held, self._at = held, at + _LENGTH.size
                return

    def _turn_to(self, socket: Socket) -> None:
        if socket is not self._of:
            self._held, self._at, self._of = b"", 0, socket


def at_most(
    most: int, theirs: Callable[[Socket], Input | None], reader: Reader
) -> Callable[[Socket], Input | None]:
    """TorchServe's `_retrieve_input_data`, which gives `most` inputs of a request at most.

    In place of all that follow comes one named TOO_MANY_INPUTS.
    """
    given = 0  # of the request that is being read

    def retrieve(socket: Socket) -> Input | None:
        nonlocal given
        if given > most:  # what followed has been passed over
            given = 0
            return None
        found = theirs(socket)
        given = given + 1 if found is not None else 0
        if given <= most:
            return found
        reader.skip(socket)
        return {"name": TOO_MANY_INPUTS, "contentType": "", "value": b""}

    return retrieve


def _some(received: int) -> int:
    if received == 0:
        logger.info("the front-end has disconnected")
        sys.exit(0)
    return received


def _takes(protocol: Any, function: str, parameters: list[str]) -> bool:
    found = getattr(protocol, function, None)
    return callable(found) and list(inspect.signature(found).parameters) == parameters


def _ignore(*_: object, **__: object) -> None:
    """Take no note."""
