"""Cells whose probe is known beforehand."""

from __future__ import annotations

import pytest

from metavae_training.paper.measure import probed as probed_module
from metavae_training.paper.measure.cells import held_out
from metavae_training.paper.measure.probed import ProbedCell
from metavae_training.paper.measure.probing import Accuracies, Found
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import Study


def items_of(study: Study, cell: ProbedCell) -> list[Item]:
    """Items that fill a cell, without measuring anything: .90 for seed 0, .91 for seed 1, ..."""
    draws = [0.9 + 0.01 * cell.seed] * cell.probe.draws(study, cell.given)

    def found(*_, floors=(), **__):
        accuracies = [
            Accuracies(shots, value, draws, dict.fromkeys(floors, draws))
            for shots in cell.probe.all_shots
            for value in held_out(cell.recipe)
        ]
        return Found("b" * 64, "0123456", accuracies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probed_module, "run_probe", found)
        return cell.measure()
