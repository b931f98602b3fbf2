"""Claims about the benchmark of CUDA graphs; what it measures needs a GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cuda_graphs.py"


def run_script(*options: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, SCRIPT, *options]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_it_says_so_in_one_line(tmp_path):
    run = run_script("--out", tmp_path / "graphs.json")
    assert run.returncode == 1
    assert re.fullmatch(r"Error: .*torch finds no CUDA device.*\n", run.stderr)


def test_it_measures_both_ways_for_every_number_of_rows(cuda, tmp_path):
    out = tmp_path / "graphs.json"
    model = "metavae-digits-rotation-contiguous"
    run = run_script("--model", model, "--seconds", 0.01, "--rounds", 2, "--out", out)
    assert run.returncode == 0, run.stderr
    measured = json.loads(out.read_text())["models"][model]["rows"]
    for rows, turns in measured.items():
        assert {way: len(of) for way, of in turns.items()} == {"recorded": 2, "one by one": 2}
        assert re.search(rf"\| +{rows} \|", out.with_suffix(".md").read_text())
