"""What a context gives at sites never seen: transfer without and with it, and what was inferred.

One classifier is fitted on the training sites and tested at the held-out ones, twice: every image
under a context of the reference site (so as it comes), and under a context of its own site.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.card import Interval
from metavae_zoo.embedding.embedder import Embedder, check_site
from metavae_zoo.embedding.site import Site, describe
from metavae_zoo.embedding.site_view import canonical_images, intensity_of
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.evaluation.contexts import Contexts
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import Transfer
from metavae_zoo.evaluation.reporting.result import ProbeResult
from metavae_zoo.evaluation.sample import Sample
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import Family, family

SHOWN = 8  # images of each site that a picture shows
MOST_IMAGES = 2_000  # per site, where no size is asked for


class SiteEmbedder(Embedder, Protocol):
    """An embedder whose model may infer a site."""

    def site(self, summary: Summary) -> NDArray[np.float32]:
        """The parameters of the context's site, float32 [P]; raises NoSite."""
        ...


@dataclass(frozen=True, eq=False)
class SiteResult:
    """One held-out site: accuracies, the inferred site, and some of its images.

    `without` and `with_context` are intervals over context draws. `site` is inferred from
    `context`, the first draw, uint8 [N, H, W]. `shown` are images of the site, uint8 [n, H, W],
    the same base images at every site; `seen` are these as the model sees them, brightness 0-1.
    """

    value: float
    without: Interval
    with_context: Interval
    site: Site
    context: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    seen: NDArray[np.float32]

    @property
    def accuracies(self) -> tuple[Interval, Interval]:
        """Without and with a context of the site."""
        return self.without, self.with_context

    def to_dict(self) -> dict[str, Any]:
        """The accuracies and the site, as JSON holds them."""
        return {
            "value": self.value,
            "without": self.without.model_dump(),
            "with": self.with_context.model_dump(),
            "description": describe(self.site),
            "site": self.site.numbers,
        }


@dataclass(frozen=True, eq=False)
class SitesResult:
    """Accuracies at all held-out sites, without and with a context of the site.

    `without` and `with_context` are the two runs of the transfer protocol. They differ in the
    source of their contexts only.
    """

    without: ProbeResult
    with_context: ProbeResult
    sites: tuple[SiteResult, ...]

    @property
    def means(self) -> tuple[Interval, Interval]:
        """Mean accuracies over the sites, without and with; intervals over context draws."""
        return _accuracy(self.without), _accuracy(self.with_context)

    @property
    def worst(self) -> tuple[SiteResult, SiteResult]:
        """The sites of the lowest accuracy, without and with."""
        return (
            min(self.sites, key=lambda one: one.without.mean),
            min(self.sites, key=lambda one: one.with_context.mean),
        )

    @property
    def reference(self) -> float:
        """The site whose contexts stand in where the site's own are left out."""
        return family(self.without.family).reference(self.without.split)

    @property
    def converged(self) -> bool:
        """Whether every classifier did."""
        return self.without.converged and self.with_context.converged

    def to_json(self) -> str:
        """The result for a program: the settings, the means, and every site."""
        run = self.with_context
        without, with_context = self.means
        found = {
            "name": run.name,
            "model": run.model,
            "digest": run.digest,
            "family": run.family,
            "split": run.split,
            "protocol": run.protocol.name,
            "seed": run.seed,
            "train_values": list(run.train_values),
            "train_size": run.train_size,
            "test_size": run.test_size,
            "contexts": run.contexts,
            "context_size": run.context_size,
            "reference": self.reference,
            "converged": self.converged,
            "without": without.model_dump(),
            "with": with_context.model_dump(),
            "sites": [one.to_dict() for one in self.sites],
        }
        return json.dumps(found, indent=2)


def compare_sites(
    embedder: SiteEmbedder,
    settings: ProbeSettings,
    *,
    data_root: Path | None = None,
    progress: bool = False,
) -> SitesResult:
    """Measure transfer to the held-out sites, without and with a context of each site.

    `settings` says all but the protocol and the source of contexts. A size of None is at most
    MOST_IMAGES, and leaves a context's images out of the data. Raises NoSite for a model that
    infers no site, and what `run_probe` raises.
    """
    check_site(embedder.card)
    values = family(settings.family)
    settings = replace(
        settings,
        protocol=Transfer(),
        train_size=settings.train_size or _size(values, "train", settings, data_root),
        test_size=settings.test_size or _size(values, "test", settings, data_root),
        floors=(),
    )
    without, with_context = (
        run_probe(
            embedder,
            replace(settings, context_from=source, test_context_from=None),
            data_root=data_root,
            progress=progress,
        )
        for source in ("reference", "own")
    )
    sample = settings.sample(data_root)
    [plain], [canonical] = without.measurements, with_context.measurements
    sites = tuple(
        _site(embedder, sample, settings.context_size, before.value, before.accuracy, after)
        for before, after in zip(
            plain.values, (one.accuracy for one in canonical.values), strict=True
        )
    )
    return SitesResult(without, with_context, sites)


def evenly_spaced(sites: Sequence[SiteResult], rows: int) -> list[SiteResult]:
    """Return `rows` of the sites, evenly spaced from the highest accuracy to the lowest."""
    ranked = sorted(sites, key=lambda one: -one.with_context.mean)
    chosen = np.linspace(0, len(ranked) - 1, min(rows, len(ranked))).round().astype(int)
    return [ranked[rank] for rank in chosen]


def _site(
    embedder: SiteEmbedder,
    sample: Sample,
    size: int,
    value: float,
    without: Interval,
    with_context: Interval,
) -> SiteResult:
    # The first draw that the probe made, from the same seed.
    contexts = Contexts(embedder, sample, size, queries=lambda at, _: sample.test(at))
    context = contexts.images(value, "test", 0)
    if context is None:
        raise BadSettings.of("model", f"{embedder.card.name} takes no context")
    site = Site.of(embedder.card, embedder.site(embedder.summarize(context)))
    pick = sample.test(value)
    shown = sample.images(pick)[_one_per_class(sample.labels(pick))]
    seen = canonical_images(shown, site, intensity=intensity_of(embedder.card.prior))
    return SiteResult(
        value, without, with_context, site, np.array(context[:, 0]), np.array(shown[:, 0]), seen
    )


def _one_per_class(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows of SHOWN images: one of each class, then others."""
    first = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first)
    return np.concatenate([first, others])[:SHOWN]


def _size(values: Family, part: Any, settings: ProbeSettings, data_root: Path | None) -> int:
    available = len(values.labels(part, data_root))
    return max(1, min(MOST_IMAGES, available - settings.context_size))


def _accuracy(result: ProbeResult) -> Interval:
    [measurement] = result.measurements
    return measurement.accuracy
