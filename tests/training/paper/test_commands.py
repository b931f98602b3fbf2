"""Claims about `metavae-train paper`, by the real commands on digits."""

from __future__ import annotations

import json
import re
import shutil
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metavae_training.cli import main
from metavae_training.paper.measure import ceiling, study
from metavae_training.paper.measure.distances import transformed_values
from metavae_training.paper.measure.results import Item, read_items
from metavae_training.paper.pages import figure7
from metavae_training.trainer.checkpoint import load_checkpoint
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.commit import code_commit
from metavae_zoo.families import family

pytestmark = pytest.mark.training

RESULTS = Path(__file__).parents[3] / "results"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["paper", *map(str, arguments)])


SMALLEST = ["--quick", "--seeds", 1, "--contexts", 1, "--device", "cpu", "--train-size", 50]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs for all commands: what one of them has trained the next ones find."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Trainings of one epoch, and ceilings of a few steps."""
    monkeypatch.setattr(study, "QUICK_EPOCHS", 1)
    monkeypatch.setattr(ceiling, "_QUICK_STEPS", 3)


def bundles_of(items: list[Item], model: str) -> set[str]:
    return {item.bundle_sha256 for item in items if item.model == model}


def measured(experiment: str, runs: Path, out: Path, *options: object) -> list[Item]:
    """The items of a command that trains and measures on rotated digits."""
    options = (*SMALLEST, "--families", "digits-rotation", *options)
    result = call(experiment, *options, "--runs", runs, "--out", out)
    assert result.exit_code == 0, result.output
    text, _, _ = (out / f"{experiment}-quick.md").read_text().partition("\n\n![")
    assert text in result.stdout
    return read_items(out / f"{experiment}-quick.json")


def test_nothing_is_drawn_up_of_no_results(tmp_path):
    result = call("table2", "--redraw", "--out", tmp_path / "none")
    assert result.exit_code == 1
    assert "none holds no results" in result.stderr
    assert not (tmp_path / "none").exists()


def test_nothing_is_drawn_up_of_results_of_something_else(tmp_path):
    shutil.copy(RESULTS / "context.json", tmp_path)
    page = tmp_path / "table2.md"
    page.write_text("what was drawn up before")
    result = call("table2", "--redraw", "--out", tmp_path)
    assert result.exit_code == 1
    assert "holds no results of table2" in result.stderr
    assert page.read_text() == "what was drawn up before"


