"""The plain counterparts compute what the product computes: loss and gradients, in float64, with dropout off."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from inputaware.attacks.base import Stage
from inputaware.attacks.registry import build_attack
from inputaware.benchmarking.baseline import PlainMnistCnn, plain_copy, plain_stage
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import dataset_spec

CASES: dict[str, dict[str, Any]] = {
    "mnist": {"dataset": "mnist", "model": {"dropout": 0.0, "hidden_units": 20}},
    "cifar10": {"dataset": "cifar10", "model": {"width": 0.05}},
    "all-to-all": {"dataset": "gtsrb", "target": "all-to-all", "model": {"width": 0.05}},
    "no cross part": {
        "dataset": "mnist",
        "model": {"dropout": 0.0, "hidden_units": 20},
        "joint_stage": {"cross_probability": 0.0, "initial_cross_probability": None, "label_smoothing": 0.1},
    },
}


def stage_of(number: int, options: dict[str, Any]) -> tuple[Stage, Batch]:
    """Return a stage of the product in float64, and a batch for it."""
    config = preset_config("fast", **options)
    spec = dataset_spec(config.dataset)
    torch.manual_seed(0)
    attack = build_attack(config, spec)
    for module in attack.modules.values():
        module.double()
    # Enough images for two with a trigger of their own in the joint stage.
    count = 20 if number == 1 else 6
    images = torch.rand(count, *spec.shape, dtype=torch.float64)
    labels = torch.randint(spec.classes, (count,))
    return next(islice(attack.stages(), number, None)), Batch(images=images, labels=labels, partners=None)


def loss_and_gradients(stage: Stage, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = stage.loss(batch, 0.0)
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        f"{name}.{key}": parameter.grad
        for name, recipe in stage.recipes.items()
        for key, parameter in recipe.module.named_parameters()
    }
    assert all(gradient is not None for gradient in gradients.values())
    return loss.total.detach(), gradients  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("number", "case"),
    # The mask stage knows neither target nor cross part.
    [pytest.param(0, "mnist", id="mask, mnist"), pytest.param(0, "cifar10", id="mask, cifar10")]
    + [pytest.param(1, case, id=f"joint, {case}") for case in CASES],
)
def test_loss_and_gradients_are_the_products(number: int, case: str) -> None:
    stage, batch = stage_of(number, CASES[case])
    plain = plain_stage(stage)
    if number == 1:
        # Where the cross part is the larger one, partners serve more than once.
        attack_count, cross_count = stage.layout(batch, 0.0)  # type: ignore[attr-defined]
        assert (cross_count > attack_count) == (case in ("mnist", "cifar10"))
    expected, gradients = loss_and_gradients(stage, batch)
    found, plain_gradients = loss_and_gradients(plain, batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert plain_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(plain_gradients[name], gradient, rtol=1e-8, atol=1e-9 * scale + 1e-12)
    assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 0


def test_a_plain_copy_shares_nothing_and_is_contiguous() -> None:
    stage, _ = stage_of(1, CASES["mnist"])
    plain = plain_stage(stage)
    for name, recipe in stage.recipes.items():
        copied = dict(plain.recipes[name].module.named_parameters())
        for key, parameter in recipe.module.named_parameters():
            torch.testing.assert_close(copied[key], parameter, rtol=0, atol=0)
            assert copied[key].data_ptr() != parameter.data_ptr()
            assert copied[key].is_contiguous()
        assert plain.recipes[name].optimizer == recipe.optimizer
    assert plain.averaging == stage.averaging


def test_the_plain_classifier_draws_with_torchs_dropout() -> None:
    config = preset_config("fast", dataset="mnist", model={"hidden_units": 20, "dropout": 0.25})
    product = build_attack(config, dataset_spec("mnist")).modules["classifier"]
    plain = plain_copy(product)
    assert isinstance(plain, PlainMnistCnn)
    assert [module.p for module in plain.modules() if isinstance(module, nn.Dropout)] == [0.25] * 3
    images = torch.rand(4, 1, 28, 28)
    assert not torch.equal(plain(images), plain(images))
    torch.testing.assert_close(plain.eval()(images), product.eval()(images))
