"""The embedding contract, and its reference implementation on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from metavae_zoo.bundles.bundle import ENCODE, GOLDEN, SITE, SUMMARIZE, Bundle
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.chunks import Pack, joined, packs, pieces
from metavae_zoo.embedding.graph import CHUNK, Device, open_graph
from metavae_zoo.embedding.summary import LIMIT, SITE_IMAGES, Summary
from metavae_zoo.embedding.transformer import Transformer
from metavae_zoo.errors import BadBundle, BadSummary, MetavaeError, NoSite
from metavae_zoo.images import Images, as_images

# torch against ONNX Runtime on the CPU; on CUDA, products are summed in another order.
GOLDEN_TOLERANCE: dict[Device, float] = {"cpu": 1e-5, "cuda": 1e-3}
# Of models with a site: they read images at positions in float32, between pixels that differ.
SITE_TOLERANCE = 1e-3
TF32_TOLERANCE = 2e-2  # products of factors with 10 bits of mantissa in place of 23


@dataclass(frozen=True)
class Embeddings:
    """The diagonal Gaussian posterior q(z | D, x) per query; its mean is the embedding.

    mean, log_variance: float32 [query, latent].
    """

    mean: NDArray[np.float32]
    log_variance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.mean)


class Embedder(Protocol):
    """What torch, ONNX Runtime in process and a remote server all are."""

    @property
    def card(self) -> ModelCard:
        """The card of the model that embeds."""
        ...

    def summarize(self, context: ArrayLike) -> Summary:
        """Summarise a context set of images, [N, H, W] or [N, C, H, W]."""
        ...

    def embed(
        self, queries: ArrayLike, summary: Summary | Sequence[Summary] | None = None
    ) -> Embeddings:
        """Embed images given the summary of their context, or one summary per image."""
        ...


def pooled_rows(
    card: ModelCard, summary: Summary | Sequence[Summary] | None, queries: int
) -> NDArray[np.float32]:
    """The encoder's summary input, float32, from what an `embed` call was given.

    [query, feature], or [1, feature] for one that all queries share.

    Raises BadSummary if the model needs a summary and gets none, if another model made it, or if
    there is neither one nor one per query.
    """
    if not card.needs_context:
        return np.zeros((queries, 0), np.float32)
    if summary is None:
        raise BadSummary(
            f"model {card.name} embeds images given a context set, and got none",
            hint="Give `context` images of the same distribution, or their `summary`",
            field="context",
        )
    if isinstance(summary, Summary):
        check_summary(card, summary)
        return summary.mean[None]
    if not isinstance(summary, Sequence) or len(summary) != queries:
        raise BadSummary(
            f"{len(summary) if isinstance(summary, Sequence) else type(summary).__name__} summaries"
            f" for {queries} queries, expected one, or one per query",
            hint="Give one Summary for all queries, or a list of as many as there are queries",
            field="summary",
        )
    for one in summary:
        check_summary(card, one)
    return np.stack([one.mean for one in summary])


def check_summary(card: ModelCard, summary: Summary) -> None:
    """Raise BadSummary unless `card`'s model made the summary, of one image or more."""
    if summary.model != card.digest:
        cut = summary.model and card.digest.startswith(summary.model)
        raise BadSummary(
            f"the summary was made by model {summary.model[:12] or '(none)'}, model {card.name} is"
            f" {card.digest if cut else card.digest[:12]}",
            hint="Give the whole digest, as the server gave it"
            if cut
            else "Summarise the context with the model that embeds",
            field="summary",
        )
    if summary.total.shape != (card.feature_dim,) or not (np.abs(summary.total) < LIMIT).all():
        raise BadSummary(
            f"the summary has shape {list(summary.total.shape)} or values that are no sums of"
            f" features, expected {card.feature_dim} numbers below {LIMIT:g}",
            hint="Send the summary back as the server gave it",
            field="summary",
        )
    if summary.count < 1:
        raise BadSummary(
            f"the summary counts {summary.count} images, expected 1 or more",
            hint="Send `count` back as the server gave it",
            field="count",
        )


def check_site(card: ModelCard) -> None:
    """Raise NoSite unless the model of `card` infers the parameters of a context's site."""
    if not card.site:
        raise NoSite(
            f"model {card.name} infers no site from a context",
            hint="Choose a model whose card lists `site` (`metavae-zoo show NAME`), such as a"
            " canonical one, or do not ask for the site",
            field="outputs",
        )


