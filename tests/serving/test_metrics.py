"""Claims about what a worker counts: nothing is lost on its way to Prometheus."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metavae_serving.answering.metrics import BATCH, COUNTERS, HISTOGRAMS, REQUESTS, STAGE, Meter
from metavae_zoo.protocol.wire import REQUEST_ID_HEADER, encode_request


def pattern_of_torchserve() -> re.Pattern[str]:
    """The regular expression that TorchServe reads a metric's line by, out of its own class."""
    import ts

    jar = Path(ts.__file__).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as packed:
        compiled = packed.read("org/pytorch/serve/metrics/Metric.class")
    end = rb"(,(.*))?"
    start = compiled.index(rb"\s*([\w")
    return re.compile(compiled[start : compiled.index(end, start) + len(end)].decode())


LINE = pattern_of_torchserve()


def samples(lines: list[str]) -> dict[tuple[str, frozenset[str]], float]:
    """Name and labels to value, as TorchServe takes them from a worker's lines."""
    found = {}
    for line in lines:
        assert line.startswith("[METRICS]")
        fields = LINE.fullmatch(line.removeprefix("[METRICS]"))
        assert fields is not None, line
        key = fields[1], frozenset(fields[4].split(","))
        assert key not in found
        found[key] = float(fields[3])
    return found


@given(values=st.lists(st.floats(0, 20), min_size=1, max_size=50))
def test_a_histogram_is_what_was_observed(values):
    meter = Meter("the-model")
    for value in values:
        meter.observe(STAGE, "encode", value=value)
    found = samples(meter.drain())
    labels = {"model:the-model", "stage:encode"}
    assert found[f"{STAGE}_count", frozenset(labels)] == len(values)
    assert found[f"{STAGE}_sum", frozenset(labels)] == pytest.approx(sum(values), rel=1e-6)
    for bound in (*HISTOGRAMS[STAGE][1], float("inf")):
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        within = sum(value <= bound for value in values)
        assert found[f"{STAGE}_bucket", frozenset(labels | {f"le:{le}"})] == within
    assert meter.drain() == [], "each observation is told once"


def test_counts_of_one_name_and_labels_are_added():
    meter = Meter("m")
    for _ in range(3):
        meter.count(REQUESTS, "embed", "ok")
    meter.count(REQUESTS, "embed", "refused", amount=2)
    assert samples(meter.drain()) == {
        (REQUESTS, frozenset({"model:m", "operation:embed", "outcome:ok"})): 3,
        (REQUESTS, frozenset({"model:m", "operation:embed", "outcome:refused"})): 2,
    }


def scraped(server) -> defaultdict[str, float]:
    """Samples of the server's Prometheus endpoint that are ours, `name{labels}` to value."""
    port = int(server.url.rsplit(":", 1)[1]) + 2
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    found: defaultdict[str, float] = defaultdict(float)
    for metric in text_string_to_metric_families(text):
        for sample in metric.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model", "Hostname")}
            # The parser adds the suffix to every counter; in the text it is as it was declared.
            name = sample.name if sample.name in COUNTERS else sample.name.removesuffix("_total")
            found[f"{name}{sorted(labels.items())}"] += sample.value
    return found


def settled(server) -> defaultdict[str, float]:
    """The same, once nothing more comes of what was asked before: workers tell once a second."""
    with httpx.Client(base_url=server.url, headers=server.headers()) as http:
        model = server.store.models[0]
        last = requests("card", "ok")
        known = scraped(server)[last]
        assert http.get(f"/predictions/{model}/1.0/card").status_code == 200
        deadline = time.monotonic() + 60
        while scraped(server)[last] == known:
            assert time.monotonic() < deadline
        return scraped(server)


def requests(operation: str, outcome: str) -> str:
    return f"{REQUESTS}{[('operation', operation), ('outcome', outcome)]}"


