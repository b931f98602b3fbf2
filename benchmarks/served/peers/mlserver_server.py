# pyright: reportMissingImports=false
"""MLServer: one process, raw bytes by a custom handler, since its REST has no binary tensors."""

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler
from starlette.requests import Request
from starlette.responses import Response

from served.peers.model import RAW_TYPE, Model, port


class Embed(MLModel):
    """Holds the model."""

    async def load(self) -> bool:
        """Load it."""
        self._model = Model()
        return True

    @custom_handler(rest_path="/embed")
    async def embed(self, request: Request) -> Response:
        """Embed the queries of one request."""
        return Response(self._model.answer(await request.body()), media_type=RAW_TYPE)


if __name__ == "__main__":
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=port(),
            grpc_port=port() + 1,
            metrics_endpoint=None,
            parallel_workers=0,  # the model in the server's own process, without a queue between
            debug=False,
            gzip_enabled=False,
        )
    )
    model = ModelSettings(name="embed", implementation="served.peers.mlserver_server.Embed")
    asyncio.run(server.start([model]))
