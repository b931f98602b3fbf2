"""A peer and metavae over the same job, turn by turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_serving.torchserve.store import Store
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import Embeddings, OnnxEmbedder
from metavae_zoo.protocol.wire import encode_request
from served.cases import CASES, LARGEST, SMALLEST, Case, Subject, measure
from served.load import LoadFailed, Message, Run, run
from served.peers.catalog import Peer, PeerFailed
from served.peers.environments import versions
from served.peers.running import Running, running
from served.serving import authorization, floor_message

ASKED = tuple(case for case in CASES if case.binary)

_WARM_SECONDS = 0.5  # of each server before each case
_CONTEXT = 100  # images


class Job:
    """What every server is asked: so many images and one summary; and what is true of them."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        rng = np.random.default_rng(0)
        shape = (max(case.queries for case in ASKED), *bundle.card.image_shape)
        embedder = OnnxEmbedder(bundle, threads=threads)
        self._images = rng.integers(0, 256, shape, np.uint8)
        self.bundle = bundle
        self.threads = threads
        self.summary = embedder.summarize(self._images[:_CONTEXT])
        self._truth = embedder.embed(self._images, self.summary)

    def images(self, queries: int) -> NDArray[np.uint8]:
        """The first so many images."""
        return self._images[:queries]

    def message(self, store: Store, case: Case) -> Message:
        """A case's request to metavae, which serves from `store`."""
        return Message.post(*self._request(store, case))

    def floor_message(self, store: Store, case: Case) -> Message:
        """The same to a handler that does nothing, in the same server."""
        return floor_message(store, *self._request(store, case))

    def _request(self, store: Store, case: Case) -> tuple[str, bytes, dict[str, str]]:
        body, headers = encode_request(queries=self.images(case.queries), summary=self.summary)
        url, token = authorization(store, self.bundle.card.name)
        return url, body, headers | token

    def messages(self, store: Store) -> list[Message]:
        """The smallest and the largest request, which warm it up."""
        return [self.message(store, case) for case in (SMALLEST, LARGEST)]

    def check(self, found: Embeddings, queries: int) -> None:
        """Raise PeerFailed unless these are the embeddings of the first so many, bit for bit."""
        for name in ("mean", "log_variance"):
            got, true = getattr(found, name), getattr(self._truth, name)[:queries]
            if got.dtype != true.dtype or got.tobytes() != true.tobytes():
                raise PeerFailed(f"its {name} of {queries} queries is not that of the model")


@dataclass(frozen=True)
class Comparison:
    """How peers are compared with metavae, which serves from each of `stores`.

    A peer listens at `port`, and may take the next few.
    """

    job: Job
    stores: Mapping[str, Store]
    port: int
    rounds: int
    seconds: float

    def measure(self, peer: Peer, python: Path | PeerFailed) -> dict[str, Any]:
        """What a result file says of a peer: its figures, or why there are none.

        `python` is that of its environment, or why it has none.
        """
        found: dict[str, Any] = {
            "name": peer.name,
            "wire": peer.wire.described,
            "requirements": list(peer.requirements),
            "version": None,
            "packages": {},
            "failure": None,
            "cases": [],
        }
        try:
            if isinstance(python, PeerFailed):
                raise python
            found["packages"] = versions(python)
            found["version"] = found["packages"].get(peer.package)
            with running(
                peer, python, self.job.bundle, threads=self.job.threads, port=self.port
            ) as process:
                for case in ASKED:
                    found["cases"].append(self._case(peer, process, case))
        except PeerFailed as failure:
            found["failure"] = str(failure)
        return found

    def measure_floor(self, name: str) -> list[dict[str, Any]]:
        """The cases of a handler that does nothing, called `name`, beside the model's own.

        It is in the first of the stores.
        """
        own, store = next(iter(self.stores.items()))
        return [
            self._taken(
                case,
                {
                    own: _asking(self.job.message(store, case), case),
                    name: _asking(self.job.floor_message(store, case), case),
                },
            )
            for case in ASKED
        ]

    def _case(self, peer: Peer, process: Running, case: Case) -> dict[str, Any]:
        # One of ours before the peer and one after it: both ratios are of neighbours.
        (name, store), *others = self.stores.items()
        subjects = {
            name: _asking(self.job.message(store, case), case),
            peer.name: self._theirs(peer, process, case),
            **{other: _asking(self.job.message(of, case), case) for other, of in others},
        }
        return self._taken(case, subjects)

    def _taken(self, case: Case, subjects: dict[str, Subject]) -> dict[str, Any]:
        taken = measure(
            subjects,
            queries=case.queries,
            rounds=self.rounds,
            seconds=self.seconds,
            warm=_WARM_SECONDS,
        )
        return {"case": str(case), **dataclasses.asdict(case), "subjects": taken}

    def _theirs(self, peer: Peer, process: Running, case: Case) -> Subject:
        url = f"http://127.0.0.1:{self.port}{peer.path}"
        body, headers = peer.wire.request(self.job.images(case.queries), self.job.summary)
        reply = process.first_reply(url, body, headers)
        self.job.check(peer.wire.read(reply, self.job.bundle.card.latent_dim), case.queries)
        message = Message.post(url, body, headers)

        def subject(seconds: float) -> Run:
            try:
                return run(message, clients=case.clients, seconds=seconds)
            except (LoadFailed, OSError) as error:
                raise PeerFailed(f"it failed at {case}: {error}") from error

        return subject


def _asking(message: Message, case: Case) -> Subject:
    return lambda seconds: run(message, clients=case.clients, seconds=seconds)
