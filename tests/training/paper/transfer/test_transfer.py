"""Claims about transfer in `metavae-train paper context`, by the real command on digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metavae_training.cli import main
from metavae_training.paper.measure import study
from metavae_training.paper.measure.results import Item, Results, read_items
from metavae_training.paper.transfer import report, rows
from metavae_training.paper.transfer.cells import ExamCell
from metavae_training.paper.transfer.compared import supervised
from metavae_training.paper.transfer.tables import Found
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import Transfer
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family

pytestmark = pytest.mark.training

FAMILY = "digits-rotation"
TRAIN, TEST = 60, 50
HELD_OUT = family(FAMILY).split("contiguous").held_out_values
SHIPPED = "metavae-digits-rotation-contiguous"
ROWS = (
    "canonical-wavelet-all,metavae,wavelet,standardised,combat,whitened,oracle,pca,raw_pixels,cnn"
)


def command(out: Path, *options: object) -> Result:
    arguments = ["paper", "context", "--quick", "--seeds", 1, "--train-size", TRAIN]
    arguments += ["--families", FAMILY, "--models", ROWS, "--out", out, "--device", "cpu"]
    return CliRunner().invoke(main, [*map(str, arguments), *map(str, options)])


def smallest(patch: pytest.MonkeyPatch) -> None:
    """Models and networks that learn little; the paper's probe has tests of its own."""
    patch.setattr(rows, "_QUICK", {"sets": 200, "steps": 20, "calibration_sets": 100})
    patch.setattr(rows, "_QUICK_SITES", 2)
    patch.setattr(supervised, "_QUICK_NETWORK", supervised.Ceiling(steps=3))
    patch.setattr(study, "QUICK_TEST_SIZE", TEST)
    patch.setattr("metavae_training.paper.context._is_probed", lambda name: False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the results, with the runs beside them; a canonicaliser that learned little."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        smallest(patch)
        done = command(folder / "results", "--runs", folder / "runs")
    assert done.exit_code == 0, done.output
    assert "Left out" not in done.stdout
    return folder


@pytest.fixture
def as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that the results are of."""
    smallest(monkeypatch)


@pytest.fixture(scope="module")
def items(measured: Path) -> list[Item]:
    return read_items(measured / "results" / "transfer-quick.json")


def first_draw(
    items: list[Item], model: str, size: int, context: str = "own"
) -> dict[float, float]:
    """Accuracies by value."""
    return {
        item.value: item.accuracy
        for item in items
        if (item.model, item.context, item.context_size) == (model, context, size)
        and (item.draw, item.labels, item.test_context) == (0, None, None)
        and item.accuracy is not None
    }


@pytest.mark.parametrize(("size", "source"), [(10, "own"), (100, "own")])
@pytest.mark.parametrize("model", ["metavae", "canonical-wavelet-all"])
def test_the_first_draw_is_what_the_clients_probe_finds(measured, items, model, size, source):
    if model == "metavae":
        bundle = find_bundle(SHIPPED)
    else:
        name = "canonical-wavelet-digits"
        bundle = open_bundle(measured / "runs" / "quick" / name / "seed-0" / name)
    settings = ProbeSettings(
        FAMILY,
        "contiguous",
        protocol=Transfer(),
        train_size=TRAIN,
        test_size=TEST,
        contexts=1,
        context_size=size,
        context_from=source,
        floors=("raw_pixels", "pca"),
    )
    probed = run_probe(OnnxEmbedder(bundle, threads=1), settings)
    values = probed.measurements[0].values
    assert first_draw(items, model, size, source) == {at.value: at.draws[0] for at in values}
    for floor in settings.floors:
        floors = {at.value: at.floor_draws[floor][0] for at in values}
        assert first_draw(items, floor, 0, "none") == floors


def test_no_context_is_the_reference_sites(measured, items):
    name = "canonical-wavelet-digits"
    bundle = open_bundle(measured / "runs" / "quick" / name / "seed-0" / name)
    settings = ProbeSettings(
        FAMILY,
        "contiguous",
        protocol=Transfer(),
        train_size=TRAIN,
        test_size=TEST,
        contexts=1,
        context_size=100,
        context_from="reference",
        floors=(),
    )
    probed = run_probe(OnnxEmbedder(bundle, threads=1), settings)
    found = {at.value: at.draws[0] for at in probed.measurements[0].values}
    assert first_draw(items, "canonical-wavelet-all", 100, "reference") == found


def test_every_row_size_draw_and_kind_is_measured(items):
    assert {item.model for item in items} == set(ROWS.split(","))
    assert {item.value for item in items} == set(HELD_OUT)
    own = {
        (item.context_size, item.draw)
        for item in items
        if item.model == "canonical-wavelet-all"
        and item.context == "own"
        and not item.test_context
        and item.labels is None
    }
    assert own == {(size, draw) for size in (3, 10, 100) for draw in (0, 1)}
    assert {item.labels for item in items} == {None, 20, 50}
    kinds = {item.test_context for item in items if item.test_context}
    assert {"right", "blank", "neighbour", "class 1", "repeated"} <= kinds


def test_what_a_model_states_of_its_error_is_kept_beside_the_true_error(items):
    of_sites = [item for item in items if item.error is not None]
    assert {item.model for item in of_sites} == {"canonical-wavelet-all"}
    for item in of_sites:
        stated = (item.error_50, item.error_90, item.error_95)
        assert None not in stated
        assert list(stated) == sorted(stated)


def test_nothing_is_measured_twice(measured, monkeypatch, as_measured):
    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(ExamCell, "measure", refused)
    results = measured / "results" / "transfer-quick.json"
    before = results.read_bytes()
    again = command(measured / "results", "--runs", measured / "nothing")
    assert again.exit_code == 0, again.output
    assert results.read_bytes() == before


def test_a_cell_that_is_missing_is_measured_alone(measured, items, tmp_path, as_measured):
    kept = [item for item in items if item.model != "pca"]
    protocol = {"probe": "transfer", "train_size": TRAIN, "test_size": TEST}
    Results(tmp_path, "transfer-quick", protocol).add(kept)
    done = command(tmp_path, "--runs", measured / "runs")
    assert done.exit_code == 0, done.output
    assert [line for line in done.stderr.splitlines() if line.startswith("[")] == [
        "[1/1] transfer on digits-rotation, PCA-40, without a context, seed 0"
    ]
    assert read_items(tmp_path / "transfer-quick.json") == items


def test_the_page_and_its_figures_are_redrawn_byte_for_byte(measured, tmp_path, as_measured):
    for path in (measured / "results").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = command(tmp_path, "--redraw", "--runs", tmp_path / "nothing")
    assert done.exit_code == 0, done.output
    names = ["transfer-quick.md", "transfer-quick.json"]
    for figure in ("transfer-quick", "transfer-quick-failures"):
        names += [f"{figure}.png", f"{figure}.svg"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (measured / "results" / name).read_bytes()


def test_a_row_that_does_not_exist_tells_the_nearest(tmp_path):
    refused = command(tmp_path, "--models", "oracel")
    assert refused.exit_code == 1
    assert "did you mean 'oracle'?" in refused.stderr


def test_every_number_is_drawn_up_once(measured, items, as_measured, monkeypatch):
    shown: list[Item] = []
    monkeypatch.setattr(report, "Found", lambda found: shown.extend(found) or Found(found))
    done = command(measured / "results", "--redraw")
    assert done.exit_code == 0, done.output
    assert sorted(item.key for item in shown) == sorted(item.key for item in items)