def test_a_results_file_of_another_version_is_told_where_it_may_have_had_what_is_asked(tmp_path):
    for name in ("table2", "figure7"):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    older = tmp_path / "figure7.json"
    older.write_text(older.read_text().replace('"schema": 3', '"schema": 2'))
    result = call("table2", "--redraw", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("\n") == 1
    assert "figure7.json has schema version 2, this metavae reads 3" in result.stderr


def test_a_damaged_results_file_is_told_where_it_may_have_had_what_is_asked(tmp_path):
    whole = (RESULTS / "figure7.json").read_text()
    (tmp_path / "figure7.json").write_text(whole[:5000])
    refused = call("table2", "--redraw", "--out", tmp_path)
    assert refused.exit_code == 1
    assert "figure7.json is not a results file" in refused.stderr
    assert "holds no results of table2" in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize("size", ["banana", 0, True, None])
def test_a_train_size_that_is_none_is_not_drawn_up(tmp_path, size):
    found = json.loads((RESULTS / "table2.json").read_text())
    found["protocol"]["train_size"] = size
    (tmp_path / "table2.json").write_text(json.dumps(found))
    refused = call("table2", "--redraw", "--out", tmp_path)
    assert refused.exit_code == 1
    assert f"its train_size is {size!r}" in refused.stderr
    assert not (tmp_path / "table2.md").exists()


def test_what_is_not_trained_at_all_can_be_measured_and_drawn_up(runs, tmp_path):
    options = ["table1", "--quick", "--seeds", 1, "--models", "metavae", "--device", "cpu"]
    options += ["--families", "digits-rotation", "--runs", runs, "--out", tmp_path]
    done = call(*options, "--set", "epochs=0")
    assert done.exit_code == 0, done.output
    assert "trained for 0 epochs" in done.stdout


def test_a_study_of_other_settings_is_kept_apart_and_has_no_floors(runs, tmp_path):
    options = ["table2", "--quick", "--seeds", 1, "--models", "metavae", "--device", "cpu"]
    options += ["--families", "digits-rotation", "--runs", runs, "--out", tmp_path]
    changed = call(*options, "--set", "kl_warm_up_epochs=0", "--set", "epochs=1")
    assert changed.exit_code == 0, changed.output
    told = "**Trained otherwise than by the recipes**: epochs=1,kl_warm_up_epochs=0."
    assert told in changed.stdout
    assert "The weight of the KL rises" not in changed.stdout
    assert {item.model for item in read_items(tmp_path / "table2-quick.json")} == {"metavae"}
    (trained,) = runs.glob("quick/epochs=1,kl_warm_up_epochs=0/*/seed-0/checkpoint.safetensors")
    assert load_checkpoint(trained, tensors=False).recipe.kl_warm_up_epochs == 0
    refused = call(*options)
    assert refused.exit_code == 1
    assert "holds results of the protocol" in refused.stderr


def test_settings_that_no_run_can_have_are_refused_before_anything_is_trained(tmp_path):
    options = ["--quick", "--out", tmp_path / "results", "--runs", tmp_path / "runs"]
    refused = call("table2", *options, "--set", "learning_rate=-1")
    assert refused.exit_code == 1
    assert "learning_rate is -1" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    for setting, says in (("foo=1", "has no setting 'foo'"), ("context_sizes=[5,5000]", "5000")):
        refused = call("table2", *options, "--models", "vae", "--seeds", 1, "--set", setting)
        assert refused.exit_code == 1
        assert says in refused.stderr.splitlines()[-1]
        assert not (tmp_path / "runs").exists()


def test_a_quick_table_2_is_trained_measured_and_not_measured_again(runs, tmp_path):
    options = ["table2", "--quick", "--seeds", 1, "--models", "metavae", "--device", "cpu"]
    options += ["--families", "digits-rotation", "--train-size", 100]
    options += ["--out", tmp_path / "results", "--runs"]
    first = call(*options, runs)
    assert first.exit_code == 0, first.output
    for label in ("MetaVAE", "raw pixels", "PCA-40", "untrained encoder", "supervised CNN"):
        assert re.search(rf"^\| {label} .* 0\.\d\d\d( \(1\))? \|$", first.stdout, re.MULTILINE)
    assert "Left out" not in first.stdout
    results = tmp_path / "results" / "table2-quick.json"
    items = read_items(results)
    assert {item.commit for item in items} == {code_commit()}
    (measured,) = runs.glob("quick/metavae-*-contiguous/seed-0/metavae-*")
    assert bundles_of(items, "metavae") == {open_bundle(measured).card.digest[:16]}
    assert len(bundles_of(items, "untrained") - bundles_of(items, "metavae")) == 1
    assert bundles_of(items, "pca") == bundles_of(items, "cnn") == {""}
    # 8 values: two encoders, three floors, a ceiling.
    assert len(items) == 8 * (2 + 3 + 1)

    nothing = tmp_path / "nothing"
    before = results.read_bytes()
    again = call(*options, nothing)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert results.read_bytes() == before
    assert "**A quick version**" in first.stdout
    assert call(*options, nothing, "--redraw").stdout == first.stdout

    results.write_text(results.read_text().replace('"schema": 3', '"schema": 7'))
    refused = call(*options, nothing)
    assert refused.exit_code == 1
    assert "has schema version 7, this metavae reads 3" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_quick_table_1_measures_distances_of_models_with_and_without_a_context(runs, tmp_path):
    items = measured("table1", runs, tmp_path, "--models", "metavae,vae")
    source = family("digits-rotation")
    assert {(item.model, item.value) for item in items} == {
        (model, value) for model in ("metavae", "vae") for value in transformed_values(source)
    }
    assert {(item.model, item.context_size) for item in items} == {
        ("metavae", 100),
        ("vae", 0),
    }
    assert all((item.distance or 0) > 0 and (item.spread or 0) > 0 for item in items)


def test_a_quick_figure_7_measures_every_split_at_its_held_out_values(runs, tmp_path, monkeypatch):
    """But for the floors, which Table 2 measures as well."""
    monkeypatch.setattr(figure7, "floor_cells", lambda study: [])
    items = measured("figure7", runs, tmp_path, "--models", "metavae")
    source = family("digits-rotation")
    for split in ("contiguous", "interleaved", "sparse"):
        values = set(source.split(split).held_out_values)
        assert {item.value for item in items if item.split == split} == values
    taught = {item.value for item in items if item.kind == "ceiling"}
    assert taught == {
        value
        for split in ("contiguous", "interleaved", "sparse")
        for value in source.split(split).held_out_values
    }
    assert all(item.accuracy is not None for item in items)  # of which an Item holds the range


def test_a_quick_context_measures_every_kind_and_size_of_models_that_take_one(runs, tmp_path):
    items = measured("context", runs, tmp_path, "--models", "metavae,vae")
    assert {item.model for item in items} == {"metavae"}
    assert {(item.context, item.context_size, item.test_context) for item in items} == {
        ("own", 1, None),
        ("own", 10, None),
        ("own", 100, None),
        ("other", 100, None),
        ("shuffled", 100, None),
        ("zeros", 0, None),
        ("own", 100, "other"),
        ("own", 100, "shuffled"),
        ("own", 100, "zeros"),
    }
    assert not (runs / "quick" / "vae-digits-rotation-contiguous").exists()


def test_quick_harder_probes_measure_every_one_of_them_with_floors(runs, tmp_path):
    items = measured("probes", runs, tmp_path, "--models", "metavae", "--train-size", 200)
    held_out = family("digits-rotation").split("contiguous").held_out_values
    for model in ("metavae", "untrained", "raw_pixels", "pca", "random_projection"):
        found = {
            (item.probe, item.shots, item.value, item.draw) for item in items if item.model == model
        }
        few = product(["few-shot"], [1, 5, 10], held_out, [0, 1])
        assert found == {*few, *product(["transfer", "knn"], [None], held_out, [0])}


def test_more_contexts_than_a_probe_draws_are_one_clear_error(tmp_path):
    result = call("table2", "--quick", "--contexts", 1001, "--out", tmp_path / "results")
    assert result.exit_code == 2
    assert "1001 is not in the range 1<=x<=1000" in result.stderr
    assert not (tmp_path / "results").exists()


def test_without_training_nothing_is_made_up(tmp_path):
    result = call(
        "table1", "--quick", "--no-train", "--models", "vhe", "--seeds", 1,
        "--runs", tmp_path / "runs", "--out", tmp_path / "results",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Not trained, seed 0: vhe-digits-rotation-interleaved" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_redrawn_of_what_another_experiment_measured_all_else_is_left_out(tmp_path):
    (tmp_path / "results").mkdir()
    shutil.copy(RESULTS / "table2.json", tmp_path / "results")
    result = call(
        "figure7", "--redraw", "--models", "metavae", "--families", "mnist-skew",
        "--seeds", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "results",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"Contiguous split:\n\n.*\n.*\n\| MetaVAE +\| +0\.8", result.stdout)
    assert "- Not measured, seed 0: metavae-mnist-skew-interleaved, " in result.stdout
    assert "floors of mnist-skew sparse, supervised CNN on mnist-skew" in result.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table2", "--models", "metavea"], "no model 'metavea'; did you mean 'metavae'?"),
        (["figure7", "--families", "mnist-rotate"], "did you mean 'mnist-rotation'?"),
        (
            ["table2", "--quick", "--train-size", 100_000, "--families", "digits-rotation"],
            "--train-size is 100000, and digits-rotation has 1297 training images",
        ),
        (
            ["table2", "--quick", "--train-size", 1, "--families", "digits-rotation"],
            "1297 training images a value, of 10 classes. Give 10 to 1297, or leave it out",
        ),
    ],
)
def test_names_that_do_not_exist_tell_the_nearest(arguments, says, tmp_path):
    result = call(*arguments, "--out", tmp_path)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_commit_is_one_or_the_version():
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|metavae \d.*", code_commit())
