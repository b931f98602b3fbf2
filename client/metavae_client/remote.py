"""A served model as an embedder, with the calls, errors and bits of one in process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote
from weakref import WeakSet

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from metavae_client.errors import BadReply, ModelNotNamed, ModelNotServed
from metavae_client.transport.address import tokens_for, url_of_store
from metavae_client.transport.catalogue import served_beside, served_names, try_served_names
from metavae_client.transport.connection import Connection, Patience
from metavae_client.transport.replies import one_line, request_id, whole_number
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embeddings, check_site, check_summary, pooled_rows
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.embedding.transformer import Transformer
from metavae_zoo.errors import BadBundle
from metavae_zoo.images import Images, as_images
from metavae_zoo.places import AnyPath
from metavae_zoo.protocol.wire import (
    HEADER_LENGTH,
    MAX_IMAGES,
    MAX_IMAGES_HEADER,
    BadRequest,
    decode_reply,
    encode_request,
)

T = TypeVar("T")

_LONGEST_NAME = 200  # characters
REQUEST_BYTES = 2_000_000  # large enough to hide a request's cost, small enough to spread and retry


class RemoteEmbedder(Transformer):
    """A model at a server, an `Embedder`; for any number of threads, and a context manager.

    It can be pickled: the copy connects anew, and reads its token from the same file or variable. A
    forked process connects anew too (not over gRPC, whose library does not survive a fork).

    `url` None is the server over the store whose key file is read, or port 8080 of this machine.
    `token` or `token_file` (TorchServe's key_file.json) name the token, see `Tokens`. Images are
    sent in requests of at most `max_request_bytes` and `max_images_per_request` (no more than the
    server takes, which it says with the card), `concurrency` at a time for each call. `timeout` and
    `give_up_after` are seconds for one try and for all tries of a request. `progress` shows a bar
    on stderr for long work, if that is a terminal.

    Its methods raise the errors of an embedder in process, and those of `metavae_client.errors`.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        *,
        token: str | None = None,
        token_file: AnyPath | None = None,
        timeout: float = Patience.timeout,
        give_up_after: float = Patience.give_up_after,
        concurrency: int = 4,
        max_request_bytes: int = REQUEST_BYTES,
        max_images_per_request: int | None = None,
        progress: bool = False,
    ) -> None:
        self.url = url
        self.model = _checked_name(model)
        self.token = token
        self.token_file = token_file
        self.timeout = timeout
        self.give_up_after = give_up_after
        self.concurrency = concurrency
        self.max_request_bytes = max_request_bytes
        self.max_images_per_request = max_images_per_request
        self.progress = progress
        self._card: ModelCard | None = None
        self._taken_images = MAX_IMAGES
        self._connect()
        _embedders.add(self)

    def _connect(self) -> None:
        self._tokens = tokens_for(self.url, token=self.token, path=self.token_file)
        self._connection = Connection(
            self.url or url_of_store(self._tokens),
            self._tokens,
            "inference",
            Patience(self.timeout, self.give_up_after),
        )

    @property
    def card(self) -> ModelCard:
        """The served model's card, fetched once; raises ModelNotServed."""
        if self._card is None:
            self._card = self._fetch_card()
        return self._card

    def summarize(self, context: ArrayLike) -> Summary:
        """Summarise a context set; see `Embedder`. A large one goes in parts, and is merged."""
        images = as_images(context, self.card.image_shape, field="context")
        if not self.card.needs_context:
            return Summary(np.zeros(0), len(images), self.card.digest)
        rows = self._rows_per_request(bytes_in=images[0].nbytes, bytes_out=0)
        parts = self._each(len(images), rows, "summarize", lambda at: self._summarize(images[at]))
        return parts[0].merge(*parts[1:])

    def site(self, summary: Summary) -> NDArray[np.float32]:
        """The parameters of the context's site, float32 [P]; see `OnnxEmbedder.site`."""
        check_site(self.card)
        check_summary(self.card, summary)
        outputs = self._infer(summary=summary, outputs=("site",))
        return self._output(outputs, "site", (len(self.card.site),), np.float32)

    def embed(
        self, queries: ArrayLike, summary: Summary | Sequence[Summary] | None = None
    ) -> Embeddings:
        """Embed queries; see `Embedder`. Many go in parts, joined in order."""
        images = as_images(queries, self.card.image_shape, field="queries")
        pooled_rows(self.card, summary, len(images))  # refuses here what the server would refuse
        if not self.card.needs_context:
            summary = None
        per_row = not isinstance(summary, Summary | None)
        rows = self._rows_per_request(
            bytes_in=images[0].nbytes + (8 * self.card.feature_dim + 8) * per_row,
            bytes_out=2 * 4 * self.card.latent_dim,
        )

        def part(at: slice) -> Embeddings:
            return self._embed(
                images[at], summary if isinstance(summary, Summary | None) else summary[at]
            )

        parts = self._each(len(images), rows, "embed", part)
        return Embeddings(
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.log_variance for part in parts]),
        )

    def close(self) -> None:
        """Close the connections; pending requests raise Closed."""
        self._connection.close()

    def __enter__(self) -> RemoteEmbedder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rows_per_request(self, *, bytes_in: int, bytes_out: int) -> int:
        fitting = self.max_request_bytes // max(bytes_in, bytes_out)
        return max(1, min(self.max_images_per_request or fitting, self._taken_images, fitting))

    def _each(self, images: int, limit: int, verb: str, work: Callable[[slice], T]) -> list[T]:
        """Do `work` on parts of at most `limit` images, several at a time; results in order."""
        count = math.ceil(images / limit)
        # Even parts: a short last one would leave the other connections idle.
        edges = [images * part // count for part in range(count + 1)]
        parts = [slice(start, end) for start, end in pairwise(edges)]
        if count == 1:
            return [work(parts[0])]
        results = []
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="embed")
        with tqdm(
            total=images,
            desc=verb,
            unit="image",
            unit_scale=True,
            delay=1,
            disable=None if self.progress else True,
        ) as bar:
            try:
                for part, result in zip(parts, pool.map(work, parts), strict=True):
                    results.append(result)
                    bar.update(part.stop - part.start)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # after an error others may hang
        return results

    def _summarize(self, context: Images) -> Summary:
        outputs = self._infer(context=context)
        total = self._output(outputs, "summary", (self.card.feature_dim,), np.float64)
        count = self._output(outputs, "count", (1,), np.int64)
        if count[0] != len(context):
            problem = f"counted {count[0]} of {len(context)} context images"
            raise self._bad_reply(problem, outputs.request_id)
        return Summary(total, len(context), self.card.digest)

    def _embed(self, queries: Images, summary: Summary | Sequence[Summary] | None) -> Embeddings:
        outputs = self._infer(queries=queries, summary=summary)
        shape = (len(queries), self.card.latent_dim)
        return Embeddings(
            self._output(outputs, "embedding", shape, np.float32),
            self._output(outputs, "log_variance", shape, np.float32),
        )

    def _infer(
        self,
        *,
        queries: Images | None = None,
        context: Images | None = None,
        summary: Summary | Sequence[Summary] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> _Outputs:
        body, headers = encode_request(
            queries=queries, context=context, summary=summary, outputs=outputs
        )
        response = self._connection.send(
            "POST",
            f"/v2/models/{quote(self.model, safe='')}/infer",
            model=self.model,
            body=body,
            headers=headers,
        )
        try:
            reply = decode_reply(response.content, whole_number(response.headers, HEADER_LENGTH))
        except BadRequest as error:
            problem = f"sent what cannot be read: {error.message}"
            raise self._bad_reply(problem, request_id(response)) from error
        if reply.model != self.card.digest:
            raise BadReply(
                f"model {self.model} at {self._connection.url} has become another"
                f" ({one_line(reply.model)[:12] or 'unnamed'}, it was {self.card.digest[:12]})",
                hint="Make a new RemoteEmbedder, and summarise the contexts again",
                field="model",
                request_id=request_id(response),
            )
        return _Outputs(reply.outputs, request_id(response))

    def _output(self, outputs: _Outputs, name: str, shape: tuple[int, ...], dtype: type) -> NDArray:
        array = outputs.arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            raise self._bad_reply(f"sent no {name} of shape {list(shape)}", outputs.request_id)
        # The reply's arrays are read-only views of all its bytes.
        return array.copy()

    def _bad_reply(self, problem: str, request_id: str) -> BadReply:
        return BadReply(
            f"the server at {self._connection.url} {problem}",
            hint="Check --url, and that client and server are of one version",
            field="url",
            request_id=request_id,
        )

    def _fetch_card(self) -> ModelCard:
        path = f"/predictions/{quote(self.model, safe='')}/1.0/card"
        try:
            response = self._connection.send("GET", path, model=self.model)
        except ModelNotServed as error:
            served = try_served_names(self._connection.url, self._tokens)
            raise ModelNotServed(self.model, self._connection.url, served) from error
        taken = whole_number(response.headers, MAX_IMAGES_HEADER)
        self._taken_images = MAX_IMAGES if taken is None else taken
        try:
            return ModelCard.from_json(response.content, source=f"{self._connection.url}{path}")
        except BadBundle as error:
            problem = f"sent no card of {self.model}: {error.message}"
            raise self._bad_reply(problem, request_id(response)) from error


_embedders: WeakSet[RemoteEmbedder] = WeakSet()


def _connect_anew() -> None:
    """Give the embedders of a forked process connections and locks of their own."""
    for embedder in list(_embedders):
        if not embedder._connection.closed:
            embedder._connect()


os.register_at_fork(after_in_child=_connect_anew)


def _checked_name(model: str) -> str:
    """The name of a model; raises ModelNotNamed for a text that can be none."""
    if not model.isprintable() or model in ("", ".", "..") or len(model) > _LONGEST_NAME:
        shown = model if len(model) <= _LONGEST_NAME else f"{model[:20]}..."
        raise ModelNotNamed(
            f"{shown!a} is no name of a model",
            hint="`metavae-client models` lists those that are served",
            field="model",
        )
    return model


@dataclass(frozen=True)
class _Outputs:
    """The arrays of a reply by name, and the id of its request."""

    arrays: dict[str, NDArray]
    request_id: str


def served_models(
    url: str | None,
    *,
    management: str | None = None,
    token: str | None = None,
    token_file: AnyPath | None = None,
) -> list[ModelCard]:
    """Cards of all models that a server serves; `url` None is as for RemoteEmbedder.

    `management` is the URL of its management API, which listens on its own machine only (one port
    above `url` if None); `token_file` has the tokens of both.
    """
    tokens = tokens_for(management or url, token=token, path=token_file)
    url = url or url_of_store(tokens)
    names = served_names(management, tokens) if management else served_beside(url, tokens)
    cards = []
    for name in names:
        with RemoteEmbedder(url, name, token=token, token_file=token_file) as embedder:
            cards.append(embedder.card)
    return cards
