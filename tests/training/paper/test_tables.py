"""Claims about tables and figures: they say what the items say, and what is not there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from metavae_training.models import MODELS
from metavae_training.paper.context import right_and_wrong
from metavae_training.paper.measure import collect as collect_module
from metavae_training.paper.measure.ceiling import ceiling_cells
from metavae_training.paper.measure.distances import transformed_values
from metavae_training.paper.measure.probed import ProbedCell, floor_cells, model_cells
from metavae_training.paper.measure.probing import probe_protocol
from metavae_training.paper.measure.results import Results
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages import table1 as table1_module
from metavae_training.paper.pages.figure7 import figure7
from metavae_training.paper.pages.methods import models
from metavae_training.paper.pages.probes import (
    TRANSFER_IMAGES,
    probe_cells,
    probes,
    probes_protocol,
)
from metavae_training.paper.pages.report import publish
from metavae_training.paper.pages.table1 import distance_cells, distance_protocol, table1
from metavae_training.paper.pages.table2 import table2
from metavae_training.sweeps.jobs import Job
from metavae_zoo.evaluation.protocols.transfer import MOST_IMAGES
from metavae_zoo.evaluation.reporting import published
from metavae_zoo.families import family

from .made import an_item
from .probed import items_of


@pytest.fixture
def filled(study: Study) -> Study:
    """A study whose every number is known but the ceiling's; no run of it exists."""
    fill(study, [*model_cells(study), *floor_cells(study)], probe_protocol(study))
    return study


def fill(study: Study, cells: Iterable[ProbedCell], protocol: dict[str, Any]) -> None:
    results = Results(study.out, study.name, protocol)
    results.add(item for cell in cells for item in items_of(study, cell))


def test_the_table_comes_from_the_results_when_the_runs_are_gone(filled):
    text = publish(filled, table2(filled))
    rows = {
        row.split("|")[1].strip(): row.split("|")[2:-1] for row in text.splitlines() if "|" in row
    }
    cells = {label: [cell.strip() for cell in row] for label, row in rows.items()}
    # Three seeds of .90, .91, .92: t(2) = 4.303, s = .01.
    assert cells["MetaVAE"] == ["0.910 ± 0.025 (3)", "0.885", "0.910 ± 0.025 (3)", "0.844"]
    assert cells["VHE"] == ["0.910 ± 0.025 (3)", "0.793", "0.910 ± 0.025 (3)", "0.602"]
    assert cells["PCA-40"] == ["0.900", "", "0.900", ""]
    assert cells["random projection"][0] == "0.910 ± 0.025 (3)"
    for suffix in ("json", "md", "png", "svg"):
        assert (filled.out / f"table2.{suffix}").stat().st_size > 500


def test_wavelet_metavae_stands_beside_its_own_start(study):
    wider = dataclasses.replace(study, models=("metavae", "wavelet-metavae"))
    assert [cell.needs for cell in floor_cells(study)] == [
        cell.needs for cell in floor_cells(wider) if cell.recipe.model == "metavae"
    ]
    fill(wider, floor_cells(wider), probe_protocol(wider))
    table, *_, left_out = table2(wider).sections
    (row,) = [row for row in table.splitlines() if "wavelet MetaVAE, untrained" in row]
    # Fitted in closed form: one seed is all there is.
    assert row.count("0.900 (1)") == 2
    assert "untrained" not in left_out


def test_what_is_not_trained_is_left_out_and_named(filled):
    wider = dataclasses.replace(filled, models=("metavae", "vae", "vhe"), seeds=4)
    report = table2(wider)
    assert report.failed == []
    *_, left_out = report.sections
    lines = {line.split(": ")[0]: line for line in left_out.splitlines() if ": " in line}
    last, every = lines["- Not trained, seed 3"], lines["- Not trained, seeds 0, 1, 2, 3"]
    assert "metavae-mnist-rotation-contiguous" in last
    assert "floors of mnist-skew contiguous" in last
    assert " vae-mnist-skew-contiguous" in every
    assert "supervised CNN on mnist-rotation" in every
    assert "VAE" not in report.sections[0].replace("MetaVAE", "")


def test_a_ceiling_that_lacks_values_of_a_split_is_not_shown_for_it(filled):
    results = Results(filled.out, "table2", probe_protocol(filled))
    for cell in ceiling_cells(filled):
        made = filled.made_by(cell.family, dataclasses.asdict(cell.settings))
        where = {"family": cell.family, "split": "", "value": cell.value, "seed": cell.seed}
        results.add([an_item(kind="ceiling", model="cnn", accuracy=0.99, **where, **made)])
    splits = ("contiguous", "interleaved", "sparse")
    report = figure7(dataclasses.replace(filled, experiment="figure7", splits=splits))
    contiguous, interleaved, sparse, *_, left_out = report.sections
    assert contiguous.count("0.990 ± 0.000") == 2
    assert "0.99" not in interleaved + sparse
    there, *others = (set(family("mnist-skew").split(split).held_out_values) for split in splits)
    (named,) = re.findall(r"supervised CNN on mnist-skew \(([^)]+)\)", left_out)
    assert {float(value) for value in named.split(", ")} == set.union(*others) - there


