"""Means with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metavae_zoo.bundles.card import Interval

SEVERAL = 3  # training runs: fewer vary by what says next to nothing of how far others would


def confidence_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of repeated measurements with its interval by Student's t; none from one alone."""
    from scipy import stats

    half_width = None
    if len(values) > 1:
        standard_error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        half_width = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * standard_error
    return Interval(mean=float(np.mean(values)), half_width=half_width, n=len(values))


def interval_over_runs(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of one number per training run, with an interval where there are SEVERAL."""
    found = confidence_interval(values, confidence)
    return found if found.n >= SEVERAL else found.model_copy(update={"half_width": None})


def with_interval(interval: Interval, digits: int = 3) -> str:
    """Such as `0.885 ± 0.003`, or `0.885` where there is no interval."""
    mean = f"{interval.mean:.{digits}f}"
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width:.{digits}f}"
