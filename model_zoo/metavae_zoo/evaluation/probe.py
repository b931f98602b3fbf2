"""A probe of any embedder, in process or remote: classifiers on its codes at held-out values.

The images of each distribution are embedded given contexts drawn from that same distribution and
part (or from wrong ones, see `contexts`); a protocol says which codes classifiers are fitted on
and where they are tested. Contexts are drawn anew several times; the spread over the draws is the
result's interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embedder
from metavae_zoo.evaluation.baselines import FLOORS, Encode, fit_pca, pixels, random_projection
from metavae_zoo.evaluation.classifiers import Codes, fitting_pool
from metavae_zoo.evaluation.contexts import Contexts, check_sources
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.protocols import Linear, Protocol
from metavae_zoo.evaluation.reporting.published import TABLE_2_SOURCE, table_2
from metavae_zoo.evaluation.reporting.result import (
    Measurement,
    ProbeResult,
    PublishedFigure,
    ValueResult,
)
from metavae_zoo.evaluation.sample import Pick, Sample
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.evaluation.trial import EncodedTrial, Score, Trial
from metavae_zoo.evaluation.unseen import check_unseen
from metavae_zoo.families import Part, family

ContextsOf = dict[Part, Contexts]  # those of what is fitted on, and of what is tested
Fits = list[Future[list[Score]]]  # in the order of draws
Scores = dict[tuple[int, float], list[Score]]  # by classifier and value, in the order of draws


def run_probe(
    embedder: Embedder,
    settings: ProbeSettings,
    *,
    allow_seen: bool = False,
    data_root: Path | None = None,
    progress: bool = False,
) -> ProbeResult:
    """Probe an embedder over the held-out values of a split.

    Raises SplitMismatch or SeenValues where the model was, or may have been, trained on a value
    that would be probed, unless `allow_seen`; BadSettings for what the data or the model cannot
    give; DataUnavailable. `progress` shows a bar on stderr, where that is a terminal.
    """
    values = family(settings.family)
    split = values.split(settings.split)
    if not split.held_out_values:
        raise BadSettings.of("split", f"{split.name} of {values.name} holds no value out")
    if not allow_seen:
        check_unseen(embedder.card, values, split)
    sample = settings.sample(data_root)
    check_sources(embedder.card, settings.sources)
    protocol = settings.protocol

    def queries(value: float, part: Part) -> Pick:
        return protocol.train(sample, value) if part == "train" else sample.test(value)

    contexts: ContextsOf = {
        part: Contexts(
            embedder,
            sample,
            settings.context_size,
            source,
            queries=queries if protocol.contexts_apart else None,
        )
        for part, source in settings.sources.items()
    }
    protocol.check(sample)
    vary = any(one.vary for one in contexts.values())
    draws = protocol.own_draws or (settings.contexts if vary else 1)
    with (
        fitting_pool() as pool,
        tqdm(
            total=_steps(sample, protocol, draws, len(set(settings.floors))),
            desc="probe",
            delay=1,
            disable=None if progress else True,
        ) as bar,
    ):
        model_fits = _fit_model(pool, embedder, contexts, sample, protocol, draws, bar)
        # Last: embedding waits for the server, floors take every core.
        bar.set_postfix_str("floors")
        floors = _floors(settings.floors, embedder.card.latent_dim, sample, protocol)
        floor_fits = _fit_floors(pool, floors, sample, protocol, bar)
        model = _scores(model_fits)
        beside = {name: _scores(fits) for name, fits in floor_fits.items()}
    return _result(embedder.card, settings, sample, contexts, model, beside)


def _steps(sample: Sample, protocol: Protocol, draws: int, floors: int) -> int:
    """Steps of the bar: what the model embeds, and the trials of floors."""
    trials = list(protocol.trials(sample, 0))
    floor_trials = floors * len(trials) * (protocol.own_draws or 1)
    return draws * sum(trial.picks for trial in trials) + floor_trials


def _fit_model(
    pool: ThreadPoolExecutor,
    embedder: Embedder,
    contexts: ContextsOf,
    sample: Sample,
    protocol: Protocol,
    draws: int,
    bar: tqdm,
) -> Fits:
    def encode(draw: int, pick: Pick) -> Codes:
        bar.set_postfix_str(f"{sample.family.axis.name} {pick.value:g}")
        summary = contexts[pick.part].summary(pick.value, pick.part, draw)
        codes = embedder.embed(sample.images(pick), summary).mean
        bar.update()
        return codes

    return [
        pool.submit(EncodedTrial.of(trial, sample, partial(encode, draw)).scores, protocol.fit)
        for draw in range(draws)
        for trial in protocol.trials(sample, draw)
    ]


def _fit_floors(
    pool: ThreadPoolExecutor,
    floors: dict[str, Encode],
    sample: Sample,
    protocol: Protocol,
    bar: tqdm,
) -> dict[str, Fits]:
    """The same trials for what stands in for a model."""

    def scores(trial: Trial, encode: Encode) -> list[Score]:
        encoded = EncodedTrial.of(trial, sample, lambda pick: encode(sample.images(pick)))
        return encoded.scores(protocol.fit)

    fits = {
        name: [
            pool.submit(scores, trial, encode)
            for draw in range(protocol.own_draws or 1)
            for trial in protocol.trials(sample, draw)
        ]
        for name, encode in floors.items()
    }
    for one in chain.from_iterable(fits.values()):
        one.result()
        bar.update()
    return fits


def _floors(
    names: Iterable[str], dimension: int, sample: Sample, protocol: Protocol
) -> dict[str, Encode]:
    """What stands in for a model, by name; PCA sees training values only."""
    seen = (sample.images(protocol.train(sample, value)) for value in sample.split.train_values)
    pixel_count = int(np.prod(sample.family.image_shape))
    make: dict[str, Callable[[], Encode]] = {
        "raw_pixels": lambda: pixels,
        "pca": lambda: fit_pca(seen, dimension),
        "random_projection": lambda: random_projection(pixel_count, dimension, sample.seed),
    }
    return {name: make[name]() for name in FLOORS if name in names}


def _scores(fits: Fits) -> Scores:
    found: Scores = defaultdict(list)
    for score in chain.from_iterable(fit.result() for fit in fits):
        found[score.classifier, score.value].append(score)
    return found


def _result(
    card: ModelCard,
    settings: ProbeSettings,
    sample: Sample,
    contexts: ContextsOf,
    model: Scores,
    floors: dict[str, Scores],
) -> ProbeResult:
    def accuracies(scores: Scores, classifier: int, value: float) -> tuple[float, ...]:
        return tuple(score.accuracy for score in scores[classifier, value])

    measurements = tuple(
        Measurement(
            labels_per_class,
            tuple(
                ValueResult(
                    value,
                    context_value=contexts["test"].value(value),
                    draws=accuracies(model, classifier, value),
                    floor_draws={
                        name: accuracies(scores, classifier, value)
                        for name, scores in floors.items()
                    },
                )
                for value in sample.split.held_out_values
            ),
        )
        for classifier, labels_per_class in enumerate(settings.protocol.labels_per_class)
    )
    family, split = sample.family, sample.split
    draws = len(measurements[0].values[0].draws)
    return ProbeResult(
        name=card.name,
        model=card.model,
        digest=card.digest,
        latent_dim=card.latent_dim,
        family=family.name,
        split=split.name,
        axis=family.axis.name,
        unit=family.axis.unit,
        protocol=settings.protocol,
        seed=settings.seed,
        train_size=sample.train_size,
        test_size=sample.test_size,
        train_values=split.train_values,
        contexts=draws if any(one.vary for one in contexts.values()) else 1,
        context_size=max(one.size for one in contexts.values()),
        context_from=settings.sources["train"] if card.needs_context else None,
        test_context_from=settings.sources["test"] if card.needs_context else None,
        measurements=measurements,
        converged=all(
            score.converged
            for scores in (model, *floors.values())
            for per_value in scores.values()
            for score in per_value
        ),
        paper=_published(card, settings),
    )


def _published(card: ModelCard, settings: ProbeSettings) -> PublishedFigure | None:
    """The paper's figure, of a model at its own family and split, by the paper's own protocol."""
    place = (settings.family, settings.split)
    plain = isinstance(settings.protocol, Linear) and set(settings.sources.values()) == {"own"}
    if not plain or (card.family, card.split) != place:
        return None
    accuracy = table_2(card.model, *place)
    return None if accuracy is None else PublishedFigure(accuracy, TABLE_2_SOURCE)
