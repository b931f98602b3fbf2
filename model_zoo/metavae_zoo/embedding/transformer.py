"""Embedders by scikit-learn's conventions: cloned, sent to other processes, put into pipelines."""

from __future__ import annotations

import inspect
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Transformer:
    """Makes an embedder a transformer of scikit-learn, which it does not import.

    The parameters are those of `__init__`, each an attribute of its name. `fit` takes images as the
    context, `transform` embeds images given that context. Copies and pickles hold the parameters
    and the fitted summary; sessions and connections are opened anew.
    """

    def fit(self: Any, X: ArrayLike, y: object = None) -> Any:
        """Summarise the images X as the context; labels are ignored."""
        self.summary_ = self.summarize(X)
        return self

    def transform(self: Any, X: ArrayLike) -> NDArray[np.float32]:
        """Embeddings of the images X given the fitted context, float32 [image, latent]."""
        return self.embed(X, getattr(self, "summary_", None)).mean

    def fit_transform(self, X: ArrayLike, y: object = None) -> NDArray[np.float32]:
        """Embeddings of the images X given themselves as the context."""
        return self.fit(X, y).transform(X)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set parameters; the embedder is then opened anew, unfitted."""
        self.__setstate__({"params": self.get_params() | params})
        return self

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {"params": self.get_params()}
        return state | {key: value for key, value in vars(self).items() if key == "summary_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state["params"])
        vars(self).pop("summary_", None)
        vars(self).update({key: value for key, value in state.items() if key == "summary_"})

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )
