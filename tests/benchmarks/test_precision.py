"""Claims about the comparison of precisions, by the real script on digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from precision import markdown

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "precision.py"
RECIPE = "metavae-digits-rotation-contiguous"


def compare(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--recipe", RECIPE, "--epochs", "1", "--seeds", "2",
         "--device", "cpu", "--runs", folder / "runs", "--out", folder / "precision.json",
         *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_seeds_are_paired_and_finished_trainings_are_not_repeated(tmp_path):
    done = compare(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": trained") == 4
    result = json.loads((tmp_path / "precision.json").read_text())
    fp32, bf16 = (result["validation"][precision] for precision in ("fp32", "bf16"))
    for one, other in zip(fp32, bf16, strict=True):
        # One epoch from the same weights on the same batches: close, and not the same.
        assert one["elbo"] != other["elbo"] == pytest.approx(one["elbo"], abs=1)
        assert one["kl_z"] >= 0
    assert len(fp32) == 2
    page = (tmp_path / "precision.md").read_text()
    assert page == markdown(result)
    assert page in done.stdout
    assert f"{bf16[1]['elbo'] - fp32[1]['elbo']:+.2f}" in page

    again = compare(tmp_path)
    assert again.stderr.count(": kept") == 4
    assert (
        json.loads((tmp_path / "precision.json").read_text())["validation"] == result["validation"]
    )


def test_an_unknown_recipe_is_one_clear_error(tmp_path):
    done = compare(tmp_path, "--recipe", "metavae-mnist-rotatoin")
    assert done.returncode == 1
    assert "metavae-mnist-rotatoin" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "precision.json").exists()
