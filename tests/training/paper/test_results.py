"""Claims about results files: nothing finished is lost, and nothing of another kind gets in."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from metavae_training.paper.measure.results import BadResults, Results

from .made import PROTOCOL, an_item


def stored(folder, name="table2"):
    return Results(folder, name, PROTOCOL)


def test_what_was_added_is_there_when_the_file_is_read_again(tmp_path):
    items = [an_item(seed=seed, draw=draw) for seed in (0, None) for draw in (0, 1)]
    stored(tmp_path).add(items)
    assert sorted(stored(tmp_path).items, key=lambda item: item.key) == sorted(
        items, key=lambda item: item.key
    )
    lines = (tmp_path / "table2.json").read_text().splitlines()
    assert sum('"accuracy": 0.5' in line for line in lines) == len(items)


def test_what_items_share_is_written_once(tmp_path):
    drawn = [an_item(seed=seed, draw=draw) for seed in (0, 1) for draw in (0, 1, 2)]
    stored(tmp_path).add([*drawn, an_item(seed=1, draw=3, commit="later")])
    series = json.loads((tmp_path / "table2.json").read_text())["series"]
    assert [(one["seed"], one["commit"] == "later", len(one["items"])) for one in series] == [
        (0, False, 3),
        (1, False, 3),
        (1, True, 1),
    ]
    assert series[2]["items"] == [an_item(draw=3).own]


def test_the_same_items_make_the_same_bytes_in_any_order(tmp_path):
    items = [an_item(value=float(value)) for value in range(5)]
    stored(tmp_path / "one").add(items)
    for item in reversed(items):
        stored(tmp_path / "other").add([item])
    one, other = ((tmp_path / folder / "table2.json").read_bytes() for folder in ("one", "other"))
    assert one == other


def test_a_second_measurement_takes_the_place_of_the_first(tmp_path):
    results = stored(tmp_path)
    results.add([an_item(accuracy=0.5, recipe_sha256="old")])
    results.add([an_item(accuracy=0.9, recipe_sha256="new")])
    (item,) = stored(tmp_path).items
    assert item.accuracy == 0.9


def test_items_of_other_experiments_in_the_folder_are_found(tmp_path):
    stored(tmp_path, "figure7").add([an_item(seed=3, accuracy=0.7)])
    Results(tmp_path, "table2-quick", PROTOCOL | {"train_size": 300}).add([an_item(seed=4)])
    (tmp_path / "notes.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text('{"schema": 99, "series": []}')
    (found,) = stored(tmp_path).select(kind="model")
    assert (found.seed, found.accuracy) == (3, 0.7)
    assert stored(tmp_path).items == []


def test_files_of_the_same_protocol_that_cannot_be_read_are_told(tmp_path):
    for name, version in (("figure7", 2), ("table2-old", 3), ("context", 3)):
        protocol = PROTOCOL if version == 2 or name == "table2-old" else {"probe": "another"}
        content = {"schema": version, "protocol": protocol, "series": 3}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    old, damaged = stored(tmp_path).skipped
    assert "figure7.json has schema version 2, this metavae reads 3" in old
    assert "table2-old.json is not a results file" in damaged


@pytest.mark.parametrize(
    ("kind", "number"), [("model", "accuracy"), ("floor", "accuracy"), ("distance", "spread")]
)
def test_an_item_has_the_numbers_of_its_kind(kind, number):
    whole = {"kind": kind, "accuracy": 0.5, "distance": 1.0, "spread": 1.0}
    an_item(**whole)
    with pytest.raises(ValidationError, match=f"of the kind {kind} without {number}"):
        an_item(**(whole | {number: None}))


def test_processes_that_add_at_once_lose_nothing(tmp_path, pytestconfig):
    program = """
import sys
from pathlib import Path
from tests.training.paper.made import PROTOCOL, an_item
from metavae_training.paper.measure.results import Results
results = Results(Path(sys.argv[1]), "table2", PROTOCOL)
for value in range(20):
    results.add([an_item(seed=int(sys.argv[2]), value=float(value))])
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path, str(seed)], cwd=pytestconfig.rootpath
        )
        for seed in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = {(item.seed, item.value) for item in stored(tmp_path).items}
    assert found == {(seed, float(value)) for seed in range(3) for value in range(20)}


def test_a_write_that_is_interrupted_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    stored(tmp_path).add([an_item(seed=0)])
    before = (tmp_path / "table2.json").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored(tmp_path).add([an_item(seed=1)])
    assert (tmp_path / "table2.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["table2.json"]
    stored(tmp_path).add([an_item(seed=1)])
    assert len(stored(tmp_path).items) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "has schema version 2, this metavae reads 3"),
        ({"schema": None}, "has schema version None"),
        ({"protocol": {"train_size": 300}}, "holds results of the protocol"),
        ({"series": [{"items": [{"accuracy": 1}]}]}, "is not a results file"),
        ({"series": [an_item().shared]}, "is not a results file.*items"),
        ({"series": [[]]}, "is not a results file"),
        ({"series": 3}, "is not a results file"),
        (
            {"series": [an_item().shared | {"items": [{"value": 20.0}]}]},
            "is not a results file .an item of the kind model without accuracy",
        ),
        *(
            (
                {"series": [an_item().shared | {"items": [an_item().own | {"accuracy": number}]}]},
                "is not a results file.*accuracy",
            )
            for number in (5.0, True, "0.5")
        ),
    ],
)
def test_a_file_of_another_version_or_protocol_is_refused(tmp_path, change, says):
    stored(tmp_path).add([an_item()])
    path = tmp_path / "table2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadResults, match=says) as refused:
        stored(tmp_path)
    assert "\n" not in str(refused.value)
    assert "Move it away" in str(refused.value)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema": 3, "ite', pytest.param("[" * 200_000, id="nested")]
)
def test_what_is_no_results_file_is_refused_and_kept(tmp_path, content):
    (tmp_path / "table2.json").write_text(content)
    with pytest.raises(BadResults, match="is not a results file"):
        stored(tmp_path).add([an_item()])
    assert (tmp_path / "table2.json").read_text() == content
