"""Claims about training: it improves, repeats, and survives being killed."""

from __future__ import annotations

import dataclasses
import fcntl
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

from metavae_training.recipes import RECIPES, BadRecipe, recipe
from metavae_training.trainer.build import build_model
from metavae_training.trainer.checkpoint import load_checkpoint
from metavae_training.trainer.device import OutOfMemory, memory_errors
from metavae_training.trainer.epochs import NotFinite, kl_weight, learning_rate
from metavae_training.trainer.fit import CHECKPOINT, LOG, RunBusy, RunMismatch, fit
from metavae_zoo.errors import UnknownName

pytestmark = pytest.mark.training

epochs_module = importlib.import_module("metavae_training.trainer.epochs")
fit_module = importlib.import_module("metavae_training.trainer.fit")
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
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[-1]["validation_elbo"] > lines[1]["validation_elbo"] + 5


def test_the_kept_checkpoint_is_the_best_on_validation(uninterrupted):
    checkpoint, folder = uninterrupted
    elbos = [line["validation_elbo"] for line in logged(folder)]
    assert checkpoint.best_validation_elbo == pytest.approx(max(elbos), abs=1e-3)
    assert checkpoint.best_epoch == elbos.index(max(elbos))


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
        while not (log.exists() and log.read_text().count("\n") >= 3):
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
    assert [line["epoch"] for line in logged(killed)] == [0, 1, 2, 3, 4, 5, 6]