class OnnxEmbedder(Transformer):
    """A bundle on ONNX Runtime in this process.

    `device` is met exactly or refused with DeviceUnavailable; `threads` bounds the CPU threads of
    one graph run (all cores if None). On the CPU an embedding has the same bits alone or in any
    batch. `tf32`, which the CPU refuses, trades digits for speed; see `open_graph`. `check_golden`
    compares with the outputs that the bundle was exported with and raises BadBundle where they
    differ.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        tf32: bool = False,
        check_golden: bool = True,
    ) -> None:
        self.bundle = bundle
        self.device: Device = device
        self.threads = threads
        self.tf32 = tf32
        self.check_golden = check_golden
        self.card = bundle.card
        opened = partial(open_graph, device=device, threads=threads, tf32=tf32)
        self._encode = opened(bundle.path / ENCODE)
        self._summarize = opened(bundle.path / SUMMARIZE) if bundle.card.needs_context else None
        # On the CPU always: one row through a tiny graph.
        self._site = (
            open_graph(bundle.path / SITE, device="cpu", threads=threads)
            if self.card.site
            else None
        )
        self._tolerance = TF32_TOLERANCE if tf32 else GOLDEN_TOLERANCE[device]
        self._where = f"{device} in TF32" if tf32 else device
        if check_golden:
            self._check_golden(bundle)

    def summarize(self, context: ArrayLike) -> Summary:
        """Summarise a context set; see `Embedder`."""
        images = as_images(context, self.card.image_shape, field="context")
        [summary] = self.summarize_each([images])
        if isinstance(summary, BadSummary):
            raise summary
        return summary

    def summarize_each(self, contexts: Sequence[Images]) -> list[Summary | BadSummary]:
        """Summaries of several contexts, [N, C, H, W] each, by as few runs as hold their images.

        The BadSummary of a context whose sum leaves the exact range stands in its place.
        """
        digest = self.card.digest
        if self._summarize is None:
            return [Summary(np.zeros(0), len(images), digest) for images in contexts]
        parts: list[list[Summary | BadSummary]] = [[] for _ in contexts]
        for pack in packs([len(images) for images in contexts], CHUNK):
            images = joined([contexts[index][rows] for index, rows in pack])
            [features] = self._summarize.run({"images": images})
            for (index, _), piece in zip(pack, pieces(features, pack), strict=True):
                parts[index].append(_summed(piece, digest))
        return [_merged(of_one) for of_one in parts]

    def site(self, summary: Summary) -> NDArray[np.float32]:
        """The parameters of the context's site, float32 [P], in the order of `card.site`.

        `metavae_zoo.embedding.site.Site` reads them. The bits depend on the summary alone. Raises
        NoSite for a model that infers no site, and BadSummary for a summary that is not this
        model's or from which no finite site follows.
        """
        check_site(self.card)
        check_summary(self.card, summary)
        assert self._site is not None, "a card with a site has a graph of it"  # noqa: S101
        count = np.array([[site_count(summary)]], np.float32)
        [sites] = self._site.run({"summary": summary.mean[None], "count": count})
        if sites.shape != (1, len(self.card.site)):
            raise BadBundle(
                f"{SITE} of {self.card.name} gives shape {list(sites.shape)}, the card lists"
                f" {len(self.card.site)} numbers",
                hint="Export the model again: `metavae-train export CHECKPOINT`",
            )
        if not np.isfinite(sites).all():
            raise BadSummary(
                "no finite site follows from the summary",
                hint="Summarise images of the kind that the model was trained on",
                field="summary",
            )
        return sites[0]

    def embed(
        self, queries: ArrayLike, summary: Summary | Sequence[Summary] | None = None
    ) -> Embeddings:
        """Embed queries; see `Embedder`."""
        images = as_images(queries, self.card.image_shape, field="queries")
        [embeddings] = self.embed_each([(images, pooled_rows(self.card, summary, len(images)))])
        return embeddings

    def embed_each(self, queries: Sequence[tuple[Images, NDArray[np.float32]]]) -> list[Embeddings]:
        """Embeddings of several arrays of images, each with its rows of `pooled_rows`.

        By as few runs as hold the images.
        """
        parts: list[list[Embeddings]] = [[] for _ in queries]
        for pack in packs([len(images) for images, _ in queries], CHUNK):
            inputs = {"images": joined([queries[index][0][rows] for index, rows in pack])}
            if self.card.needs_context:
                inputs["summary"] = _summary_rows([summaries for _, summaries in queries], pack)
            means, log_variances = self._encode.run(inputs)
            for (index, _), mean, log_variance in zip(
                pack, pieces(means, pack), pieces(log_variances, pack), strict=True
            ):
                parts[index].append(Embeddings(mean, log_variance))
        return [
            Embeddings(
                joined([part.mean for part in of_one]),
                joined([part.log_variance for part in of_one]),
            )
            for of_one in parts
        ]

    def _check_golden(self, bundle: Bundle) -> None:
        try:
            golden = load_file(bundle.path / GOLDEN)
            found = self._of_golden(golden)
            gaps = {name: golden_gap(values, golden[name]) for name, values in found.items()}
        except (LookupError, SafetensorError, ValueError, MetavaeError) as error:
            raise BadBundle(
                f"{bundle.path}: what its graphs make of {GOLDEN} cannot be compared with it"
                f" ({type(error).__name__}: {error})",
                hint="Export the model again",
            ) from error
        for name, gap in gaps.items():
            allowed = max(self._tolerance, SITE_TOLERANCE) if self.card.site else self._tolerance
            if not gap <= allowed:
                raise BadBundle(
                    f"{bundle.path}: {name} differs from the exported golden outputs by {gap:.2g},"
                    f" allowed {allowed:g} on {self._where}",
                    hint="Check the ONNX Runtime version, then export the model again",
                )

    def _of_golden(self, golden: dict[str, NDArray]) -> dict[str, NDArray]:
        """The golden outputs as they are found here, of the widths that the card says."""
        summary = self.summarize(golden["context"]) if self.card.needs_context else None
        queries = golden["queries"]
        embeddings = self.embed(queries, summary)
        found = {"mean": embeddings.mean, "log_variance": embeddings.log_variance}
        width = (len(queries), self.card.latent_dim)
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(found, width)
        if summary is not None:
            found["summary"] = summary.mean
            expected["summary"] = (self.card.feature_dim,)
            if self.card.site and "site" in golden:
                found["site"] = self.site(summary)
                expected["site"] = (len(self.card.site),)
        for name, values in found.items():
            if values.shape != expected[name]:
                raise ValueError(f"{name} has shape {values.shape}, the card says {expected[name]}")
        return found


def _summary_rows(given: Sequence[NDArray[np.float32]], pack: Pack) -> NDArray[np.float32]:
    """Summaries of a pack's images, of what `pooled_rows` gave: a row each, or one for all."""
    first = given[pack[0][0]]
    if len(first) == 1 and all(np.array_equal(given[index], first) for index, _ in pack[1:]):
        return first
    return joined([_rows(given[index], at) for index, at in pack])


def _rows(summaries: NDArray[np.float32], at: slice) -> NDArray[np.float32]:
    if len(summaries) == 1:
        return np.repeat(summaries, at.stop - at.start, axis=0)
    return summaries[at]


def _summed(features: NDArray[np.float32], digest: str) -> Summary | BadSummary:
    try:
        return Summary.of_features(features, digest)
    except BadSummary as error:
        return error


def _merged(parts: Sequence[Summary | BadSummary]) -> Summary | BadSummary:
    summaries = []
    for part in parts:
        if isinstance(part, BadSummary):
            return part
        summaries.append(part)
    try:
        return summaries[0].merge(*summaries[1:])
    except BadSummary as error:
        return error


def site_count(summary: Summary) -> int:
    """The number of images that a site's error is stated for: the context's, SITE_IMAGES at most.

    The error's quantiles were learned on contexts of up to so many. They are not extrapolated.
    """
    return min(summary.count, SITE_IMAGES)


def golden_gap(found: NDArray, golden: NDArray) -> float:
    """Largest difference, absolute for numbers up to 1 and relative above."""
    if found.shape != golden.shape:
        return float("inf")
    return float((np.abs(found - golden) / np.maximum(1.0, np.abs(golden))).max())
