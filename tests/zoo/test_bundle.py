"""Claims about bundles: every read is verified, and a damaged one is never used."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import set_external_data
from safetensors.numpy import load_file, save_file

from metavae_zoo.bundles.bundle import (
    CARD,
    ENCODE,
    GOLDEN,
    SITE,
    SUMMARIZE,
    copy_bundle,
    open_bundle,
    sha256_of,
)
from metavae_zoo.bundles.card import (
    SCHEMA,
    Interval,
    ModelCard,
    Results,
    SeedRecord,
    SiteParameter,
    TransferRecord,
)
from metavae_zoo.bundles.index import shipped_bundles
from metavae_zoo.cli import card_page, results_table
from metavae_zoo.embedding.embedder import OnnxEmbedder, golden_gap
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadBundle, BadSummary, DeviceUnavailable
from metavae_zoo.evaluation.reporting.transfer_table import headline, transfer_table


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle.path, tmp_path / bundle.card.name)


def edit_card(folder, **changes):
    path = folder / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_takes_the_place_of_a_bundle_and_of_nothing_else(bundle, copy, tmp_path):
    (copy / CARD).unlink()  # half a bundle may go
    assert copy_bundle(bundle, copy).card == bundle.card
    mine = tmp_path / "mine"
    mine.mkdir()
    assert copy_bundle(bundle, mine).card == bundle.card
    (mine / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    for target, says in ((mine, "it holds thesis.txt"), (file, "it is a file")):
        with pytest.raises(BadBundle, match=f"{target} is to become a model's folder.*{says}"):
            copy_bundle(bundle, target)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert open_bundle(mine).card == bundle.card
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([copy.name, "file", "mine"])


@pytest.mark.parametrize("name", [SUMMARIZE, ENCODE, GOLDEN])
def test_one_changed_byte_is_refused(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BadBundle, match=rf"{name} has changed since it was made"):
        open_bundle(copy)


@pytest.mark.parametrize("name", [CARD, SUMMARIZE, ENCODE, GOLDEN])
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(BadBundle, match=name):
        open_bundle(copy)


def test_a_newer_schema_says_upgrade(copy):
    edit_card(copy, schema_version=SCHEMA + 1, a_new_field=1)
    with pytest.raises(BadBundle, match=rf"schema version {SCHEMA + 1}.*Upgrade metavae"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "changes", [{"latent_dim": "many"}, {"name": "../escape"}, {"unknown": 1}, {"files": {}}]
)
def test_a_card_that_is_no_card_is_refused(copy, changes):
    edit_card(copy, **changes)
    with pytest.raises(BadBundle, match=CARD):
        open_bundle(copy)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 200_000, "\ud800"])
def test_a_card_that_is_not_json_is_refused(copy, text):
    (copy / CARD).write_text(text, errors="surrogatepass")
    with pytest.raises(BadBundle, match="is not a model card"):
        open_bundle(copy)


def test_a_card_beyond_all_size_is_not_read(copy):
    os.truncate(copy / CARD, 10**12)  # which takes no space
    with pytest.raises(BadBundle, match="a model card at most"):
        open_bundle(copy)


@pytest.mark.parametrize("name", [CARD, SUMMARIZE, ENCODE, GOLDEN])
def test_a_symbolic_link_in_a_bundle_is_refused(copy, tmp_path, name):
    """Even to the very content: that may be another one after it was verified."""
    elsewhere = (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(elsewhere)
    with pytest.raises(BadBundle, match=f"{name} is a symbolic link to {elsewhere}"):
        open_bundle(copy)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link"])
def test_a_graph_that_reads_a_file_outside_its_bundle_is_refused(copy, tmp_path, location):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000_000))
    (copy / "link").symlink_to(secret)
    graph = onnx.load(copy / ENCODE)
    weights = graph.graph.initializer[0]
    set_external_data(weights, location, offset=0)
    weights.ClearField("raw_data")
    (copy / ENCODE).write_bytes(graph.SerializeToString())
    files = json.loads((copy / CARD).read_text())["files"]
    edit_card(copy, files=files | {ENCODE: sha256_of(copy / ENCODE)})
    with pytest.raises(BadBundle, match="External data path"):
        OnnxEmbedder(open_bundle(copy))


def test_other_golden_outputs_are_refused_at_load(copy):
    golden = load_file(copy / GOLDEN)
    golden["mean"][0, 0] += 1e-3
    save_file(golden, copy / GOLDEN)
    files = json.loads((copy / CARD).read_text())["files"]
    edit_card(copy, files=files | {GOLDEN: sha256_of(copy / GOLDEN)})
    with pytest.raises(BadBundle, match="mean differs from the exported golden outputs"):
        OnnxEmbedder(open_bundle(copy))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda golden: golden.pop("queries"), "KeyError: 'queries'"),
        (lambda golden: golden.pop("mean"), "KeyError: 'mean'"),
        (lambda golden: golden.update(context=np.zeros((0, 1, 8, 8), np.uint8)), "BadImages"),
    ],
)
def test_golden_outputs_that_cannot_be_compared_are_refused(copy, change, says):
    golden = load_file(copy / GOLDEN)
    change(golden)
    save_file(golden, copy / GOLDEN)
    files = json.loads((copy / CARD).read_text())["files"]
    edit_card(copy, files=files | {GOLDEN: sha256_of(copy / GOLDEN)})
    with pytest.raises(BadBundle, match=says):
        OnnxEmbedder(open_bundle(copy))


def test_a_golden_file_that_is_none_is_refused(copy):
    (copy / GOLDEN).write_bytes(b"no safetensors")
    files = json.loads((copy / CARD).read_text())["files"]
    edit_card(copy, files=files | {GOLDEN: sha256_of(copy / GOLDEN)})
    with pytest.raises(BadBundle, match="SafetensorError"):
        OnnxEmbedder(open_bundle(copy))


def test_a_card_of_another_width_than_its_graphs_is_refused(copy):
    latent = json.loads((copy / CARD).read_text())["latent_dim"]
    edit_card(copy, latent_dim=latent + 1)
    with pytest.raises(BadBundle, match=r"mean has shape .*, the card says"):
        OnnxEmbedder(open_bundle(copy))


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in shipped_bundles().glob(f"[!.]*/{CARD}"))
)
def test_every_shipped_model_gives_its_golden_embeddings(name):
    bundle = open_bundle(shipped_bundles() / name)
    golden = load_file(bundle.path / GOLDEN)
    embedder = OnnxEmbedder(bundle, check_golden=False)
    needs_context = bundle.card.needs_context
    summary = embedder.summarize(golden["context"]) if needs_context else None
    found = embedder.embed(golden["queries"], summary)
    allowed = 5e-5 if embedder.card.site else 1e-5
    assert golden_gap(found.mean, golden["mean"]) < allowed
    assert golden_gap(found.log_variance, golden["log_variance"]) < allowed
    assert bundle.card.name == name
    assert bundle.card.results is not None


def test_a_summary_that_is_not_the_models_is_refused(bundle, rng):
    embedder = OnnxEmbedder(bundle)
    images = rng.integers(0, 256, (4, 28, 28), dtype=np.uint8)
    mine = embedder.summarize(images)
    bad = {
        "was made by model": Summary(mine.total, mine.count, "f" * 64),
        "expected 400 numbers": Summary(mine.total[:3], mine.count, mine.model),
        "no sums of features": Summary(np.full(400, np.nan), mine.count, mine.model),
        r"below 5\.36871e\+08": Summary(np.full(400, 1e300), mine.count, mine.model),
        "counts 0 images": Summary(mine.total, 0, mine.model),
        "got none": None,
        "3 summaries for 4 queries": [mine] * 3,
    }
    for says, summary in bad.items():
        with pytest.raises(BadSummary, match=says):
            embedder.embed(images, summary)


def test_cuda_is_asserted_not_hoped_for(bundle):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceUnavailable, match="CUDAExecutionProvider was asked for"):
        OnnxEmbedder(bundle, device="cuda")


TRANSFER = TransferRecord(
    family="digits-scanner",
    split="contiguous",
    seed=0,
    train_size=50,
    test_size=500,
    contexts=5,
    context_size=10,
    accuracy=Interval(mean=0.95, half_width=0.01, n=5),
    per_value={"20": Interval(mean=0.95, half_width=0.01, n=5)},
    without_context=Interval(mean=0.25, half_width=None, n=1),
    floors={"raw_pixels": 0.2},
)
UNPROBED = Results(
    seeds=[SeedRecord(seed=0, validation_elbo=-1.0)],
    shipped_seed=0,
    chosen_by="the only seed",
    commands=[],
)


def test_a_card_that_ships_is_written_as_it_is():
    """Its hash stands in the index, and earlier versions read it."""
    for path in sorted(shipped_bundles().glob(f"*/{CARD}")):
        text = path.read_text()
        assert ModelCard.from_json(text, source=str(path)).to_json() == text


@pytest.mark.parametrize(
    "changes",
    [
        {"site": [SiteParameter(name="warp_xx", unit="1")]},
        {"reference": 0.0},
        {"prior": {"name": "affine"}},
        {"sites": {"0": {"gamma": 1.0}}},
        {"results": UNPROBED},
        {"results": UNPROBED.model_copy(update={"transfer": [TRANSFER]})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_card_of_new_content_says_that_it_is_of_the_new_schema(bundle, changes):
    assert json.loads(bundle.card.to_json())["schema_version"] < SCHEMA
    changed = bundle.card.model_copy(update=changes)
    read = ModelCard.from_json(changed.to_json(), source="it")
    assert read.schema_version == SCHEMA
    assert read == changed.model_copy(update={"schema_version": SCHEMA})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"site": [{"name": "warp_xx", "unit": "1"}] * 2}, "have the same name"),
        ({"site": [{"name": "warp_xx", "unit": "1"}], "feature_dim": 0}, "takes no context"),
    ],
)
def test_a_card_whose_site_cannot_be_is_refused(copy, changes, says):
    edit_card(copy, **changes)
    with pytest.raises(BadBundle, match=says):
        open_bundle(copy)


def test_a_graph_of_the_site_is_there_exactly_if_the_card_lists_a_site(copy, site_bundle, tmp_path):
    edit_card(copy, site=[{"name": "warp_xx", "unit": "1"}])
    with pytest.raises(BadBundle, match=r"expected .*site\.onnx"):
        open_bundle(copy)
    of_site = shutil.copytree(site_bundle.path, tmp_path / "of-site")
    assert SITE in open_bundle(of_site).card.files
    edit_card(of_site, site=[])
    with pytest.raises(BadBundle, match=r"lists the files .*site\.onnx.*expected"):
        open_bundle(of_site)


def test_show_tells_of_site_prior_and_transfer(site_bundle):
    results = UNPROBED.model_copy(update={"transfer": [TRANSFER]})
    card = site_bundle.card.model_copy(update={"results": results})
    page = card_page(dataclasses.replace(site_bundle, card=card))
    for says in (
        "inferred from the context: warp (4), shift (2), intensity (16), error (3)",
        "rotation -180 to 180",
        "transfer to held-out sites: one classifier, labels of the training sites only",
        "digits-scanner",
        "0.950 ± 0.010",
        "0.250",
    ):
        assert says in page
    assert "linear probe" not in page
    assert headline([TRANSFER]).startswith("transfer 0.950, 0.250 without its")
    assert "| digits-scanner |" in transfer_table([card])
    assert results_table([card]).count("\n") == results_table([]).count("\n"), "nothing was probed"
