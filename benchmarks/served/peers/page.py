"""The page that people read of what `benchmarks/peers.py` found."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from metavae_zoo.markdown import markdown_table
from served.cases import ratio

ONE, MANY = "metavae", "metavae for many clients"  # subjects
FLOOR = "no-op handler"

_LEAD = 1.5  # over every peer, is aimed at
_RATE, _LATENCY = "images_per_second", "p50_ms_of_rounds"


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    machine, peers = result["machine"], result["peers"]
    rows = [*peers, {"name": FLOOR, "cases": result["floor"]}]
    head = ["", *dict.fromkeys(case["case"] for peer in peers for case in peer["cases"])]
    rates = _table(head, rows, lambda case, name: _rate(case["subjects"], name, ONE))
    many = _table(head, peers, lambda case, name: _rate(case["subjects"], name, MANY))
    latencies = _table(head, rows, lambda case, name: _latency(case["subjects"], name))
    return f"""# metavae beside other servers

`{result["model"]}` behind each, on {machine["processor"]}, {machine["cores"]} cores, the clients on
the same machine. Every server has one worker and gives ONNX Runtime {result["threads"]} threads;
every one gets the same images (uint8) and the same summary, and its means and log-variances
(float32) are those of ONNX Runtime in process, bit for bit. {result["rounds"]} rounds; in each take
turns of {result["seconds"]:g} s metavae, the peer, and metavae set for many clients. Java compiles
metavae's front-end while it runs: before the first peer, metavae is asked for
{result["warm_up_turns"]} turns of the smallest requests and as many of the largest. Before each
case every server is asked for half a second.

{_peers(result)}

## Images per second

Of the peer; in brackets those of metavae over them (above 1: metavae is ahead). The last row is a
handler that does nothing in metavae's TorchServe, for requests and replies as long.

{rates}

## Median latency

Of the peer, in ms; in brackets that of metavae over it (below 1: metavae is ahead). The last row is
the handler that does nothing.

{latencies}

## Images per second of metavae set for many clients

As above, but with one worker a core of one thread each, and batches of up to {result["batch_size"]}
requests, for which a lone request waits a millisecond. The peers still have one worker, and answer
one request at a time.

{many}

All ratios are medians over turns that followed each other.

## Where a peer is ahead

The target, {_LEAD:g} times the images per second of every peer in every case, is
{"met" if _leads(peers) else "missed"} as the servers come. {_out_of_reach(result)}

{_ahead(peers)}
{_failures(peers)}
Made by `python benchmarks/peers.py` at commit {machine["commit"]}, load {machine["load_average"]}
when it began. Every turn and every package's version is in `peers.json`.
"""


def _peers(result: dict[str, Any]) -> str:
    own = result["machine"]["versions"]
    rows = [["metavae on TorchServe", own["torchserve"], "v2 protocol over HTTP, binary tensors"]]
    rows += [[peer["name"], peer["version"] or "-", peer["wire"]] for peer in result["peers"]]
    return markdown_table(["", "version", "wire"], rows)


def _table(
    head: list[str], peers: list[dict[str, Any]], cell: Callable[[dict[str, Any], str], str]
) -> str:
    rows = []
    for peer in peers:
        cells = {case["case"]: cell(case, peer["name"]) for case in peer["cases"]}
        rows.append([peer["name"], *(cells.get(case, "-") for case in head[1:])])
    return markdown_table(head, rows)


def _rate(subjects: dict[str, Any], name: str, own: str) -> str:
    return f"{median(subjects[name][_RATE]):,.0f} ({ratio(subjects, own, name, _RATE):.2f})"


def _latency(subjects: dict[str, Any], name: str) -> str:
    return f"{median(subjects[name][_LATENCY]):.2f} ({ratio(subjects, ONE, name, _LATENCY):.2f})"


def _leads(peers: list[dict[str, Any]]) -> bool:
    return all(
        ratio(case["subjects"], ONE, peer["name"], _RATE) >= _LEAD
        for peer in peers
        for case in peer["cases"]
    )


def _out_of_reach(result: dict[str, Any]) -> str:
    """Where the handler that does nothing misses the target too."""
    floor = {case["case"]: ratio(case["subjects"], ONE, FLOOR, _RATE) for case in result["floor"]}
    short, cases = [], 0
    for peer in result["peers"]:
        over = [
            ratio(case["subjects"], ONE, peer["name"], _RATE) / floor[case["case"]]
            for case in peer["cases"]
        ]
        missed = [one for one in over if one < _LEAD]
        cases += len(over)
        if missed:
            short.append((peer["name"], len(missed), min(missed), max(missed)))
    if not short:
        return f"A handler that does nothing would meet it in all {cases} cases."
    listed = "\n".join(
        f"- {name}, {count} case(s): {low:.2f} to {high:.2f} times the images per second."
        for name, count, low, high in short
    )
    return f"""The handler that does nothing
misses it itself in {sum(count for _, count, _, _ in short)} of {cases} cases, and there no model \
behind TorchServe could meet it:

{listed}

metavae is behind here:"""


def _ahead(peers: list[dict[str, Any]]) -> str:
    """Every case and figure at which one worker of a peer is ahead of one of metavae."""
    lines = []
    for peer in peers:
        for case in peer["cases"]:
            rate = ratio(case["subjects"], ONE, peer["name"], _RATE)
            latency = ratio(case["subjects"], ONE, peer["name"], _LATENCY)
            leads = [f"{1 / rate:.2f} times the images per second"] if rate < 1 else []
            leads += [f"{1 / latency:.2f} of the median latency"] if latency > 1 else []
            if leads:
                lines.append(f"- {peer['name']}, {case['case']}: {', '.join(leads)}.")
    return "\n".join(lines) or "Nowhere in this run."


def _failures(peers: list[dict[str, Any]]) -> str:
    lines = [f"- {peer['name']}: {peer['failure']}." for peer in peers if peer["failure"]]
    return "\n".join(["", "## Not measured, or not to the end", "", *lines, ""]) if lines else ""
