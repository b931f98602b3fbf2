"""A patch of TorchServe 0.12's worker: buffered reads, few inputs of a request, quiet logs.

TorchServe 0.12 reads each number and each name of a request with a system call of its own, some
sixty a request. It writes two log lines while the client waits. Of a form it makes an input for
each field, and 20 MB hold ten million fields. No release will change that. A TorchServe whose
functions differ is left as it is.
"""

from __future__ import annotations

import gc
import inspect
import logging
import struct
import sys
from types import ModuleType
from typing import IO, Any

logger = logging.getLogger(__name__)

MOST_INPUTS = 32  # of one request, its headers over gRPC included; a request needs a handful
TOO_MANY_INPUTS = "metavae: too many inputs"  # the name of an input that stands for the rest

_BUFFER = 1 << 16  # bytes
_PROTOCOL = "ts.protocol.otf_message_handler"


def patch_torchserve(metrics: Any) -> None:
    """Patch the worker that this runs in; `metrics` is its TorchServe context's."""
    protocol: Any = sys.modules.get(_PROTOCOL)
    if protocol is None:  # it is not TorchServe that calls
        return
    if _takes(protocol, "_retrieve_buffer", ["conn", "length"]):
        protocol._retrieve_buffer = Reader().read
        if _takes(protocol, "_retrieve_input_data", ["conn"]):
            protocol._retrieve_input_data = FewInputs(protocol)
    if isinstance(getattr(protocol, "logging", None), ModuleType):
        theirs = logging.getLogger(_PROTOCOL)
        theirs.setLevel(logging.WARNING)  # one line for every request is below that
        protocol.logging = theirs
    if hasattr(metrics, "add_time"):
        metrics.add_time = _ignore  # TorchServe alone calls it, for the PredictionTime of a batch
    # Loaded modules stay, torch above all: the garbage collector need not look at them again.
    gc.collect()
    gc.freeze()


class Reader:
    """Reads messages from a socket through a buffer."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._file: IO[bytes]

    def read(self, conn: Any, length: int) -> bytes:
        """The next `length` bytes: TorchServe's `_retrieve_buffer`.

        The process ends if the front-end has closed the connection, as with TorchServe's own.
        """
        if conn is not self._socket:
            self._socket, self._file = conn, conn.makefile("rb", _BUFFER)
        found = self._file.read(max(length, 0))  # TorchServe takes a negative length for 0
        if len(found) < length:
            logger.info("the front-end has disconnected")
            sys.exit(0)
        return found


class FewInputs:
    """TorchServe's `_retrieve_input_data`, which gives MOST_INPUTS inputs of a request at most.

    An input named TOO_MANY_INPUTS stands for all that follow.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._theirs = protocol._retrieve_input_data
        self._given = 0  # inputs of the request that is being read

    def __call__(self, conn: Any) -> dict[str, Any] | None:
        """The next input of a request; None at its end."""
        if self._given > MOST_INPUTS:  # the rest has been skipped
            self._given = 0
            return None
        if self._given == MOST_INPUTS and self._skip(conn):
            self._given += 1
            return {"name": TOO_MANY_INPUTS, "contentType": "", "value": b""}
        found = None if self._given == MOST_INPUTS else self._theirs(conn)
        self._given = 0 if found is None else self._given + 1
        return found

    def _skip(self, conn: Any) -> bool:
        """Read to the end of the list of inputs; return whether there was one more."""
        read, unpack = self._protocol._retrieve_buffer, struct.Struct("!i").unpack
        skipped = False
        while (length := unpack(read(conn, 4))[0]) >= 0:
            read(conn, length)
            skipped = True
        return skipped


def _takes(protocol: Any, function: str, parameters: list[str]) -> bool:
    found = getattr(protocol, function, None)
    return callable(found) and list(inspect.signature(found).parameters) == parameters


def _ignore(*_: object, **__: object) -> None:
    """Do nothing."""
