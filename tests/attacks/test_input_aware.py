"""Both stages with partners within the batch, as preset fast trains them, against float64 formulas written out anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inputaware.attacks.input_aware import InputAware, JointStage, MaskStage, probability_at
from inputaware.attacks.share import Share
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import DataError

SPEC: DatasetSpec = dataset_spec("digits")
BATCH = 12


def make_attack(**joint: Any) -> InputAware:
    """Return the attack in float64 with fresh weights and without dropout."""
    torch.manual_seed(0)
    settings = {"batch_size": BATCH, "initial_attack_probability": None, "initial_cross_probability": None} | joint
    config = preset_config("fast", dataset="digits", model={"dropout": 0.0, "hidden_units": 16}, joint_stage=settings)
    attack = InputAware(config, SPEC)
    for module in attack.modules.values():
        module.double()
    return attack


def make_batch(*, partners: bool = False, count: int = BATCH) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images, others = torch.rand(2, count, *SPEC.shape, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % SPEC.classes, others if partners else None)


def stages(attack: InputAware) -> tuple[MaskStage, JointStage]:
    mask, joint = attack.stages()
    assert isinstance(mask, MaskStage)
    assert isinstance(joint, JointStage)
    return mask, joint


def rms(values: Tensor) -> Tensor:
    return (values**2).mean((1, 2, 3)) ** 0.5


def test_the_mask_stage_compares_each_image_with_the_one_before_it() -> None:
    attack = make_attack()
    attack.mask_generator.train()
    batch = make_batch()
    stage = next(iter(attack.stages()))
    found = stage.loss(batch, 0.0)
    masks = attack.mask_generator(batch.images).detach()
    ratios = []
    for index in range(BATCH):
        other = (index - 1) % BATCH
        # Normalised units: the standard deviation is one half.
        images = rms((batch.images[index] - batch.images[other])[None] / 0.5)
        ratios.append(float(images / (rms((masks[index] - masks[other])[None]) + 1e-7)))
    size = float((masks - 0.032).clamp_min(0).mean())
    assert found.parts["norm"].item() == pytest.approx(size, rel=1e-12)
    assert found.parts["diversity"].item() == pytest.approx(np.mean(ratios), rel=1e-9)
    assert found.total.item() == pytest.approx(100 * size + np.mean(ratios), rel=1e-9)


@pytest.mark.parametrize(("attacked", "crossed"), [(3, 5), (5, 3), (3, 0), (6, 6), (4, 4)])
@pytest.mark.parametrize("target", ["all-to-one", "all-to-all"])
def test_the_joint_stage_with_partners_within_the_batch(attacked: int, crossed: int, target: str) -> None:
    attack = make_attack(attack_probability=attacked / BATCH, cross_probability=crossed / BATCH)
    stage = JointStage(
        attack.classifier,
        attack.mask_generator,
        attack.pattern_generator,
        SPEC,
        preset_config("fast", dataset="digits", target=target, joint_stage=_joint(attack)),
    )
    attack.classifier.train()
    attack.pattern_generator.train()
    batch = make_batch()
    found = stage.loss(batch, 0.0)
    with torch.no_grad():
        patterns = attack.pattern_generator(batch.images[:attacked])
        masks = attack.mask_generator(batch.images[:attacked])
    inputs, labels, ratios = batch.images.clone(), batch.labels.clone(), []
    for index in range(attacked):
        image = batch.images[index]
        inputs[index] = image + (patterns[index] - image) * masks[index]
        labels[index] = 0 if target == "all-to-one" else (labels[index] + 1) % 10
        other = (index - 1) % attacked
        distance = rms((patterns[index] - patterns[other])[None] / 0.5) + 1e-7
        ratios.append(float(rms((image - batch.images[other])[None] / 0.5) / distance))
    for place in range(crossed):
        index, source = attacked + place, (place % attacked - 1) % attacked
        image = batch.images[index]
        inputs[index] = image + (patterns[source] - image) * masks[source]
    smoothing = attack.config.joint_stage.label_smoothing
    cross_entropy = F.cross_entropy(attack.classifier(inputs), labels, label_smoothing=smoothing).item()
    assert found.parts["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-9)
    assert found.parts["diversity"].item() == pytest.approx(np.mean(ratios), rel=1e-9)
    assert found.total.item() == pytest.approx(cross_entropy + np.mean(ratios), rel=1e-9)


def _joint(attack: InputAware) -> dict[str, Any]:
    joint = attack.config.joint_stage
    return {
        "batch_size": BATCH,
        "attack_probability": joint.attack_probability,
        "cross_probability": joint.cross_probability,
        "initial_attack_probability": None,
        "initial_cross_probability": None,
    }


@pytest.mark.parametrize(("attacked", "crossed"), [(3, 5), (5, 3), (3, 0), (6, 6)])
def test_the_two_probabilities_may_differ_with_drawn_partners_too(attacked: int, crossed: int) -> None:
    attack = make_attack(attack_probability=attacked / BATCH, cross_probability=crossed / BATCH)
    _, stage = stages(attack)
    batch = make_batch(partners=True)
    assert stage.layout(batch, 0.0) == (attacked, crossed)
    loss = stage.loss(batch, 0.0)
    assert torch.isfinite(loss.total)
    loss.total.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("count", [1, 2, 9, 11])
def test_a_batch_that_lost_images_still_has_one_of_each_kind(count: int) -> None:
    attack = make_attack(attack_probability=1 / BATCH + 0.001, cross_probability=1 / BATCH + 0.001)
    _, stage = stages(attack)
    batch = make_batch(partners=True, count=count)
    assert stage.layout(batch, 0.0) == (1, min(1, count - 1))
    if count > 1:
        assert torch.isfinite(stage.loss(batch, 0.0).total)


@pytest.mark.parametrize(("progress", "count"), [(0.0, BATCH), (0.999, BATCH), (0.0, BATCH - 1)])
def test_every_process_has_an_image_of_a_part_that_a_ramp_or_a_lost_image_makes_small(
    progress: float, count: int
) -> None:
    joint = {"initial_attack_probability": 2 / BATCH, "initial_cross_probability": 2 / BATCH, "ramp": 1.0}
    attack = make_attack(attack_probability=2 / BATCH, cross_probability=0.0, **joint)
    _, stage = stages(attack)
    stage.share = Share(1, 2)
    assert stage.layout(make_batch(partners=True, count=count), progress) == (2, 2)


def test_the_joint_stage_trains_what_it_says_and_leaves_the_mask_generator_alone() -> None:
    attack = make_attack(attack_probability=0.5, cross_probability=0.25)
    _, stage = stages(attack)
    attack.classifier.train()
    attack.pattern_generator.train()
    before = {name: tensor.clone() for name, tensor in attack.mask_generator.state_dict().items()}
    stage.loss(make_batch(), 0.0).total.backward()  # type: ignore[no-untyped-call]
    assert set(stage.recipes) == {"classifier", "pattern_generator"}
    for name in stage.recipes:
        assert all(parameter.grad is not None for parameter in attack.modules[name].parameters())
    assert all(parameter.grad is None for parameter in attack.mask_generator.parameters())
    for name, tensor in attack.mask_generator.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_cross_entropy_reaches_the_pattern_generator_through_the_classifier() -> None:
    attack = make_attack(attack_probability=0.5, cross_probability=0.25, lambda_div=0.0)
    _, stage = stages(attack)
    attack.pattern_generator.train()
    stage.loss(make_batch(), 0.0).total.backward()  # type: ignore[no-untyped-call]
    last = attack.pattern_generator.decoder[-1][-1].convolution.weight  # type: ignore[index, union-attr]
    assert last.grad is not None
    assert float(last.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("progress", "initial", "final", "ramp", "expected"),
    [
        (0.0, None, 0.1, 0.5, 0.1),
        (0.0, 0.4, 0.1, 0.5, 0.4),
        (0.5, 0.4, 0.1, 0.5, 0.4),
        (0.75, 0.4, 0.1, 0.5, 0.25),
        (1.0, 0.4, 0.1, 0.5, 0.1),
        (0.5, 0.0, 0.2, 1.0, 0.1),
    ],
)
def test_probability_at(progress: float, initial: float | None, final: float, ramp: float, expected: float) -> None:
    assert probability_at(progress, initial=initial, final=final, ramp=ramp) == pytest.approx(expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_pixels_of_another_precision_are_refused(precision: torch.dtype) -> None:
    attack = make_attack()
    images = torch.rand(3, *attack.backdoor.shape, dtype=precision)
    with pytest.raises(DataError) as caught:
        attack.backdoor.poison(images, torch.zeros(3, dtype=torch.int64))
    assert str(caught.value) == (
        f"images: expected pixels in the trigger's precision, torch.float64; found {precision}; "
        "convert them with images.to(torch.float64)"
    )
    assert attack.backdoor.trigger(images.double())[0].dtype == torch.float64


def test_a_trigger_is_that_of_the_image_whatever_stands_beside_it() -> None:
    attack = make_attack()
    images = make_batch().images
    masks, patterns = attack.backdoor.trigger(images)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    other_masks, other_patterns = attack.backdoor.trigger(images[order])
    assert torch.allclose(masks[order], other_masks, atol=1e-12)
    assert torch.allclose(patterns[order], other_patterns, atol=1e-12)
    assert float((masks[0] - masks[1]).abs().max()) > 1e-6
