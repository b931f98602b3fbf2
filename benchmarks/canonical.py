"""The cost of the canonical frame: `python benchmarks/canonical.py`.

Two models of the zoo run on ONNX Runtime in turns, without a server: a canonical model, and the
wavelet model whose code it takes over. Writes every turn to a JSON file, and a table beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnxruntime
from tqdm import tqdm

from machine import describe_machine
from metavae_training.trainer.device import choose_device
from metavae_zoo.bundles.bundle import ENCODE, SUMMARIZE, Bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedding.graph import Graph, open_graph
from metavae_zoo.files import make_writable
from metavae_zoo.markdown import markdown_table
from publish import out_option, publish
from served.cases import measure
from served.load import repeat

SCHEMA = 1
CANONICAL, WAVELET = "canonical-wavelet-mnist", "wavelet-metavae-mnist-rotation-contiguous"
CASES = {"encode": (1, 32, 256), "summarize": (10, 100)}  # images of a run
TARGETS = {("encode", 1): 1.75, ("encode", 256): 1.25}  # times the wavelet model's
RESULTS = Path(__file__).parent / "results" / "canonical.json"


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--canonical", default=CANONICAL, show_default=True, help="The model with a site.")
@click.option("--wavelet", default=WAVELET, show_default=True, help="The model without.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=0.5, show_default=True, help="Of each turn."
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns each.")
@out_option(RESULTS)
def main(canonical: str, wavelet: str, seconds: float, rounds: int, out: Path) -> None:
    """Measure a canonical model's graphs against those of a wavelet model, on one CPU thread."""
    make_writable(out.parent)
    bundles = {"canonical": find_bundle(canonical), "wavelet": find_bundle(wavelet)}
    machine = describe_machine(choose_device("cpu"), threads=1)
    result = {
        "schema": SCHEMA,
        "machine": machine | {"onnxruntime": onnxruntime.__version__},
        "rounds": rounds,
        "seconds": seconds,
        "models": {
            kind: {"name": bundle.card.name, "digest": bundle.card.digest, "bytes": bundle.size}
            for kind, bundle in bundles.items()
        },
        "cases": _measure(bundles, rounds, seconds),
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


def _measure(bundles: dict[str, Bundle], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Median seconds of a run, turn by turn, of each graph and number of images."""
    files = {"encode": ENCODE, "summarize": SUMMARIZE}
    found = []
    for graph, counts in tqdm(CASES.items(), "graphs", disable=None):
        opened = {
            kind: open_graph(bundle.path / files[graph], device="cpu", threads=1)
            for kind, bundle in bundles.items()
        }
        for images in counts:
            subjects = {
                kind: partial(repeat, _run(opened[kind], bundle, graph, images))
                for kind, bundle in bundles.items()
            }
            taken = measure(subjects, queries=images, rounds=rounds, seconds=seconds)
            turns = {
                kind: [ms / 1e3 for ms in figures["p50_ms_of_rounds"]]
                for kind, figures in taken.items()
            }
            found.append({"graph": graph, "images": images, "seconds": turns})
    return found


def _run(opened: Graph, bundle: Bundle, graph: str, images: int) -> partial[Any]:
    rng = np.random.default_rng(0)
    inputs = {"images": rng.integers(0, 256, (images, *bundle.card.image_shape), np.uint8)}
    if graph == "encode":
        # A summary of real features: a canonical model reads images where it says.
        summary = open_graph(bundle.path / SUMMARIZE, device="cpu").run(inputs)[0]
        inputs["summary"] = summary.mean(axis=0, keepdims=True)
    return partial(opened.run, inputs)


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    rows = []
    for case in result["cases"]:
        own, other = case["seconds"]["canonical"], case["seconds"]["wavelet"]
        ratio = median(a / b for a, b in zip(own, other, strict=True))
        times = [f"{median(one) * 1e3:,.2f} ms" for one in (other, own)]
        target = TARGETS.get((case["graph"], case["images"]))
        target_text = f"{target:.2f}" if target else ""
        rows.append([case["graph"], str(case["images"]), *times, f"{ratio:.2f}", target_text])
    head = ["graph", "images", "wavelet", "canonical", "ratio", "at most"]
    models, machine = result["models"], result["machine"]
    options = f" --seconds {result['seconds']:g} --rounds {result['rounds']}"
    return f"""# The cost of the canonical frame

{markdown_table(head, rows)}

Median time of one run on ONNX Runtime {machine["onnxruntime"]}, one thread, without a server.
Medians of {result["rounds"]} turns of {result["seconds"]:g} s, and of ratios of turns that followed
each other. *Canonical* is `{models["canonical"]["name"]}` ({models["canonical"]["bytes"] / 1e6:.1f}
MB), *wavelet* is `{models["wavelet"]["name"]}` ({models["wavelet"]["bytes"] / 1e6:.1f} MB).

Made by `python benchmarks/canonical.py{options}`
at commit {machine["commit"]}, on {machine["processor"]} with {machine["cores"]} cores, load
{machine["load_average"]} at the start.
"""


if __name__ == "__main__":
    main()