def test_figure_7_has_the_range_of_the_models_and_names_what_is_below_it(filled):
    def note() -> str:
        (note,) = [one for one in figure7(filled).sections if "left out of them" in one]
        return note

    # All models have .91 in the mean, what is of seed 0 alone has .90.
    assert note().endswith("left out of them: raw pixels, PCA-40.")
    Results(filled.out, filled.name, probe_protocol(filled)).add(
        item.model_copy(update={"accuracy": 0.3})
        for cell in floor_cells(filled)
        if cell.recipe.family == "mnist-skew"
        for item in items_of(filled, cell)
        if item.model == "untrained"
    )
    assert note().endswith("left out of them: raw pixels, PCA-40, untrained encoder.")
    rotation, skew = figure7(filled).draw().axes
    drawn, there = (set(axes.get_legend_handles_labels()[1]) for axes in (skew, rotation))
    assert there - drawn == {"untrained encoder"}
    assert skew.get_ylim()[0] > 0.9


def test_harder_probes_have_a_table_per_family_and_say_which_of_them_are_left_out(study):
    study = dataclasses.replace(study, experiment="probes")
    there = [cell for cell in probe_cells(study) if cell.probe.protocol != "transfer" or cell.seed]
    fill(study, there, probes_protocol(study))
    report = probes(study)
    rotation, skew, note, _, left_out = report.sections
    for name, table in (("mnist-rotation", rotation), ("mnist-skew", skew)):
        assert table.startswith(f"{name}:")
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
        heads = ["transfer", "1 label", "5 labels", "10 labels", "5 nearest neighbours"]
        assert ["", *heads] in rows
        # Two of three seeds of transfer: .91, .92, t(1) = 12.7.
        few = ["0.910 ± 0.025 (3)"] * 4
        for label in ("MetaVAE", "VHE", "random projection", "untrained encoder"):
            assert [label, "0.915 (2)", *few] in rows
        assert ["raw pixels", "", *["0.900"] * 4] in rows
    assert "10 draws of labels" in note
    assert "60,000 training images" in note
    assert "seed 0: metavae-mnist-rotation-contiguous (transfer), " in left_out
    assert "floors of mnist-skew contiguous (transfer)" in left_out
    assert "few-shot" not in left_out
    publish(study, report)
    assert (study.out / "probes.svg").stat().st_size > 500


def test_pages_tell_the_clients_own_number_of_transferred_images():
    assert TRANSFER_IMAGES == MOST_IMAGES


def test_two_drawings_of_the_same_items_are_the_same_bytes(filled):
    def pictures() -> list[bytes]:
        publish(filled, table2(filled))
        return [(filled.out / f"table2.{suffix}").read_bytes() for suffix in ("png", "svg")]

    assert pictures() == pictures()


def test_models_without_a_context_are_left_out_of_contexts_before_training(study, monkeypatch):
    asked: list[Job] = []
    monkeypatch.setattr(collect_module, "sweep", lambda jobs, **_: asked.extend(jobs) or [])
    names = ("metavae", "vae", "vae-single", "wavelet-pca", "vhe")
    asking = dataclasses.replace(study, experiment="context", models=names, train=True)
    report = right_and_wrong(asking)
    assert {job.recipe.model for job in asked} == {"metavae", "vhe"}
    *_, without, left_out = report.sections
    assert without.endswith(
        "neither trained nor shown: VAE (pooled), VAE (one value), wavelet PCA."
    )
    assert "vae-mnist" not in left_out.replace("metavae-mnist", "")


def test_the_papers_distances_stand_beside_those_of_its_own_split_alone():
    where = ("metavae", "mnist-scale", "mnist-skew")
    assert published.table_1(*where, "interleaved") == 4.92
    assert published.table_1(*where, "sparse") is None


@pytest.mark.parametrize(("shown", "panels"), [(0, 2), (1, 2), (4, 8), (5, 16)])
def test_the_figure_of_table_1_has_four_models_in_a_row(study, monkeypatch, shown, panels):
    methods = models(list(MODELS))[:shown]
    monkeypatch.setattr(table1_module, "_matrix", lambda *_: np.ones((2, 2)))
    figure = table1_module._figure([], methods, study)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert len(figure.axes) == panels
    labels = [axes.get_title(loc="left") for axes in drawn if axes.get_title(loc="left")]
    assert labels == 2 * [method.label for method in methods]


def test_table_1_has_both_measures_and_the_papers_beside_them(study):
    families = ("mnist-rotation", "mnist-scale", "mnist-skew")
    wider = dataclasses.replace(
        study, experiment="table1", families=families, splits=("interleaved",)
    )
    results = Results(wider.out, "table1", distance_protocol(wider))
    for cell in distance_cells(wider):
        if cell.recipe.model == "vhe" and cell.seed:
            continue  # VHE has one seed
        made = wider.made_by(cell.recipe.family, cell.recipe)
        results.add(
            an_item(
                kind="distance",
                model=cell.recipe.model,
                family=cell.recipe.family,
                split="interleaved",
                seed=cell.seed,
                varied=cell.varied,
                value=value,
                draw=draw,
                accuracy=None,
                distance=4.0 + cell.seed,
                spread=2.0,
                **made,
            )
            for value in transformed_values(family(cell.varied))
            for draw in range(wider.draws)
        )
    raw, relative, *_, left_out = table1(wider).sections
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in raw.splitlines()]
    assert ["MetaVAE", "mnist-scale", *["5.00 ± 2.48 (3)"] * 3] in rows
    assert ["paper", "mnist-scale", "5.44", "2.16", "4.92"] in rows
    assert ["VHE", "mnist-skew", *["4.00 (1)"] * 3] in rows
    assert relative.count("2.50 ± 1.24 (3)") == 9
    assert "- Not trained, seeds 1, 2: vhe-mnist-rotation-interleaved, vhe-mnist-" in left_out
