"""Claims about the training benchmark: its baseline is fair, and it counts what it says."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metavae_training.bfloat16 import cpu_has_bf16
from metavae_training.models import Batch, MetaVAE
from metavae_training.recipes import recipe
from metavae_training.trainer.build import build_model
from plain_loop import PlainMetaVAE, draw_contexts, train_step
from products import count_flops, record_products
from report import table
from variants import MetavaeStep, PlainStep, SameShapes, take_turn

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"
CPU = torch.device("cpu")
SMALL = dataclasses.replace(
    recipe("metavae-digits-rotation-sparse"),
    batch_size=8,
    context_sets=2,
    context_sizes=(3, 9),
    model_settings={"hidden": 24, "latent_dim": 5},
)
DISTRIBUTIONS, PIXELS = 3, 49


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (DISTRIBUTIONS, 40, PIXELS)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def model() -> MetaVAE:
    built = build_model(SMALL, distributions=DISTRIBUTIONS, pixels=PIXELS, seed=0)
    assert isinstance(built, MetaVAE)
    return built


def plain_with_the_weights_of(model: MetaVAE) -> PlainMetaVAE:
    plain = PlainMetaVAE(distributions=DISTRIBUTIONS, pixels=PIXELS, **SMALL.model_settings)
    plain.summary_network.load_state_dict(model.summary_network.state_dict())
    r = model.aggregation_network
    for layer, source in zip((0, 2, 4), (r.joint, r.hidden, r.out), strict=True):
        plain.aggregation_network.get_submodule(str(layer)).load_state_dict(source.state_dict())
    for layer, source in zip((0, 2, 4), model.decoders.layers, strict=True):
        for distribution, decoder in enumerate(plain.decoders):
            weights = {
                "weight": source.get_parameter("weight")[distribution].T,
                "bias": source.get_parameter("bias")[distribution].squeeze(0),
            }
            decoder.get_submodule(str(layer)).load_state_dict(weights)
    return plain


def test_the_plain_loop_has_our_objective_and_our_gradient(images, model):
    """With the same weights, contexts and noise; ours shares a context that theirs repeats."""
    sets, per_set, size = 2, 4, 6
    x = images.float() / 255
    queries = x[:, : sets * per_set].unflatten(1, (sets, per_set))
    contexts = x[:, -sets * size :].unflatten(1, (sets, size))
    ours = model.elbo(Batch(queries, contexts), torch.Generator().manual_seed(7)).value()
    noise = torch.randn(
        DISTRIBUTIONS, sets, per_set, model.latent_dim, generator=torch.Generator().manual_seed(7)
    )

    plain = plain_with_the_weights_of(model)
    theirs = torch.stack(
        [
            plain.elbo(
                i,
                queries[i].flatten(0, 1),
                contexts[i].repeat_interleave(per_set, dim=0),
                noise[i].flatten(0, 1),
            )
            for i in range(DISTRIBUTIONS)
        ]
    )
    torch.testing.assert_close(theirs, ours.flatten(1), rtol=1e-5, atol=1e-4)

    ours.sum().backward()
    theirs.sum().backward()
    for name, parameter in plain.summary_network.named_parameters():
        expected = model.summary_network.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4)


def test_no_query_of_the_plain_loop_is_in_its_own_context(images):
    own = torch.arange(5).repeat(2, 1).T  # image i is [i, i]
    contexts = draw_contexts(own, torch.arange(5), 200, torch.Generator().manual_seed(0))
    for query, context in enumerate(contexts[..., 0]):
        assert set(context.tolist()) == set(range(5)) - {query}


def test_the_plain_loop_learns(images):
    images = images // 200 * 255  # black and white
    model = PlainMetaVAE(distributions=DISTRIBUTIONS, pixels=PIXELS, **SMALL.model_settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    queries = torch.arange(20).expand(DISTRIBUTIONS, -1)
    elbos = [train_step(model, optimizer, images, queries, 3, generator) for _ in range(60)]
    assert elbos[-1] > elbos[0] + 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_recorded_products_are_every_operation_of_the_step(images, precision):
    step = MetavaeStep(SMALL, precision, images)
    products = record_products(step.step_with(6))
    assert sum(count_flops(product) for product in products) == step.flops(6) > 0
    in_bf16 = precision == "bf16" and cpu_has_bf16()  # else they are computed in fp32
    wanted = torch.bfloat16 if in_bf16 else torch.float32
    assert {product.output.dtype for product in products} == {wanted}


def test_a_recorded_product_repeats_the_layout_of_its_operands():
    weight = torch.randn(4, 6)
    expanded = torch.randn(1, 4).expand(5, 4)
    (product,) = record_products(lambda: torch.mm(expanded, weight))
    left, right = product.operands
    assert (left.shape, left.stride()) == (expanded.shape, expanded.stride())
    assert not torch.equal(right, weight)
    product()
    torch.testing.assert_close(product.output, left @ right)


def test_operations_of_a_turn_are_those_of_its_steps(images):
    """Counted at the smallest and largest context; between them, they grow by equal parts."""
    step = MetavaeStep(SMALL, "fp32", images)
    assert step.flops(6) == (step.flops(3) + step.flops(9)) / 2
    fixed = MetavaeStep(dataclasses.replace(SMALL, context_sizes=(6, 6)), "fp32", images)
    turn = take_turn(fixed, 0.0, CPU)
    assert turn.work.flops == step.flops(6)
    assert turn.work.images == DISTRIBUTIONS * SMALL.batch_size


def test_the_plain_loop_counts_a_context_for_every_query(images):
    work = PlainStep(SMALL, "fp32", images)()
    shared = MetavaeStep(dataclasses.replace(SMALL, context_sizes=(10, 10)), "fp32", images)()
    assert work.images == shared.images
    # The summary network's share of the step is four times ours: four queries share a context.
    assert work.flops > 2 * shared.flops


def test_the_rate_of_the_same_shapes_is_of_every_quarter_of_the_context_sizes(images):
    step = MetavaeStep(SMALL, "fp32", images)
    assert SameShapes(SMALL, "fp32", images)().flops == sum(map(step.flops, (3, 5, 6, 8)))


def run_script(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--threads", "1", *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_measures_and_writes_what_the_table_shows(tmp_path):
    out = tmp_path / "new folder" / "training.json"
    run = run_script(
        "--recipe", SMALL.name, "--seconds", "0.01", "--repeats", "2", "--out", str(out),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text())
    assert table(result) in run.stdout

    assert result["machine"]["threads"] == 1
    assert result["recipe"]["name"] == SMALL.name
    precisions = ["fp32", "bf16"] if result["machine"]["bf16"] else ["fp32"]
    steps = ["plain loop, fp32", *(f"metavae, {precision}" for precision in precisions)]
    assert list(result["steps"]) == steps
    for step in result["steps"].values():
        rate = step["images_per_second"]
        assert rate["low"] <= rate["median"] <= rate["high"]
        assert len(rate["turns"]) == 2
        assert step["memory"]["peak_bytes"] > step["memory"]["before_bytes"] > 0
    for precision in precisions:
        ratios = result["ratios"][precision]
        ours, plain = (
            result["steps"][name]["images_per_second"]["turns"]
            for name in (f"metavae, {precision}", "plain loop, fp32")
        )
        paired = [one / other for one, other in zip(ours, plain, strict=True)]
        assert ratios["over_plain_loop"]["turns"] == pytest.approx(paired)
        for products in ("same shapes", "square"):
            assert result["products"][f"{products}, {precision}"]["flops_per_second"]["low"] > 0
    for name, of in result["targets"].items():
        met = result["ratios"]["fp32"][name]["median"] >= of
        verdict = "fp32 meets it" if met else "fp32 misses it"
        assert f"target of {of:g} {name.replace('_', ' ')}: {verdict}" in run.stdout
    step, products = result["steps"]["metavae, fp32"], result["products"]["same shapes, fp32"]
    bound = products["flops_per_second"]["median"] / step["flops_per_image"]
    bound /= result["steps"]["plain loop, fp32"]["images_per_second"]["median"]
    assert f"the matrix products alone would be over plain loop: fp32 {bound:.1f}" in run.stdout


def test_a_recipe_of_another_model_is_refused_in_one_line(tmp_path):
    run = run_script("--recipe", "vae-digits-rotation-sparse", "--out", str(tmp_path / "out.json"))
    assert run.returncode == 1
    assert re.fullmatch(
        r"Error: .* trains a vae, .*metavae-digits-rotation-contiguous\n", run.stderr
    )
    assert not (tmp_path / "out.json").exists()
