"""Claims about `metavae-client sites`: what a context gives at sites never seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from metavae_client.cli import main
from metavae_client.picture import headline, in_words, save_picture, short
from metavae_client.sites import SHOWN, SitesResult, compare_sites, evenly_spaced
from metavae_client.sites_command import data_set_of, sites_table
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.site import Site, describe
from metavae_zoo.embedding.site_view import canonical_images
from metavae_zoo.errors import BadFile, NoSite
from metavae_zoo.evaluation.protocols import Transfer
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family
from metavae_zoo.families.mnist import FILES, RAW

FAMILY, SPLIT = "digits-scanner", "contiguous"
SIZES = ["--train-size", "20", "--test-size", "30"]


@pytest.fixture(scope="module")
def settings() -> ProbeSettings:
    return ProbeSettings(FAMILY, SPLIT, train_size=20, test_size=30, contexts=2, context_size=10)


@pytest.fixture(scope="module")
def embedder(site_bundle) -> OnnxEmbedder:
    return OnnxEmbedder(site_bundle)


@pytest.fixture(scope="module")
def found(embedder, settings) -> SitesResult:
    return compare_sites(embedder, settings)


@pytest.fixture
def client(site_server, monkeypatch):
    """Call the command against a server of a model that infers a site."""
    monkeypatch.setenv("METAVAE_URL", site_server.url)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["sites", *map(str, arguments)])

    return call


def test_it_is_the_transfer_protocol_under_two_kinds_of_contexts(found):
    held_out = family(FAMILY).split(SPLIT).held_out_values
    assert tuple(one.value for one in found.sites) == held_out
    for run, source in ((found.without, "reference"), (found.with_context, "own")):
        assert isinstance(run.protocol, Transfer)
        assert (run.context_from, run.test_context_from) == (source, source)
        assert (run.train_size, run.test_size, run.contexts) == (20, 30, 2)
    [plain], [canonical] = found.without.measurements, found.with_context.measurements
    assert found.means == (plain.accuracy, canonical.accuracy)
    for one, before, after in zip(found.sites, plain.values, canonical.values, strict=True):
        assert one.accuracies == (before.accuracy, after.accuracy)
    lowest = min(one.with_context.mean for one in found.sites)
    assert found.worst[1].with_context.mean == lowest


def test_a_site_is_inferred_from_images_of_its_own(found, embedder):
    for one in found.sites[::7]:
        mine = {image.tobytes() for image in family(FAMILY).images(one.value, "test")}
        assert len(one.context) == 10
        assert {image.tobytes() for image in one.context} <= mine
        shown = {image.tobytes() for image in one.shown}
        assert shown <= mine
        assert shown.isdisjoint(image.tobytes() for image in one.context)
        site = Site.of(embedder.card, embedder.site(embedder.summarize(one.context)))
        assert one.site.numbers == site.numbers
        assert_allclose(one.seen, canonical_images(one.shown, site))


def test_the_same_images_are_shown_at_every_site_one_per_class(embedder):
    settings = ProbeSettings(
        FAMILY, SPLIT, train_size=20, test_size=200, contexts=1, context_size=5
    )
    wide = compare_sites(embedder, settings)
    data, labels = family(FAMILY), family(FAMILY).labels("test")
    for one in wide.sites[::7]:
        pool = data.images(one.value, "test")[:, 0]
        rows = [int(np.flatnonzero((pool == image).all((1, 2)))[0]) for image in one.shown]
        assert_array_equal(labels[rows], np.arange(SHOWN))


def test_sizes_leave_room_for_contexts_that_share_no_image_with_the_queries(embedder, monkeypatch):
    asked: list[ProbeSettings] = []

    def probe(embedder, settings, **options):
        asked.append(settings)
        raise NoSite("enough")

    monkeypatch.setattr("metavae_client.sites.run_probe", probe)
    with pytest.raises(NoSite, match="enough"):
        compare_sites(embedder, ProbeSettings(FAMILY, SPLIT, context_size=10))
    digits = family(FAMILY)
    assert asked[0].train_size == len(digits.labels("train")) - 10
    assert asked[0].test_size == len(digits.labels("test")) - 10


@pytest.mark.server
def test_a_server_gives_what_the_process_gives_and_the_picture(
    client, embedder, settings, tmp_path
):
    found = compare_sites(embedder, dataclasses.replace(settings, contexts=3))
    path, again = tmp_path / "sites.png", tmp_path / "again.png"
    options = ["--rows", 3, "--picture", path, "--json"]
    result = client("--model", "by-hand", *SIZES, *options)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads(found.to_json())
    assert told["family"] == FAMILY
    assert told["sites"][3]["description"] == describe(found.sites[3].site)
    save_picture(found, again, 3)
    assert again.read_bytes() == path.read_bytes()
    width, height = Image.open(path).size
    assert width > height


def test_the_table_has_every_site_the_mean_and_the_worst(found):
    lines = sites_table(found).splitlines()
    assert lines[0].startswith(
        "by-hand: accuracy of a transferred linear probe at the held-out values of digits-scanner"
    )
    assert lines[2].split() == ["site", "without", "with", "inferred", "from", "10", "images"]
    starts = [line.split()[0] for line in lines[4:] if not line.startswith(("─", " " * 9)) and line]
    assert starts[:22] == [*map(str, range(20, 40)), "mean", "worst"]
    assert "rotated by 43 degrees counter-clockwise, 1.2 times larger" in lines[4]
    notes = "\n".join(lines[-3:])
    assert "Without: every image under a context of the reference site, site 0" in notes
    assert "± is a 95% interval over the 2 context draws" in notes


def test_a_long_description_is_wrapped_under_itself(found):
    site = dataclasses.replace(found.sites[0].site, warp=np.diag([-3.0, 1.0]).astype(np.float32))
    light = dataclasses.replace(site, light=np.ones(2, np.float32), shift=np.ones(2, np.float32))
    first = dataclasses.replace(found.sites[0], site=light)
    lines = sites_table(dataclasses.replace(found, sites=(first,))).splitlines()
    column = lines[2].index("inferred")
    assert lines[4][column:].startswith("mirrored left to right")
    assert lines[5][:column].isspace()
    assert not lines[5][column].isspace()
    assert max(map(len, lines[2:8])) < 130


def test_sites_are_evenly_spaced_from_the_best_to_the_worst(found):
    accuracies = [one.with_context.mean for one in found.sites]
    chosen = [one.with_context.mean for one in evenly_spaced(found.sites, 3)]
    assert chosen[::2] == [max(accuracies), min(accuracies)]
    assert len(evenly_spaced(found.sites, 100)) == len(found.sites)


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_a_picture_is_the_same_bytes_every_time(found, tmp_path, ending):
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        save_picture(found, path, 2)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_headline_is_a_sentence_of_the_means(found):
    said = "".join(headline(found))
    without, with_context = (short(one.mean) for one in found.means)
    assert said == (
        "A classifier fitted at 20 sites, at sites it has never seen:"
        f" {without} without, {with_context} with ten unlabelled images of the site"
    )
    assert [short(share) for share in (0.954, 0.2249, 1, 0)] == [".95", ".22", "1.00", ".00"]
    assert [in_words(number) for number in (1, 10, 12, 13, 1000)] == [
        *("one", "ten", "twelve", "13", "1,000")
    ]


def test_a_model_without_a_site_is_told_clearly(fake, local, monkeypatch):
    monkeypatch.setenv("METAVAE_URL", fake.url)
    result = CliRunner().invoke(main, ["sites", "--model", local.card.name, *SIZES])
    assert result.exit_code == 1
    assert f"model {local.card.name} infers no site" in result.stderr
    assert "metavae-zoo show" in result.stderr
    assert fake.requests == []


@pytest.mark.parametrize("name", ["sites.jpg", "sites", "missing/sites.png"])
def test_a_picture_that_cannot_be_written_is_told_first(client, site_server, name, tmp_path):
    result = client("--model", "by-hand", "--picture", tmp_path / name)
    assert result.exit_code == 1
    assert "--picture" in result.stderr
    assert site_server.requests == []


def test_a_picture_in_the_way_of_a_folder_is_told(found, tmp_path):
    (tmp_path / "sites.png").mkdir()
    with pytest.raises(BadFile, match="cannot be written"):
        save_picture(found, tmp_path / "sites.png")


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--family", "digits-scaner"], "no family 'digits-scaner'", 1),
        (["--family", FAMILY, "--split", "sparse"], "no split 'sparse'", 1),
        (["--rows", "3"], "--rows is for --picture", 2),
        (["--family", "mnist-scanner"], "was trained over digits", 1),
        (["--train-size", "9999"], "--train-size is 9999", 1),
        (["--context-size", "9999"], "--context-size is 9999", 1),
    ],
)
def test_wrong_usage_is_told(client, arguments, says, code):
    result = client("--model", "by-hand", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_mnist_is_the_default_only_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("METAVAE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METAVAE_CACHE", str(tmp_path / "cache"))
    assert data_set_of(None) == "digits"
    assert data_set_of("mnist-camera") == "mnist"
    put_mnist(tmp_path / "elsewhere")
    assert data_set_of(None, tmp_path / "elsewhere") == "mnist"
    assert data_set_of(None) == "digits"
    put_mnist(tmp_path / "data")
    assert data_set_of(None) == "mnist"


def put_mnist(root: Path) -> None:
    (root / RAW).mkdir(parents=True)
    for part in FILES.values():
        for name, _ in part:
            (root / RAW / name).touch()
