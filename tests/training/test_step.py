"""A step is its four parts in their order; what training does with it is tested with the loop."""

from __future__ import annotations

import pytest
import torch

from inputaware.attacks.registry import build_attack
from inputaware.config import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import dataset_spec
from inputaware.training.schedules import learning_rate
from inputaware.training.step import TrainingStep, beneath, place_modules

CPU = torch.device("cpu")


def step_and_batch() -> tuple[TrainingStep, Batch]:
    """Return the mask stage's step from the same weights each time, and a batch."""
    config = preset_config("fast", dataset="digits")
    torch.manual_seed(0)
    attack = build_attack(config, dataset_spec("digits"))
    place_modules(attack, CPU)
    step = TrainingStep(next(iter(attack.stages())), device=CPU, precision="32")
    step.train_mode()
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return step, Batch(images=images, labels=torch.zeros(4, dtype=torch.int64), partners=None)


def test_a_step_is_its_parts() -> None:
    whole, batch = step_and_batch()
    parts, _ = step_and_batch()
    for number in range(2):
        loss = whole(batch, epoch=0, progress=number / 2)
        parts.prepare(epoch=0, progress=number / 2)
        other = parts.loss(batch, number / 2)
        parts.backward(other)
        parts.update()
        assert torch.equal(loss.total, other.total)
    (first,), (second,) = whole.trained.values(), parts.trained.values()
    for one, two in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(one, two)
    rate = learning_rate(first.config, epoch=0, progress=0.5)
    assert [group["lr"] for group in first.optimizer.param_groups] == [rate]


def test_a_step_changes_the_weights() -> None:
    step, batch = step_and_batch()
    (member,) = step.trained.values()
    before = [parameter.detach().clone() for parameter in member.parameters]
    step(batch, epoch=0, progress=0.0)
    assert any(not torch.equal(old, new) for old, new in zip(before, member.parameters, strict=True))


@pytest.mark.parametrize(("precision", "expected"), [("32", False), ("bf16", True)])
def test_the_loss_is_computed_in_the_precision_asked_for(precision: str, expected: bool) -> None:
    step, batch = step_and_batch()
    step.precision = precision  # type: ignore[assignment]
    seen: list[bool] = []
    step.stage.generator.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))  # type: ignore[attr-defined]
    step.loss(batch, 0.0)
    assert seen == [expected]


def test_names_beneath_a_prefix() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert beneath("a/", {"a/x": one, "b/x": two}) == {"x": one}
