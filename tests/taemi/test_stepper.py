"""Optimiser steps, each setting of the recipe by what it does to the weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from taemi.batches import FeatureCollate
from taemi.config import VARIANTS
from taemi.corpus import ClipRow
from taemi.features import ClipFeatures
from taemi.processes import Processes
from taemi.recipe import Recipe
from taemi.schedule import WarmupCosine
from taemi.step_plan import Share
from taemi.stepper import Stepper
from taemi_runtime.errors import UsageError
from tests.taemi.small_systems import small

ALONE = Processes(0, 1, torch.device("cpu"))
FLAT = WarmupCosine(1e-3, warmup=0, total=10**9)
RECIPE = Recipe(frozen=True, learning_rate=1e-3, weight_decay=0.0, modality_dropout=0.0, seed=4)


@cache
def assembled(variant, dropout):
    return small(variant, seed=3, modality_dropout=dropout)


def stepper(recipe=RECIPE, schedule=FLAT, variant="paper"):
    return Stepper(deepcopy(assembled(variant, recipe.modality_dropout)), recipe, schedule, ALONE)


def clips(count, variant="paper", seed=0):
    system = assembled(variant, 0.0)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).half().numpy()

    widths = {name: getattr(system.config, f"{name}_dim") for name in ("audio", "vision", "text")}
    rows = [
        (
            ClipRow(str(at), None, "said", tuple(torch.rand(6, generator=generator).tolist())),
            ClipFeatures(
                None,
                draw(3 + at, widths["vision"]),
                draw(5 + at, widths["audio"]),
                draw(widths["text"]),
                draw(4 + at, widths["text"]),
            ),
        )
        for at in range(count)
    ]
    return FeatureCollate(widths, tokens=system.config.text_is_sequence), rows


def weights(stepped):
    return {name: value.clone() for name, value in stepped.system.fusion.state_dict().items()}


def gradients(stepped):
    """What the optimiser will be given at its next steps, by name."""
    names = {weight: name for name, weight in stepped.system.named_parameters()}
    seen = {}

    def keep(optimiser, *_):
        for weight in optimiser.param_groups[0]["params"]:
            if weight.grad is not None:
                seen[names[weight]] = weight.grad.clone()

    stepped.optimiser.register_step_pre_hook(keep)
    return seen


def whole(count):
    return Share(tuple(range(count)), count, count, last=True)


def moved(recipe, *, steps=1):
    """How far the weights moved, at most."""
    stepped = stepper(recipe)
    stepped.system.eval()
    before = weights(stepped)
    collate, rows = clips(4)
    for _ in range(steps):
        stepped.add(collate(rows), whole(4))
    return max(float((value - before[name]).abs().max()) for name, value in weights(stepped).items())


def test_the_learning_rate_of_every_step_is_the_published_formula():
    schedule = WarmupCosine(1e-4, warmup=7, total=40)
    stepped = stepper(schedule=schedule)
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    published = get_cosine_schedule_with_warmup(reference, 7, 40)
    collate, rows = clips(2)
    for step in range(40):
        expected = published.get_last_lr()[0]
        assert stepped.learning_rate == pytest.approx(expected, rel=1e-12, abs=1e-18), step
        stepped.add(collate(rows), whole(2))
        assert stepped.optimiser.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12, abs=1e-18)
        reference.step()
        published.step()
    assert stepped.learning_rate == pytest.approx(0.0, abs=1e-18)


def test_weight_decay_shrinks_a_weight_without_gradient_by_rate_times_decay():
    # Without a modality its token learns, and with all of them it only decays.
    stepped = stepper(replace(RECIPE, weight_decay=0.1))
    stepped.system.eval()
    before = stepped.system.fusion.tokens["audio"].detach().clone()
    collate, rows = clips(3)
    stepped.add(collate(rows), whole(3))
    after = stepped.system.fusion.tokens["audio"].detach()
    torch.testing.assert_close(after, before * (1 - 1e-3 * 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["value", "norm"])
def test_clipping_bounds_how_far_a_step_goes(mode):
    # Adam divides by the gradient's own size plus 1e-8: only gradients far below that move less.
    free, clipped = moved(replace(RECIPE, clip_mode=mode)), moved(replace(RECIPE, clip_mode=mode, clip=1e-12))
    assert free == pytest.approx(1e-3, rel=0.01)
    assert clipped < 1e-3 * 2e-4


def test_clipping_by_value_and_by_norm_differ_as_they_should():
    grown = {}
    for mode, clip in (("value", 1e-3), ("norm", 1e-3)):
        stepped = stepper(replace(RECIPE, clip_mode=mode, clip=clip))
        stepped.system.eval()
        seen = gradients(stepped)
        collate, rows = clips(4)
        stepped.add(collate(rows), whole(4))
        grown[mode] = torch.cat([grad.flatten() for grad in seen.values()])
    assert float(grown["value"].abs().max()) == pytest.approx(1e-3)
    assert float(grown["norm"].norm()) == pytest.approx(1e-3, rel=1e-4)
    assert float(grown["value"].norm()) > 5e-3


def test_accumulated_batches_are_one_large_batch():
    collate, rows = clips(7)
    results = []
    for parts in ([rows], [rows[:3], rows[3:5], rows[5:]]):
        stepped = stepper()
        stepped.system.eval()
        total, seen = 0.0, gradients(stepped)
        for number, part in enumerate(parts, 1):
            share = Share(tuple(range(len(part))), len(part), 7, last=number == len(parts))
            total += float(stepped.add(collate(part), share))
        results.append((total, seen))
        assert stepped.step == 1
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_clip_that_does_not_count_changes_nothing():
    collate, rows = clips(3)
    results = []
    for part in (rows[:2], rows):
        stepped = stepper()
        stepped.system.eval()
        results.append(gradients(stepped))
        stepped.add(collate(part), Share(tuple(range(len(part))), 2, 2, last=True))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-7, msg=name)


def test_bfloat16_trains_nearly_as_float32_does():
    losses = {}
    for precision in ("fp32", "bf16"):
        stepped = stepper(replace(RECIPE, precision=precision))
        stepped.system.eval()
        collate, rows = clips(4)
        losses[precision] = [float(stepped.add(collate(rows), whole(4))) for _ in range(12)]
        assert all(weight.dtype == torch.float32 for weight in stepped.system.parameters())
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"][-1] < losses["bf16"][0] / 2


def test_half_precision_needs_a_gpu():
    with pytest.raises(UsageError, match="fp16 on a CPU"):
        stepper(replace(RECIPE, precision="fp16"))


def test_modality_dropout_is_the_recipes_where_it_says_one():
    assert stepper(replace(RECIPE, modality_dropout=0.25)).system.config.modality_dropout == 0.25
    assert stepper(replace(RECIPE, modality_dropout=None)).system.config.modality_dropout == 0.1


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=() if name in ("full", "vision-anchored") else pytest.mark.slow)
        for name in sorted(set(VARIANTS) - {"concat-flatten"})
    ],
)
def test_every_variant_learns_from_features(variant):
    collate, rows = clips(6, variant)
    stepped = stepper(variant=variant)
    stepped.train_mode()
    losses = [float(stepped.add(collate(rows), whole(6))) for _ in range(15)]
    assert losses[-1] < losses[0] / 2


def test_computing_activations_twice_gives_the_same_gradients():
    stepped = stepper(Recipe(checkpointing=True))
    ids = torch.randint(5, 50, (2, 9))
    encoder = stepped.system.text_encoder
    grads = []
    for training in (False, True):
        encoder.train(training)
        # The tiny encoders' dropout is drawn from the same state both times; evaluation has none.
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        encoder.zero_grad()
        encoder(ids, torch.ones_like(ids))[0].square().sum().backward()
        grads.append([weight.grad.clone() for weight in encoder.parameters() if weight.grad is not None])
    for kept, again in zip(*grads, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_compiled_network_computes_the_same_loss_and_gradients():
    results = []
    for recipe in (RECIPE, replace(RECIPE, compile=True)):
        stepped = stepper(recipe)
        stepped.system.eval()
        seen = gradients(stepped)
        collate, rows = clips(4)
        results.append((float(stepped.add(collate(rows), whole(4))), seen))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-4, atol=1e-6, msg=name)
