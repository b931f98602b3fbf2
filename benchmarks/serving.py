"""How fast metavae serves: `python benchmarks/serving.py`.

In one run on one machine, turn by turn: a model behind TorchServe as `metavae-serve` starts it; a
handler that does nothing in the same TorchServe (the floor); ONNX Runtime on the same graphs,
processes and threads without any server (the ceiling); and the model packed for int8, where its
card says what that costs. Writes every turn to a JSON file, and a table beside it.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx
import numpy as np
import onnxruntime
import psutil
from tqdm import tqdm

from machine import describe_machine
from metavae_client.remote import RemoteEmbedder
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, process
from metavae_serving.torchserve.archive import bundle_of, pack
from metavae_serving.torchserve.management import list_workers
from metavae_serving.torchserve.store import Store
from metavae_training.trainer.device import choose_device
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedding.graph import Device
from metavae_zoo.files import make_writable
from metavae_zoo.machine import usable_cores
from metavae_zoo.protocol.wire import MAX_IMAGES, encode_request
from publish import out_option, publish
from served.cases import CASES, LARGEST, SMALLEST, Case, measure
from served.ceiling import Ceiling
from served.load import Message, run
from served.noop import NAME as NOOP
from served.noop import add_noop
from served.page import markdown
from served.serving import authorization, floor_message, serving, warm_up

SCHEMA = 1
MODEL = "metavae-mnist-rotation-contiguous"
RESULTS = {
    "cpu": Path(__file__).parent / "results" / "serving.json",
    "cuda": Path(__file__).parent / "results" / "serving-cuda.json",
}
CONTEXTS = (10, 1_000, 100_000)
OURS, FLOOR, CEILING, INT8 = "metavae", "no-op handler", "in process", "int8"
_INT8_PORTS = 10  # above the others
_WARM_UP = 10  # turns, of the smallest requests and of the largest


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--model", default=MODEL, show_default=True, help="A model of the zoo, or a path.")
@click.option(
    "--device",
    type=click.Choice(list(RESULTS)),
    default="cpu",
    show_default=True,
    help="Where the model runs, served and in process.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of a worker [default: cores/workers].")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--port", type=click.IntRange(1, 65_521), default=18_080, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=3.0, show_default=True, help="Of each turn."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns each.")
@click.option(
    "--contexts",
    type=click.IntRange(1),
    multiple=True,
    default=CONTEXTS,
    show_default=True,
    help="Sizes of contexts, repeatable.",
)
@out_option(RESULTS)
def main(
    model: str,
    device: Device,
    workers: int,
    threads: int | None,
    batch_size: int,
    port: int,
    seconds: float,
    rounds: int,
    contexts: tuple[int, ...],
    out: Path | None,
) -> None:
    """Measure a served model against a handler that does nothing and ONNX Runtime in process."""
    out = out or RESULTS[device]
    make_writable(out.parent)
    bundle = bundle_of(model)
    settings = ModelSettings(workers=workers, threads=threads, batch_size=batch_size, device=device)
    machine = describe_machine(choose_device(device), usable_cores()) | {"versions": _versions()}
    with (
        _serving(bundle, settings, port) as (store, startup),
        _serving_int8(bundle, settings, port + _INT8_PORTS) as int8_store,
    ):
        cases = _cases(bundle, store, int8_store, settings, rounds, seconds)
        of_contexts = [_context(bundle, store, size, rounds) for size in contexts]
        memory = [_memory(worker.pid) for worker in list_workers(store) if worker.model != NOOP]
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "model": bundle.card.name,
        "digest": bundle.card.digest,
        "settings": dataclasses.asdict(settings),
        "floor_is_light": True,  # see `served.noop`; earlier results were of a slower one
        "rounds": rounds,
        "seconds": seconds,
        "cases": cases,
        "contexts": of_contexts,
        "startup_seconds": startup,
        "memory_bytes_per_worker": memory,
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


@contextmanager
def _serving(bundle: Bundle, settings: ModelSettings, port: int) -> Iterator[tuple[Store, float]]:
    """A server over the model and the floor: its store, and seconds from start to ready."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "store")
        store = pack([bundle], path, Settings(port=port, models={bundle.card.name: settings}))
        began = time.perf_counter()
        launch.start(store)  # alone, for how long the model takes
        startup = time.perf_counter() - began
        process.end(path)
        store = add_noop(store, settings)
        launch.start(store)
        try:
            yield store, startup
        finally:
            process.end(path)


