"""Turns to medians, spreads and ratios; and the table that people read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from variants import PLAIN, PRODUCTS, STEPS, Key, Turn

TARGETS = {"cpu": {"over_plain_loop": 20.0, "of_same_shapes": 0.6}, "cuda": {}}

HEADER = [
    "",
    "images/s",
    "over plain loop",
    "MFLOP/image",
    "GFLOP/s",
    "of same shapes",
    "of square",
    "peak memory",
]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest of repeated measurements, and all of them in their order."""
    return {
        "median": median(values),
        "low": min(values),
        "high": max(values),
        "turns": list(values),
    }


def summarise(turns: dict[Key, list[Turn]], memory: dict[Key, dict[str, int]]) -> dict[str, Any]:
    """The measured part of a result file: steps, matrix products, ratios.

    A ratio is taken round by round, of two turns that followed each other, and then its median.
    """
    plain: Key = (PLAIN, "fp32")
    steps = {
        f"{kind}, {precision}": {
            "images_per_second": spread([turn.images_per_second for turn in taken]),
            "flops_per_second": spread([turn.flops_per_second for turn in taken]),
            "flops_per_image": sum(t.work.flops for t in taken) / sum(t.work.images for t in taken),
            "memory": memory[kind, precision],
        }
        for (kind, precision), taken in turns.items()
        if kind in STEPS
    }
    products = {
        f"{kind}, {precision}": {"flops_per_second": spread([t.flops_per_second for t in taken])}
        for (kind, precision), taken in turns.items()
        if kind in PRODUCTS
    }
    ratios = {}
    for kind, precision in turns:
        if kind != "metavae":
            continue
        own = turns[kind, precision]
        ratios[precision] = {
            "over_plain_loop": _ratio(own, turns[plain], lambda t: t.images_per_second),
            "of_same_shapes": _ratio(own, turns["same shapes", precision], _flops),
            "of_square": _ratio(own, turns["square", precision], _flops),
        }
    return {"steps": steps, "products": products, "ratios": ratios}


def _flops(turn: Turn) -> float:
    return turn.flops_per_second


def _ratio(own: list[Turn], others: list[Turn], rate: Callable[[Turn], float]) -> dict[str, Any]:
    return spread([rate(one) / rate(other) for one, other in zip(own, others, strict=True)])


def table(result: dict[str, Any]) -> str:
    """A result file as text: a row per training step and of the machine's own rates."""
    machine = result["machine"]
    distributions, images, _ = result["images"]
    rows = [HEADER]
    for name, step in result["steps"].items():
        kind, precision = name.split(", ")
        ratios = result["ratios"][precision] if kind == "metavae" else {}
        peak, before = step["memory"]["peak_bytes"], step["memory"]["before_bytes"]
        rows.append(
            [
                name,
                _with_spread(step["images_per_second"], "{:,.0f}"),
                _with_spread(ratios.get("over_plain_loop"), "{:.1f}"),
                f"{step['flops_per_image'] / 1e6:.1f}",
                _with_spread(step["flops_per_second"], "{:,.0f}", 1e-9),
                _with_spread(ratios.get("of_same_shapes"), "{:.2f}"),
                _with_spread(ratios.get("of_square"), "{:.2f}"),
                f"{peak / 1e6:,.0f} MB (+{(peak - before) / 1e6:,.0f})",
            ]
        )
    for name, product in result["products"].items():
        rate = _with_spread(product["flops_per_second"], "{:,.0f}", 1e-9)
        rows.append([f"products, {name}", "", "", "", rate, "", "", ""])
    targets = result["targets"]
    turns = len(next(iter(result["steps"].values()))["images_per_second"]["turns"])
    return "\n".join(
        [
            f"{result['recipe']['name']}: {distributions} distributions of {images:,} images;"
            f" {machine['gpu'] or machine['processor']}, {machine['threads']} threads,"
            f" torch {machine['torch']}, load {machine['load_average']} at the start,"
            f" commit {machine['commit']}",
            f"median (lowest to highest) of {turns} turns of {result['turn_seconds']:g} s;"
            " peak memory of the process (of it, for model and step)",
            "",
            *_aligned(rows),
            "",
            *(_target_line(name, targets[name], result["ratios"]) for name in targets),
            _bound_line(result),
        ]
    )


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    return f"```\n{table(result)}\n```\n"


def _target_line(name: str, target: float, ratios: dict[str, Any]) -> str:
    """Whether a target was met, precision by precision."""
    reached = ", ".join(
        f"{precision} {'meets' if of[name]['median'] >= target else 'misses'} it"
        for precision, of in ratios.items()
    )
    return f"target of {target:g} {name.replace('_', ' ')}: {reached}"


def _bound_line(result: dict[str, Any]) -> str:
    """How far over the plain loop a step could be at most: its matrix products and nothing else."""
    plain = result["steps"][f"{PLAIN}, fp32"]["images_per_second"]["median"]
    bounds = []
    for precision in result["ratios"]:
        rate = result["products"][f"same shapes, {precision}"]["flops_per_second"]["median"]
        images = rate / result["steps"][f"metavae, {precision}"]["flops_per_image"]
        bounds.append(f"{precision} {images / plain:.1f}")
    return f"the matrix products alone would be over plain loop: {', '.join(bounds)}"


def _with_spread(values: dict[str, Any] | None, form: str, unit: float = 1.0) -> str:
    if values is None:
        return ""
    middle, low, high = (form.format(values[name] * unit) for name in ("median", "low", "high"))
    return f"{middle} ({low} to {high})"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
