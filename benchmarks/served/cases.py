"""What is asked of a server, and of what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from served.load import Run

Subject = Callable[[float], Run]  # runs for so many seconds


@dataclass(frozen=True)
class Case:
    """One way to be asked: `queries` images a request by `clients` at once, binary or as JSON."""

    name: str
    queries: int
    clients: int
    binary: bool = True

    def __str__(self) -> str:
        wire = "" if self.binary else ", JSON"
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{self.queries} queries, {clients}{wire}"


SMALLEST, LARGEST = Case("one", 1, 1), Case("crowd", 256, 8)
CASES = (
    SMALLEST,
    Case("some", 32, 1),
    Case("many", 256, 1),
    Case("many-clients", 256, 4),
    LARGEST,
    Case("eight", 32, 8),
    Case("thirty-two", 32, 32),
    Case("json", 256, 1, binary=False),
)


def measure(
    subjects: dict[str, Subject], *, queries: int, rounds: int, seconds: float, warm: float = 1.0
) -> dict[str, Any]:
    """Let the subjects take turns, after `warm` seconds each that do not count; their figures.

    A ratio is taken round by round, of turns that followed each other, and then its median.
    """
    for subject in subjects.values():
        subject(min(seconds, warm))
    turns: dict[str, list[Run]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            turns[name].append(subject(seconds))
    return {name: _figures(runs, queries) for name, runs in turns.items()}


def _figures(runs: Sequence[Run], queries: int) -> dict[str, Any]:
    latencies = np.concatenate([run.latencies for run in runs])
    return {
        "p50_ms": float(np.percentile(latencies, 50)) * 1e3,
        "p99_ms": float(np.percentile(latencies, 99)) * 1e3,
        "images_per_second": [run.rate * queries for run in runs],
        "p50_ms_of_rounds": [median(run.latencies) * 1e3 for run in runs],
        "requests": len(latencies),
    }


def ratio(case: dict[str, Any], own: str, other: str, figure: str) -> float:
    """The median over rounds of one subject's figure over another's."""
    pairs = zip(case[own][figure], case[other][figure], strict=True)
    return median(one / of for one, of in pairs)
