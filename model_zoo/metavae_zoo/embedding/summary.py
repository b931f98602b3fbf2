"""Context summaries that can be added in any order without changing a bit.

A summary is the sum of the per-image features h(x) of a context set (Eq. 12 takes their mean).
Every feature is rounded to a multiple of 2^-24 and added in float64. Such a sum is exact while it
stays under 2^29, so neither the order, nor the chunking, nor merging can change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import BadSummary

RESOLUTION = 2.0**-24
LIMIT = 2.0**29

SITE_IMAGES = 40  # of the largest contexts that models learn the error of a site from
CONTEXT_SIZE = 100  # images of a context, where nobody gives another size


@dataclass(frozen=True, eq=False)
class Summary:
    """What a context set is to a model: the exact sum of its `count` images' features.

    total: float64 [feature]; `model` is the digest of the model that made it.
    """

    total: NDArray[np.float64]
    count: int
    model: str

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Summary)
            and self.model == other.model
            and self.count == other.count
            and np.array_equal(self.total, other.total)
        )

    def __hash__(self) -> int:
        return hash((self.total.tobytes(), self.count, self.model))

    @property
    def mean(self) -> NDArray[np.float32]:
        """The pooled feature that the encoder sees, [feature]."""
        return (self.total / self.count).astype(np.float32)

    def merge(self, *others: Summary) -> Summary:
        """Return, bit for bit, the summary of the union of the context sets.

        Raises BadSummary if another model made one of them, or the sum leaves the exact range.
        """
        total, count = self.total, self.count
        for other in others:
            if other.model != self.model:
                raise BadSummary(
                    f"a summary of model {other.model[:12]} cannot be merged into one of"
                    f" {self.model[:12]}",
                    hint="Summarise both contexts with the same model",
                    field="summary",
                )
            total, count = _exact(total + other.total), count + other.count
        return Summary(total, count, self.model)

    @classmethod
    def of_features(cls, features: NDArray[np.float32], model: str) -> Summary:
        """Sum per-image features, [image, feature]; raises BadSummary beyond the exact range."""
        units = features.astype(np.float64)
        units /= RESOLUTION
        np.rint(units, out=units)
        # A bound that is cheap to see holds nearly always; else the sums are looked at.
        bound = len(features) * float(max(features.max(initial=0), -features.min(initial=0)) + 1)
        if not bound < LIMIT:
            _exact(np.abs(units).sum(axis=0) * RESOLUTION)
        return cls(units.sum(axis=0) * RESOLUTION, len(features), model)


def _exact(total: NDArray[np.float64]) -> NDArray[np.float64]:
    if not (np.abs(total) < LIMIT).all():
        largest = np.abs(total).max(initial=0.0)
        raise BadSummary(
            f"the sum of the context's features reaches {largest:g}, exact is up to {LIMIT:g}",
            hint="Use a smaller context; a sample of 100,000 images says as much",
            field="context",
        )
    return total
