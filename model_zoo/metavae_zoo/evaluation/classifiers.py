"""Classifiers on codes, as many at once as there are cores, the same to the bit every time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.machine import usable_cores

# Fits on raw pixels hold 190 MB each at 60,000 images.
_MAX_WORKERS = 8

# scikit-learn's defaults, lbfgs and 100 iterations, stop before convergence on 20,000 images or
# more, and an accuracy should not depend on where its solver was cut off. The objective is the
# default's, which has one optimum.
MAX_ITERATIONS = 1000
# Newton's method gets there in some ten iterations, each with a matrix of this side squared;
# beyond it (raw pixels) lbfgs is faster.
_NEWTON_COEFFICIENTS = 2000

Codes = NDArray[np.float32]  # [image, code]
Labels = NDArray[np.int64]  # [image]


@dataclass(frozen=True)
class Fitted:
    """A classifier that was fitted: codes -> labels, and whether its solver converged."""

    predict: Callable[[Codes], Labels]
    converged: bool = True

    def accuracy(self, codes: Codes, labels: Labels) -> float:
        """Which part of the images gets its own label."""
        return int((self.predict(codes) == labels).sum()) / len(labels)


def logistic_regression(codes: Codes, labels: Labels) -> Fitted:
    """Fit a logistic regression on codes, unscaled: the default objective, to convergence."""
    from sklearn.linear_model import LogisticRegression

    newton = codes.shape[1] * len(np.unique(labels)) <= _NEWTON_COEFFICIENTS
    solver = "newton-cholesky" if newton else "lbfgs"
    # In float32 Newton's matrix may count as singular.
    precise = codes.astype(np.float64 if newton else np.float32)
    model = LogisticRegression(solver=solver, max_iter=MAX_ITERATIONS).fit(precise, labels)
    return Fitted(model.predict, bool((model.n_iter_ < MAX_ITERATIONS).all()))


def nearest_neighbours(codes: Codes, labels: Labels, neighbours: int) -> Fitted:
    """Keep the codes: a prediction is the majority of the nearest ones, by Euclidean distance."""
    from sklearn.neighbors import KNeighborsClassifier

    # One search for codes of every width; scikit-learn would choose by width.
    model = KNeighborsClassifier(neighbours, algorithm="brute").fit(codes, labels)
    return Fitted(model.predict)


@contextmanager
def fitting_pool(prepare: Callable[[], None] = lambda: None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each of which fits on one core, after `prepare`.

    One thread per fit: its products are too small to share, and threads that wait for each other
    made a fit 5 to 20 times slower on a busy machine. The thread count would also change bits.
    """
    import sklearn.linear_model
    import sklearn.neighbors  # noqa: F401  # only what is loaded can be limited
    from threadpoolctl import threadpool_limits

    def alone() -> None:
        threadpool_limits(1)  # OpenMP counts its threads per calling thread
        prepare()

    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
        ThreadPoolExecutor(
            min(_MAX_WORKERS, usable_cores()),
            thread_name_prefix="fit",
            initializer=alone,
        ) as pool,
    ):
        # Fitted.converged tells it, without a paragraph on stderr.
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        warnings.filterwarnings("ignore", message="The inner solver of NewtonCholesky")
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
