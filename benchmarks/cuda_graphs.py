"""What recorded kernels give an encoder on a GPU: `python benchmarks/cuda_graphs.py`.

Models of the zoo embed the same images on ONNX Runtime, in turns: with the kernels of a run
recorded once and launched together (a CUDA graph), as they are served, and launched one by one.
Writes every turn to a JSON file, and a table beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from machine import describe_machine
from metavae_training.trainer.device import choose_device
from metavae_zoo.bundles.bundle import ENCODE, Bundle
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedding.graph import BUCKETS, open_graph
from metavae_zoo.files import make_writable
from metavae_zoo.markdown import markdown_table
from publish import out_option, publish
from served.cases import measure
from served.load import repeat

SCHEMA = 1
MODELS = ("metavae-mnist-rotation-contiguous", "wavelet-metavae-mnist-rotation-contiguous")
RESULTS = Path(__file__).parent / "results" / "cuda-graphs.json"


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--model", "names", multiple=True, default=MODELS, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=0.5, show_default=True, help="Of each turn."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns each.")
@out_option(RESULTS)
def main(names: tuple[str, ...], seconds: float, rounds: int, out: Path) -> None:
    """Measure the encoders of models on a GPU with recorded kernels and without."""
    make_writable(out.parent)
    machine = describe_machine(choose_device("cuda"), threads=1)
    result = {
        "schema": SCHEMA,
        "machine": machine | {"onnxruntime": onnxruntime.__version__},
        "rounds": rounds,
        "seconds": seconds,
        "models": {name: _measure(find_bundle(name), rounds, seconds) for name in names},
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


def _measure(bundle: Bundle, rounds: int, seconds: float) -> dict[str, Any]:
    """Median seconds of a run by rows, turn by turn: recorded, and one by one."""
    graphs = {
        way: open_graph(bundle.path / ENCODE, device="cuda", threads=1, recorded=way == "recorded")
        for way in ("recorded", "one by one")
    }
    found: dict[str, Any] = {"digest": bundle.card.digest, "rows": {}}
    for rows in tqdm(BUCKETS, bundle.card.name, disable=None):
        inputs = _inputs(bundle.card, rows)
        subjects = {way: partial(repeat, partial(one.run, inputs)) for way, one in graphs.items()}
        taken = measure(subjects, queries=rows, rounds=rounds, seconds=seconds)
        found["rows"][str(rows)] = {
            way: [ms / 1e3 for ms in figures["p50_ms_of_rounds"]] for way, figures in taken.items()
        }
    return found


def _inputs(card: ModelCard, rows: int) -> dict[str, NDArray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, *card.image_shape), np.uint8)
    summary = rng.standard_normal((1, card.feature_dim)).astype(np.float32)
    return {"images": images} | ({"summary": summary} if card.needs_context else {})


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    rows = []
    for name, model in result["models"].items():
        for count, turns in model["rows"].items():
            recorded, plain = turns["recorded"], turns["one by one"]
            ratio = median(a / b for a, b in zip(plain, recorded, strict=True))
            times = [f"{median(one) * 1e6:,.0f} us" for one in (plain, recorded)]
            rows.append([f"`{name}`", count, *times, f"{ratio:.2f}"])
    machine = result["machine"]
    options = f" --seconds {result['seconds']:g} --rounds {result['rounds']}"
    return f"""# What CUDA graphs give an encoder

{markdown_table(["", "images", "one by one", "recorded", "times as fast"], rows)}

Median time of one run of the encoder, without a server, on ONNX Runtime
{machine["onnxruntime"]}, from images in the host's memory to embeddings there; medians of
{result["rounds"]} turns of {result["seconds"]:g} s, and of ratios of turns that followed each
other.

Made by `python benchmarks/cuda_graphs.py{options}`
at commit {machine["commit"]}, on {machine["gpu"]} with {machine["cores"]} cores, load
{machine["load_average"]} at the start.
"""


if __name__ == "__main__":
    main()