def test_stopped_by_ctrl_c_a_run_keeps_its_last_epoch_and_says_where_it_goes_on(tmp_path):
    command = [
        sys.executable, "-c", "from metavae_training.cli import main; main()",
        "run", SHORT.name, "--threads", "1", "--device", "cpu", "--out", tmp_path / "run",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "epoch 1/" in line:
                run.send_signal(signal.SIGINT)
                break
        said = run.stderr.read()
    assert run.returncode == 1
    last = load_checkpoint(tmp_path / "run" / CHECKPOINT).epoch
    assert last >= 1
    state = f"{tmp_path / 'run'}: epoch {last} of {recipe(SHORT.name).epochs}"
    assert said.endswith(f"Error: stopped; {state}. The same command goes on from there\n")


def test_a_folder_of_another_run_is_refused(uninterrupted):
    _, folder = uninterrupted
    with pytest.raises(RunMismatch, match="seed 3, asked for 4"):
        fit(SHORT, out=folder, seed=4)
    with pytest.raises(RunMismatch, match="batch_size 100, asked for 40"):
        fit(dataclasses.replace(SHORT, batch_size=40), out=folder, seed=3)


def test_a_loss_that_is_no_number_stops_names_the_step_and_keeps_the_last_checkpoint(
    tmp_path, monkeypatch
):
    steps = 1100 // SHORT.batch_size
    monkeypatch.setattr(
        epochs_module,
        "learning_rate",
        lambda recipe, step, _: 1e-3 if step < steps + 3 else math.inf,
    )
    # The step after the one that made the weights infinite is the first without a bound.
    with pytest.raises(NotFinite, match=rf"step {steps + 5}, in epoch 2.*Lower the recipe's"):
        fit(SHORT, out=tmp_path)
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept.epoch == 1
    assert all(value.isfinite().all() for value in kept.weights.values())


def test_weights_that_are_no_numbers_after_an_epoch_are_not_kept(tmp_path, monkeypatch):
    """The last step of an epoch is the one whose weights no other step looks at."""

    class Ruined(epochs_module.Training):
        def epoch(self, number, bar):
            terms = super().epoch(number, bar)
            next(self._model.parameters()).data.fill_(math.nan)
            return terms

    once = dataclasses.replace(SHORT, epochs=1)
    monkeypatch.setattr(fit_module, "Training", Ruined)
    with pytest.raises(NotFinite, match=r"validation ELBO is nan after epoch 1.*is kept"):
        fit(once, out=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT).epoch == 0
    assert [line["epoch"] for line in logged(tmp_path)] == [0]


def test_an_untrained_model_without_a_bound_is_said_to_be_one(tmp_path, monkeypatch):
    def ruined(recipe, **settings):
        model = build_model(recipe, **settings)
        next(model.parameters()).data.fill_(math.nan)
        return model

    monkeypatch.setattr(fit_module, "build_model", ruined)
    with pytest.raises(NotFinite, match=r"after epoch 0.*before the first step") as said:
        fit(SHORT, out=tmp_path)
    assert "kept" not in str(said.value)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_folder_takes_one_training_process_at_a_time(tmp_path):
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does
    with pytest.raises(RunBusy, match=r"another process is training in .*another folder"):
        fit(SHORT, out=tmp_path)
    os.close(lock)


def test_memory_that_ends_before_the_first_step_is_said_as_well(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    for step in ("load_corpus", "build_model"):
        with monkeypatch.context() as patch:
            patch.setattr(fit_module, step, full)
            with pytest.raises(
                OutOfMemory, match=r"fewer train_values \(5\) or lower .*hidden"
            ) as said:
                fit(SHORT, out=tmp_path)
        assert "batch_size" not in str(said.value)
        assert "kept" not in str(said.value)
    assert not any(tmp_path.iterdir())


def test_memory_that_ends_in_the_first_validation_claims_no_checkpoint(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(fit_module, "validate", full)
    small = dataclasses.replace(SHORT, batch_size=4)
    with pytest.raises(OutOfMemory, match="--set batch_size=2 --set context_sets=1") as said:
        fit(small, out=tmp_path)
    assert "kept" not in str(said.value)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_cpu_out_of_memory_is_said_as_a_gpu_is(tmp_path, monkeypatch):
    def full(*_, **__):
        torch.empty(10**16)

    monkeypatch.setattr(fit_module, "load_corpus", full)
    with pytest.raises(OutOfMemory, match=r"needs more memory than cpu has free .*train_values"):
        fit(SHORT, out=tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_full_device_is_known_by_whatever_torch_raises(error):
    with (
        pytest.raises(OutOfMemory, match=r"^a step needs more memory than cpu.*Lower it$") as said,
        memory_errors("a step", torch.device("cpu"), "Lower it"),
    ):
        raise error
    assert "TORCH_USE" not in str(said.value)


def test_other_errors_of_torch_are_not_taken_for_a_full_device():
    with (
        pytest.raises(RuntimeError, match="device-side assert"),
        memory_errors("a step", torch.device("cpu"), "Lower it"),
    ):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_where_images_do_not_fit_the_settings_that_are_sizes_are_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(fit_module, "load_corpus", full)
    with pytest.raises(OutOfMemory, match=r"sizes of the model \(latent_dim, context_dim, hidden,"):
        fit(RECIPES["vhe-vampprior-digits-scale-sparse"], out=tmp_path)


def test_a_device_out_of_memory_says_which_setting_to_lower(tmp_path, monkeypatch):
    """The error is raised by hand: a CPU does not run out as a GPU does."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    whole = fit(dataclasses.replace(SHORT, epochs=1), out=tmp_path / "whole")
    monkeypatch.setattr(epochs_module, "train_step", full)
    with pytest.raises(OutOfMemory, match=r"Lower batch_size \(100\).*batch_size=48.*is kept"):
        fit(dataclasses.replace(SHORT, epochs=1), out=tmp_path / "full")
    kept = load_checkpoint(tmp_path / "full" / CHECKPOINT)
    assert kept.epoch == 0
    assert kept.weights.keys() == whole.weights.keys()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train_values": []}, "train_values is .*one value or more"),
        ({"train_values": [20]}, r"train_values is \[20\.0\], expected values that the split"),
        ({"context_sizes": [5, 1001]}, r"context_sizes is .*1001.*1297 images leaves for it, 1000"),
        ({"validation_size": 1297}, "validation_size is 1297, .*1297 images leaves for it, 1296"),
        ({"validation_size": 1296}, r"batch_size is 100, .* for it, 1 \(validation_size has"),
        ({"context_sizes": [0, 5]}, "context_sizes is .*whole numbers of 1 or more"),
        ({"context_sizes": [9, 5]}, "expected a smaller size, then a larger"),
        ({"latent_dim": 0}, "latent_dim is 0; input should be greater than or equal to 1"),
        ({"latent_dim": True}, "latent_dim is True; input should be a valid integer"),
        ({"hidden": 1.5}, "hidden is 1.5; input should be a valid integer"),
        ({"hidden": 10**9}, "hidden is 1000000000; input should be less than or equal to 1000000"),
        (
            {"latent_dim": 10**25},
            "latent_dim is 10{25}; input should be less than",
        ),
        (
            {"orientations": 10**6},
            "orientations is 1000000; input .* equal to 180",
        ),
        ({"train_values": [-180, -180]}, "train_values is .*, expected every value once"),
        ({"scales": 5}, "scales is 5; input should be less than or equal to 4"),
        ({"rescaling": "much"}, "rescaling is 'much'; input should be a valid number"),
        ({"kl_c_scale": -1}, "kl_c_scale is -1; input should be greater than or equal to 0"),
        ({"kl_c_scale": [1]}, "kl_c_scale is .1.; input should be a valid number"),
        ({"validation_size": 1297}, "validation_size is 1297, expected at most"),
        ({"batch_size": 1200, "context_sets": 1}, "batch_size is 1200, expected at most"),
        ({"batch_size": 30}, "context_sets is 4, expected a divisor of the batch_size, 30"),
        ({"learning_rate": -1}, "learning_rate is -1; input should be greater than 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan; input should be a finite number"),
        ({"precision": "fp8"}, "precision is 'fp8'; input should be 'fp32' or 'bf16'"),
        ({"family": "mnist-scale"}, "family is part of what the recipe is"),
        ({"depth": 3}, "has no setting 'depth'. The settings of model metavae are hidden, latent"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(tmp_path, settings, says):
    with pytest.raises(BadRecipe, match=says):
        fit(SHORT.changed(settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_schedules_start_and_end_where_they_say():
    assert learning_rate(SHORT, 0, 100) == SHORT.learning_rate
    assert learning_rate(SHORT, 50, 100) == pytest.approx(SHORT.learning_rate / 2)
    assert learning_rate(SHORT, 100, 100) == pytest.approx(0)
    warm = dataclasses.replace(SHORT, kl_warm_up_epochs=4)
    assert [kl_weight(warm, step, 10) for step in (0, 10, 40, 60)] == [0, 0.25, 1, 1]
    assert kl_weight(dataclasses.replace(SHORT, kl_warm_up_epochs=0), 0, 10) == 1


@pytest.mark.parametrize(
    ("settings", "warm_up"),
    [
        ({"epochs": 50}, 50),
        ({"epochs": 200}, 200),
        ({"epochs": 300}, 200),
        ({"epochs": 50, "kl_warm_up_epochs": 80}, 80),
        ({"epochs": 0}, 200),  # nothing is trained: nothing to shorten
        ({"learning_rate": 0.5}, 200),
    ],
)
def test_fewer_epochs_shorten_a_longer_warm_up_unless_one_is_given(settings, warm_up):
    assert recipe(SHORT.name).changed(settings).kl_warm_up_epochs == warm_up


def test_unknown_recipes_tell_the_nearest():
    with pytest.raises(UnknownName, match="metavae-mnist-rotation-contiguous"):
        recipe("metavae-mnist-rotation-contigous")


def test_every_recipe_trains_a_split_that_exists():
    from metavae_zoo.families import family

    for one in RECIPES.values():
        assert family(one.family).split(one.split).train_values
        named_by = [one.model, one.family, one.split]
        if one.family in ("mnist", "digits"):  # all sites of a data set: their only split is "all"
            named_by.remove("all")
        assert one.name.removesuffix("-camera-prior") == "-".join(named_by)
