"""Claims about spans: a real exporter sends them to a collector that reads them as one would."""

from __future__ import annotations

import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from metavae_serving.answering.access_log import Journal
from metavae_serving.answering.answerer import Answerer, Question
from metavae_serving.answering.metrics import Meter
from metavae_serving.answering.tracing import open_tracer
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.protocol.wire import encode_request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch):
    """Spans that come to an endpoint of OTLP over HTTP, which the environment names."""
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        yield spans
        server.shutdown()


def test_a_request_is_a_span_below_its_callers_and_holds_no_content(collector, bundle, until):
    embedder = OnnxEmbedder(bundle, threads=1)
    tracer = open_tracer(bundle.card.name)
    answerer = Answerer(embedder, 100, Meter("m"), Journal(), tracer)
    images = np.full((3, *bundle.card.image_shape), 77, np.uint8)
    body, headers = encode_request(context=images)
    lowered = {name.lower(): text for name, text in headers.items()}
    lowered |= {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    answerer.answer([Question(body, lowered, "theirs"), Question(b"{", {}, "theirs")])

    until(lambda: len(collector) == 2)
    asked, bad = sorted(collector, key=lambda span: span.name)
    assert (asked.trace_id.hex(), asked.parent_span_id.hex()) == (TRACE, PARENT)
    assert (asked.name, bad.name) == ("summarize", "unknown")
    assert asked.end_time_unix_nano > asked.start_time_unix_nano
    told = {
        one.key: one.value.string_value or one.value.int_value
        for one in asked.attributes
        if one.key.startswith("metavae.")
    }
    assert told == {
        "metavae.request_id": "mine",
        "metavae.outcome": "ok",
        "metavae.queries": 0,
        "metavae.context": 3,
    }
    assert bad.parent_span_id == b""


def test_without_an_endpoint_nothing_is_traced(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_tracer("m") is None


def test_without_the_package_the_log_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert open_tracer("m") is None
    assert "pip install -e '.[trace]'" in caplog.text
