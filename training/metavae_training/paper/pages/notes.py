"""What the numbers of a page are of, and where the protocol is not the paper's, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from metavae_training.paper.measure.study import PAPERS_MODEL, Study
from metavae_training.paper.pages.methods import CEILING_METHOD, Method
from metavae_training.recipes import RECIPES, Recipe
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.statistics import SEVERAL

OWN_CONTEXT = (
    f"A context is {CONTEXT_SIZE} of the images of the same distribution and part, and serves all"
    " images of a draw, those in it included."
)

INTERVALS = (
    "±: 95% interval over training seeds (Student's t), whose number is in brackets; none of fewer"
    f" than {SEVERAL}. The interval does not cover the draw of contexts, which all seeds share."
)


def protocol_note(study: Study, shown: Sequence[Method], *, context: str = OWN_CONTEXT) -> str:
    """What the accuracies are of, those of what is `shown`; `context` says what contexts are."""
    what = (
        "Accuracy of a logistic regression that is fitted on the embeddings of"
        f" {study.train_size or 'all'} training images at each held-out value, and tested on those"
        f" of {study.test_size or 'all'} test images there; mean over the held-out values and"
        f" {study.draws} context draw{'s' * (study.draws > 1)} for each training seed."
    )
    return (
        measured_note(shown, f"{what} {context}")
        + " The supervised CNN is taught with the labels of each held-out value itself."
        * (CEILING_METHOD in shown)
        + _mirrored(study)
        + f"\n\n{unlike_the_paper(study, probe=True)}"
    )


def _mirrored(study: Study) -> str:
    """What one should know of skews: at half a turn more the released code's shear is flipped."""
    if "contiguous" not in study.splits or not any(one.endswith("skew") for one in study.families):
        return ""
    return " The skews that the contiguous split holds out are those trained on, upside down."


def measured_note(shown: Sequence[Method], what: str) -> str:
    """What is measured, then what is true of all models that are shown."""
    return f"{what} {INTERVALS} {_storage(shown)}{_closed_form(shown)}"


def unlike_the_paper(study: Study, *, probe: bool) -> str:
    """Where contexts and training are not the paper's, and the probe, where there is one."""
    recipe = study.recipe(PAPERS_MODEL, study.families[0], study.splits[0])
    if recipe is None:
        return ""
    smallest, largest = recipe.context_sizes
    return (
        "Unlike the paper, which draws a context of 10 for each query"
        + " and lets scikit-learn stop after 100 iterations" * probe
        + ": one context serves all queries of a draw"
        + ", and classifiers are fitted to convergence (pixels: 1,000 iterations at most)" * probe
        + ". MetaVAE and the paper's baselines are trained for"
        f" {recipe.epochs} epochs at a learning rate that falls from {recipe.learning_rate:g}, with"
        f" contexts of {smallest} to {largest} images (paper: 100 epochs at 0.0002, contexts of"
        f" 10).{_kl_weight(recipe)} NS explains the images of its contexts, the others as many"
        " queries as a batch has."
    )


def _kl_weight(recipe: Recipe) -> str:
    """How the weight of the KL goes, which the paper does not change."""
    rising = recipe.kl_warm_up_epochs
    if rising == 0 or recipe.epochs == 0:
        return ""
    over = "whole training" if rising >= recipe.epochs else f"first {rising} epochs"
    return (
        f" The weight of the KL rises over the {over}, {1 - rising / recipe.epochs / 2:.2g} in the"
        " mean (paper: 1 throughout); the full bound chooses the epoch."
    )


def _recipes(shown: Sequence[Method]) -> Iterator[tuple[str, Recipe]]:
    """The label of every model among them, and one of its recipes."""
    for method in shown:
        of_model = (recipe for name in RECIPES if (recipe := RECIPES[name]).model == method.model)
        if (first := next(of_model, None)) is not None:
            yield method.label, first


def _storage(shown: Sequence[Method]) -> str:
    """How the weights of what is measured are stored."""
    labels: dict[str, list[str]] = defaultdict(list)
    for label, recipe in _recipes(shown):
        labels[recipe.weights].append(label)
    stored = "; ".join(f"{weights} for {', '.join(which)}" for weights, which in labels.items())
    return f"Models are measured as they are exported, their weights stored as {stored}."


def _closed_form(shown: Sequence[Method]) -> str:
    """Which of the models have one seed alone."""
    labels = ", ".join(label for label, recipe in _recipes(shown) if recipe.epochs == 0)
    return f" Fitted in closed form, the same for every seed: {labels}." if labels else ""
