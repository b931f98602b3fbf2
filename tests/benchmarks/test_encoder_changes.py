"""Claims about the table of encoder changes: no held-out value is seen, and every row is real."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from encoder.changes import CHANGES, Change
from encoder.closed import pixel_components
from encoder.inner import Inner, Sizes
from encoder.report import markdown
from encoder.results import BadResults, Results
from encoder.trained import Trained
from metavae_training.recipes import recipe
from metavae_zoo.families import FAMILIES, family

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "encoder_changes.py"
SMALL = dataclasses.replace(
    recipe("wavelet-metavae-digits-rotation-contiguous"),
    batch_size=8,
    context_sets=2,
    context_sizes=(3, 9),
)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Some images of three distributions, uint8 [value, image, pixel]."""
    return Inner(family("digits-rotation"), Sizes(encoder=110)).fitted_images()[:3]


@pytest.mark.parametrize("name", [one for one in FAMILIES if "-" in one])
def test_what_is_judged_is_neither_fitted_nor_held_out(name):
    source = family(name)
    inner, split = Inner(source, Sizes()), source.split("contiguous")
    assert sorted(inner.fitted_values + inner.judged_values) == sorted(split.train_values)
    assert not set(inner.fitted_values) & set(inner.judged_values)
    assert not set(inner.judged_values) & set(split.held_out_values)


def test_every_change_is_made_to_an_earlier_one_that_was_kept():
    earlier: dict[str, Change] = {}
    for change in CHANGES:
        assert change.on == "" or change.on in earlier
        assert change.on in ("", "pixels") or earlier[change.on].kept
        earlier[change.name] = change


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_encoder_gives_40_numbers_that_tell_images_apart(change, images):
    if change.encoder is None:
        encode = pixel_components(images)
    elif isinstance(change.encoder, Trained):
        quick = dataclasses.replace(
            change.encoder,
            recipe={**change.encoder.recipe, "epochs": 1, "context_sizes": [3, 9]},
        )
        encode = quick.fit(images, SMALL)
    else:
        encode = change.encoder.fit(images)
    with torch.no_grad():
        codes = encode(images[0, :10], images[0, 10:50])
    assert codes.shape == (10, 40)
    assert torch.isfinite(codes).all()
    assert (torch.cdist(codes, codes) + torch.eye(10) > 1e-3).all()


@pytest.mark.parametrize("name", ["centred", "standardised", "networks", "attention", "modulated"])
def test_encoders_that_use_their_context_notice_another(name, images):
    encode = changed_encode(name, images)
    own, other = images[0, 10:60], images[2, 10:60]
    with torch.no_grad():
        assert not torch.allclose(encode(images[0, :10], own), encode(images[0, :10], other))


def test_the_encoder_without_a_context_does_not(images):
    encode = changed_encode("no-context", images)
    own, other = images[0, 10:60], images[2, 10:60]
    with torch.no_grad():
        assert torch.equal(encode(images[0, :10], own), encode(images[0, :10], other))


def changed_encode(name: str, images: Tensor):
    change = next(one for one in CHANGES if one.name == name)
    assert change.encoder is not None
    if isinstance(change.encoder, Trained):
        # A large rate: the networks start from zero, and have to have moved.
        fast = dataclasses.replace(SMALL, learning_rate=1e-2)
        quick = {**change.encoder.recipe, "epochs": 2}
        return dataclasses.replace(change.encoder, recipe=quick).fit(images, fast)
    return change.encoder.fit(images)


def run_script(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--data", "digits", "--threads", "1", "--out", out, *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"accuracies": {}},
        {
            "accuracies": {
                "digits-rotation": {"fitted_values": [], "judged_values": [], "changes": []}
            }
        },
        {"schema": 1},
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path, change):
    inners = [Inner(family(f"digits-{axis}"), Sizes()) for axis in ("rotation", "scale")]
    path = tmp_path / "changes.json"
    Results(path, inners)
    content = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(content)
    with pytest.raises(BadResults, match="Move it away"):
        Results(path, inners)
    assert path.read_text() == content


def test_the_script_writes_every_number_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "changes.json"
    first = run_script(out, "--change", "pixels")
    assert first.returncode == 0, first.stderr
    known = json.loads(out.read_text())
    kept, made_otherwise = (
        known["accuracies"][f"digits-{axis}"]["changes"]["pixels"] for axis in ("rotation", "scale")
    )
    kept["accuracies"] = made_otherwise["accuracies"] = [0.5, 0.5, 0.5]
    made_otherwise["encoder"] = "another one"
    out.write_text(json.dumps(known))
    second = run_script(out, "--change", "pixels", "--change", "wavelets")
    assert second.returncode == 0, second.stderr
    result = json.loads(out.read_text())
    rotation, scale = (
        result["accuracies"][f"digits-{axis}"]["changes"] for axis in ("rotation", "scale")
    )
    assert rotation["pixels"] == kept
    assert min(scale["pixels"]["accuracies"] + rotation["wavelets"]["accuracies"]) > 0.6
    page = out.with_suffix(".md").read_text()
    assert page == markdown(result, str(out))
    assert re.search(r"\| +0\.500 \|", page)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no JSON", "holds no encoder changes"),
        ("[]", "holds no encoder changes"),
        ('{"schema": 2}', "holds no encoder changes"),
        (
            '{"schema": 1, "families": [], "sizes": {}, "epochs": 0, "accuracies": {}}',
            "has schema 1, this run has 2",
        ),
    ],
)
def test_a_file_of_something_else_is_left_alone(content, says, tmp_path):
    out = tmp_path / "changes.json"
    out.write_text(content)
    inner = Inner(family("digits-rotation"), Sizes())
    with pytest.raises(BadResults, match=says):
        Results(out, [inner])
    assert out.read_text() == content
