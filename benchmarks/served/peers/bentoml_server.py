# pyright: reportMissingImports=false
"""BentoML: one worker, raw bytes through an ASGI app that is mounted on the service."""

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from served.peers.model import RAW_TYPE, Model


async def embed(request: Request) -> Response:
    """Embed the queries of one request."""
    service = bentoml.get_current_service()
    return Response(service.model.answer(await request.body()), media_type=RAW_TYPE)


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
@bentoml.asgi_app(Starlette(routes=[Route("/embed", embed, methods=["POST"])]))
class Embed:
    """Holds the model."""

    def __init__(self) -> None:
        self.model = Model()
