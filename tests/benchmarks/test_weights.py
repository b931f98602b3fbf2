"""Claims about the comparison of storages, by the real script on digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metavae_training.recipes import recipe
from metavae_training.trainer.fit import CHECKPOINT, fit
from weights import STORAGES, markdown

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "weights.py"


def test_fewer_bytes_move_the_codes_more_and_every_number_is_in_the_file(tmp_path):
    fit(recipe("vhe-digits-rotation-contiguous").changed({"epochs": 1}), out=tmp_path / "run")
    out = tmp_path / "weights.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "run" / CHECKPOINT,
         "--train-size", "60", "--test-size", "40", "--out", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    whole, half, quarter = result["stored"]
    assert tuple(one["weights"] for one in result["stored"]) == STORAGES
    assert whole["bytes"] > 1.7 * half["bytes"] > 2.5 * quarter["bytes"]
    assert 0 == whole["moved"] < half["moved"] < 0.001 < quarter["moved"] < 0.1
    assert all(len(one["accuracies"]) == 8 for one in result["stored"])
    page = out.with_suffix(".md").read_text()
    assert page == markdown(result)
    assert page in done.stdout
    assert page.count("vhe-digits-rotation-contiguous, seed 0") == len(STORAGES)


def test_what_is_no_checkpoint_is_one_clear_error(tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no")
    done = subprocess.run(
        [sys.executable, SCRIPT, other, "--out", tmp_path / "weights.json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is not a metavae checkpoint" in done.stderr
    assert done.stderr.count("\n") == 1
