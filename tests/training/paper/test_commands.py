"""Claims about `metavae-train paper`, by the real commands on digits."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner, Result

from metavae_training.cli import main
from metavae_zoo.commit import code_commit


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["paper", *map(str, arguments)])


def test_a_quick_table_2_is_trained_measured_and_not_measured_again(tmp_path):
    options = ["table2", "--quick", "--seeds", 1, "--models", "metavae", "--device", "cpu"]
    options += ["--families", "digits-rotation", "--train-size", 100]
    options += ["--runs", tmp_path / "runs", "--out", tmp_path / "results"]
    first = call(*options)
    assert first.exit_code == 0, first.output
    for label in ("MetaVAE", "raw pixels", "PCA-40", "untrained encoder", "supervised CNN"):
        assert re.search(rf"^\| {label} .* 0\.\d\d\d( \(1\))? \|$", first.stdout, re.MULTILINE)
    assert "Left out" not in first.stdout
    results = tmp_path / "results" / "table2-quick.json"
    items = json.loads(results.read_text())["items"]
    assert {item["commit"] for item in items} == {code_commit()}
    # 8 values: two draws of two encoders, three floors, a ceiling.
    assert len(items) == 8 * (2 * 2 + 3 + 1)

    shutil.rmtree(tmp_path / "runs")
    before = results.read_bytes()
    again = call(*options)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert results.read_bytes() == before
    assert "**A quick version**" in first.stdout
    assert call(*options, "--redraw").stdout == first.stdout

    results.write_text(results.read_text().replace('"schema": 1', '"schema": 7'))
    refused = call(*options)
    assert refused.exit_code == 1
    assert "has schema version 7, this metavae reads 1" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_without_training_nothing_is_made_up(tmp_path):
    result = call(
        "table1", "--quick", "--no-train", "--models", "vhe", "--seeds", 1,
        "--runs", tmp_path / "runs", "--out", tmp_path / "results",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Not trained, seed 0: vhe-digits-rotation-interleaved" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_redrawn_before_anything_is_measured_all_is_left_out(tmp_path):
    result = call(
        "figure7", "--quick", "--redraw", "--models", "metavae", "--families", "digits-skew",
        "--seeds", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "results",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "- Not measured, seed 0: metavae-digits-skew-contiguous, " in result.stdout
    assert "floors of digits-skew sparse, supervised CNN on digits-skew" in result.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table2", "--models", "metavea"], "no model 'metavea'; did you mean 'metavae'?"),
        (["figure7", "--families", "mnist-rotate"], "did you mean 'mnist-rotation'?"),
        (
            ["table2", "--quick", "--train-size", 100_000, "--families", "digits-rotation"],
            "--train-size is 100000, and digits-rotation has 1297 training images",
        ),
    ],
)
def test_names_that_do_not_exist_tell_the_nearest(arguments, says, tmp_path):
    result = call(*arguments, "--out", tmp_path)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_commit_is_one_or_the_version():
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|metavae \d.*", code_commit())
