"""What a worker counts and times, on TorchServe's own Prometheus endpoint.

TorchServe takes metrics from lines that a worker prints, one an observation, and its histograms
have fixed buckets of 5 ms and more. So a worker adds up by itself and prints what came to it once
a second: counters, and histograms as Prometheus has them, a counter for each of their buckets.
"""

from __future__ import annotations

import math
import socket
import time
from bisect import bisect_left
from collections import defaultdict, deque
from typing import Any

from metavae_serving.answering.access_log import taken

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10
)  # fmt: skip
_IMAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)

REQUESTS = "metavae_requests_total"
IMAGES = "metavae_images_total"
REJECTIONS = "metavae_summary_rejections_total"
STAGE = "metavae_stage_seconds"
BATCH = "metavae_batch_images"
CONTEXT = "metavae_context_images"

# Labels by name, after the model's.
COUNTERS = {
    REQUESTS: ("operation", "outcome"),
    IMAGES: ("operation", "outcome"),
    REJECTIONS: ("field",),
}
HISTOGRAMS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    STAGE: (("stage",), _SECONDS),
    BATCH: ((), _IMAGES),
    CONTEXT: ((), _IMAGES),
}


class Meter:
    """Takes note of what happens in one worker of a model, and adds it up when it is asked.

    To take note costs next to nothing, so that it can be done while a client waits.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._host = socket.gethostname()
        self._noted: deque[tuple[str, tuple[str, ...], float]] = deque()

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to one of COUNTERS."""
        self._noted.append((name, labels, amount))

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add an observation to one of HISTOGRAMS."""
        self._noted.append((name, labels, value))

    def since(self, began: float, stage: str) -> None:
        """Observe the seconds since `began`, by `time.perf_counter`, as those of a stage."""
        self._noted.append((STAGE, (stage,), time.perf_counter() - began))

    def drain(self) -> list[str]:
        """The lines that TorchServe reads, of all that came since the last call."""
        counts: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        bins: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for name, labels, value in taken(self._noted):
            if name in COUNTERS:
                counts[name, labels] += value
                continue
            bounds = HISTOGRAMS[name][1]
            found = bins.setdefault((name, labels), [0] * (len(bounds) + 1))
            found[bisect_left(bounds, value)] += 1
            counts[f"{name}_sum", labels] += value
        lines = []
        for (name, labels), amount in counts.items():
            known = COUNTERS.get(name) or HISTOGRAMS[name.removesuffix("_sum")][0]
            lines.append(self._line(name, zip(known, labels, strict=True), amount))
        for (name, labels), found in bins.items():
            known, bounds = HISTOGRAMS[name]
            total = 0
            for bound, amount in zip((*bounds, math.inf), found, strict=True):
                total += amount
                # Empty ones too: without its lower neighbours a bucket would seem to begin at 0.
                pairs = [*zip(known, labels, strict=True), ("le", _bound(bound))]
                lines.append(self._line(f"{name}_bucket", pairs, total))
            lines.append(self._line(f"{name}_count", zip(known, labels, strict=True), total))
        return lines

    def _line(self, name: str, labels: Any, amount: float) -> str:
        pairs = ",".join(f"{label}:{text}" for label, text in [("model", self._model), *labels])
        return (
            f"[METRICS]{name}.Count:{amount:.9g}|#{pairs}|#type:COUNTER"
            f"|#hostname:{self._host},{int(time.time())}"
        )


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else f"{bound:g}"


def metrics_configuration() -> str:
    """The text of TorchServe's `metrics.yaml`: its own metrics as they are, and ours."""
    from importlib.resources import files

    import yaml

    theirs = yaml.safe_load(files("ts").joinpath("configs", "metrics.yaml").read_text())
    ours = [_declared(name, labels) for name, labels in COUNTERS.items()]
    for name, (labels, _) in HISTOGRAMS.items():
        ours += [_declared(f"{name}_{part}", labels) for part in ("sum", "count")]
        ours.append(_declared(f"{name}_bucket", (*labels, "le")))
    counters = theirs["model_metrics"].get("counter", [])
    return yaml.safe_dump(
        {
            "dimensions": theirs["dimensions"],
            "ts_metrics": theirs["ts_metrics"],
            "model_metrics": theirs["model_metrics"] | {"counter": [*counters, *ours]},
        }
    )


def _declared(name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "unit": "Count", "dimensions": ["model", *labels]}
