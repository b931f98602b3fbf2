"""A small study, whose data need not be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from metavae_training.paper.measure import collect as collect_module
from metavae_training.paper.measure import study as study_module
from metavae_training.paper.measure.study import Study
from metavae_zoo.bundles import index


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of two models over two families, in which nothing is ever trained."""
    nothing = tmp_path / "zoo"
    monkeypatch.setenv("METAVAE_ZOO", str(nothing))
    monkeypatch.setattr(index, "shipped_bundles", lambda: nothing)
    monkeypatch.setattr(study_module, "data_hash", lambda family, root: "d")
    monkeypatch.setattr(collect_module, "sweep", lambda jobs, **options: [])
    return Study(
        experiment="table2",
        families=("mnist-rotation", "mnist-skew"),
        splits=("contiguous",),
        models=("metavae", "vhe"),
        seeds=3,
        draws=2,
        runs=tmp_path / "runs",
        out=tmp_path / "results",
        device="cpu",
        train=False,
    )