def test_the_servers_endpoint_counts_requests_images_stages_and_rejections(
    server, bundle, rng, until
):
    card = bundle.card
    images = rng.integers(0, 256, (5, *card.image_shape), np.uint8)
    bad = encode_request(queries=images)
    before = settled(server)
    with httpx.Client(base_url=server.url, headers=server.headers(), timeout=60) as http:

        def post(request: tuple[bytes, dict[str, str]]) -> httpx.Response:
            body, headers = request
            return http.post(f"/v2/models/{card.name}/infer", content=body, headers=headers)

        for _ in range(3):
            assert post(encode_request(queries=images, context=images)).status_code == 200
        assert post(encode_request(context=images)).status_code == 200
        assert post(bad).status_code == 400
        assert post((b"{", {"Content-Type": "application/json"})).status_code == 400
    expected = {
        requests("embed", "ok"): 3,
        requests("summarize", "ok"): 1,
        requests("embed", "refused"): 1,
        requests("unknown", "refused"): 1,
        "metavae_images_total[('operation', 'embed'), ('outcome', 'ok')]": 30,
        "metavae_summary_rejections_total[('field', 'context')]": 1,
        f"{STAGE}_count[('stage', 'decode')]": 6,
        f"{STAGE}_count[('stage', 'summarize')]": 4,
        f"{STAGE}_count[('stage', 'encode')]": 3,
        f"{STAGE}_count[('stage', 'reply')]": 4,
        f"{BATCH}_count[]": 4,
        f"{BATCH}_sum[]": 35,
        f"{BATCH}_bucket[('le', '10')]": 4,
        f"{BATCH}_bucket[('le', '2')]": 0,
    }

    def told() -> bool:
        now = scraped(server)
        return all(now[name] - before[name] >= count for name, count in expected.items())

    until(told)
    now = scraped(server)
    assert {name: now[name] - before[name] for name in expected} == expected


def test_every_metric_is_declared_to_torchserve(server):
    import yaml

    declared = yaml.safe_load((server.store.path / "metrics.yaml").read_text())["model_metrics"]
    names = {one["name"]: one["dimensions"] for one in declared["counter"]}
    meter = Meter("m")
    for name, labels in COUNTERS.items():
        meter.count(name, *labels)
    for name, (labels, _) in HISTOGRAMS.items():
        meter.observe(name, *labels, value=1)
    for name, labels in samples(meter.drain()):
        assert {label.split(":")[0] for label in labels} == set(names[name])


def test_a_request_keeps_its_id_and_its_trace(server, bundle, rng):
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    path = f"{server.url}/v2/models/{bundle.card.name}/infer"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for body, headers in (encode_request(context=images), encode_request(queries=images)):
        given = headers | server.headers() | {"X-Request-Id": "mine-7", "traceparent": trace}
        answer = httpx.post(path, content=body, headers=given)
        assert answer.headers[REQUEST_ID_HEADER] == "mine-7"
        assert answer.headers["traceparent"] == trace
        if answer.is_error:
            assert answer.json()["request_id"] == "mine-7"
        own = httpx.post(path, content=body, headers=headers | server.headers())
        assert own.headers[REQUEST_ID_HEADER] == own.headers["x-request-id"]
        assert "traceparent" not in own.headers
    assert answer.is_error, "the second of the two has no context"


def test_the_dashboard_asks_for_metrics_and_labels_that_are_there(server, bundle, rng, until):
    path = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
    asked = [
        target["expr"]
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]
    assert len(asked) >= 10
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    for request in ({"queries": images, "context": images}, {"queries": images}):
        body, headers = encode_request(**request)
        url = f"{server.url}/predictions/{bundle.card.name}"
        httpx.post(url, content=body, headers=headers | server.headers())
    port = int(server.url.rsplit(":", 1)[1]) + 2

    def labels() -> dict[str, set[str]]:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        found: dict[str, set[str]] = defaultdict(set)
        for name, pairs in re.findall(r"^(\w+)\{(.*?),?\}", text, re.MULTILINE):
            found[name] |= {pair.split("=")[0] for pair in pairs.split(",")}
        return found

    until(lambda: "metavae_summary_rejections_total" in labels())
    there = labels()
    for expression in asked:
        names = re.findall(r"\b(\w+)(?:\{([^}]*)\})?\[", expression)
        assert names, expression
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        for name, selectors in names:
            wanted = {one.split("=")[0] for one in selectors.split(",") if one}
            wanted |= {label.strip() for labels in grouped for label in labels.split(",")}
            assert wanted <= there[name], (name, wanted)
