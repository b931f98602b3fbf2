"""How a result reads: JSON, card record, table and plot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from matplotlib import rc_context

from metavae_zoo.bundles.card import ProbeRecord
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import FewShot, Knn, Transfer
from metavae_zoo.evaluation.reporting.plots import save_plot
from metavae_zoo.evaluation.reporting.result import ProbeResult, PublishedFigure
from metavae_zoo.evaluation.reporting.table import probe_table

FIGURE = PublishedFigure(0.885, "a table")


@pytest.fixture(scope="module")
def few_shot(local, small) -> ProbeResult:
    return run_probe(local, replace(small, protocol=FewShot((1, 3), label_draws=2)))


@pytest.fixture(scope="module")
def transfer(local, small) -> ProbeResult:
    return run_probe(local, replace(small, protocol=Transfer(), context_from="other"))


def test_the_table_has_a_row_per_value_and_the_mean(result):
    table = probe_table(replace(result, paper=FIGURE))
    lines = table.splitlines()
    [measurement] = result.measurements
    assert [float(line.split()[0]) for line in lines[4:12]] == [
        value.value for value in measurement.values
    ]
    assert lines[13].split()[:2] == ["mean", f"{measurement.accuracy.mean:.3f}"]
    assert len({len(line) for line in lines[2:14]}) == 1  # aligned
    assert "0.885 (a table" in table
    assert "100 train and 60 test images per value, 2 context draws of 20 images" in table


def test_the_table_of_few_labels_has_a_column_per_shots_and_the_floors_under_the_model(few_shot):
    table = probe_table(few_shot)
    lines = table.splitlines()
    assert lines[2].strip().split("   ") == ["rotation", "1 label per class", "3 labels per class"]
    assert [line.strip().split("  ")[0] for line in lines[13:17]] == [
        "mean of metavae",
        "raw pixels",
        "PCA-40",
        "random projection",
    ]
    assert len({len(line) for line in lines[2:17]}) == 1  # aligned
    for measurement in few_shot.measurements:
        floor = measurement.floors["raw_pixels"]
        assert f"{floor.mean:.3f} ± {floor.half_width:.3f}" in lines[14]
    assert "over the 2 draws of labels, each with a new context" in table


def test_few_labels_of_one_number_have_the_usual_table(local, small):
    settings = replace(small, protocol=FewShot((2,), label_draws=2))
    lines = probe_table(run_probe(local, settings)).splitlines()
    header = [label.strip() for label in lines[2].split("  ") if label]
    assert header == ["rotation", "metavae", "raw pixels", "PCA-40", "random projection"]
    assert lines[4].count("±") == 4


def test_the_table_tells_what_was_fitted_and_whose_contexts_there_were(transfer):
    table = probe_table(transfer)
    assert "100 train images at each of 10 training values" in table
    assert "2 context draws of 20 images of another rotation" in table
    assert "fitted on 1,000 images" in table
    assert "60,000 spread evenly" in table
    assert "Contexts of tested images are of rotation 140 for 20, 160 for 40" in table


def test_a_test_under_other_contexts_than_those_of_the_fit_is_told(local, small, tmp_path):
    settings = replace(small, test_context_from="shuffled", floors=())
    result = run_probe(local, settings)
    told = "contexts: own where fitted, shuffled where tested"
    heading, *_ = probe_table(result).splitlines()
    assert heading.endswith(f"contiguous split; {told}")
    assert "20 images where classifiers are fitted, 20 images with shuffled" in probe_table(result)
    with rc_context({"svg.fonttype": "none"}):
        save_plot(result, tmp_path / "probe.svg")
    assert told in (tmp_path / "probe.svg").read_text()
    found = json.loads(result.to_json())
    assert (found["context_from"], found["test_context_from"]) == ("own", "shuffled")
    assert found["record"] is None


def test_a_fit_that_was_cut_off_is_told(result):
    assert "did not converge" not in probe_table(result)
    assert "did not converge" in probe_table(replace(result, converged=False))


def test_json_and_card_record_say_the_same(result):
    found = json.loads(result.to_json())
    record = ProbeRecord.model_validate(found["record"])
    assert record == result.to_record()
    assert "context of 20 images for all of its images, where the paper draws 10" in record.protocol
    assert result.note in probe_table(result)
    assert record.accuracy.mean == found["accuracy"]["mean"]
    assert set(record.floors) == {"raw_pixels", "pca", "random_projection"}
    assert list(record.per_value) == [f"{value['value']:g}" for value in found["values"]]


def test_json_names_the_protocol_and_its_settings(result, transfer, few_shot, local, small):
    knn = run_probe(local, replace(small, protocol=Knn(3), contexts=1, floors=()))
    found = [json.loads(one.to_json()) for one in (result, transfer, few_shot, knn)]
    assert [one["protocol"] for one in found] == ["linear", "transfer", "few-shot", "knn"]
    assert [one["context_from"] for one in found] == ["own", "other", "own", "own"]
    assert found[2]["shots"] == [1, 3]
    assert found[2]["label_draws"] == 2
    assert found[3]["neighbours"] == 3


def test_json_of_few_labels_has_a_measurement_per_shots(few_shot):
    found = json.loads(few_shot.to_json())
    assert [one["shots"] for one in found["by_shots"]] == [1, 3]
    for one in found["by_shots"]:
        assert one["accuracy"]["n"] == 2
        assert {len(value["draws"]) for value in one["values"]} == {2}
        assert {len(value["floor_draws"]["pca"]) for value in one["values"]} == {2}
    assert "accuracy" not in found


def test_a_card_holds_the_papers_protocol_with_the_right_context_only(
    local, small, transfer, few_shot
):
    wrong = run_probe(local, replace(small, context_from="zeros", floors=()))
    for one in (transfer, few_shot, wrong):
        assert one.to_record() is None
        assert json.loads(one.to_json())["record"] is None


def test_the_papers_figure_stands_beside_its_own_protocol_and_context_only(
    local, small, monkeypatch
):
    published = {("metavae", "digits-rotation", "contiguous"): 0.885}
    monkeypatch.setattr("metavae_zoo.evaluation.probe.table_2", lambda *place: published.get(place))
    quick = replace(small, contexts=1, floors=())
    found = run_probe(local, quick).paper
    assert found == PublishedFigure(0.885, "Wu et al., AAAI 2020, Table 2")
    for protocol in (Transfer(), FewShot((1,), label_draws=1), Knn(3)):
        assert run_probe(local, replace(quick, protocol=protocol)).paper is None
    assert run_probe(local, replace(quick, context_from="shuffled")).paper is None
    assert run_probe(local, replace(quick, test_context_from="shuffled")).paper is None


@pytest.mark.parametrize("model", ["metavae", "vhe-vampprior", "vhe"])
def test_each_model_of_table_2_has_its_figure_beside_it(spy, small, monkeypatch, model):
    monkeypatch.setattr(
        "metavae_zoo.evaluation.probe.table_2", lambda kind, *place: len(kind) / 100
    )
    quick = replace(small, contexts=1, floors=())
    paper = run_probe(spy(model=model), quick).paper
    assert paper is not None
    assert paper.accuracy == len(model) / 100


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_plot_is_a_picture_and_the_same_every_time(result, tmp_path, suffix, magic):
    path = tmp_path / f"probe{suffix}"
    save_plot(replace(result, paper=FIGURE), path)
    first = path.read_bytes()
    save_plot(replace(result, paper=FIGURE), path)
    assert first.startswith(magic)
    assert path.read_bytes() == first


def test_a_plot_without_floors_and_intervals_can_be_drawn(local, small, tmp_path):
    result = run_probe(local, replace(small, contexts=1, floors=()))
    save_plot(result, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 10_000


def test_few_labels_are_drawn_over_their_number_and_the_rest_over_the_value(
    few_shot, transfer, tmp_path
):
    for result, axis in ((few_shot, "labels per class"), (transfer, "held-out rotation")):
        with rc_context({"svg.fonttype": "none"}):
            save_plot(result, tmp_path / "probe.svg")
        assert axis in (tmp_path / "probe.svg").read_text()
