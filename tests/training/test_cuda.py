"""Claims about training on a GPU: it ends where the CPU does, and its checkpoints go anywhere."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tqdm import tqdm

from metavae_training.cli import main
from metavae_training.exporting.export import export
from metavae_training.models import MODELS
from metavae_training.recipes import recipe
from metavae_training.trainer.build import build_model, build_optimizer
from metavae_training.trainer.checkpoint import load_checkpoint
from metavae_training.trainer.data import load_corpus
from metavae_training.trainer.epochs import Training
from metavae_training.trainer.fit import CHECKPOINT, LOG, fit
from metavae_zoo.embedding.embedder import GOLDEN_TOLERANCE, OnnxEmbedder, golden_gap
from metavae_zoo.families import family

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device")

fit_module = importlib.import_module("metavae_training.trainer.fit")
SHORT = dataclasses.replace(recipe("metavae-digits-rotation-sparse"), epochs=6)
GPU = torch.device("cuda")
# Another device draws other numbers, as another seed does: seeds end within 3 nats of each other.
NATS = 8


def elbos(folder: Path) -> list[float]:
    lines = (folder / LOG).read_text().splitlines()
    return [json.loads(line)["validation_elbo"] for line in lines]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> list[float]:
    """Validation ELBO of every epoch, in nats."""
    folder = tmp_path_factory.mktemp("cpu")
    fit(SHORT, out=folder, seed=0)
    return elbos(folder)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    return fit(SHORT, out=folder, seed=0, device=GPU), folder


def test_a_gpu_ends_where_the_cpu_does(on_cpu, on_gpu):
    _, folder = on_gpu
    found = elbos(folder)
    assert len(found) == len(on_cpu) == 7
    assert found[0] == pytest.approx(on_cpu[0], abs=1)  # the same weights, other noise
    assert found[-1] == pytest.approx(on_cpu[-1], abs=NATS)


def test_bf16_ends_there_too(on_cpu, tmp_path):
    fit(dataclasses.replace(SHORT, precision="bf16"), out=tmp_path, seed=0, device=GPU)
    assert elbos(tmp_path)[-1] == pytest.approx(on_cpu[-1], abs=NATS)


def test_a_checkpoint_of_a_gpu_is_exported_and_embeds_alike_on_both(on_gpu, cuda, tmp_path):
    checkpoint, _ = on_gpu
    bundle = export(checkpoint, tmp_path / SHORT.name)  # verified against torch on the CPU
    images = family(SHORT.family).images(60.0, "test")
    cpu, gpu = OnnxEmbedder(bundle), OnnxEmbedder(bundle, device="cuda")
    expected = cpu.embed(images, cpu.summarize(images[:50]))
    found = gpu.embed(images, gpu.summarize(images[:50]))
    assert golden_gap(found.mean, expected.mean) <= GOLDEN_TOLERANCE["cuda"]


def test_a_run_that_was_stopped_on_a_gpu_goes_on_there_and_on_the_cpu(
    on_gpu, tmp_path, monkeypatch
):
    class Stopped(Training):
        def epoch(self, number, bar):
            if number == 4:
                raise KeyboardInterrupt
            return super().epoch(number, bar)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "Training", Stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(SHORT, out=tmp_path / "cuda", seed=0, device=GPU)
    assert load_checkpoint(tmp_path / "cuda" / CHECKPOINT).epoch == 3
    shutil.copytree(tmp_path / "cuda", tmp_path / "cpu")
    straight = elbos(on_gpu[1])
    for name, nats in (("cuda", 1), ("cpu", NATS)):
        ended = fit(SHORT, out=tmp_path / name, seed=0, device=torch.device(name))
        assert ended.epoch == SHORT.epochs
        assert len(elbos(tmp_path / name)) == SHORT.epochs + 1
        assert elbos(tmp_path / name)[-1] == pytest.approx(straight[-1], abs=nats)


def test_recorded_steps_are_the_steps_that_they_were_recorded_from():
    """Every context size is taken, recorded and replayed within the two passes."""
    terms = []
    for recorded in (True, False):
        corpus = load_corpus(SHORT, None, GPU)
        model = build_model(SHORT, distributions=5, pixels=784, seed=0).to(GPU)
        training = Training(model, build_optimizer(model, SHORT), corpus, SHORT, seed=0)
        if not recorded:
            training.take = training.step
        with tqdm(disable=True) as bar:
            terms.append([training.epoch(number, bar)["elbo"] for number in (1, 2)])
    assert terms[0] == pytest.approx(terms[1], abs=1e-2)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_on_a_gpu(model, tmp_path):
    chosen = recipe(f"{model}-digits-rotation-sparse")
    short = dataclasses.replace(chosen, epochs=min(1, chosen.epochs))
    checkpoint = fit(short, out=tmp_path, device=GPU)
    assert np.isfinite(checkpoint.best_validation_elbo)
    export(checkpoint, tmp_path / chosen.name)


def test_runs_of_a_sweep_share_a_gpu(tmp_path):
    done = CliRunner().invoke(
        main,
        ["sweep", "metavae-digits-scale-sparse", "vae-digits-scale-sparse", "--seeds", "2",
         "--epochs", "2", "--device", "cuda", "--workers", "2", "--json", "--runs", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["status"] for one in found] == ["trained"] * 4
    for one in found:
        assert load_checkpoint(Path(one["checkpoint"])).epoch == 2


def test_the_command_takes_a_gpu_by_itself(tmp_path):
    torch.cuda.reset_peak_memory_stats()
    words = ["run", "metavae-digits-scale-sparse", "--epochs", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert torch.cuda.max_memory_allocated() > 10_000_000
