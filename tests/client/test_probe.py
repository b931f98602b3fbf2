"""What a probe measures, what it refuses, and that it measures the same wherever the model runs."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from metavae_client.remote import RemoteEmbedder
from metavae_zoo.errors import MetavaeError
from metavae_zoo.evaluation.baselines import fit_pca, pixels, random_projection
from metavae_zoo.evaluation.classifiers import MAX_ITERATIONS, fitting_pool, logistic_regression
from metavae_zoo.evaluation.contexts import Contexts
from metavae_zoo.evaluation.errors import BadSettings, SeenValues, SplitMismatch
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import FewShot, Knn, Linear, Protocol, Transfer
from metavae_zoo.evaluation.sample import Sample
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family

EVERY_PROTOCOL = pytest.mark.parametrize(
    "protocol",
    [Linear(), Transfer(), FewShot((1, 3), label_draws=2), Knn(3)],
    ids=lambda protocol: protocol.name,
)


def sample_of(settings: ProbeSettings) -> Sample:
    return settings.sample()


@EVERY_PROTOCOL
def test_remote_and_in_process_probes_are_the_same_to_the_bit(
    server, local, small, protocol: Protocol
):
    settings = replace(small, protocol=protocol, floors=())
    with RemoteEmbedder(
        server.url, local.card.name, token_file=server.token_file, max_images_per_request=64
    ) as remote:
        assert run_probe(remote, settings).to_json() == run_probe(local, settings).to_json()


@EVERY_PROTOCOL
def test_a_result_does_not_depend_on_the_number_of_cores(local, small, protocol, monkeypatch):
    settings = replace(small, protocol=protocol, contexts=1)
    found = []
    for cores in (1, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)))
        found.append(run_probe(local, settings).to_json())
    assert found[0] == found[1]


@EVERY_PROTOCOL
def test_floors_go_through_the_protocol_of_the_model(contextless, small, protocol):
    result = run_probe(contextless, replace(small, protocol=protocol))
    assert result.measurements
    for measurement in result.measurements:
        for value in measurement.values:
            assert value.draws == value.floor_draws["raw_pixels"]


@EVERY_PROTOCOL
def test_a_model_without_a_context_is_given_none_and_needs_one_draw(contextless, small, protocol):
    result = run_probe(contextless, replace(small, protocol=protocol, floors=()))
    assert contextless.summarized == []
    assert {summary for _, summary in contextless.embedded} == {None}
    assert (result.contexts, result.context_size, result.context_from) == (1, 0, None)
    assert result.draws == (protocol.own_draws or 1)


@EVERY_PROTOCOL
def test_every_held_out_value_is_probed_and_no_other(local, small, protocol):
    result = run_probe(local, replace(small, protocol=protocol, contexts=1, floors=()))
    for measurement in result.measurements:
        assert [value.value for value in measurement.values] == local.card.held_out_values


@EVERY_PROTOCOL
def test_more_draws_keep_the_first_ones(local, small, protocol):
    def draws(number: int) -> list[tuple[float, ...]]:
        own = replace(protocol, label_draws=number) if protocol.own_draws else protocol
        settings = replace(small, protocol=own, contexts=number, floors=())
        result = run_probe(local, settings)
        assert result.contexts == number
        return [value.draws for one in result.measurements for value in one.values]

    assert draws(1) == [both[:1] for both in draws(2)]


def test_a_model_does_as_well_without_its_floors(local, small, result):
    alone = run_probe(local, replace(small, floors=()))
    assert alone.measurements[0].accuracy == result.measurements[0].accuracy
    assert alone.measurements[0].floors == {}


def test_single_floors_are_what_they_are_among_all(local, small, result):
    settings = replace(small, floors=("random_projection",), contexts=1)
    [alone] = run_probe(local, settings).measurements
    assert alone.floors == {"random_projection": result.measurements[0].floors["random_projection"]}


def test_an_unknown_floor_is_refused(small):
    with pytest.raises(BadSettings, match="--floor is 'roof', expected one of raw_pixels, pca"):
        replace(small, floors=("roof",))


def test_one_draw_has_no_interval(local, small):
    one = run_probe(local, replace(small, contexts=1, floors=()))
    assert one.measurements[0].accuracy.half_width is None


def test_another_seed_gives_another_sample(local, small, result):
    other = run_probe(local, replace(small, seed=1, floors=()))
    assert other.measurements[0].accuracy != result.measurements[0].accuracy


def test_a_probe_is_the_plain_protocol_spelled_out(local, small, result):
    sample = sample_of(small)
    contexts = Contexts(local, sample, size=20)
    train, test = sample.train(20.0), sample.test(20.0)
    codes = [
        local.embed(sample.images(pick), contexts.summary(20.0, pick.part, draw=1)).mean
        for pick in (train, test)
    ]
    with fitting_pool():
        fitted = logistic_regression(codes[0], sample.labels(train))
        accuracy = fitted.accuracy(codes[1], sample.labels(test))
    assert accuracy == result.measurements[0].values[0].draws[1]


def test_probed_images_are_of_the_probed_value(small):
    sample = sample_of(small)
    pool = family("digits-rotation").images(40.0, "test")
    found = {image.tobytes() for image in sample.images(sample.test(40.0))}
    assert len(found) == 60
    assert found <= {image.tobytes() for image in pool}


def test_the_interval_of_the_mean_is_over_context_draws(result):
    [measurement] = result.measurements
    means = np.mean([value.draws for value in measurement.values], axis=0)
    assert measurement.accuracy.mean == pytest.approx(means.mean())
    # Student's t with one degree of freedom, 97.5%.
    assert measurement.accuracy.half_width == pytest.approx(
        12.7062 * abs(means[0] - means[1]) / 2, 1e-4
    )


def test_a_probe_of_another_split_is_refused_with_the_values_that_were_seen(local, small):
    with pytest.raises(SplitMismatch, match=r"contiguous.*interleaved.*-160.*--split contiguous"):
        run_probe(local, replace(small, split="interleaved"))


def test_a_probe_of_another_family_is_refused(local, small):
    with pytest.raises(SplitMismatch, match=r"digits-rotation.*--family digits-rotation"):
        run_probe(local, replace(small, family="digits-skew"))


@EVERY_PROTOCOL
def test_a_probe_of_a_value_that_was_trained_on_is_refused(spy, small, protocol):
    cheat = spy(train_values=[-180.0, 20.0])
    with pytest.raises(SeenValues, match=r"\(20\)"):
        run_probe(cheat, replace(small, protocol=protocol))
    assert cheat.embedded == []


def test_seen_values_are_probed_where_that_is_allowed(local, small):
    settings = replace(small, split="sparse", contexts=1, floors=())
    result = run_probe(local, settings, allow_seen=True)
    assert len(result.measurements[0].values) == 13
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
        {"train_size": 3},
        {"seed": -1},
    ],
)
def test_sizes_that_the_data_cannot_give_are_refused(local, small, sizes):
    with pytest.raises(BadSettings, match=f"--{next(iter(sizes)).replace('_', '-')}"):
        run_probe(local, replace(small, **sizes))


@pytest.mark.parametrize("names", [{"family": "digits-rotatoin"}, {"split": "contigous"}])
def test_unknown_names_are_told_with_the_nearest(local, small, names):
    with pytest.raises(MetavaeError, match=r"did you mean '(digits-rotation|contiguous)'"):
        run_probe(local, replace(small, **names))


def test_the_pca_floor_is_scikit_learns(images):
    images = images[:, :, ::2, ::2]
    rows = pixels(images).astype(np.float64)
    expected = PCA(10, svd_solver="covariance_eigh").fit_transform(rows)
    found = fit_pca([images[:700], images[700:]], 10)(images)
    found -= found.mean(axis=0)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)


@EVERY_PROTOCOL
def test_the_pca_floor_sees_no_held_out_value(local, small, protocol, monkeypatch):
    seen: list[bytes] = []

    def remember(distributions, dimension):
        seen.extend(image.tobytes() for images in distributions for image in images)
        return random_projection(28 * 28, dimension, seed=0)

    monkeypatch.setattr("metavae_zoo.evaluation.probe.fit_pca", remember)
    run_probe(local, replace(small, protocol=protocol, train_size=60, contexts=1))
    trained_on = {
        image.tobytes()
        for value in local.card.train_values
        for image in family("digits-rotation").images(value, "train")
    }
    assert len(seen) == 60 * len(local.card.train_values)
    assert set(seen) <= trained_on


def test_a_random_projection_keeps_lengths_in_the_mean(images):
    codes = random_projection(784, 400, seed=0)(images)
    assert (codes**2).sum() == pytest.approx((pixels(images) ** 2).sum(), rel=0.1)


def test_a_fit_that_was_cut_off_is_told(monkeypatch, images):
    labels = family("digits-rotation").labels("train")
    monkeypatch.setattr("metavae_zoo.evaluation.classifiers.MAX_ITERATIONS", MAX_ITERATIONS // 500)
    with fitting_pool():
        assert not logistic_regression(pixels(images), labels).converged


def plain(spy):
    """A model that was trained on the digits as they are."""
    return spy(family="digits", split="all", train_values=[0.0], held_out_values=[])


def test_a_model_of_the_plain_data_set_is_probed_where_a_split_trains_on_it(spy, small):
    settings = replace(small, contexts=1, floors=())
    assert run_probe(plain(spy), settings).paper is None
    digits = family("digits-rotation")
    for split in digits.axis.splits:
        if 0.0 in digits.split(split).held_out_values:
            with pytest.raises(SeenValues, match=r"as it is, which digits-rotation holds out"):
                run_probe(plain(spy), replace(settings, split=split))


def test_a_model_of_another_plain_data_set_is_refused(spy, small):
    with pytest.raises(SplitMismatch, match="trained over mnist, the probe is of digits-rotation"):
        run_probe(spy(family="mnist", split="all"), small)


def test_a_split_that_holds_nothing_out_is_refused(spy, small):
    with pytest.raises(BadSettings, match="all of digits holds no value out"):
        run_probe(plain(spy), replace(small, family="digits", split="all"))