@contextmanager
def _serving_int8(bundle: Bundle, settings: ModelSettings, port: int) -> Iterator[Store | None]:
    """Another server over the model in int8: its store.

    None where nobody knows what it costs, and on a GPU, which does not compute so.
    """
    results = bundle.card.results
    if settings.device != "cpu" or results is None or results.int8 is None:
        yield None
        return
    with serving(bundle, dataclasses.replace(settings, precision="int8"), port) as store:
        yield store


def _cases(
    bundle: Bundle,
    store: Store,
    int8_store: Store | None,
    settings: ModelSettings,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    for served in filter(None, (store, int8_store)):
        both = [Message.post(*_request(bundle, served, case)) for case in (SMALLEST, LARGEST)]
        warm_up(both, _WARM_UP * seconds)
    found = []
    with (
        closing(Ceiling(bundle.path, settings)) as ceiling,
        tqdm(CASES, desc="cases", disable=None) as bar,
    ):
        for case in bar:
            bar.set_postfix_str(str(case))
            ours, floor = _messages(bundle, store, case)
            subjects = {
                OURS: lambda s, m=ours, c=case.clients: run(m, clients=c, seconds=s),
                FLOOR: lambda s, m=floor, c=case.clients: run(m, clients=c, seconds=s),
                CEILING: lambda s, q=case.queries: ceiling.run(q, s),
            }
            if int8_store is not None:
                small = Message.post(*_request(bundle, int8_store, case))
                subjects[INT8] = lambda s, m=small, c=case.clients: run(m, clients=c, seconds=s)
            taken = measure(subjects, queries=case.queries, rounds=rounds, seconds=seconds)
            found.append({"case": str(case), **dataclasses.asdict(case), "subjects": taken})
    return found


def _messages(bundle: Bundle, store: Store, case: Case) -> tuple[Message, Message]:
    """The request of a case to the model, and one as large to the floor, for as large a reply."""
    url, body, headers = _request(bundle, store, case)
    return Message.post(url, body, headers), floor_message(store, url, body, headers)


def _request(bundle: Bundle, store: Store, case: Case) -> tuple[str, bytes, dict[str, str]]:
    """URL, body and headers: queries, and the summary of a context that this server has made."""
    name, rng = bundle.card.name, np.random.default_rng(0)
    images = rng.integers(0, 256, (case.queries, *bundle.card.image_shape), np.uint8)
    with RemoteEmbedder(store.settings.url, name, token_file=store.token_file) as embedder:
        summary = embedder.summarize(images[:100])
    body, headers = encode_request(queries=images, summary=summary, binary=case.binary)
    url, token = authorization(store, name)
    return url, body, headers | token


def _context(bundle: Bundle, store: Store, size: int, rounds: int) -> dict[str, Any]:
    """Seconds of one query whose context is sent with it, and whose summary is; through the client.

    A context that is larger than a request may be is summarised in parts, as the client does, and
    only a smaller one goes with the query in one request.
    """
    rng = np.random.default_rng(0)
    context = rng.integers(0, 256, (size, *bundle.card.image_shape), np.uint8)
    query = context[:1]
    inline, summarised = [], []
    url, token = authorization(store, bundle.card.name)
    in_one_request = size < MAX_IMAGES
    with (
        RemoteEmbedder(
            store.settings.url, bundle.card.name, token_file=store.token_file, timeout=300
        ) as embedder,
        httpx.Client(timeout=300) as http,
    ):
        summary = embedder.summarize(context)
        for _ in range(rounds):
            began = time.perf_counter()
            if in_one_request:
                body, headers = encode_request(queries=query, context=context)
                http.post(url, content=body, headers=headers | token).raise_for_status()
            else:
                embedder.embed(query, embedder.summarize(context))
            middle = time.perf_counter()
            embedder.embed(query, summary)
            inline.append(middle - began)
            summarised.append(time.perf_counter() - middle)
    return {
        "size": size,
        "in_one_request": in_one_request,
        "with_context_seconds": inline,
        "with_summary_seconds": summarised,
    }


def _memory(pid: int) -> int:
    """Bytes that a worker has for itself; what it shares with others is divided among them."""
    found = psutil.Process(pid).memory_full_info()
    return getattr(found, "pss", found.rss)


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torchserve": version("torchserve"),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    main()
