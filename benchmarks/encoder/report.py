"""The table of changes, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder.changes import CHANGES, Change
from metavae_training.models.wavelet.distortion import RESCALING, ROTATION, SHEAR, SHIFT
from metavae_zoo.bundles.card import Interval
from metavae_zoo.evaluation.statistics import interval_over_runs
from metavae_zoo.markdown import markdown_table

# Accuracies of a change, at each value: by family.
Judged = dict[str, dict[str, list[float]]]


def markdown(result: dict[str, Any], source: str) -> str:
    """The whole page that a result file becomes."""
    families: list[str] = result["families"]
    judged: Judged = {
        change.name: {name: here for name in families if (here := _of(result, name, change.name))}
        for change in CHANGES
    }
    rows = [_row(change, judged, families) for change in CHANGES if judged[change.name]]
    head = ["change", "baseline", *families, "gain (points)", "kept"]
    sizes = result["sizes"]
    values = "\n".join(
        f"- {name}: fitted on {_listed(one['fitted_values'])}, judged at"
        f" {_listed(one['judged_values'])}"
        for name, one in result["accuracies"].items()
    )
    return f"""# What each change to the encoder gave

How `wavelet-metavae` came about, change by change, also those that gave nothing. Model choice may
see no held-out value, so all of this is inside the *training* values of the contiguous splits: an
encoder is fitted on some of them and judged at those next to the held-out ones. (The idea itself,
wavelets, came from a prototype's probe at held-out rotations.)

{values}

The encoder is fitted on {sizes["encoder"]:,} images a value. At each judged value a logistic
regression is fitted on the codes of {sizes["train"]:,} other images, and tested on those of
{sizes["test"]:,} more. The numbers are therefore not those of the tables of results, which are
measured at held-out values with all images.

{markdown_table(head, rows)}

*Gain*: the mean difference of accuracy to the baseline row, in points, with its 95% interval over
the families (Student's t), of each of which there is one fit, seed 0. Trained rows see
{result["epochs"]} epochs of these fewer images.

The distortions turn an image by up to {math.degrees(ROTATION):g} degrees, shear it by up to
{SHEAR:g}, rescale its sides by up to {RESCALING:.0%} (5% where scale is what varies) and move it by
up to {SHIFT:g} pixels. They are along the axes that are tested, and stay within the step between
two values: no training image becomes one of a held-out distribution, but the encoder is told that
such changes do not matter.

The gain over pixels is that of fixed features and of a linear path fitted in closed form. The
networks of a MetaVAE beside that path, their training and their context are there because they make
it a MetaVAE (a posterior for every image, one encoder conditioned on a context, the MetaELBO).
Trained to explain the wavelet features themselves, which asks a code for what varies the most and
not for what a distortion leaves, they gave {_between("shared", "feature-decoder", judged)} points
against the closed form; trained to explain the canonical variates, from decoders that start in
closed form too, {_between("shared", "networks", judged)} points.
Their context adds nothing that shows. Square roots and the fourth octave stayed from earlier and
smaller looks, and are not shown to help here either.

Made by `python benchmarks/encoder_changes.py`; every number, and the commit it was made with, is in
`{source}`.
"""


def _of(result: dict[str, Any], family: str, change: str) -> list[float]:
    return result["accuracies"][family]["changes"].get(change, {}).get("accuracies", [])


def _gain(change: str, on: str, judged: Judged) -> Interval | None:
    """What a change gave over another, in points, over the families' means."""
    own, before = judged[change], judged.get(on, {})
    gains = [
        100 * float(np.mean(np.subtract(own[family], before[family])))
        for family in own
        if family in before
    ]
    return interval_over_runs(gains) if gains else None


def _between(on: str, change: str, judged: Judged) -> str:
    """What a change gave over another, in words."""
    gain = _gain(change, on, judged)
    return _points(gain) if gain else "not measured"


def _row(change: Change, judged: Judged, families: Sequence[str]) -> list[str]:
    own = judged[change.name]
    means = [f"{np.mean(own[name]):.3f}" if name in own else "" for name in families]
    to = next((one.label for one in CHANGES if one.name == change.on), "")
    gain = _gain(change.name, change.on, judged)
    gave = _points(gain) if gain else ""
    return [change.label, to, *means, gave, "yes" if change.kept else ""]


def _points(gain: Interval) -> str:
    around = f" ± {gain.half_width:.1f}" if gain.half_width is not None else ""
    return f"{gain.mean:+.1f}{around}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
