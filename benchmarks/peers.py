"""How fast metavae serves beside other servers of the same graphs: `python benchmarks/peers.py`.

Each peer is installed from PyPI into an environment of its own, once, and serves the same bundle
with one worker and as many threads, over the fastest wire that it has for the job. Its replies must
be ONNX Runtime's, bit for bit; then it and metavae take turns under the same load. Writes every
turn to a JSON file, and a page beside it; a peer that fails stands there with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from machine import describe_machine
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve.archive import bundle_of
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.files import make_writable
from metavae_zoo.machine import usable_cores
from metavae_zoo.stopping import stoppable
from publish import out_option, publish
from served.peers.catalog import PEERS, Peer, PeerFailed
from served.peers.comparison import Comparison, Job
from served.peers.environments import make_environment
from served.peers.page import FLOOR, MANY, ONE, markdown
from served.serving import serving, warm_up

SCHEMA = 1
MODEL = "metavae-mnist-rotation-contiguous"
RESULTS = Path(__file__).parent / "results" / "peers.json"
ENVIRONMENTS = Path(__file__).parents[1] / "build" / "peers"
PORTS = 5  # of each server
BATCH_SIZE = 4  # requests, where many clients are served
_WARM_UP = 20  # turns, of the smallest requests and of the largest


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--model", default=MODEL, show_default=True, help="A model of the zoo, or a path.")
@click.option(
    "--peer",
    "keys",
    type=click.Choice([peer.key for peer in PEERS]),
    multiple=True,
    help="Only this one, repeatable.  [default: all]",
)
@click.option(
    "--environments",
    type=click.Path(file_okay=False, path_type=Path),
    default=ENVIRONMENTS,
    show_default="build/peers",
    help="Where the peers are installed.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_520),
    default=19_080,
    show_default=True,
    help="The first of fifteen.",
)
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Of each turn."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns each.")
@out_option(RESULTS)
def main(
    model: str,
    keys: tuple[str, ...],
    environments: Path,
    port: int,
    seconds: float,
    rounds: int,
    out: Path,
) -> None:
    """Measure metavae and other servers, turn by turn."""
    make_writable(out.parent)
    bundle = bundle_of(model)
    peers = [peer for peer in PEERS if not keys or peer.key in keys]
    machine = describe_machine(torch.device("cpu"), usable_cores()) | {"versions": _versions()}
    with stoppable(lambda: "the environments that were made are kept"):
        # All before anything is served: pip would be in the way of a measurement.
        bar = tqdm(peers, "environments", disable=None)
        pythons = [_environment(peer, environments) for peer in bar]
        floor, found = _measured(bundle, peers, pythons, port, rounds, seconds)
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "model": bundle.card.name,
        "digest": bundle.card.digest,
        "threads": usable_cores(),
        "rounds": rounds,
        "seconds": seconds,
        "batch_size": BATCH_SIZE,
        "warm_up_turns": _WARM_UP,
        "floor": floor,
        "peers": found,
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


def _environment(peer: Peer, folder: Path) -> Path | PeerFailed:
    try:
        return make_environment(peer, folder)
    except PeerFailed as failure:
        return failure


def _measured(
    bundle: Bundle,
    peers: Sequence[Peer],
    pythons: Sequence[Path | PeerFailed],
    port: int,
    rounds: int,
    seconds: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The cases of a handler that does nothing, and what came of each peer.

    They are measured one after another, metavae being there all the time.
    """
    cores = usable_cores()
    job = Job(bundle, threads=cores)
    many_clients = ModelSettings(workers=cores, batch_size=BATCH_SIZE)
    with (
        serving(bundle, ModelSettings(), port, floor=True) as one,
        serving(bundle, many_clients, port + PORTS) as many,
    ):
        for store in (one, many):
            warm_up(job.messages(store), _WARM_UP * seconds)
        comparison = Comparison(job, {ONE: one, MANY: many}, port + 2 * PORTS, rounds, seconds)
        bar = tqdm(zip(peers, pythons, strict=True), "peers", len(peers), disable=None)
        found = [comparison.measure(peer, python) for peer, python in bar]
        return comparison.measure_floor(FLOOR), found


def _versions() -> dict[str, str]:
    return {
        "torchserve": version("torchserve"),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    main()
