"""Claims about the documents: their figures come from files that a command wrote."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import canonical
import cuda_graphs
import precision
import report as training_page
import weights
from encoder.report import markdown
from metavae_training.paper.cli import paper
from metavae_training.paper.measure.results import read_items, read_protocol
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.bundles.index import read_index, shipped_bundles
from metavae_zoo.cli import results_table
from metavae_zoo.evaluation.reporting.transfer_table import transfer_table
from metavae_zoo.families import mnist
from served import page as serving_page
from served.peers import page as peers_page

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "model_zoo", "results")
    for path in (ROOT / folder).glob("*.md")
)
PAGES: dict[str, Callable[[dict[str, Any]], str]] = {
    "training": training_page.markdown,
    "training-cuda": training_page.markdown,
    "weights": weights.markdown,
    "precision": precision.markdown,
    "precision-cuda": precision.markdown,
    "serving": serving_page.markdown,
    "serving-batched": serving_page.markdown,
    "serving-cuda": serving_page.markdown,
    "cuda-graphs": cuda_graphs.markdown,
    "canonical": canonical.markdown,
    "peers": peers_page.markdown,
}


def block(document: str, name: str) -> str:
    """What stands between the comment that names a source, and the next one."""
    return (ROOT / document).read_text().split(f"<!-- {name} -->\n")[1].split("\n<!-- end -->")[0]


def test_the_table_of_models_is_the_one_of_the_shipped_cards():
    cards = [open_bundle(shipped_bundles() / name).card for name in read_index()]
    tables = "\n\n".join(filter(None, [transfer_table(cards), results_table(cards)]))
    assert block("model_zoo/README.md", "`metavae-zoo list --markdown`") == tables


def test_table_2_of_the_readme_is_the_one_of_the_results():
    written = (ROOT / "results" / "table2.md").read_text()
    table = [line for line in written.splitlines() if line.startswith("|")]
    assert block("README.md", "results/table2.md").splitlines() == table


def test_the_transfer_table_of_the_readme_is_the_first_of_the_results():
    written = ROOT / "results" / "transfer.md"
    if not written.exists():
        pytest.skip("transfer is not measured yet")
    table = re.findall(r"(?:^\|.*\n)+", written.read_text(), re.MULTILINE)[0]
    assert block("README.md", "results/transfer.md") == table.rstrip("\n")


@pytest.mark.parametrize(
    "written",
    sorted((ROOT / "results").rglob("*.md")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_pages_of_results_are_what_their_numbers_draw_up(written, tmp_path, monkeypatch):
    """Without the data set: it is not looked for, and so not downloaded either."""
    monkeypatch.setattr(mnist, "find_mnist", None)
    for numbers in written.parent.glob("*.json"):
        shutil.copy(numbers, tmp_path)
    settings = read_protocol(written.with_suffix(".json")).get("settings", {})
    changed = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    experiment = {"transfer": "context"}.get(written.stem, written.stem)  # which writes both
    command = [experiment, "--redraw", *changed, "--out", str(tmp_path)]
    redrawn = CliRunner().invoke(paper, command)
    assert redrawn.exit_code == 0, redrawn.output
    assert (tmp_path / written.name).read_text() == written.read_text()


def test_numbers_name_commits_of_this_history():
    """So that the code which made them can be had."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists() or (ROOT / ".git" / "shallow").exists():
        pytest.skip("not a whole clone")
    found = subprocess.run([git, "rev-list", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    known = {line[:12] for line in found.stdout.decode().splitlines()}
    results = [*(ROOT / "results").rglob("*.json"), *(ROOT / "benchmarks/results").glob("*.json")]
    for numbers in results:
        commits = set(re.findall(r'"commit": "(\w+)(?:-dirty)?"', numbers.read_text()))
        assert {commit[:12] for commit in commits} - known == set(), numbers.name


def test_a_training_run_is_the_same_model_in_all_results():
    """One that is trained again is another one, and is not mixed with the first."""
    runs: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for numbers in (ROOT / "results").rglob("*.json"):
        for item in read_items(numbers):
            if item.kind in ("model", "distance"):
                run = (item.model, item.family, item.split, item.seed)
                runs[*run, item.recipe_sha256].add(item.bundle_sha256)
    assert len(runs) > 100
    assert {run: bundles for run, bundles in runs.items() if len(bundles) > 1} == {}


def test_the_cards_have_the_accuracies_that_the_results_have():
    """Of every training seed, by the same protocol: a run is one and the same in both."""
    accuracies: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for item in read_items(ROOT / "results" / "figure7.json"):
        if item.accuracy is not None:
            accuracies[item.model, item.family, item.split, item.seed].append(item.accuracy)
    compared = 0
    for name in read_index():
        card = open_bundle(shipped_bundles() / name).card
        if card.family.startswith("digits"):  # which are in no table
            continue
        if not card.held_out_values:  # judged by transfer to other families alone
            continue
        assert card.results is not None
        assert card.seed == card.results.shipped_seed
        best = max(card.results.seeds, key=lambda one: one.validation_elbo)
        assert best.seed == card.seed, f"{name} is to be the best by the validation ELBO"
        for one in card.results.seeds:
            found = accuracies[card.model, card.family, card.split, one.seed]
            assert one.probe_accuracy == pytest.approx(sum(found) / len(found), abs=1e-6), name
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_of_benchmarks_are_what_their_numbers_draw_up(name):
    numbers = ROOT / "benchmarks" / "results" / f"{name}.json"
    drawn_up = PAGES[name](json.loads(numbers.read_text()))
    assert numbers.with_suffix(".md").read_text() == drawn_up


@pytest.mark.parametrize("name", ["serving", "serving-batched", "serving-cuda", "peers"])
def test_what_was_measured_of_the_server_is_of_a_model_as_it_ships(name):
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert result["digest"] == open_bundle(shipped_bundles() / result["model"]).card.digest


def test_the_page_of_encoder_changes_is_the_one_of_its_results():
    source = "benchmarks/results/encoder-changes.json"
    result = json.loads((ROOT / source).read_text())
    assert (ROOT / "docs" / "encoder-changes.md").read_text() == markdown(result, source)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_is_there(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    for target in targets:
        assert "://" in target or (document.parent / target).exists(), target
