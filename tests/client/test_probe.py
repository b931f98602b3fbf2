"""What a probe measures, what it refuses, and that it measures the same wherever the model runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from metavae_client.errors import BadProtocol, SeenValues, SplitMismatch
from metavae_client.floors import fit_pca, pixels, random_projection
from metavae_client.linear import MAX_ITERATIONS, fit_and_score, fitting_pool
from metavae_client.plots import save_plot
from metavae_client.probe import linear_probe
from metavae_client.remote import RemoteEmbedder
from metavae_client.result import ProbeResult, PublishedFigure
from metavae_client.sample import Protocol, Sample
from metavae_client.table import probe_table
from metavae_zoo.card import ModelCard, ProbeRecord
from metavae_zoo.embedder import Embeddings
from metavae_zoo.errors import BadBundle, MetavaeError
from metavae_zoo.families import family
from metavae_zoo.summary import Summary

SMALL = Protocol(
    "digits-rotation", "contiguous", train_size=200, test_size=100, contexts=2, context_size=20
)


@pytest.fixture(scope="module")
def result(local) -> ProbeResult:
    return linear_probe(local, SMALL)


class Exchanged:
    """The model, under another card."""

    def __init__(self, local, **fields: object) -> None:
        self.local = local
        self.card = ModelCard.model_validate(local.card.model_dump() | fields)

    def summarize(self, context) -> Summary:
        return self.local.summarize(context)

    def embed(self, queries, summary=None) -> Embeddings:
        return self.local.embed(queries, summary)


def test_remote_and_in_process_probes_are_the_same_to_the_bit(server, local, result):
    with RemoteEmbedder(
        server.url, local.card.name, token_file=server.token_file, max_images_per_request=64
    ) as remote:
        assert linear_probe(remote, SMALL).to_json() == result.to_json()


def test_every_held_out_value_is_probed_and_no_other(local, result):
    assert [value.value for value in result.values] == local.card.held_out_values


def test_a_model_does_as_well_without_its_floors(local, result):
    alone = linear_probe(local, replace(SMALL, floors=False))
    assert alone.accuracy == result.accuracy
    assert alone.floors == {}


def test_more_draws_keep_the_first_ones(local, result):
    one = linear_probe(local, replace(SMALL, contexts=1, floors=False))
    assert [value.draws for value in one.values] == [value.draws[:1] for value in result.values]
    assert one.accuracy.half_width is None


def test_another_seed_gives_another_sample(local, result):
    other = linear_probe(local, replace(SMALL, seed=1, floors=False))
    assert other.accuracy != result.accuracy


def test_a_probe_is_the_plain_protocol_spelled_out(local, result):
    sample = Sample(family("digits-rotation"), SMALL, None)
    train, test = sample.at(20.0, "train"), sample.at(20.0, "test")
    codes = [
        local.embed(part.images, local.summarize(part.context(1))).mean for part in (train, test)
    ]
    with fitting_pool():
        score = fit_and_score(codes[0], sample.labels["train"], codes[1], sample.labels["test"])
    assert score.accuracy == result.values[0].draws[1]


def test_context_and_probed_images_are_of_the_probed_value(local):
    sample, digits = Sample(family("digits-rotation"), SMALL, None), family("digits-rotation")
    drawn = sample.at(40.0, "test")
    pool = digits.images(40.0, "test")
    for images in (drawn.images, drawn.context(0)):
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in pool}
    assert not np.array_equal(drawn.context(0), drawn.context(1))


def test_the_interval_of_the_mean_is_over_context_draws(result):
    means = np.mean([value.draws for value in result.values], axis=0)
    assert result.accuracy.mean == pytest.approx(means.mean())
    # Student's t with one degree of freedom, 97.5%.
    assert result.accuracy.half_width == pytest.approx(12.7062 * abs(means[0] - means[1]) / 2, 1e-4)


def test_a_probe_of_another_split_is_refused_with_the_values_that_were_seen(local):
    with pytest.raises(SplitMismatch, match=r"contiguous.*interleaved.*-160.*--split contiguous"):
        linear_probe(local, replace(SMALL, split="interleaved"))


def test_a_probe_of_another_family_is_refused(local):
    with pytest.raises(SplitMismatch, match=r"digits-rotation.*--family digits-rotation"):
        linear_probe(local, replace(SMALL, family="digits-skew"))


def test_a_probe_of_a_value_that_was_trained_on_is_refused(local):
    cheat = Exchanged(local, train_values=[*local.card.train_values, 20.0])
    with pytest.raises(SeenValues, match=r"\(20\)"):
        linear_probe(cheat, SMALL)


def test_seen_values_are_probed_where_that_is_allowed(local):
    protocol = replace(SMALL, split="sparse", contexts=1, floors=False)
    result = linear_probe(local, protocol, allow_seen=True)
    assert len(result.values) == 13
    assert result.paper is None


@pytest.mark.parametrize(
    "sizes",
    [
        {"train_size": 0},
        {"train_size": 1298},
        {"test_size": 501},
        {"context_size": 501},
        {"contexts": 0},
        {"train_size": 1},
        {"seed": -1},
    ],
)
def test_sizes_that_the_data_cannot_give_are_refused(local, sizes):
    with pytest.raises(BadProtocol, match=f"--{next(iter(sizes)).replace('_', '-')}"):
        linear_probe(local, replace(SMALL, **sizes))


@pytest.mark.parametrize("names", [{"family": "digits-rotatoin"}, {"split": "contigous"}])
def test_unknown_names_are_told_with_the_nearest(local, names):
    with pytest.raises(MetavaeError, match=r"did you mean '(digits-rotation|contiguous)'"):
        linear_probe(local, replace(SMALL, **names))


def test_the_pca_floor_is_scikit_learns(images):
    images = images[:, :, ::2, ::2]
    rows = pixels(images).astype(np.float64)
    expected = PCA(10, svd_solver="covariance_eigh").fit_transform(rows)
    found = fit_pca([images[:700], images[700:]], 10)(images)
    found -= found.mean(axis=0)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)


def test_the_pca_floor_sees_no_held_out_value(local, monkeypatch):
    seen: list[float] = []
    at = Sample.at

    def remember(sample, value, part):
        seen.append(value)
        return at(sample, value, part)

    monkeypatch.setattr(Sample, "at", remember)
    monkeypatch.setattr("metavae_client.probe._fit_model", lambda *rest: {})
    monkeypatch.setattr("metavae_client.probe._fit_floors", _stop)
    with pytest.raises(BadBundle):
        linear_probe(local, SMALL)
    assert seen == local.card.train_values


def _stop(*rest: object) -> None:
    raise BadBundle("far enough")


def test_a_random_projection_keeps_lengths_in_the_mean(images):
    codes = random_projection(784, 400, seed=0)(images)
    assert (codes**2).sum() == pytest.approx((pixels(images) ** 2).sum(), rel=0.1)


def test_a_fit_that_was_cut_off_is_told(monkeypatch, images, result):
    labels = family("digits-rotation").labels("train")
    monkeypatch.setattr("metavae_client.linear.MAX_ITERATIONS", MAX_ITERATIONS // 500)
    with fitting_pool():
        assert not fit_and_score(pixels(images), labels, pixels(images), labels).converged
    assert "did not converge" in probe_table(replace(result, converged=False))


def test_the_table_has_a_row_per_value_and_the_mean(result):
    table = probe_table(replace(result, paper=PublishedFigure(0.885, "a table")))
    lines = table.splitlines()
    assert [float(line.split()[0]) for line in lines[4:12]] == [
        value.value for value in result.values
    ]
    assert lines[13].split()[:2] == ["mean", f"{result.accuracy.mean:.3f}"]
    assert len({len(line) for line in lines[2:14]}) == 1  # aligned
    assert "0.885 (a table" in table
    assert "200 train and 100 test images per value, 2 context draws of 20 images" in table


def test_json_and_card_record_say_the_same(result):
    found = json.loads(result.to_json())
    record = ProbeRecord.model_validate(found["record"])
    assert record == result.to_record()
    assert "context of 20 images for all of its images, where the paper draws 10" in record.protocol
    assert result.differences in probe_table(result)
    assert record.accuracy.mean == found["accuracy"]["mean"]
    assert set(record.floors) == {"raw_pixels", "pca", "random_projection"}
    assert list(record.per_value) == [f"{value['value']:g}" for value in found["values"]]


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_plot_is_a_picture_and_the_same_every_time(result, tmp_path, suffix, magic):
    path = tmp_path / f"probe{suffix}"
    save_plot(replace(result, paper=PublishedFigure(0.885, "a table")), path)
    first = path.read_bytes()
    save_plot(replace(result, paper=PublishedFigure(0.885, "a table")), path)
    assert first.startswith(magic)
    assert path.read_bytes() == first


def test_a_plot_without_floors_and_intervals_can_be_drawn(local, tmp_path):
    result = linear_probe(local, replace(SMALL, contexts=1, floors=False))
    save_plot(result, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 10_000
