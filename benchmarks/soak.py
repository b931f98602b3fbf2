"""Whether a server stays as it is: `python benchmarks/soak.py`, or `make soak`.

Good requests of every kind and bad ones, from many clients without a pause: each reply is to be
what the model gives in this process, to the bit, or the refusal that the request calls for.
Meanwhile the memory, open files and sockets of TorchServe's Java and of its workers are watched.
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
from numpy.typing import NDArray

from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, process
from metavae_serving.torchserve.archive import bundle_of, pack
from metavae_serving.torchserve.management import list_workers
from metavae_serving.torchserve.store import Store
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import MetavaeError
from metavae_zoo.images import Images
from metavae_zoo.protocol.wire import HEADER_LENGTH, decode_reply, encode_request
from served.serving import authorization

MODEL = "metavae-digits-rotation-contiguous"
CLIENTS = 8
_SAMPLE_SECONDS = 0.5
_GROWTH = 0.03  # of a process's memory, that is not taken for a leak
_NOISE = 20_000_000  # bytes


class Unsound(MetavaeError):
    """Under constant load a process grew, a connection broke, or a reply was wrong."""

    code = "unsound"


@dataclass(frozen=True)
class Asked:
    """A request, and the status and arrays that it is to be answered with."""

    body: bytes
    headers: dict[str, str]
    status: int
    outputs: dict[str, NDArray]

    def is_answered_by(self, reply: httpx.Response) -> bool:
        """Whether that is what came."""
        if reply.status_code != self.status or not self.outputs:
            return reply.status_code == self.status
        length = int(reply.headers[HEADER_LENGTH]) if HEADER_LENGTH in reply.headers else None
        found = decode_reply(reply.content, length).outputs
        return found.keys() == self.outputs.keys() and all(
            np.array_equal(found[name], expected) for name, expected in self.outputs.items()
        )


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
        """Compare the last quarter with the second, when all is warm; raises Unsound."""
        quarter = max(1, len(self.memory) // 4)
        for what, values, allowed in (
            ("memory", self.memory, _NOISE),
            ("open files", self.files, 2 * CLIENTS),
        ):
            before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
            if after > before * (1 + _GROWTH) + allowed:
                raise Unsound(
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
@click.option("--minutes", type=click.FloatRange(2.0), default=5.0, show_default=True)
@click.option("--port", type=click.IntRange(1, 65_531), default=18_080, show_default=True)
def main(model: str, minutes: float, port: int) -> None:
    """Load a server for a while, and fail if any of its processes grows."""
    bundle = bundle_of(model)
    settings = ModelSettings(workers=2, batch_size=4)
    with TemporaryDirectory() as folder:
        path = Path(folder, "store")
        store = pack([bundle], path, Settings(port=port, models={bundle.card.name: settings}))
        launch.start(store)
        try:
            answered, watched = soak(bundle, store, minutes * 60, lambda line: print(line))
        finally:
            process.end(path)
    for status, count in sorted(answered.items()):
        click.echo(f"{count:,} replies of {status}")
    for one in watched:
        click.echo(str(one))
        one.check()


def soak(
    bundle: Bundle, store: Store, seconds: float, say: Callable[[str], None]
) -> tuple[Counter[int], list[Watched]]:
    """Load the server over `store`; replies by status, and its processes.

    Raises Unsound where a connection broke or a reply was wrong.
    """
    url, headers = authorization(store, bundle.card.name)
    requests = _requests(bundle)
    server = process.require(store.path)
    [java] = psutil.Process(server.pid).children()
    watched = [Watched("TorchServe", java)] + [
        Watched(f"worker {one.id}", psutil.Process(one.pid)) for one in list_workers(store)
    ]
    answered: Counter[int] = Counter()
    broken: list[httpx.HTTPError] = []
    wrong: Counter[str] = Counter()
    done, lock = Event(), Lock()

    def ask(first: int) -> None:
        with httpx.Client(headers=headers, timeout=60) as http:
            number = first
            while not done.is_set():
                kind = number % len(requests)
                asked = requests[kind]
                number += 1
                try:
                    answer = http.post(url, content=asked.body, headers=asked.headers)
                except httpx.HTTPError as error:
                    broken.append(error)
                    return
                right = asked.is_answered_by(answer)
                with lock:
                    answered[answer.status_code] += 1
                    if not right:
                        wrong[f"{answer.status_code} to request {kind}, of {asked.status}"] += 1

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
        raise Unsound(
            f"{len(broken)} clients lost their connection ({broken[0]!r})",
            hint="See the server's logs",
        )
    if wrong:
        raise Unsound(
            f"{wrong.total():,} of {answered.total():,} replies are wrong ({dict(wrong)})",
            hint="See the server's logs",
        )
    return answered, watched


def _requests(bundle: Bundle) -> list[Asked]:
    rng = np.random.default_rng(0)
    embedder = OnnxEmbedder(bundle, threads=1)

    def images(count: int) -> Images:
        return rng.integers(0, 256, (count, *bundle.card.image_shape), np.uint8)

    def embedded(queries: Images, summary: Summary) -> dict[str, NDArray]:
        found = embedder.embed(queries, summary)
        return {"embedding": found.mean, "log_variance": found.log_variance}

    def summarized(summary: Summary) -> dict[str, NDArray]:
        return {"summary": summary.total, "count": np.array([summary.count])}

    summary = embedder.summarize(images(50))
    good = []
    for count in (1, 1, 1, 32, 256):
        queries = images(count)
        request = encode_request(queries=queries, summary=summary)
        good.append(Asked(*request, 200, embedded(queries, summary)))
    queries, context, large = images(5), images(20), images(100)
    both = encode_request(queries=queries, context=context, binary=False)
    of_context = embedder.summarize(context)
    return [
        *good,
        Asked(*encode_request(context=large), 200, summarized(embedder.summarize(large))),
        Asked(*both, 200, summarized(of_context) | embedded(queries, of_context)),
        Asked(*encode_request(queries=images(3)), 400, {}),
        Asked(b"{", {"Content-Type": "application/json"}, 400, {}),
        Asked(*encode_request(context=images(5000)), 413, {}),
    ]


if __name__ == "__main__":
    main()
