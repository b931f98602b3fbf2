# pyright: reportMissingImports=false
"""Ray Serve: one replica behind its HAProxy, raw bytes by Starlette's request and response."""

import os
import signal
from pathlib import Path

from served.peers.model import RAW_TYPE, Model, port

_PROXY = "RAY_SERVE_HAPROXY"

# Read when Ray is imported, here and in the processes that it starts.
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    f"{_PROXY}_NBTHREAD": "1",  # four by default, for larger machines
    f"{_PROXY}_CONFIG_FILE_LOC": str(Path("proxy/haproxy.cfg").absolute()),
    f"{_PROXY}_SOCKET_PATH": str(Path("proxy/admin.sock").absolute()),
    f"{_PROXY}_METRICS_SOCKET_PATH": str(Path("proxy/metrics.sock").absolute()),
    f"{_PROXY}_SERVER_STATE_BASE": str(Path("proxy").absolute()),
    f"{_PROXY}_SERVER_STATE_FILE": str(Path("proxy/server-state").absolute()),
    f"{_PROXY}_METRICS_PORT": str(port() + 1),
    f"{_PROXY}_STATS_PORT": str(port() + 2),
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port() + 3),
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port() + 4),
}

import ray  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

_LOGGING = {"enable_access_log": False}


class Embed:
    """Holds the model."""

    def __init__(self) -> None:
        self._model = Model()

    async def __call__(self, request: Request) -> Response:
        """Embed the queries of one request."""
        return Response(self._model.answer(await request.body()), media_type=RAW_TYPE)


if __name__ == "__main__":
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port()}, logging_config=_LOGGING)
    deployment = serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config=_LOGGING)
    serve.run(deployment(Embed).bind(), route_prefix="/embed")
    signal.sigwait({signal.SIGTERM})
    ray.shutdown()
