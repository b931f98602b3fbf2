"""Claims about training: it improves, repeats, and survives being killed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metavae_training.checkpoint import BadCheckpoint, load_checkpoint
from metavae_training.fit import (
    CHECKPOINT,
    LOG,
    NotFinite,
    RunMismatch,
    fit,
    kl_weight,
    learning_rate,
)
from metavae_training.recipes import RECIPES, recipe
from metavae_zoo.errors import UnknownName

fit_module = importlib.import_module("metavae_training.fit")
SHORT = dataclasses.replace(recipe("metavae-digits-rotation-sparse"), epochs=4)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def weights_equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return fit(SHORT, out=folder, seed=3), folder


def test_training_improves_the_selection_metric(uninterrupted):
    _, folder = uninterrupted
    lines = logged(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["validation_elbo"] > lines[0]["validation_elbo"] + 5


def test_the_kept_checkpoint_is_the_best_on_validation(uninterrupted):
    checkpoint, folder = uninterrupted
    elbos = [line["validation_elbo"] for line in logged(folder)]
    assert checkpoint.best_validation_elbo == pytest.approx(max(elbos), abs=1e-3)
    assert checkpoint.best_epoch == 1 + elbos.index(max(elbos))


def test_one_seed_repeats_to_the_bit_and_another_differs(uninterrupted, tmp_path):
    checkpoint, _ = uninterrupted
    again = fit(SHORT, out=tmp_path / "again", seed=3)
    other = fit(SHORT, out=tmp_path / "other", seed=4)
    assert weights_equal(checkpoint.weights, again.weights)
    assert not weights_equal(checkpoint.weights, other.weights)


def test_killed_and_resumed_ends_in_the_same_weights(tmp_path):
    """The real command, killed with SIGKILL between two epochs, and started again."""
    command = [
        sys.executable, "-c", "from metavae_training.cli import main; main()",
        "run", SHORT.name, "--epochs", "6", "--seed", "3", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    whole = subprocess.run([*command, "--out", tmp_path / "whole"], capture_output=True, check=True)
    assert b"is best" in whole.stdout

    killed = tmp_path / "killed"
    with subprocess.Popen([*command, "--out", killed], stderr=subprocess.DEVNULL) as run:
        log = killed / LOG
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= 2):
            assert run.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            os.sched_yield()
        run.send_signal(signal.SIGKILL)
    at_the_kill = load_checkpoint(killed / CHECKPOINT)
    assert at_the_kill.epoch < 6

    subprocess.run([*command, "--out", killed], capture_output=True, check=True)
    resumed, straight = (
        load_checkpoint(tmp_path / run / CHECKPOINT) for run in ("killed", "whole")
    )
    assert weights_equal(resumed.weights, straight.weights)
    assert weights_equal(resumed.optimizer, straight.optimizer)
    assert [line["epoch"] for line in logged(killed)] == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_another_run_is_refused(uninterrupted):
    _, folder = uninterrupted
    with pytest.raises(RunMismatch, match="seed 3, asked for 4"):
        fit(SHORT, out=folder, seed=4)
    with pytest.raises(RunMismatch, match="recipe"):
        fit(dataclasses.replace(SHORT, batch_size=50), out=folder, seed=3)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    steps = 1100 // SHORT.batch_size
    monkeypatch.setattr(
        fit_module, "learning_rate", lambda recipe, step, _: 1e-3 if step < steps else math.inf
    )
    with pytest.raises(NotFinite, match=r"epoch 2.*Lower the recipe's learning_rate"):
        fit(SHORT, out=tmp_path)
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept.epoch == 1
    assert all(value.isfinite().all() for value in kept.weights.values())


def test_a_log_that_was_cut_short_does_not_stop_a_run(tmp_path):
    two = fit(dataclasses.replace(SHORT, epochs=2), out=tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / LOG).write_text('{"epoch": 1, "trai')
    again = fit(two.recipe, out=tmp_path / "cut")
    assert weights_equal(two.weights, again.weights)
    assert [line["epoch"] for line in logged(tmp_path / "cut")] == [1, 2]


def test_schedules_start_and_end_where_they_say():
    assert learning_rate(SHORT, 0, 100) == SHORT.learning_rate
    assert learning_rate(SHORT, 50, 100) == pytest.approx(SHORT.learning_rate / 2)
    assert learning_rate(SHORT, 100, 100) == pytest.approx(0)
    warm = dataclasses.replace(SHORT, kl_warm_up_epochs=4)
    assert [kl_weight(warm, step, 10) for step in (0, 10, 40, 60)] == [0, 0.25, 1, 1]
    assert kl_weight(dataclasses.replace(SHORT, kl_warm_up_epochs=0), 0, 10) == 1


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    for path in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(BadCheckpoint, match="is not a metavae checkpoint"):
            load_checkpoint(path)


def test_unknown_recipes_tell_the_nearest():
    with pytest.raises(UnknownName, match="metavae-mnist-rotation-contiguous"):
        recipe("metavae-mnist-rotation-contigous")


def test_every_recipe_trains_a_split_that_exists():
    from metavae_zoo.families import family

    for one in RECIPES.values():
        assert family(one.family).split(one.split).train_values
        assert one.name == f"{one.model}-{one.family}-{one.split}"
