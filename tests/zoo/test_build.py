"""Claims about building a model: what is chosen, what is measured, what stands on the card.

Training takes too long for a test, so training, export and probes are faked here; each has tests
of its own.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from metavae_training import release as building
from metavae_training.zoo_command import build as build_command
from metavae_zoo.bundles.bundle import CARD, Bundle, open_bundle
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.cli import main
from metavae_zoo.errors import BadBundle
from metavae_zoo.evaluation import kept as kept_module
from metavae_zoo.evaluation.settings import ProbeSettings

ELBO = {0: -120.0, 1: -110.0, 2: -130.0}
ACCURACY = {0: 0.9, 1: 0.8, 2: 0.85}


@dataclasses.dataclass
class Fakes:
    """Stands for training, export and probes: copies one bundle under other seeds."""

    source: Path
    trained: list[int] = dataclasses.field(default_factory=list)
    probes: list[ProbeSettings] = dataclasses.field(default_factory=list)

    def fit(self, recipe: object, *, out: Path, seed: int, **options: object) -> int:
        self.trained.append(seed)
        return seed

    def export(self, seed: int, target: Path) -> Bundle:
        if not target.exists():
            shutil.copytree(self.source, target)
        card = ModelCard.from_json((target / CARD).read_bytes(), source="test")
        changed = card.model_copy(update={"seed": seed, "validation_elbo": ELBO[seed]})
        (target / CARD).write_text(changed.to_json())
        return open_bundle(target)

    def probe(self, bundle: Bundle, settings: ProbeSettings, **options: object) -> Any:
        self.probes.append(settings)
        card = bundle.card
        accuracy = {"mean": ACCURACY[card.seed], "half_width": 0.01, "n": 5}
        found = {
            "digest": card.digest,
            "values": [
                {"value": 20.0, "draws": [ACCURACY[card.seed]], "floors": {}, "floor_draws": {}}
            ],
            "record": {
                "protocol": "fake",
                "seed": 0,
                "train_size": 1297,
                "test_size": 500,
                "contexts": 5,
                "context_size": 100,
                "accuracy": accuracy,
                "per_value": {"20": accuracy},
                "floors": dict.fromkeys(settings.floors, 0.5),
            },
        }
        return SimpleNamespace(to_dict=lambda: found)


@pytest.fixture
def fakes(bundle, monkeypatch) -> Fakes:
    made = Fakes(bundle.path)
    monkeypatch.setattr(building, "fit", made.fit)
    monkeypatch.setattr(building, "export", made.export)
    monkeypatch.setattr(kept_module, "OnnxEmbedder", lambda bundle: bundle)
    monkeypatch.setattr(kept_module, "run_probe", made.probe)
    return made


def test_the_best_validation_elbo_ships_whatever_it_scores(fakes, bundle, tmp_path):
    built = building.build(
        bundle.card.name,
        seeds=3,
        contexts=5,
        device="cpu",
        runs=tmp_path / "runs",
        out=tmp_path / "zoo",
    )
    assert built.path == tmp_path / "zoo" / bundle.card.name
    results = built.card.results
    assert results is not None
    assert built.card.seed == results.shipped_seed == 1
    assert results.probe is not None
    assert results.accuracy_over_seeds is not None
    assert results.probe.accuracy.mean == ACCURACY[1]
    assert [seed.probe_accuracy for seed in results.seeds] == [0.9, 0.8, 0.85]
    assert results.accuracy_over_seeds.mean == pytest.approx(0.85)
    assert results.accuracy_over_seeds.half_width == pytest.approx(4.303 * 0.05 / 3**0.5, rel=1e-3)


def build(name: str, folder: Path, seeds: int = 1):
    return building.build(
        name,
        seeds=seeds,
        contexts=5,
        device="cpu",
        runs=folder / "runs",
        out=folder / "zoo",
    )


def test_a_model_of_which_nothing_is_held_out_is_built_without_a_probe(
    fakes, site_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(building, "measure_transfer", lambda bundle: [])  # has tests of its own
    fakes.source = site_bundle.path
    results = build("canonical-wavelet-digits", tmp_path, seeds=3).card.results
    assert results is not None
    assert (results.probe, results.accuracy_over_seeds, results.shipped_seed) == (None, None, 1)
    assert [seed.probe_accuracy for seed in results.seeds] == [None] * 3
    assert not fakes.probes


def test_every_seed_is_probed_and_floors_are_measured_once(fakes, bundle, tmp_path):
    build(bundle.card.name, tmp_path, seeds=3)
    assert [bool(settings.floors) for settings in fakes.probes] == [False, False, False, True]
    assert {settings.split for settings in fakes.probes} == {"contiguous"}


def test_nothing_is_measured_twice(fakes, bundle, tmp_path):
    first = build(bundle.card.name, tmp_path, seeds=2)
    probes = len(fakes.probes)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-0" / bundle.card.name)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-1" / bundle.card.name)
    again = build(bundle.card.name, tmp_path, seeds=2)
    assert again.card == first.card
    assert len(fakes.probes) == probes


def test_floors_come_from_the_card_of_another_model_of_the_same_values(fakes, bundle, tmp_path):
    other = tmp_path / "zoo" / "another-model"
    first = build(bundle.card.name, tmp_path)
    shutil.copytree(first.path, other)
    shutil.rmtree(first.path)
    shutil.rmtree(tmp_path / "runs")
    fakes.probes.clear()
    again = build(bundle.card.name, tmp_path)
    assert not any(settings.floors for settings in fakes.probes)
    assert again.card.results is not None
    assert again.card.results.probe is not None
    assert first.card.results is not None
    assert first.card.results.probe is not None
    assert again.card.results.probe.floors == first.card.results.probe.floors


def test_the_digest_does_not_depend_on_the_results(fakes, bundle, tmp_path):
    built = build(bundle.card.name, tmp_path)
    assert built.card.digest == bundle.card.digest


def test_a_model_without_a_recipe_is_one_clear_error(fakes, tmp_path):
    result = CliRunner().invoke(build_command, ["metavae-nothing", "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert "no recipe 'metavae-nothing'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("others", ["runs", "zoo"])
def test_a_folder_that_is_no_model_is_refused_before_anything_is_trained(
    fakes, bundle, tmp_path, others
):
    kept = tmp_path / others / bundle.card.name / "seed-0" / "checkpoint.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("hours of training")
    with pytest.raises(BadBundle, match=f"{kept.parents[1]} is "):
        building.build(
            bundle.card.name,
            seeds=1,
            contexts=5,
            device="cpu",
            runs=tmp_path / "runs",
            out=tmp_path / others,
        )
    assert kept.read_text() == "hours of training"
    assert not fakes.trained


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_trained(
    fakes, bundle, tmp_path
):
    (tmp_path / "zoo").write_text("a file in the way")
    with pytest.raises(OSError, match="zoo"):
        build(bundle.card.name, tmp_path)
    assert not fakes.trained


def test_a_build_that_is_stopped_says_what_is_kept(tmp_path):
    """A real process that is asked to end while it trains."""
    program = f"""
import time
from metavae_training import release
from metavae_training.zoo_command import build
def fit(*words, **options):
    print("trains", flush=True)
    time.sleep(60)
release.fit = fit
folder = {str(tmp_path)!r}
build(["metavae-digits-rotation-contiguous", "--runs", folder + "/runs", "--out", folder])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "trains\n"
        running.terminate()
        _, said = running.communicate()
    assert running.returncode == 1
    assert said.splitlines()[-1].startswith("Error: stopped; every epoch that was saved")


def test_the_zoos_command_takes_up_what_training_adds():
    listed = CliRunner().invoke(main, ["--help"])
    assert "Train, export and measure model NAME" in listed.output


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", '{"values": [], "digest": "0", "commit": "x"}', "{"]
)
def test_a_kept_probe_that_is_damaged_is_measured_again(fakes, bundle, tmp_path, content):
    first = build(bundle.card.name, tmp_path)
    for kept in tmp_path.glob("runs/**/probes/*.json"):
        kept.write_text(content)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-0" / bundle.card.name)
    assert build(bundle.card.name, tmp_path).card == first.card
