"""OpenTelemetry spans, one a request: where the package is installed and an endpoint configured.

The endpoint, its headers and the sampling come from the variables that OpenTelemetry itself names
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, ...). A span is the child of the caller's, by the
request's `traceparent`; it tells sizes and outcome, and no content.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from metavae_serving.answering.headers import trace_parent
from metavae_zoo.errors import install

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_tracer(model: str) -> Tracer | None:
    """The tracer of a worker; None where no endpoint is configured, or no package installed."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        return Tracer(model)
    except ModuleNotFoundError as error:
        logger.warning(
            "an OpenTelemetry endpoint is configured and %s is not installed: no spans are sent."
            " %s",
            error.name,
            install("trace"),
        )
    except Exception as error:  # OpenTelemetry raises what it likes for variables that it names
        logger.warning(
            "OpenTelemetry cannot be set up (%s): no spans are sent. Check the variables OTEL_*",
            error,
        )
    return None


class Tracer:
    """Makes a span of every request that has been answered; see `open_tracer`."""

    def __init__(self, model: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "metavae"}
        provider = TracerProvider(resource=Resource.create({"metavae.model": model} | named))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer(__name__)
        # Of the headers that a caller can send only the one that has been looked at: what others
        # hold that is wrong, OpenTelemetry would log.
        self._extract = TraceContextTextMapPropagator().extract
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def record(
        self,
        name: str,
        seconds: float,
        headers: Mapping[str, str],
        attributes: Mapping[str, str | int],
        *,
        failed: bool,
    ) -> None:
        """A span of `seconds` that ends now, below the one that `headers` name."""
        end = time.time_ns()
        span = self._tracer.start_span(
            name,
            context=self._extract({"traceparent": trace_parent(headers)}),
            kind=self._kind,
            attributes=attributes,
            start_time=end - int(seconds * 1e9),
        )
        if failed:
            span.set_status(self._failed)
        span.end(end)
