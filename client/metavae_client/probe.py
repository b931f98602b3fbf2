"""The paper's linear probe, for any embedder, in process or remote.

At each held-out value the train and the test images of that value are embedded, given contexts
drawn from that same distribution (train images for the train part, test images for the test
part), and a logistic regression fitted on the train codes is scored on the test codes. Contexts
are drawn anew `contexts` times; the spread over the draws is the result's interval.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from metavae_client.errors import SeenValues, SplitMismatch
from metavae_client.floors import fit_pca, pixels, random_projection
from metavae_client.linear import Encode, Score, fit_and_score, fitting_pool
from metavae_client.result import PUBLISHED, ProbeResult, ValueResult
from metavae_client.sample import Protocol, Sample
from metavae_zoo.card import ModelCard
from metavae_zoo.embedder import Embedder
from metavae_zoo.families import Family, Split, family

Fits = dict[float, list[Future[Score]]]  # by held-out value: one per draw, or one per floor


def linear_probe(
    embedder: Embedder,
    protocol: Protocol,
    *,
    allow_seen: bool = False,
    data_root: Path | None = None,
    progress: bool = False,
) -> ProbeResult:
    """Probe an embedder over the held-out values of a split.

    Raises SplitMismatch or SeenValues where the model was, or may have been, trained on a value
    that would be probed, unless `allow_seen`; BadProtocol for sizes that the data cannot give;
    DataUnavailable. `progress` shows a bar on stderr, where that is a terminal.
    """
    values = family(protocol.family)
    split = values.split(protocol.split)
    card = embedder.card
    if not allow_seen:
        check_unseen(card, values, split)
    sample = Sample(values, protocol, data_root)
    draws = protocol.contexts if card.needs_context else 1
    held_out = split.held_out_values
    steps = len(held_out) * draws + protocol.floors * (1 + len(held_out))
    with (
        fitting_pool() as pool,
        tqdm(total=steps, desc="probe", delay=1, disable=None if progress else True) as bar,
    ):
        model_fits = _fit_model(pool, embedder, sample, values, split, draws, bar)
        # Last: embedding waits for the server, floors take every core.
        floors = _floors(sample, values, split, card.latent_dim, bar) if protocol.floors else {}
        floor_fits = _fit_floors(pool, floors, sample, split, bar)
        scores = {
            value: [fit.result() for fit in model_fits[value] + floor_fits[value]]
            for value in held_out
        }
    as_trained = (card.family, card.split) == (values.name, split.name)
    return ProbeResult(
        name=card.name,
        model=card.model,
        digest=card.digest,
        latent_dim=card.latent_dim,
        family=values.name,
        split=split.name,
        axis=values.axis.name,
        unit=values.axis.unit,
        seed=protocol.seed,
        train_size=len(sample.labels["train"]),
        test_size=len(sample.labels["test"]),
        contexts=draws,
        context_size=protocol.context_size if card.needs_context else 0,
        values=tuple(
            ValueResult(
                value,
                draws=tuple(score.accuracy for score in scores[value][:draws]),
                floors={
                    name: score.accuracy
                    for name, score in zip(floors, scores[value][draws:], strict=True)
                },
            )
            for value in held_out
        ),
        converged=all(score.converged for per_value in scores.values() for score in per_value),
        paper=PUBLISHED.get((card.model, values.name, split.name)) if as_trained else None,
    )


def check_unseen(card: ModelCard, values: Family, split: Split) -> None:
    """Raise unless the card's model was trained over this family and split, and no other value."""
    anyway = "or probe it all the same with --allow-seen"
    if card.family != values.name:
        raise SplitMismatch(
            f"model {card.name} was trained over {card.family}, the probe is of {values.name}",
            hint=f"Give --family {card.family}, a --model of {values.name}, {anyway}",
            field="family",
        )
    seen = sorted(set(card.train_values) & set(split.held_out_values))
    listed = ", ".join(f"{value:g}" for value in seen)
    if card.split != split.name:
        consequence = f" and would use values that it was trained on ({listed})" if seen else ""
        raise SplitMismatch(
            f"model {card.name} was trained on the {card.split} split, the probe is of the"
            f" {split.name} one{consequence}",
            hint=f"Give --split {card.split}, a --model of the {split.name} split, {anyway}",
            field="split",
        )
    if seen:
        raise SeenValues(
            f"model {card.name} was trained on values that {values.name} holds out in its"
            f" {split.name} split ({listed})",
            hint=f"Train it again over that split, {anyway}",
            field="split",
        )


def _fit_model(
    pool: ThreadPoolExecutor,
    embedder: Embedder,
    sample: Sample,
    values: Family,
    split: Split,
    draws: int,
    bar: tqdm,
) -> Fits:
    fits: Fits = {}
    for value in split.held_out_values:
        bar.set_postfix_str(f"{values.axis.name} {value:g}")
        fits[value] = []
        train, test = sample.at(value, "train"), sample.at(value, "test")
        train_images, test_images = train.images, test.images
        for draw in range(draws):
            codes = []
            for part, images in ((train, train_images), (test, test_images)):
                summary = None
                if embedder.card.needs_context:
                    summary = embedder.summarize(part.context(draw))
                codes.append(embedder.embed(images, summary).mean)
            fits[value].append(
                pool.submit(
                    fit_and_score, codes[0], sample.labels["train"], codes[1], sample.labels["test"]
                )
            )
            bar.update()
    return fits


def _floors(
    sample: Sample, values: Family, split: Split, dimension: int, bar: tqdm
) -> dict[str, Encode]:
    """What stands in for a model, by the names of result.FLOORS."""
    bar.set_postfix_str("PCA")
    trained_on = (sample.at(value, "train").images for value in split.train_values)
    pixel_count = int(np.prod(values.image_shape))
    floors: dict[str, Encode] = {
        "raw_pixels": pixels,
        "pca": fit_pca(trained_on, dimension),
        "random_projection": random_projection(pixel_count, dimension, sample.seed),
    }
    bar.update()
    return floors


def _fit_floors(
    pool: ThreadPoolExecutor, floors: dict[str, Encode], sample: Sample, split: Split, bar: tqdm
) -> Fits:
    def fit(value: float, encode: Encode) -> Score:
        train, test = sample.at(value, "train").images, sample.at(value, "test").images
        return fit_and_score(
            encode(train), sample.labels["train"], encode(test), sample.labels["test"]
        )

    bar.set_postfix_str("floors")
    fits: Fits = {
        value: [pool.submit(fit, value, encode) for encode in floors.values()]
        for value in split.held_out_values
    }
    for per_value in fits.values():
        for one in per_value:
            one.result()
        if floors:
            bar.update()
    return fits
