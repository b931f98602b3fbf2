# pyright: reportMissingImports=false
"""KServe: one process, raw bytes by its v1 protocol, which hands a model all that is not JSON.

Its v2 protocol takes binary tensors too, but makes Python lists of them, number by number.
"""

import logging

from kserve import Model as KServeModel
from kserve import ModelServer

from served.peers.model import Model, port


class Embed(KServeModel):
    """Holds the model."""

    def __init__(self) -> None:
        super().__init__("embed")
        self._model = Model()
        self.ready = True

    async def predict(self, payload: bytes, headers=None, response_headers=None) -> bytes:
        """Embed the queries of one request."""
        return self._model.answer(payload)


if __name__ == "__main__":
    server = ModelServer(
        http_port=port(), workers=1, enable_grpc=False, enable_latency_logging=False
    )
    for name in ("kserve.trace", "uvicorn.access"):  # two lines a request
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([Embed()])
