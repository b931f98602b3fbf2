"""The embedding contract, and its reference implementation on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

from metavae_zoo.bundle import ENCODE, GOLDEN, SUMMARIZE, Bundle
from metavae_zoo.card import ModelCard
from metavae_zoo.errors import BadBundle, BadSummary, DeviceUnavailable
from metavae_zoo.images import as_images
from metavae_zoo.summary import LIMIT, Summary

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["cpu", "cuda"]

CHUNK = 1024  # images per graph run: bounds the memory of a run, not the size of a request

# torch against ONNX Runtime on the CPU; on CUDA, products are summed in another order.
GOLDEN_TOLERANCE: dict[Device, float] = {"cpu": 1e-5, "cuda": 1e-3}


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
    """The encoder's summary input, float32 [query, feature], from what an `embed` call was given.

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
        return np.broadcast_to(summary.mean, (queries, card.feature_dim))
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
        raise BadSummary(
            f"the summary was made by model {summary.model[:12] or '(none)'}, model {card.name} is"
            f" {card.digest[:12]}",
            hint="Summarise the context with the model that embeds",
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


class OnnxEmbedder:
    """A bundle on ONNX Runtime in this process.

    `device` is met exactly or refused with DeviceUnavailable; `threads` bounds the CPU threads of
    one graph run (all cores if None). On the CPU an embedding has the same bits alone or in any
    batch. `check_golden` compares with the outputs that the bundle was exported with and raises
    BadBundle where they differ.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        check_golden: bool = True,
    ) -> None:
        self.card = bundle.card
        self._device: Device = device
        self._encode = _session(bundle, ENCODE, device, threads)
        self._summarize = (
            _session(bundle, SUMMARIZE, device, threads) if bundle.card.needs_context else None
        )
        if check_golden:
            self._check_golden(bundle)

    def summarize(self, context: ArrayLike) -> Summary:
        """Summarise a context set; see `Embedder`."""
        images = as_images(context, self.card.image_shape, field="context")
        if self._summarize is None:
            return Summary(np.zeros(0), len(images), self.card.digest)
        parts = [
            Summary.of_features(
                np.asarray(self._summarize.run(["features"], {"images": chunk})[0]),
                self.card.digest,
            )
            for chunk in _chunks(images)
        ]
        return parts[0].merge(*parts[1:])

    def embed(
        self, queries: ArrayLike, summary: Summary | Sequence[Summary] | None = None
    ) -> Embeddings:
        """Embed queries; see `Embedder`."""
        images = as_images(queries, self.card.image_shape, field="queries")
        rows = pooled_rows(self.card, summary, len(images))
        parts = [
            self._encode.run(
                ["mean", "log_variance"],
                {"images": chunk, "summary": np.ascontiguousarray(row)}
                if self.card.needs_context
                else {"images": chunk},
            )
            for chunk, row in zip(_chunks(images), _chunks(rows), strict=True)
        ]
        means, log_variances = zip(*parts, strict=True)
        return Embeddings(np.concatenate(means), np.concatenate(log_variances))

    def _check_golden(self, bundle: Bundle) -> None:
        golden = load_file(bundle.path / GOLDEN)
        summary = self.summarize(golden["context"]) if self.card.needs_context else None
        embeddings = self.embed(golden["queries"], summary)
        found = {"mean": embeddings.mean, "log_variance": embeddings.log_variance}
        if summary is not None:
            found["summary"] = summary.mean
        for name, values in found.items():
            gap = golden_gap(values, golden[name])
            if not gap <= GOLDEN_TOLERANCE[self._device]:
                raise BadBundle(
                    f"{bundle.path}: {name} differs from the exported golden outputs by {gap:.2g},"
                    f" allowed {GOLDEN_TOLERANCE[self._device]:g} on {self._device}",
                    hint="Check the ONNX Runtime version, then export the model again",
                )


def golden_gap(found: NDArray, golden: NDArray) -> float:
    """Largest difference, absolute for numbers up to 1 and relative above."""
    if found.shape != golden.shape:
        return float("inf")
    return float((np.abs(found - golden) / np.maximum(1.0, np.abs(golden))).max())


def _chunks(rows: NDArray) -> Iterator[NDArray]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _session(
    bundle: Bundle, graph: str, device: Device, threads: int | None
) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailable(
            "ONNX Runtime is not installed", hint="`pip install 'metavae[runtime]'`"
        ) from error
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    settings: list[str | tuple[str, dict[str, str]]] = [provider]
    if device == "cuda":
        onnxruntime.preload_dlls()
        settings = [(provider, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    # Spinning threads win microseconds for one session and starve every neighbour.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(bundle.path / graph, options, providers=settings)
    except Exception as error:  # ONNX Runtime raises several unrelated types
        if device == "cuda":
            raise _no_cuda(f"no session could be made ({error})") from error
        raise BadBundle(
            f"ONNX Runtime cannot load {bundle.path / graph} on {device} ({error})",
            hint="Verify the bundle: `metavae-zoo verify NAME`",
        ) from error
    # ONNX Runtime falls back to the CPU without a word when CUDA cannot be had.
    actual = session.get_providers()[0]
    if actual != provider:
        raise _no_cuda(f"ONNX Runtime gave {actual}")
    return session


def _no_cuda(found: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"CUDAExecutionProvider was asked for and {found}",
        hint="Check `nvidia-smi` and the CUDA libraries, or choose `--device cpu`",
    )
