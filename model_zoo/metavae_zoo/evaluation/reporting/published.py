"""The paper's own numbers, in one place for everything that stands beside them.

Wu, Choi, Goodman and Ermon, "Meta-Amortized Variational Inference and Learning", AAAI 2020,
arXiv 1902.01950.
"""

from __future__ import annotations

TABLE_1_SOURCE = "Wu et al., AAAI 2020, Table 1"
TABLE_2_SOURCE = "Wu et al., AAAI 2020, Table 2"

TABLE_1_SPLIT = "interleaved"
# The paper does not say which split its Table 2 is of; its Fig. 7 fits this one.
TABLE_2_SPLIT = "contiguous"

# Accuracy of the linear probe, mean over held-out values.
_TABLE_2_MODELS = ("metavae", "vhe-vampprior", "vhe")
_TABLE_2 = {
    "mnist-rotation": (0.885, 0.830, 0.793),
    "mnist-scale": (0.893, 0.767, 0.463),
    "mnist-skew": (0.844, 0.679, 0.602),
    "norb-elevation": (0.601, 0.337, 0.309),
    "norb-azimuth": (0.592, 0.313, 0.286),
    "norb-lighting": (0.548, 0.357, 0.306),
}

# MetaVAE: mean L2 distance between the codes of a base image and of its transformed versions;
# outer key: family trained on, inner key: family varied.
_TABLE_1 = {
    "mnist-rotation": {"mnist-rotation": 1.65, "mnist-scale": 4.44, "mnist-skew": 4.09},
    "mnist-scale": {"mnist-rotation": 5.44, "mnist-scale": 2.16, "mnist-skew": 4.92},
    "mnist-skew": {"mnist-rotation": 3.79, "mnist-scale": 4.89, "mnist-skew": 1.47},
    "norb-elevation": {"norb-elevation": 0.39, "norb-azimuth": 1.16, "norb-lighting": 1.27},
    "norb-azimuth": {"norb-elevation": 1.42, "norb-azimuth": 0.44, "norb-lighting": 1.26},
    "norb-lighting": {"norb-elevation": 1.69, "norb-azimuth": 1.27, "norb-lighting": 0.26},
}


def table_1(model: str, trained_on: str, varied: str, split: str) -> float | None:
    """The distance in Table 1, or None where the paper has none."""
    if split != TABLE_1_SPLIT or model != "metavae":
        return None
    return _TABLE_1.get(trained_on, {}).get(varied)


def table_2(model: str, family: str, split: str) -> float | None:
    """The accuracy in Table 2, or None where the paper has none."""
    if split != TABLE_2_SPLIT or model not in _TABLE_2_MODELS or family not in _TABLE_2:
        return None
    return _TABLE_2[family][_TABLE_2_MODELS.index(model)]
