"""Claims about building a model: what is chosen, what is measured, what stands on the card.

Training takes too long for a test, so the commands that a build calls are faked here; each has
tests of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from metavae_zoo import build as building
from metavae_zoo import commands as commands_module
from metavae_zoo.bundle import CARD, open_bundle
from metavae_zoo.card import ModelCard
from metavae_zoo.cli import main
from metavae_zoo.commands import CommandFailed
from metavae_zoo.errors import BadBundle

ELBO = {0: -120.0, 1: -110.0, 2: -130.0}
ACCURACY = {0: 0.9, 1: 0.8, 2: 0.85}


@dataclasses.dataclass
class FakeCommands:
    """Stands for `metavae-train` and `metavae-client`: copies one bundle under other seeds."""

    source: Path
    lines: list[list[str]] = dataclasses.field(default_factory=list)

    def __call__(self, *words: object, zoo: Path | None = None):
        line = [str(word) for word in words]
        self.lines.append(line)
        if line[1] == "list":
            return [{"name": self.source.name}]
        if line[1] == "run":
            return {"checkpoint": str(Path(line[line.index("--out") + 1], "checkpoint"))}
        if line[1] == "export":
            return self.export(Path(line[line.index("--out") + 1]))
        assert zoo is not None
        return self.probe(open_bundle(zoo / self.source.name).card, "--no-floors" not in line)

    def export(self, target: Path) -> dict:
        shutil.copytree(self.source, target)
        card = ModelCard.from_json((target / CARD).read_bytes(), source="test")
        seed = int(target.parent.name.removeprefix("seed-"))
        changed = card.model_copy(update={"seed": seed, "validation_elbo": ELBO[seed]})
        (target / CARD).write_text(changed.to_json())
        return {}

    def probe(self, card: ModelCard, floors: bool) -> dict:
        accuracy = {"mean": ACCURACY[card.seed], "half_width": 0.01, "n": 5}
        return {
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
                "floors": dict.fromkeys(("raw_pixels", "pca", "random_projection"), 0.5)
                if floors
                else {},
            },
        }


@pytest.fixture
def commands(bundle, monkeypatch) -> FakeCommands:
    fake = FakeCommands(bundle.path)
    monkeypatch.setattr(building, "run_command", fake)
    monkeypatch.setattr(commands_module, "run_command", fake)
    return fake


def test_the_best_validation_elbo_ships_whatever_it_scores(commands, bundle, tmp_path):
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
    commands, site_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(building, "measure_transfer", lambda bundle: [])  # has tests of its own
    commands.source = site_bundle.path
    results = build(site_bundle.card.name, tmp_path, seeds=3).card.results
    assert results is not None
    assert (results.probe, results.accuracy_over_seeds, results.shipped_seed) == (None, None, 1)
    assert [seed.probe_accuracy for seed in results.seeds] == [None] * 3
    assert all(line[1] != "probe" for line in commands.lines)


def test_every_seed_is_probed_and_floors_are_measured_once(commands, bundle, tmp_path):
    build(bundle.card.name, tmp_path, seeds=3)
    probes = [line for line in commands.lines if line[1] == "probe"]
    assert ["--no-floors" in line for line in probes] == [True, True, True, False]
    for line in probes:
        assert line[line.index("--split") + 1] == "contiguous"
        assert "--in-process" in line


def test_nothing_is_measured_twice(commands, bundle, tmp_path):
    first = build(bundle.card.name, tmp_path, seeds=2)
    probes = sum(line[1] == "probe" for line in commands.lines)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-0" / bundle.card.name)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-1" / bundle.card.name)
    again = build(bundle.card.name, tmp_path, seeds=2)
    assert again.card == first.card
    assert sum(line[1] == "probe" for line in commands.lines) == probes


def test_floors_come_from_the_card_of_another_model_of_the_same_values(commands, bundle, tmp_path):
    other = tmp_path / "zoo" / "another-model"
    first = build(bundle.card.name, tmp_path)
    shutil.copytree(first.path, other)
    shutil.rmtree(first.path)
    shutil.rmtree(tmp_path / "runs")
    commands.lines.clear()
    again = build(bundle.card.name, tmp_path)
    assert all("--no-floors" in line for line in commands.lines if line[1] == "probe")
    assert again.card.results is not None
    assert again.card.results.probe is not None
    assert first.card.results is not None
    assert first.card.results.probe is not None
    assert again.card.results.probe.floors == first.card.results.probe.floors


def test_the_digest_does_not_depend_on_the_results(commands, bundle, tmp_path):
    built = build(bundle.card.name, tmp_path)
    assert built.card.digest == bundle.card.digest


def test_a_model_without_a_recipe_is_one_clear_error(commands, tmp_path):
    result = CliRunner().invoke(main, ["build", "metavae-nothing", "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert "no recipe 'metavae-nothing'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_command_that_fails_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(commands_module.sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "metavae-train").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "metavae-train").chmod(0o755)
    with pytest.raises(CommandFailed, match="failed with exit code 3"):
        build("any", tmp_path)


@pytest.mark.parametrize("others", ["runs", "zoo"])
def test_a_folder_that_is_no_model_is_refused_before_anything_is_trained(
    commands, bundle, tmp_path, others
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
    assert not any(line[1] == "run" for line in commands.lines)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_trained(
    commands, bundle, tmp_path
):
    (tmp_path / "zoo").write_text("a file in the way")
    with pytest.raises(OSError, match="zoo"):
        build(bundle.card.name, tmp_path)
    assert not any(line[1] == "run" for line in commands.lines)


def test_a_build_that_is_stopped_ends_the_command_that_it_waits_for(tmp_path):
    """A real process that is asked to end while its command trains."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "metavae-train").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec cat\n")
    (programs / "metavae-train").chmod(0o755)
    program = f"""
import sysconfig
sysconfig.get_path = lambda _: {str(programs)!r}
from metavae_zoo.cli import main
main(["build", "any"])
"""
    os.mkfifo(tmp_path / "pid")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        trains = int((tmp_path / "pid").read_text())
        running.terminate()
        _, said = running.communicate()
    assert running.returncode == 1
    assert said.splitlines()[-1].startswith("Error: stopped; every epoch that was saved")
    with contextlib.suppress(psutil.NoSuchProcess):  # it was killed, and may take a moment to go
        psutil.Process(trains).wait(timeout=30)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", '{"values": [], "digest": "0", "commit": "x"}', "{"]
)
def test_a_kept_probe_that_is_damaged_is_measured_again(commands, bundle, tmp_path, content):
    first = build(bundle.card.name, tmp_path)
    for kept in tmp_path.glob("runs/**/probes/*.json"):
        kept.write_text(content)
    shutil.rmtree(tmp_path / "runs" / bundle.card.name / "seed-0" / bundle.card.name)
    assert build(bundle.card.name, tmp_path).card == first.card
