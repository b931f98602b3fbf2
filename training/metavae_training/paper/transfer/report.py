"""The exam's page: what is measured in which order, and its tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.results import read_protocol
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages.report import Report, left_out
from metavae_training.paper.transfer.cells import (
    FEW_TEST,
    TEST_SIZE,
    TRAIN_SIZE,
    ExamCell,
)
from metavae_training.paper.transfer.compared.baselines import CodedCell, PlainCell
from metavae_training.paper.transfer.compared.closed_form import FITTED_IMAGES
from metavae_training.paper.transfer.compared.networks import DRAWN_SITES
from metavae_training.paper.transfer.compared.supervised import NetworkCell
from metavae_training.paper.transfer.drawing import failures_figure, sizes_figure
from metavae_training.paper.transfer.models import ModelCell, WrongCell
from metavae_training.paper.transfer.rows import (
    ALL,
    CAMERA,
    CNN,
    CNN_AFFINE,
    CNN_CANONICAL,
    CNN_FAMILY,
    EARLIER,
    METAVAE,
    ORACLE,
    OWN,
    PIXELS,
    PLAIN,
    Row,
    chosen,
)
from metavae_training.paper.transfer.tables import (
    Found,
    coverage_table,
    headline,
    labels_table,
    mean_of,
    sites_table,
    sizes_table,
    worst_sites,
    wrong_table,
)
from metavae_zoo.families import family as family_named

_AXES = ("rotation", "scale", "skew", "affine", "scanner", "camera")
_MAIN = (10, 100)
_CURVE, _QUICK_CURVE = (1, 2, 5, 20, 3, 50), (3,)  # the smallest, then the most telling


def transfer_study(study: Study) -> Study:
    """The exam's own study: more families and draws, sizes that leave images for contexts.

    Where nothing is measured the sizes are those of the results.
    """
    data = "digits" if study.quick else "mnist"
    axes = ("rotation", "scanner") if study.quick else _AXES
    families = study.families if study.given_families else tuple(f"{data}-{one}" for one in axes)
    made = replace(
        study,
        experiment="transfer",
        families=families,
        draws=study.given_draws or (2 if study.quick else 5),
    )
    measured = {} if study.measure else read_protocol(made.out / f"{made.name}.json")
    sizes = {name: measured[name] for name in ("train_size", "test_size") if name in measured}
    return replace(made, **sizes) if all(type(size) is int for size in sizes.values()) else made


def transfer(study: Study) -> Report:
    """Measure and show transfer: one classifier for all sites, tested where no label was."""
    collected = collect(study, transfer_cells(study), transfer_protocol(study))
    items = collected.items
    families = [name for name in study.families if any(item.family == name for item in items)]
    found = Found(items)
    return Report(
        title="Transfer: the labels of some sites, a few unlabelled images of a site never seen",
        sections=[
            _in_words(found, families),
            headline(found, families, 10),
            _note(study),
            headline(found, families, 100),
            *_section(
                "Size of the context",
                f"{ALL.label}: mean accuracy (mean over sites of the 10th percentile over contexts"
                " and seeds; the worst context of any site)."
                f"{_of_one_seed(found, ALL, families)}",
                sizes_table(found, ALL, families),
            ),
            *_section("", f"{CAMERA.label}:", sizes_table(found, CAMERA, families)),
            *_section(
                "The worst site",
                "Mean over seeds and contexts at the site that is classified worst.",
                worst_sites(found, _for_worst(), families),
            ),
            *_section(
                "Labels at one site only",
                f"{ALL.label}: the classifier is fitted on so many labelled images of the reference"
                " site, as many of each class, and tested at every site held out.",
                labels_table(found, ALL, families),
            ),
            *_section(
                "Wrong contexts",
                f"{ALL.label}, the classifier fitted under right contexts: accuracy, and the 90%"
                " quantile of the warp's error that the model states (median over sites). The"
                " error is |A B - I|: 0.1 is a rotation by 4 degrees, 1 is by 41. A context of"
                " another site is a good context of the wrong site: the quantile is not meant to"
                " tell it.",
                wrong_table(found, ALL, families),
            ),
            *_section(
                "How sure it says it is",
                f"{ALL.label}: the share of the contexts of held-out sites whose true error is"
                " below the stated quantile.",
                coverage_table(found, ALL, families),
            ),
            *_sites(found, families),
            left_out(collected),
        ],
        draw=lambda: sizes_figure(found, families),
        failed=collected.failed,
        more={"failures": lambda: failures_figure(found, families)},
    )


def transfer_protocol(study: Study) -> dict[str, Any]:
    """How the accuracies are measured, as a results file states it."""
    return {
        "probe": "transfer",
        "train_size": study.train_size or TRAIN_SIZE,
        "test_size": study.test_size or TEST_SIZE,
    }


def transfer_cells(study: Study) -> list[ExamCell]:
    """Every cell once: the headline first, sizes between the main ones last."""
    return list({str(cell): cell for cell in _in_order(study)}.values())


def _in_order(study: Study) -> Iterator[ExamCell]:
    rows, families, seeds = chosen(study), study.families, range(study.seeds)

    def models(row: Row, sizes: Sequence[int], of_seeds: Sequence[int]) -> Iterator[ModelCell]:
        for seed in of_seeds if row in rows else ():
            for size in sizes:
                for family in families:
                    if row.recipe_of(study, family):
                        yield ModelCell(study, row, family, seed, size)

    def alone(row: Row, sizes: Sequence[int]) -> Iterator[ModelCell]:
        for family in families if row in rows else ():
            # Earlier models are of the families over a line of values alone.
            drawn = family_named(family).axis.name == "site"
            if row.recipe_of(study, family) and not (drawn and row in EARLIER):
                for size in sizes:
                    yield ModelCell(study, row, family, row.only_seed(study, family), size)

    yield from models(ALL, [10], [0])
    for family in families:
        if PLAIN in rows:
            yield PlainCell(study, PLAIN, family)
        if ORACLE in rows:
            yield CodedCell(study, ORACLE, family)
    yield from models(ALL, [10, 0, 100], seeds)
    for row in (CNN, CNN_FAMILY, CNN_CANONICAL, CNN_AFFINE):
        yield from _networks(study, row) if row in rows else ()
    yield from models(CAMERA, [10, 100, 0], [0])
    for family in families if ALL in rows else ():
        yield WrongCell(study, ALL, family)
    yield from models(CAMERA, _MAIN, seeds[1:])
    curve = _QUICK_CURVE if study.quick else _CURVE
    yield from models(ALL, curve, [0])
    for row in (METAVAE, OWN):
        yield from alone(row, _MAIN)
    for row in EARLIER:
        yield from alone(row, _MAIN if row.takes == "context" else [0])
    yield from models(CAMERA, curve, [0])
    for row in PIXELS:
        for family in families if row in rows else ():
            yield CodedCell(study, row, family)
    yield from models(ALL, curve, seeds[1:])


def _networks(study: Study, row: Row) -> Iterator[NetworkCell]:
    for family in study.families:
        job = None
        if row == CNN_CANONICAL:
            recipe = ALL.recipe_of(study, family)
            if recipe is None:
                continue
            job = study.job(recipe, 0)
        yield NetworkCell(study, row, family, 0, job)


def _of_one_seed(found: Found, row: Row, families: Sequence[str]) -> str:
    """Which sizes were measured for a single training seed, where others have several."""
    seeds = {
        (family, size): {item.seed for item in found.under(row, family, size)}
        for family in families
        for size in found.sizes(row, family)
    }
    single = sorted({size for (_, size), of in seeds.items() if len(of) == 1})
    if not single or all(len(of) == 1 for of in seeds.values()):
        return ""
    return f" Of one training seed alone: {', '.join(map(str, single))}."


def _for_worst() -> tuple[Row, ...]:
    return (ALL, CAMERA, OWN, METAVAE, ORACLE, CNN, CNN_FAMILY, CNN_CANONICAL, PLAIN)


def _section(title: str, words: str, *tables: str) -> list[str]:
    """A section, if it has a table."""
    here = [table for table in tables if table]
    heading = [f"## {title}"] if title else []
    return [*heading, words, *here] if here else []


def _sites(found: Found, families: Sequence[str]) -> list[str]:
    tables = [
        f"{family}:\n\n{table}" for family in families if (table := sites_table(found, ALL, family))
    ]
    words = (
        f"{ALL.label}: accuracy, the true error of the inferred warp and the 90% quantile that was"
        " stated (medians over seeds and contexts). Skews of 80 and 100 degrees show digits as"
        " lines. Sites that the drawn families put outside their own ranges say so; of the camera"
        " family every site is outside the affine prior."
    )
    return _section("Where it fails", words, *tables)


def _in_words(found: Found, families: Sequence[str]) -> str:
    """What ten images change, family by family; nothing in it but what is in the items."""
    said = []
    for family in families:
        accuracy = {
            name: mean_of(items)
            for name, items in (
                ("ten", found.under(ALL, family, 10)),
                ("none", found.under(PLAIN, family, 0)),
                ("oracle", found.under(ORACLE, family, 0)),
                ("cnn", found.under(CNN_FAMILY, family, 0)),
            )
        }
        if accuracy["ten"] is None:
            continue
        beside = [
            f"{accuracy[name]:.3f} {words}"
            for name, words in (
                ("none", "by the same code without a context"),
                ("cnn", "by a CNN that is augmented by the very family"),
                ("oracle", "where the true site is undone"),
            )
            if accuracy[name] is not None
        ]
        against = f" ({'; '.join(beside)})" if beside else ""
        said.append(f"- {family}: {accuracy['ten']:.3f} with ten unlabelled images{against}")
    return "\n".join(said)


def _note(study: Study) -> str:
    train, test = study.train_size or TRAIN_SIZE, study.test_size or TEST_SIZE
    draws = study.draws
    several = (
        f"There are {draws} context draws: the first is tested on all test images, the others on"
        f" the first {min(FEW_TEST, test)}, by the classifier that was fitted under the first. "
        if draws > 1
        else ""
    )
    apart = (
        "its images are neither fitted on nor tested."
        if all(name.startswith("mnist") for name in study.families)
        else "of MNIST its images are neither fitted on nor tested; of the digits, which are few,"
        " they may be."
    )
    return (
        f"Accuracy of one logistic regression, fitted on the embeddings of {train:,} labelled"
        f" images at each training site and tested on {test:,} images at each site held out; mean"
        f" over these sites. One context serves all images of a site; {apart}"
        f" Training sites have contexts of the same size. {several}The"
        " first draw is what `metavae-client probe --protocol transfer --contexts 1` finds with"
        " these sizes. ±: 95% interval over training seeds (Student's t), whose number is in"
        " brackets; none of fewer than 3. No context: every image is embedded under 100 images of"
        " the reference site.\n\nOne for all is trained once, on simulated sites of the data set's"
        " own images, and never told a family. The wavelet code without a context is the closed"
        f" form of wavelet-metavae, fitted on {FITTED_IMAGES:,} images of the training sites; the"
        " oracle has the same code on images whose true site is undone. Sites are standardised,"
        " whitened (a shrunk covariance) and adjusted by ComBat from the context's codes alone."
        " neuroHarmonize and neuroCombat adjust no site that they were not fitted on, and need an"
        " older numpy, so ComBat is written out here. The networks have the labels of all training"
        " sites; generic augmentation turns, scales, shears and moves a little; the very family's"
        f" draws {DRAWN_SITES} new sites from the family's own generator, and for the drawn"
        " families its network is wider and trained six times longer.\n\nThe drawn families"
        " (affine, scanner, camera) have code of their own, and draw sites 0 to 35 from the same"
        " ranges of warp, shift and photometry as the models' priors: what is held out there are"
        " sites and images, not the ranges. The affine prior has no light, blur and perspective, so"
        " every site of mnist-camera is outside it."
    )
