"""`metavae-train paper`: the paper's tables and figures, one command each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metavae_training.options import DATA_ROOT, DEVICE, SETTINGS
from metavae_zoo.console import PATH
from metavae_zoo.errors import MetavaeError
from metavae_zoo.stopping import stoppable

if TYPE_CHECKING:
    from metavae_training.paper.measure.study import Study
    from metavae_training.paper.pages.report import Report


class Incomplete(MetavaeError):
    """Parts of an experiment that failed; the table is written without them."""

    code = "incomplete"


@click.group()
def paper() -> None:
    """Make the paper's tables and figures: train what is missing, measure, write.

    Each command adds to OUT/NAME.json every number that it measures, and draws up OUT/NAME.md,
    .png and .svg from them. What is there already is neither trained nor measured again, and what
    the zoo ships (of the same recipe, seed and data) is measured as it ships; stopped at any point,
    the same command goes on.
    """


def _names(context: click.Context, option: click.Parameter, words: tuple[str, ...]) -> list[str]:
    """Names out of a repeatable option that also takes lists with commas, each once."""
    names = [name.strip() for word in words for name in word.split(",")]
    if not all(names):
        raise click.BadParameter(f"{','.join(words)!r} has an empty name")
    return list(dict.fromkeys(names))


_OPTIONS = (
    click.option("--quick", is_flag=True, help="A small version in minutes, under its own name."),
    click.option("--seeds", type=click.IntRange(1), help="Training runs.  [default: 3; quick: 2]"),
    click.option(
        "--contexts",
        "draws",
        type=click.IntRange(1, 1000),  # as of `metavae-client probe`
        help="Context draws for each run.  [default: 1; of context's transfer: 5; quick: 2]",
    ),
    click.option(
        "--train-size",
        type=click.IntRange(1),
        help="Train images per value.  [default: all; context: 2000; probes: 5000; quick: 300]",
    ),
    click.option(
        "--models",
        multiple=True,
        callback=_names,
        metavar="NAME,...",
        help="What is compared.  [default: all that have recipes, but for canonical models, which"
        " context alone compares; of its transfer also rows such as oracle, cnn, combat]",
    ),
    click.option(
        "--families",
        multiple=True,
        callback=_names,
        metavar="NAME,...",
        help="What varies.  [default: the three of MNIST; quick: of digits; of context's transfer"
        " also MNIST's drawn sites; quick: digits-rotation, digits-scanner]",
    ),
    SETTINGS,
    click.option(
        "--runs",
        type=PATH,
        default=Path("runs"),
        show_default=True,
        help="Folder of the training runs, as of `metavae-train sweep`.",
    ),
    click.option(
        "--out",
        type=PATH,
        help="Folder of the results.  [default: results; with --set, a folder in it]",
    ),
    DEVICE,
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Training runs at once  [default: one per core; one on a GPU].",
    ),
    DATA_ROOT,
    click.option(
        "--no-train",
        is_flag=True,
        help="Measure what is trained or ships, and what takes no epochs (closed forms, untrained"
        " encoders); leave out the rest.",
    ),
    click.option(
        "--redraw",
        is_flag=True,
        help="Train and measure nothing: draw up what the results have already. Needs no data.",
    ),
)


Reports = Iterator[tuple["Study", "Report"]]  # each of its own study


def _experiment(
    *splits: str, train_size: int | None = None
) -> Callable[[Callable[[Study], Report | Reports]], click.Command]:
    """A command of the paper from a function of its study.

    `splits` come in order of importance; `train_size` is that of a study which is given none: None
    is all images, as for families that have fewer.
    """

    def command(experiment: Callable[[Study], Report | Reports]) -> click.Command:
        def run(**options: Any) -> None:
            # Before torch is loaded: threads that wait leave their cores to the other processes.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            options["usual_size"] = train_size
            study = _study(experiment.__name__, splits, **options)

            from metavae_training.paper.pages.report import Report, publish  # loads torch

            failed: list[str] = []
            with stoppable(lambda: "every measurement that was finished is kept"):
                found = experiment(study)
                parts = [(study, found)] if isinstance(found, Report) else found
                for part, report in parts:
                    click.echo(publish(part, report))
                    failed += report.failed
            if failed:
                raise Incomplete(
                    f"{len(failed)} parts failed: {', '.join(failed)}",
                    hint="Their errors are above; the same command tries them again",
                )

        run.__doc__ = experiment.__doc__
        for option in reversed(_OPTIONS):
            run = option(run)
        return paper.command(experiment.__name__)(run)

    return command


def _usual(experiment: str, known: Iterable[str]) -> list[str]:
    """The models that an experiment compares where none are named.

    The paper's experiments compare its models and the wavelet ones; canonical models stand beside
    them in transfer, and where they are named.
    """
    if experiment == "context":
        return list(known)
    return [name for name in known if not name.startswith("canonical-")]


def _study(
    experiment: str,
    splits: tuple[str, ...],
    *,
    quick: bool,
    seeds: int | None,
    models: list[str],
    families: list[str],
    draws: int | None,
    train_size: int | None,
    usual_size: int | None,
    settings: dict[str, Any],
    out: Path | None,
    no_train: bool,
    redraw: bool,
    **places: Any,
) -> Study:
    from metavae_training.paper.measure import study
    from metavae_training.paper.measure.results import read_train_size
    from metavae_training.recipes import MODEL_NAMES, BadRecipe
    from metavae_zoo.errors import UnknownName
    from metavae_zoo.families import family

    known = dict.fromkeys(MODEL_NAMES)
    if experiment == "context":
        from metavae_training.paper.transfer.rows import ROWS

        known |= dict.fromkeys(row.name for row in ROWS)
    for model in models:
        if model not in known:
            raise UnknownName("model", model, known, f"the models are {', '.join(known)}")
    data = "digits" if quick else "mnist"
    chosen = bool(families)
    families = families or [f"{data}-{axis}" for axis in ("rotation", "scale", "skew")]
    if quick:
        usual_size = study.QUICK_TRAIN_SIZE
    for name in families if (train_size or usual_size) and not redraw else ():
        labels = family(name).labels("train", places["data_root"])
        available, classes = len(labels), len(set(labels.tolist()))
        if train_size and not classes <= train_size <= available:
            raise BadRecipe(
                f"--train-size is {train_size}, and {name} has {available} training images a value,"
                f" of {classes} classes",
                hint=f"Give {classes} to {available}, or leave it out",
                field="train_size",
            )
        if usual_size and usual_size > available:
            usual_size = None
    if out is None:
        out = Path("results") / (study.settings_in_words(settings) if settings else "")
    made = study.Study(
        experiment=experiment,
        families=tuple(family(name).name for name in families),
        splits=splits,
        models=tuple(models or _usual(experiment, known)),
        draws=draws or 1,
        given_draws=draws,
        given_families=chosen,
        seeds=seeds or (2 if quick else 3),
        train_size=train_size or usual_size,
        test_size=study.QUICK_TEST_SIZE if quick else None,
        train=not (no_train or redraw),
        measure=not redraw,
        quick=quick,
        settings=settings,
        out=out,
        **places,
    )
    if redraw and not train_size:  # as it was measured
        measured = read_train_size(made.out / f"{made.name}.json", usual_size)
        made = replace(made, train_size=measured)
    return made


@_experiment("contiguous")
def table2(study: Study) -> Report:
    """Table 2: accuracy at the held-out values of the contiguous split, with floors and ceiling."""
    from metavae_training.paper.pages import table2 as experiment

    return experiment.table2(study)


@_experiment("interleaved")
def table1(study: Study) -> Report:
    """Table 1: distances between the codes of an image and of its transformed versions."""
    from metavae_training.paper.pages import table1 as experiment

    return experiment.table1(study)


@_experiment("contiguous", "interleaved", "sparse")
def figure7(study: Study) -> Report:
    """Figure 7: accuracy against the held-out value, for every family and split."""
    from metavae_training.paper.pages import figure7 as experiment

    return experiment.figure7(study)


@_experiment("contiguous", train_size=5000)
def probes(study: Study) -> Report:
    """Harder probes: one classifier for all values, few labels, nearest neighbours."""
    from metavae_training.paper.pages import probes as experiment

    return experiment.probes(study)


@_experiment("contiguous", train_size=2000)
def context(study: Study) -> Reports:
    """Does the context pay: transfer to sites never seen, then right and wrong contexts.

    Transfer, OUT/transfer.*: one classifier of the training sites' labels, tested at every site
    held out, against the size of the context and beside baselines; few labels and wrong contexts.
    OUT/context.*: the paper's probe under right contexts, wrong ones, and sizes from 1 to 500.
    """
    from metavae_training.paper import context as experiment

    return experiment.context(study)
