"""Codes adjusted by site, from the codes of its context alone: what statistics can do.

ComBat is Johnson, Li and Rabinovic's (Biostatistics, 2007): a location and a scale of each site,
shrunk to their distribution over the features by empirical Bayes. It is written out here, since
neuroHarmonize and neuroCombat adjust only sites that they were fitted on; at those it gives what
neuroCombat 0.2.12 does. Overall mean and variance are of the training sites' contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Codes64 = NDArray[np.float64]  # [image, code]
Adjust = Callable[[Codes64, Codes64], Codes64]  # codes of a context, codes -> adjusted codes

_LEAST = 0.1  # of the training sites' deviation: what is divided by is no smaller
_ITERATIONS, _CLOSE = 1000, 1e-4


def standardised(contexts: Sequence[Codes64]) -> Adjust:
    """Each site to mean 0 and deviation 1, by its context; `contexts` are the training sites'."""
    least = _LEAST * _pooled_deviation(contexts)

    def adjust(context: Codes64, codes: Codes64) -> Codes64:
        return (codes - context.mean(0)) / np.maximum(context.std(0), least)

    return adjust


def whitened(contexts: Sequence[Codes64]) -> Adjust:
    """Each site whitened, and coloured as the training sites are (CORAL, Sun et al., AAAI 2016).

    A context has fewer images than a covariance needs: it is shrunk (Ledoit and Wolf, 2004).
    """
    from sklearn.covariance import LedoitWolf

    together = np.concatenate([one - one.mean(0) for one in contexts])
    colour = _power(np.cov(together.T), 0.5)
    least = (_LEAST * _pooled_deviation(contexts)) ** 2

    def adjust(context: Codes64, codes: Codes64) -> Codes64:
        spread = LedoitWolf().fit(context).covariance_ + np.diag(least)
        return (codes - context.mean(0)) @ _power(spread, -0.5) @ colour

    return adjust


def combat(contexts: Sequence[Codes64]) -> Adjust:
    """ComBat without covariates, see above."""
    together = np.concatenate(contexts)
    mean = together.mean(0)
    inner = np.concatenate([one - one.mean(0) for one in contexts])
    deviation = np.sqrt((inner**2).mean(0))

    def adjust(context: Codes64, codes: Codes64) -> Codes64:
        location, scale = _shrunk((context - mean) / deviation)
        return ((codes - mean) / deviation - location) / np.sqrt(scale) * deviation + mean

    return adjust


def _shrunk(context: Codes64) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Location and scale (a variance) of a site's standardised codes, [code] each."""
    count, location = len(context), context.mean(0)
    scale = context.var(0, ddof=1)
    overall, spread = location.mean(), location.var(ddof=1)
    middle, variance = scale.mean(), scale.var(ddof=1)
    shape = 2 + middle**2 / variance  # of the inverse gamma prior
    rate = middle * (1 + middle**2 / variance)
    found, found_scale = location, scale
    for _ in range(_ITERATIONS):
        before, before_scale = found, found_scale
        weight = count * spread
        found = (weight * location + before_scale * overall) / (weight + before_scale)
        residual = ((context - found) ** 2).sum(0)
        found_scale = (residual / 2 + rate) / (count / 2 + shape - 1)
        change = np.abs((found - before) / before).max()
        if max(change, np.abs((found_scale - before_scale) / before_scale).max()) <= _CLOSE:
            break
    return found, found_scale


def _pooled_deviation(contexts: Sequence[Codes64]) -> NDArray[np.float64]:
    """Root mean squared deviation within the training sites' contexts, [code]."""
    return np.sqrt((np.concatenate([one - one.mean(0) for one in contexts]) ** 2).mean(0))


def _power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-9 * values.max()) ** exponent) @ vectors.T


ADJUSTED: dict[str, Callable[[Sequence[Codes64]], Adjust]] = {
    "standardised": standardised,
    "whitened": whitened,
    "combat": combat,
}
