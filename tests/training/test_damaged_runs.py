"""Claims about run folders that are damaged, or of another version: one clear error, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from metavae_training.cli import main
from metavae_training.recipes import recipe
from metavae_training.sweeps.jobs import Job
from metavae_training.trainer.checkpoint import BadCheckpoint, load_checkpoint
from metavae_training.trainer.fit import CHECKPOINT, LOG, fit
from metavae_zoo.errors import UnknownName

pytestmark = pytest.mark.training

Tensors = dict[str, torch.Tensor]
SHORT = recipe("metavae-digits-rotation-sparse").changed(
    {"epochs": 2, "hidden": 16, "latent_dim": 4}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    fit(SHORT, out=folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def edit(folder: Path, change: Callable[[Tensors, dict], object]) -> Path:
    """Change a checkpoint's tensors and metadata in place."""
    path = folder / CHECKPOINT
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        ((name, text),) = file.metadata().items()
    metadata = json.loads(text)
    change(tensors, metadata)
    save_file(tensors, path, {name: json.dumps(metadata)})
    return path


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / LOG).read_text().splitlines()]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    for path in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(BadCheckpoint, match=r"is not a metavae.*move a damaged one"):
            load_checkpoint(path)


def test_a_recipe_that_cannot_be_names_the_file(folder):
    path = edit(folder, lambda _, metadata: metadata["recipe"].update(precission="fp32"))
    with pytest.raises(BadCheckpoint, match=f"{path} is not a metavae checkpoint.*precission"):
        load_checkpoint(path)


def test_a_validation_without_its_elbo_is_refused(folder):
    path = edit(folder, lambda _, metadata: metadata["best_validation"].pop("elbo"))
    with pytest.raises(BadCheckpoint, match="elbo"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("weights.decoders.layers.0.weight"),
        lambda tensors, _: tensors.update({"weights.other": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"weights.decoders.layers.0.weight": torch.zeros(3)}),
    ],
)
def test_weights_of_another_version_do_not_go_on(folder, change):
    edit(folder, change)
    with pytest.raises(BadCheckpoint, match="of another version"):
        fit(SHORT, out=folder)


def test_a_run_without_its_optimizer_does_not_go_on(folder):
    def stripped(tensors: Tensors, metadata: dict) -> None:
        metadata["epoch"] = 1
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            tensors.pop(name)

    edit(folder, stripped)
    with pytest.raises(BadCheckpoint, match="no state of the optimizer"):
        fit(SHORT, out=folder)


def test_an_export_of_other_weights_or_of_an_unknown_model_is_one_line(folder):
    for change, says in (
        (lambda tensors, _: tensors.pop("best.decoders.layers.0.weight"), "of another version"),
        (lambda _, metadata: metadata["recipe"].update(model="foo"), "no model 'foo'"),
    ):
        path = edit(folder, change)
        result = CliRunner().invoke(main, ["export", str(path)])
        assert result.exit_code == 1
        assert says in result.stderr
        assert result.stderr.count("\n") == 1
    with pytest.raises(UnknownName):
        fit(load_checkpoint(path).recipe, out=folder / "new")


def test_a_log_that_was_cut_short_does_not_stop_a_run(finished, tmp_path):
    (tmp_path / LOG).write_text('{"epoch": 1, "trai')
    again, whole = fit(SHORT, out=tmp_path), load_checkpoint(finished / CHECKPOINT)
    assert again.weights.keys() == whole.weights.keys()
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)
    assert logged(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("content", [b"\xff\xfe not UTF-8", b"[1]", b"null\n", b""])
def test_a_damaged_log_stops_neither_a_run_nor_a_sweep(folder, content):
    (folder / LOG).write_bytes(content)
    job = Job(SHORT, 0, folder)
    assert job.epochs_logged() == 0
    assert job.finished()
    fit(SHORT, out=folder)
    assert job.finished()


def test_a_finished_run_in_a_folder_that_cannot_be_written_is_finished(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fit(SHORT, out=folder).epoch == 2
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_checkpoint_of_nested_lists_is_refused(folder):
    path = folder / CHECKPOINT
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        [name] = file.metadata()
    save_file(tensors, path, {name: "[" * 100_000})
    with pytest.raises(BadCheckpoint):
        load_checkpoint(path)


def test_what_is_computed_is_not_trained(tmp_path):
    asked = ["run", "wavelet-pca-digits-rotation-sparse", "--epochs", "2"]
    done = CliRunner().invoke(main, [*asked, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "has no epochs to be trained for" in done.output
    runs = ["--runs", str(tmp_path / "runs"), "--dry-run", "--json"]
    done = CliRunner().invoke(main, ["sweep", "*-digits-rotation-sparse", "--epochs", "0", *runs])
    states = [json.loads(line) for line in done.output.splitlines()]
    assert {one["recipe"] for one in states} >= {asked[1], "metavae-digits-rotation-sparse"}
    done = CliRunner().invoke(main, ["sweep", "wavelet-pca-digits-*", "--epochs", "2", *runs])
    assert done.exit_code == 0
    plain = CliRunner().invoke(main, ["sweep", "wavelet-pca-digits-*", *runs])
    assert done.output == plain.output
