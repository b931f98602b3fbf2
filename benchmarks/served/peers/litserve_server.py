# pyright: reportMissingImports=false
"""LitServe: one worker, raw bytes in and out, its queue over ZeroMQ ("fast queue")."""

import signal
from typing import Annotated

import litserve
from fastapi import Body, Response

from served.peers.model import RAW_TYPE, Model, port


class Embed(litserve.LitAPI):
    """Bodies pass through FastAPI as they are, and to the worker and back."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.model = Model()

    def decode_request(self, request: Annotated[bytes, Body(media_type=RAW_TYPE)]) -> bytes:
        """Nothing is decoded but by the model."""
        return request

    def predict(self, x: bytes) -> bytes:
        """Embed the queries of one request."""
        return self.model.answer(x)

    def encode_response(self, output: bytes) -> Response:
        """Nothing is encoded."""
        return Response(output, media_type=RAW_TYPE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends its workers on Ctrl-C alone
    litserve.LitServer(
        Embed(), accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=True
    ).run(host="127.0.0.1", port=port(), generate_client_file=False, log_level="warning")
