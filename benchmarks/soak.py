"""Whether a server stays as it is: `python benchmarks/soak.py`, or `make soak`.

Good requests of every kind and bad ones, from many clients without a pause, while the memory, open
files and sockets of TorchServe's Java and of its workers are watched.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Lock, Thread

import click
import httpx
import numpy as np
import psutil

from metavae_serving import launch, process
from metavae_serving.archive import bundle_of, pack
from metavae_serving.management import list_workers
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.wire import encode_request
from metavae_zoo.bundle import Bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedder import OnnxEmbedder
from metavae_zoo.errors import MetavaeError
from served.serving import authorization

MODEL = "metavae-digits-rotation-contiguous"
CLIENTS = 8
_SAMPLE_SECONDS = 0.5
_GROWTH = 0.03  # of a process's memory, that is not taken for a leak
_NOISE = 20_000_000  # bytes


class Leaks(MetavaeError):
    """A process that grows, or opens files, or a connection that broke, under constant load."""

    code = "leaks"


@dataclass
class Watched:
    """One process: bytes of memory and open files, as they were sampled."""

    name: str
    process: psutil.Process
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Look once more."""
        self.memory.append(self.process.memory_info().rss)
        self.files.append(self.process.num_fds())

    def check(self) -> None:
        """Compare the last quarter with the second, when all is warm; raises Leaks."""
        quarter = max(1, len(self.memory) // 4)
        for what, values, allowed in (
            ("memory", self.memory, _NOISE),
            ("open files", self.files, 2 * CLIENTS),
        ):
            before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
            if after > before * (1 + _GROWTH) + allowed:
                raise Leaks(
                    f"{what} of {self.name} grew from {before:,.0f} to {after:,.0f}",
                    hint="Run it for longer to see how it goes on: --minutes",
                )

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.memory[0] / 1e6:,.0f} to {self.memory[-1] / 1e6:,.0f} MB,"
            f" {self.files[0]} to {self.files[-1]} open files"
        )


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--model", default=MODEL, show_default=True, help="A model of the zoo, or a path.")
@click.option("--minutes", type=click.FloatRange(0.05), default=5.0, show_default=True)
@click.option("--port", type=click.IntRange(1, 65_531), default=18_080, show_default=True)
def main(model: str, minutes: float, port: int) -> None:
    """Load a server for a while, and fail if any of its processes grows."""
    bundle = bundle_of(model)
    settings = ModelSettings(workers=2, batch_size=4)
    with TemporaryDirectory() as folder:
        store = Path(folder, "store")
        pack([bundle], store, Settings(port=port, models={bundle.card.name: settings}))
        launch.start(store)
        try:
            answered, watched = soak(bundle, store, minutes * 60, lambda line: print(line))
        finally:
            process.end(store)
    for status, count in sorted(answered.items()):
        click.echo(f"{count:,} replies of {status}")
    for one in watched:
        click.echo(str(one))
        one.check()
    unexpected = set(answered) - {200, 400, 413}
    if unexpected:
        raise Leaks(f"replies of {sorted(unexpected)} came", hint="See above for how many")


def soak(
    bundle: Bundle, store: Path, seconds: float, say: Callable[[str], None]
) -> tuple[Counter[int], list[Watched]]:
    """Load the server over `store`; replies by status, and its processes."""
    url, headers, requests = _requests(bundle, store)
    java = process.running(store)
    assert java is not None  # noqa: S101 - it has just been started
    watched = [Watched("TorchServe", java)] + [
        Watched(f"worker {one.id}", psutil.Process(one.pid)) for one in list_workers(store)
    ]
    answered: Counter[int] = Counter()
    broken: list[httpx.HTTPError] = []
    done, lock = Event(), Lock()

    def ask(first: int) -> None:
        with httpx.Client(headers=headers, timeout=60) as http:
            number = first
            while not done.is_set():
                body, given = requests[number % len(requests)]
                number += 1
                try:
                    answer = http.post(url, content=body, headers=given)
                except httpx.HTTPError as error:
                    broken.append(error)
                    return
                with lock:
                    answered[answer.status_code] += 1

    clients = [Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        deadline, told = time.monotonic() + seconds, 0.0
        while time.monotonic() < deadline:
            time.sleep(_SAMPLE_SECONDS)
            for one in watched:
                one.sample()
            if time.monotonic() - told > 30 and sys.stderr.isatty():
                told = time.monotonic()
                say(f"{answered.total():,} replies; " + "; ".join(map(str, watched)))
    finally:
        done.set()
        for client in clients:
            client.join()
    if broken:
        raise Leaks(
            f"{len(broken)} clients lost their connection ({broken[0]!r})",
            hint="See the server's logs",
        )
    return answered, watched


def _requests(
    bundle: Bundle, store: Path
) -> tuple[str, dict[str, str], list[tuple[bytes, dict[str, str]]]]:
    rng = np.random.default_rng(0)

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, *bundle.card.image_shape), np.uint8)

    summary = OnnxEmbedder(bundle, threads=1).summarize(images(50))
    good = [
        encode_request(queries=images(count), summary=summary) for count in (1, 1, 1, 32, 256)
    ] + [
        encode_request(context=images(100)),
        encode_request(queries=images(5), context=images(20), binary=False),
    ]
    bad = [
        encode_request(queries=images(3)),
        (b"{", {"Content-Type": "application/json"}),
        encode_request(context=images(5000)),
    ]
    url, headers = authorization(store, bundle.card.name)
    return url, headers, good + bad


if __name__ == "__main__":
    main()
