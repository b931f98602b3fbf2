"""What computing a model in 8 bits costs: measured as the model was, and put on its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from metavae_zoo.bundles.bundle import Bundle, check_replaceable, copy_bundle
from metavae_zoo.bundles.card import ModelCard, ProbeRecord
from metavae_zoo.errors import BadBundle
from metavae_zoo.evaluation.kept import kept_probe
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.files import make_writable
from metavae_zoo.places import user_bundles


def measure_int8(bundle: Bundle, *, out: Path | None) -> Bundle:
    """Probe `bundle` in int8 by the protocol of its card, and install it with the result there.

    Raises BadBundle for a model whose accuracy as it is stored is not on its card, and where `out`
    has something else of that name.
    """
    from metavae_zoo.embedding.int8 import quantize  # onnx, which a base install leaves out

    card = bundle.card
    if card.results is None or card.results.probe is None:
        raise BadBundle(
            f"{card.name} has no linear probe on its card to compare int8 with",
            hint=f"Measure it first: `metavae-zoo build {card.name}`"
            if card.held_out_values
            else f"The {card.split} split of {card.family} holds no value out; choose a model of"
            " another family or split",
        )
    target = (out or user_bundles()) / card.name
    make_writable(target.parent)  # now, not after the probe
    check_replaceable(target)
    with TemporaryDirectory() as scratch:
        in_int8 = quantize(bundle, Path(scratch, card.name))
        found = kept_probe(in_int8, _settings(card, card.results.probe))
    record = ProbeRecord.model_validate(found["record"])
    commands = dict.fromkeys([*card.results.commands, f"metavae-zoo quantize {card.name}"])
    results = card.results.model_copy(update={"int8": record, "commands": list(commands)})
    changed = card.model_copy(update={"results": results})
    return copy_bundle(bundle, target, card=changed)


def _settings(card: ModelCard, probe: ProbeRecord) -> ProbeSettings:
    """The settings of the probe on a card, without its baselines."""
    settings = ProbeSettings(
        family=card.family,
        split=card.split,
        seed=probe.seed,
        train_size=probe.train_size,
        test_size=probe.test_size,
        floors=(),
    )
    if not card.needs_context:
        return settings
    return replace(settings, contexts=probe.contexts, context_size=probe.context_size)
