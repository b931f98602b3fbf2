"""Claims about experiments: each cell is measured once, and only what is there is shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from metavae_training.paper.measure.cells import Cell, complete
from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.condition import Condition
from metavae_training.paper.measure.probed import model_cells
from metavae_training.paper.measure.results import Item, Results
from metavae_zoo.errors import MetavaeError

from .made import PROTOCOL, an_item
from .probed import items_of


@dataclass
class Measured(Cell):
    """A cell of one item that counts how often it is measured, and may fail."""

    seed: int
    fails: BaseException | None = None
    times: int = field(default=0)

    def __str__(self) -> str:
        return f"cell {self.seed}"

    def found(self, results: Results) -> list[Item] | None:
        return results.select(seed=self.seed) or None

    def measure(self) -> list[Item]:
        self.times += 1
        if self.fails:
            raise self.fails
        return [an_item(seed=self.seed)]


def test_a_cell_is_measured_once(study):
    first, again = ([Measured(0), Measured(1)] for _ in range(2))
    collect(study, first, PROTOCOL)
    collected = collect(study, again, PROTOCOL)
    assert [cell.times for cell in first + again] == [1, 1, 0, 0]
    assert [item.seed for item in collected.items] == [0, 1]
    assert collected.failed == []


def test_a_cell_of_another_experiment_is_not_measured_again(study):
    collect(dataclasses.replace(study, experiment="figure7"), [Measured(0)], PROTOCOL)
    cell = Measured(0)
    collect(study, [cell], PROTOCOL)
    assert cell.times == 0
    assert [item.seed for item in Results(study.out, "table2", PROTOCOL).items] == [0]


def test_a_measurement_that_fails_is_named_and_stops_no_other(study):
    cells = [Measured(0, MetavaeError("no luck")), Measured(1)]
    collected = collect(study, cells, PROTOCOL)
    assert [item.seed for item in collected.items] == [1]
    assert collected.failed == ["cell 0"]
    assert collect(study, [Measured(0), cells[1]], PROTOCOL).failed == []


def test_a_measurement_that_is_not_whole_is_named(study):
    class Half(Measured):
        def found(self, results: Results) -> None:
            return None

    collected = collect(study, [Half(0)], PROTOCOL)
    assert collected.items == []
    assert collected.failed == ["cell 0"]


def test_interrupted_at_any_cell_what_was_finished_is_kept(study):
    for stop in (0, 1, 2):
        cells = [Measured(seed, KeyboardInterrupt() if seed == stop else None) for seed in range(3)]
        with pytest.raises(KeyboardInterrupt):
            collect(study, cells, PROTOCOL)
        assert len(Results(study.out, "table2", PROTOCOL).items) == stop
    cells = [Measured(seed) for seed in range(3)]
    collect(study, cells, PROTOCOL)
    assert [cell.times for cell in cells] == [0, 0, 1]


def test_items_of_another_recipe_or_data_set_are_not_good_any_more(study):
    (cell, *_) = model_cells(study)
    results = Results(study.out, study.name, PROTOCOL)
    for change, is_good in (
        ({}, True),
        ({"recipe_sha256": "x"}, False),
        ({"data_sha256": "x"}, False),
    ):
        results.add(item.model_copy(update=change) for item in items_of(study, cell))
        assert (cell.found(results) is not None) == is_good


def test_a_cell_is_complete_with_every_value_and_draw():
    items = [an_item(value=value, draw=draw) for value in (1.0, 2.0) for draw in (0, 1)]
    assert complete(items, [1.0, 2.0], 2) == items
    assert complete(items[:-1], [1.0, 2.0], 2) is None
    assert complete(items, [1.0, 2.0], 1) == [items[0], items[2]]
    assert complete([], [1.0], 1) is None
    few = [an_item(value=1.0, probe="few-shot", shots=shots) for shots in (1, 5)]
    assert complete(few, [1.0], 1, shots=(1, 5)) == few
    assert complete(few, [1.0], 1, shots=(1, 5, 10)) is None


@pytest.mark.parametrize(
    ("condition", "whole"),
    [
        (Condition("own", 100), {"vae"}),
        (Condition("own", 100, "zeros"), {"vae"}),
        (Condition("zeros", 0), {"vae", "metavae"}),
    ],
    ids=str,
)
def test_one_draw_is_all_where_there_is_nothing_to_draw(study, condition, whole):
    study = dataclasses.replace(study, models=("vae", "metavae"), seeds=1)
    cells = list(model_cells(study, condition))
    results = Results(study.out, study.name, PROTOCOL)
    results.add(item for cell in cells for item in items_of(study, cell) if item.draw == 0)
    assert {cell.recipe.model for cell in cells if cell.found(results)} == whole
