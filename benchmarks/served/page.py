"""The page that people read of a result file."""

from __future__ import annotations

import dataclasses
from statistics import median
from typing import Any

from metavae_serving.settings import ModelSettings
from metavae_zoo.markdown import markdown_table
from served.cases import ratio

_OF_CEILING, _OVER_FLOOR = 0.8, 1.15  # what is aimed at
_ONE = "1 queries, 1 client"

_INT8 = """
*int8 over fp32*: images per second of the same model packed with `--precision int8`, over those
without;"""


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    machine, settings = result["machine"], result["settings"]
    threads, gpu = _threads(settings["threads"]), machine["gpu"]
    on_gpu, options = f", on one {gpu}" if gpu else "", _options(result)
    rows = [_row(case) for case in result["cases"]]
    with_int8 = any("int8" in case["subjects"] for case in result["cases"])
    header = ["", "images/s", "p50", "p99", "of in process", "of what is left", "p50 over no-op"]
    header += ["int8 over fp32"] if with_int8 else []
    contexts = [
        [
            f"{one['size']:,}" + ("" if one["in_one_request"] else " (in parts)"),
            f"{median(one['with_context_seconds']) * 1e3:.1f} ms",
            f"{median(one['with_summary_seconds']) * 1e3:.2f} ms",
        ]
        for one in result["contexts"]
    ]
    memory = max(result["memory_bytes_per_worker"]) / 1e6
    return f"""# How fast a model is served

`{result["model"]}` behind TorchServe, {settings["workers"]} worker(s)
{threads}{on_gpu}, batch size {settings["batch_size"]}; {result["rounds"]} turns of
{result["seconds"]:g} s each, after one another. Requests carry a summary and uint8 images.

{markdown_table(header, rows)}

*of in process*: images per second over those of ONNX Runtime alone, on the same graphs and threads;
*of what is left*: over those of a server that takes the time of ONNX Runtime alone and after it
that of a handler that does nothing, in the same TorchServe, for requests and replies as long;
*p50 over no-op*: median latency over that handler's;{_INT8 if with_int8 else ""}
all are medians of ratios of turns that followed each other. {_floor(result)}

{_targets(result["cases"])}

| context | one query with its context | one query with its summary |
| ------: | -------------------------: | -------------------------: |
{chr(10).join(f"| {' | '.join(cells)} |" for cells in contexts)}

A worker takes {memory:.0f} MB; from start to ready {result["startup_seconds"]:.1f} s.

Made by `python benchmarks/serving.py{options}`
at commit {machine["commit"]}, of model digest {result["digest"][:12]}, on {machine["processor"]},
{machine["cores"]} cores, the clients on the same machine, load {machine["load_average"]}
at the start.
"""


def _floor(result: dict[str, Any]) -> str:
    """Which worker the no-op handler runs in."""
    if result.get("floor_is_light"):
        return (
            "The no-op handler's worker has\nTorchServe's own part made lighter, as metavae's has."
        )
    return "The no-op handler's worker is as\nTorchServe has it, and so slower than metavae's."


def _targets(cases: list[dict[str, Any]]) -> str:
    """What was aimed at, and how it came out."""
    several = "256 queries, 4 clients"
    by_name = {case["case"]: case["subjects"] for case in cases}
    many, one = by_name[several], by_name[_ONE]
    rate = ratio(many, "metavae", "in process", "images_per_second")
    best_rate = ratio(many, "no-op handler", "in process", "images_per_second")
    best_rate /= 1 + best_rate  # one after the other: reciprocals of rates add up
    delay = ratio(one, "metavae", "no-op handler", "p50_ms_of_rounds")
    best_delay = 1 + ratio(one, "in process", "no-op handler", "p50_ms_of_rounds")
    return "\n".join(
        [
            f"- Target of {_OF_CEILING} of in process, {several}: {rate:.2f},"
            f" {_outcome(rate >= _OF_CEILING)}; the no-op handler and ONNX Runtime alone, one after"
            f" the other: {best_rate:.2f}.",
            f"- Target of {_OVER_FLOOR} of the no-op handler's p50, {_ONE}: {delay:.2f},"
            f" {_outcome(delay <= _OVER_FLOOR)}; the two, one after the other: {best_delay:.2f}.",
        ]
    )


def _outcome(met: bool) -> str:
    return "met" if met else "missed"


def _options(result: dict[str, Any]) -> str:
    """What the command was given: what is not a model's setting by default, and the turns."""
    usual = dataclasses.asdict(ModelSettings())
    named = ("device", "workers", "threads", "batch_size")
    settings = result["settings"]
    given = [(name, settings[name]) for name in named if settings[name] != usual[name]]
    aside = [("out", "FILE")] if {name for name, _ in given} - {"device"} else []
    given += [*((name, f"{result[name]:g}") for name in ("seconds", "rounds")), *aside]
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in given)


def _threads(count: int | None) -> str:
    return "that share the cores" if count is None else f"of {count} thread(s)"


def _row(case: dict[str, Any]) -> list[str]:
    subjects = case["subjects"]
    own = subjects["metavae"]
    of_ceiling = ratio(subjects, "metavae", "in process", "images_per_second")
    of_rest = _of_what_is_left(subjects)
    over_floor = ratio(subjects, "metavae", "no-op handler", "p50_ms_of_rounds")
    int8 = "int8" in subjects and ratio(subjects, "int8", "metavae", "images_per_second")
    return [
        case["case"],
        f"{median(own['images_per_second']):,.0f}",
        f"{own['p50_ms']:.2f} ms",
        f"{own['p99_ms']:.2f} ms",
        f"{of_ceiling:.2f}",
        f"{of_rest:.2f}",
        f"{over_floor:.2f}",
        *([f"{int8:.2f}"] if int8 else []),
    ]


def _of_what_is_left(subjects: dict[str, Any]) -> float:
    """The rate over that of the floor and the ceiling one after the other; the median over rounds.

    Seconds an image add up, and so do the reciprocals of rates.
    """
    names = ("metavae", "no-op handler", "in process")
    rounds = zip(*(subjects[name]["images_per_second"] for name in names), strict=True)
    return median(own * (1 / floor + 1 / ceiling) for own, floor, ceiling in rounds)
