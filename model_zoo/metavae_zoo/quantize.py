"""What computing a model in 8 bits costs: measured as the model was, and put on its card.

The zoo knows neither server nor client, so it calls their commands.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from metavae_zoo.bundle import Bundle, check_replaceable, copy_bundle, open_bundle
from metavae_zoo.card import ModelCard, ProbeRecord
from metavae_zoo.commands import probe_command, run_command
from metavae_zoo.errors import BadBundle
from metavae_zoo.files import make_writable
from metavae_zoo.places import user_bundles


def measure_int8(bundle: Bundle, *, out: Path | None) -> Bundle:
    """Probe `bundle` in int8 by the protocol of its card, and install it with the result there.

    Raises BadBundle for a model whose accuracy as it is stored is not on its card, and where `out`
    has something else of that name; CommandFailed where a command fails.
    """
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
        path = Path(scratch, card.name)
        run_command("metavae-serve", "quantize", bundle.path.resolve(), "--out", path, "--json")
        words = _protocol(card, card.results.probe)
        found = probe_command(open_bundle(path), *words, "--no-floors")
    record = ProbeRecord.model_validate(found["record"])
    commands = dict.fromkeys([*card.results.commands, f"metavae-zoo quantize {card.name}"])
    results = card.results.model_copy(update={"int8": record, "commands": list(commands)})
    changed = card.model_copy(update={"results": results})
    return copy_bundle(bundle, target, card=changed)


def _protocol(card: ModelCard, probe: ProbeRecord) -> list[object]:
    words: list[object] = ["--seed", probe.seed]
    words += ["--train-size", probe.train_size, "--test-size", probe.test_size]
    if card.needs_context:
        words += ["--contexts", probe.contexts, "--context-size", probe.context_size]
    return words
