"""The classifier of the exam, on as many cores as there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from metavae_training.paper.transfer.exam import Labels
from metavae_zoo.machine import usable_cores

Codes = NDArray[np.float32]  # [image, code]
Predict = Callable[[Codes], Labels]

_MAX_ITERATIONS = 1000  # to convergence
_NEWTON_COEFFICIENTS = 2000  # beyond it (raw pixels) lbfgs is faster


def logistic_regression(codes: Codes, labels: Labels) -> Predict:
    """A logistic regression on codes: the objective, solver and precision of the client's."""
    from sklearn.linear_model import LogisticRegression

    newton = codes.shape[1] * len(np.unique(labels)) <= _NEWTON_COEFFICIENTS
    solver = "newton-cholesky" if newton else "lbfgs"
    precise = codes.astype(np.float64 if newton else np.float32)
    model = LogisticRegression(solver=solver, max_iter=_MAX_ITERATIONS).fit(precise, labels)
    return model.predict


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core; each computes on one core, in torch and in BLAS."""
    import sklearn.linear_model  # noqa: F401  # only loaded libraries can be limited
    import torch
    from threadpoolctl import threadpool_limits

    def alone() -> None:
        threadpool_limits(1)  # OpenMP counts its threads per calling thread
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
        ThreadPoolExecutor(usable_cores(), initializer=alone) as pool,
    ):
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        warnings.filterwarnings("ignore", message="The inner solver of NewtonCholesky")
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(before)
