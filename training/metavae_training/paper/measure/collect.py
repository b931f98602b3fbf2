"""Cells to items: what is there is kept, what is missing is trained and measured."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metavae_training.models import MODELS
from metavae_training.models.canonical.model import CanonicalModel
from metavae_training.paper.measure.cells import Cell
from metavae_training.paper.measure.results import BadResults, Item, Results
from metavae_training.paper.measure.study import Study
from metavae_training.paper.measure.trained import is_trained
from metavae_training.recipes import Recipe
from metavae_training.sweeps.sweep import sweep
from metavae_zoo.errors import MetavaeError

NOT_TRAINED = "Not trained"
NOT_MEASURED = "Not measured"
TRAINING_FAILED = "The training failed"
MEASURING_FAILED = "The measurement failed"
NO_RECIPE = "There is no such recipe"


@dataclass
class Collected:
    """Items that are complete, and what is left out: by reason, what and which seeds of it."""

    items: list[Item] = field(default_factory=list)
    left_out: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def leave_out(self, reason: str, what: str, *seeds: int) -> None:
        """Note that this is not there, and why."""
        known = self.left_out.setdefault(reason, {}).setdefault(what, [])
        known += [seed for seed in seeds if seed not in known]

    @property
    def failed(self) -> list[str]:
        """What was tried and did not succeed."""
        tried = (TRAINING_FAILED, MEASURING_FAILED)
        return [what for reason in tried for what in self.left_out.get(reason, {})]


def collect(study: Study, cells: Sequence[Cell], protocol: dict[str, Any]) -> Collected:
    """Train, export and measure what is missing of the cells; results are kept after each one.

    A run or a measurement that fails is left out, and does not stop the others. Raises Stopped,
    BadRecipe for settings that no run can have, and BadResults, which is also where nothing shall
    be measured and there is nothing to draw up.
    """
    if not study.measure and not any(study.out.glob("*.json")):
        raise _nothing(study)
    results = Results(study.out, study.name, protocol)
    for reason in results.skipped:
        print(f"Warning: {reason}", file=sys.stderr)
    missing = [cell for cell in cells if cell.found(results) is None]
    collected = Collected()
    ready, others = _ready(study, missing)
    _leave_out(others, cells, collected)
    for number, cell in enumerate(ready, 1):
        results.refresh()  # another process may have measured it
        if cell.found(results) is not None:
            continue
        print(f"[{number}/{len(ready)}] {cell}", file=sys.stderr)
        try:
            _measure(cell, results)
        except MetavaeError as error:
            print(f"Error: {error}", file=sys.stderr)
            collected.leave_out(MEASURING_FAILED, str(cell))
    _leave_out_unknown(study, collected)
    for cell in cells:
        items = cell.found(results)
        if items is not None:
            results.add(items)  # those that another file had
            collected.items += items
    if not study.measure and not collected.items:
        raise _nothing(study)
    return collected


def _nothing(study: Study) -> BadResults:
    return BadResults(
        f"{study.out} holds no results of {study.name}, so there is nothing to draw up",
        hint="Give the folder of the results as --out, or leave --redraw out to measure",
    )


def _measure(cell: Cell, results: Results) -> None:
    """Measure a cell and keep it; raises MetavaeError, also for a measurement that is not whole."""
    results.add(cell.measure())
    if cell.found(results) is None:
        raise MetavaeError(f"{cell}: the probe left out held-out values")


def _ready(study: Study, missing: Sequence[Cell]) -> tuple[list[Cell], list[tuple[str, Cell]]]:
    """The cells that can be measured, once what they need is trained; the others, and why not."""
    if not study.measure:
        return [], [(NOT_MEASURED, cell) for cell in missing]
    failed = _train(study, missing)
    ready, others = [], []
    for cell in missing:
        if cell.ready(study):
            ready.append(cell)
        else:
            tried = cell.job is not None and cell.job.folder in failed
            others.append((TRAINING_FAILED if tried else NOT_TRAINED, cell))
    return ready, others


def _leave_out(
    others: Sequence[tuple[str, Cell]], cells: Sequence[Cell], collected: Collected
) -> None:
    """Note what is not there: by its parts, where others of the same need and seed are there."""
    wanted = Counter((cell.needs, cell.seed) for cell in cells)
    parts: dict[tuple[str, str, int], list[Cell]] = defaultdict(list)
    for reason, cell in others:
        parts[reason, cell.needs, cell.seed].append(cell)
    for (reason, what, seed), missing in parts.items():
        some = len(missing) < wanted[what, seed]
        listed = f"{what} ({', '.join(cell.part for cell in missing)})"
        collected.leave_out(reason, listed if some else what, seed)


def _leave_out_unknown(study: Study, collected: Collected) -> None:
    """Models of the study that have no recipe for a family and split."""
    for split in study.splits:
        for family in study.families:
            for model in study.models:
                # A row of `context` that is no model has none.
                if model in MODELS and study.recipe(model, family, split) is None:
                    collected.leave_out(NO_RECIPE, f"{model}-{family}-{split}")


def _is_closed_form(recipe: Recipe) -> bool:
    """Whether a run is over in moments: no epochs, nor a canonicaliser that learns before them."""
    return recipe.epochs == 0 and not issubclass(MODELS[recipe.model], CanonicalModel)


def _train(study: Study, cells: Sequence[Cell]) -> set[Path]:
    """Bring the cells' runs to their end; returns the folders of those that failed.

    Raises what `sweep` does where one of them cannot be.
    """
    jobs = {cell.job.folder: cell.job for cell in cells if cell.job}
    wanted = [
        job
        for job in jobs.values()
        if (study.train or _is_closed_form(job.recipe)) and not is_trained(job, study.data_root)
    ]
    outcomes = sweep(
        wanted,
        workers=study.workers,
        device=study.device,
        data_root=study.data_root,
        report=lambda outcome: print(outcome, file=sys.stderr),
    )
    return {one.job.folder for one in outcomes if one.status == "failed"}
