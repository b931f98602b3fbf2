"""Cells whose probe is known beforehand."""

from __future__ import annotations

import pytest

from metavae_training.paper import cells as cells_module
from metavae_training.paper.cells import FloorCell, ModelCell
from metavae_training.paper.results import Item
from metavae_training.paper.study import Study


def items_of(study: Study, cell: ModelCell | FloorCell) -> list[Item]:
    """Items that fill a cell, without measuring anything: .90 for seed 0, .91 for seed 1, ..."""

    def probed(*_, floors, seed=0, **__):
        values = cells_module.held_out(cell.recipe)
        accuracy = 0.9 + 0.01 * cell.seed
        names = dict.fromkeys(floors, accuracy)
        at = [
            {"value": value, "draws": [accuracy] * study.draws, "floors": names} for value in values
        ]
        return {"context_from": "own", "values": at, "commit": "0123456", "digest": "b" * 64}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "probe", probed)
        return cell.measure()
