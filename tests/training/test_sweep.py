"""Claims about sweeps: nothing finished is repeated or lost, and one failure stops no other run."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metavae_training.cli import main
from metavae_training.recipes import recipe
from metavae_training.sweeps.jobs import changes, jobs_of, matching, settings
from metavae_training.sweeps.sweep import STDERR
from metavae_training.trainer.checkpoint import load_checkpoint
from metavae_training.trainer.fit import CHECKPOINT, LOG

pytestmark = pytest.mark.training

ONE = "metavae-digits-scale-sparse"
OTHER = "vae-digits-scale-sparse"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sweep", *map(str, arguments)])


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def epochs(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / LOG).read_text().splitlines()]


def test_what_is_finished_is_not_trained_again(tmp_path):
    options = ["--seeds", 1, "--epochs", 1, "--workers", 1, "--json"]
    options += ["--runs", tmp_path, "--device", "cpu"]
    (first,) = lines(call(OTHER, *options))
    assert (first["recipe"], first["seed"], first["status"]) == (OTHER, 0, "trained")
    written = Path(first["checkpoint"]).stat().st_mtime_ns

    (again,) = lines(call(OTHER, *options))
    assert again == first | {"status": "kept"}
    assert Path(again["checkpoint"]).stat().st_mtime_ns == written

    states = lines(call(OTHER, *options, "--seeds", 2, "--dry-run"))
    assert [line["state"] for line in states] == ["finished", "to train"]
    (state,) = lines(call(OTHER, *options, "--epochs", 2, "--dry-run"))
    assert state["state"] == "another run's folder"


def test_a_run_that_fails_is_named_and_stops_no_other(tmp_path):
    damaged = tmp_path / ONE / "seed-0" / CHECKPOINT
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no checkpoint")
    (tmp_path / OTHER).mkdir()
    in_the_way = tmp_path / OTHER / "seed-1"
    in_the_way.write_text("a file")
    options = ["--seeds", 2, "--epochs", 0, "--json", "--runs", tmp_path, "--device", "cpu"]
    result = call(ONE, OTHER, *options)
    assert result.exit_code == 1
    found = {(line["recipe"], line["seed"]): line for line in lines(result)}
    assert [found[key]["status"] for key in ((ONE, 1), (OTHER, 0))] == ["trained", "trained"]
    assert "is not a metavae checkpoint" in found[ONE, 0]["error"]
    assert found[OTHER, 1]["error"] == f"{in_the_way}: File exists"
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "2 of 4 runs failed" in error
    assert f"{ONE} (epochs=0) seed 0" in error
    assert f"{OTHER} (epochs=0) seed 1" in error


def test_what_another_sweep_trains_is_waited_for(tmp_path, until):
    folder = tmp_path / OTHER / "seed-0"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as another sweep's worker does
    # A worker still writes into the file that it opened.
    left = (folder / STDERR).open("w")
    left.write("epoch 11/60 ELBO -221.88\n")
    left.flush()

    def end_once_ours_has_begun() -> None:
        until(lambda: (folder / STDERR).read_text() == "")
        left.write("epoch 12/60 ELBO -220.88\n")
        left.close()
        os.close(lock)

    ending = threading.Thread(target=end_once_ours_has_begun)
    ending.start()
    options = ["--seeds", 1, "--epochs", 0, "--json", "--runs", tmp_path, "--device", "cpu"]
    (outcome,) = lines(call(OTHER, *options))
    ending.join()
    assert outcome["status"] == "trained"
    assert "/60 ELBO" not in (folder / STDERR).read_text()


def test_interrupted_at_any_point_a_sweep_ends_its_workers_and_goes_on_later(tmp_path):
    """The real command with two workers, stopped as they start and again as they train."""
    command = [
        sys.executable, "-c", "from metavae_training.cli import main; main()",
        "sweep", ONE, OTHER, "--seeds", "1", "--workers", "2", "--epochs", "4", "--device", "cpu",
        "--runs", tmp_path,
    ]  # fmt: skip
    folders = [tmp_path / name / "seed-0" for name in (ONE, OTHER)]
    for number, sign in ((signal.SIGTERM, STDERR), (signal.SIGINT, CHECKPOINT)):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            deadline = time.monotonic() + 120
            while not all((folder / sign).exists() for folder in folders):
                assert running.poll() is None, "the sweep ended before it could be stopped"
                assert time.monotonic() < deadline
                os.sched_yield()
            running.send_signal(number)
            _, said = running.communicate()
        assert running.returncode == 1
        assert "The same command goes on where it was stopped" in said.splitlines()[-1]
        for folder in folders:
            assert_no_worker(folder)
    assert load_checkpoint(folders[0] / CHECKPOINT).epoch < 4

    subprocess.run(command, check=True, capture_output=True)
    for folder in folders:
        assert load_checkpoint(folder / CHECKPOINT, tensors=False).epoch == 4
        assert epochs(folder) == [0, 1, 2, 3, 4]


def test_workers_of_a_sweep_that_was_killed_end_and_keep_what_they_have(tmp_path, until):
    command = [
        sys.executable, "-c", "from metavae_training.cli import main; main()",
        "sweep", ONE, "--seeds", "1", "--epochs", "100", "--device", "cpu", "--runs", tmp_path,
    ]  # fmt: skip
    folder = tmp_path / ONE / "seed-0"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        until(lambda: (folder / CHECKPOINT).exists())
        running.kill()
    until(lambda: "goes on from there" in (folder / STDERR).read_text())
    assert_no_worker(folder)
    assert 0 <= load_checkpoint(folder / CHECKPOINT, tensors=False).epoch < 100


def assert_no_worker(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a worker would still hold it
    os.close(lock)


def test_a_pattern_that_matches_nothing_tells_the_nearest(tmp_path):
    result = call("metavae-digit-*-sparse", "--runs", tmp_path)
    assert result.exit_code == 1
    assert "no recipe 'metavae-digit-*-sparse'; did you mean 'metavae-digits-" in result.stderr
    assert result.stderr.count("\n") == 1


def test_contiguous_runs_come_first_and_seeds_one_after_the_other(tmp_path):
    found = jobs_of(matching(["metavae-digits-rotation-*", "vae-digits-scale-*"]), 2, tmp_path)
    assert [(job.recipe.split, job.seed) for job in found[:5]] == [
        ("contiguous", 0),
        ("contiguous", 0),
        ("contiguous", 1),
        ("contiguous", 1),
        ("interleaved", 0),
    ]
    assert len({job.folder for job in found}) == 12


def test_a_worker_is_told_every_setting_that_is_not_the_recipes():
    named = recipe(ONE)
    assert changes(named) == {}
    given = {"epochs": 7, "context_sizes": [2, 4], "latent_dim": 8}
    assert changes(named.changed(given)) == given | {"kl_warm_up_epochs": 7}
    for changed in (named, named.changed(given), dataclasses.replace(named, epochs=7)):
        assert named.changed(settings(changed)) == changed
