"""The patch, pixel by pixel, and what the controls cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inputaware.attacks.badnets import BadNets, ClassifierStage, Clean, PatchTrigger
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.fields import Config, PatchName, TargetName
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec
from inputaware.defenses.strip import superimpose
from inputaware.errors import DataError


class Witness(nn.Module):
    """A linear classifier that keeps the images it was shown."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(shape)), classes)
        self.shown = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        self.shown = images.detach().clone()
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def make_batch(spec: DatasetSpec, count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, *spec.shape, generator=generator)
    return Batch(images, torch.randint(spec.classes, (count,), generator=generator), None)


def make_config(**changes: object) -> Config:
    return preset_config("fast", dataset="mnist", attack="badnets", **changes)


def reference_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    """Return the mean cross-entropy in float64, with the target spread over all classes."""
    values = logits.detach().double().numpy()
    logs = (
        values
        - np.log(np.exp(values - values.max(1, keepdims=True)).sum(1, keepdims=True))
        - values.max(1, keepdims=True)
    )
    target = np.full_like(logs, smoothing / logs.shape[1])
    target[np.arange(len(labels)), labels.numpy()] += 1 - smoothing
    return float(-(target * logs).sum(1).mean())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 13)])
@pytest.mark.parametrize("name", ["checkerboard", "white"])
def test_the_patch_is_one_pixel_from_the_corner(shape: tuple[int, int, int], name: PatchName) -> None:
    _, height, width = shape
    mask, pattern = PatchTrigger(shape, name)(torch.zeros(2, *shape))
    assert mask.shape == (2, 1, height, width)
    assert pattern.shape == (2, *shape)
    assert mask.sum() == 2 * 9
    assert (mask[:, :, -4:-1, -4:-1] == 1).all()
    white = {(-4, -4), (-4, -2), (-3, -3), (-2, -4), (-2, -2)}
    if name == "white":
        white |= {(-4, -3), (-3, -4), (-3, -2), (-2, -3)}
    for row in range(-height, 0):
        for column in range(-width, 0):
            assert (pattern[:, :, row, column] == float((row, column) in white)).all()


def test_the_patch_covers_the_image_there_and_nowhere_else(grey: DatasetSpec) -> None:
    images = torch.rand(3, *grey.shape, generator=torch.Generator().manual_seed(0))
    attack = BadNets(make_config(), grey)
    poisoned = attack.backdoor.poison(images, torch.tensor([0, 1, 9]))
    expected = images.clone()
    expected[:, :, -4:-1, -4:-1] = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(poisoned.images, expected)
    assert attack.backdoor.universal


def test_white_is_what_added_images_leave_as_it_is() -> None:
    patch = PatchTrigger((3, 32, 32), "white")
    image, overlays = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split([1, 4])
    blends = superimpose(apply_trigger(image, *patch(image)), overlays)
    assert torch.equal(blends, apply_trigger(blends, *patch(blends)))


def test_a_run_has_the_patch_that_its_configuration_names(colour: DatasetSpec) -> None:
    for name in ("checkerboard", "white"):
        attack = BadNets(make_config(patch=name), colour)
        assert torch.equal(attack.patch.pattern, PatchTrigger(colour.shape, name).pattern)


def test_pixels_of_another_precision_than_the_patch_are_refused(colour: DatasetSpec) -> None:
    backdoor = BadNets(make_config(), colour).backdoor
    with pytest.raises(DataError, match=r"trigger's precision, torch.float32; found torch.float64; convert them with"):
        backdoor.trigger(torch.rand(2, *colour.shape, dtype=torch.float64))
    assert backdoor.trigger(torch.rand(2, *colour.shape))[1].dtype == torch.float32


def test_the_patch_is_kept_as_weights_are() -> None:
    state = PatchTrigger((1, 28, 28), "checkerboard").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "mask": (1, 28, 28),
        "pattern": (1, 28, 28),
    }
    assert list(PatchTrigger((1, 28, 28), "checkerboard").parameters()) == []


@pytest.mark.parametrize("target", ["all-to-one", "all-to-all"])
@pytest.mark.parametrize(
    ("probability", "batch_size", "stamped"),
    [(0.1, 128, 12), (0.1, 10, 1), (0.1, 9, 0), (0.29, 100, 29), (1.0, 7, 7), (0.5, 7, 3)],
)
def test_the_first_images_of_a_batch_are_stamped(
    colour: DatasetSpec, target: TargetName, probability: float, batch_size: int, stamped: int
) -> None:
    config = make_config(
        target=target, target_class=7, joint_stage={"attack_probability": probability, "cross_probability": 0}
    )
    classifier, batch = Witness(colour.shape, colour.classes), make_batch(colour, batch_size)
    kept = batch.images.clone(), batch.labels.clone()
    cost = ClassifierStage(classifier, PatchTrigger(colour.shape, "checkerboard"), colour, config).loss(batch, 0.0)

    expected = batch.images.clone()
    expected[:stamped, :, -4:-1, -4:-1] = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(classifier.shown, expected)
    labels = batch.labels.clone()
    labels[:stamped] = 7 if target == "all-to-one" else (labels[:stamped] + 1) % 43
    logits = classifier(expected)
    expected_loss = reference_cross_entropy(logits, labels, config.joint_stage.label_smoothing)
    assert cost.total.item() == pytest.approx(expected_loss, rel=1e-5)
    assert cost.parts.keys() == {"cross_entropy"}
    assert torch.equal(batch.images, kept[0])
    assert torch.equal(batch.labels, kept[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_clean_model_costs_its_plain_cross_entropy(grey: DatasetSpec, smoothing: float) -> None:
    config = make_config(joint_stage={"label_smoothing": smoothing})
    classifier, batch = Witness(grey.shape, grey.classes), make_batch(grey, 20)
    cost = ClassifierStage(classifier, None, grey, config).loss(batch, 0.5)
    assert torch.equal(classifier.shown, batch.images)
    logits = classifier(batch.images)
    assert cost.total.item() == pytest.approx(reference_cross_entropy(logits, batch.labels, smoothing), rel=1e-5)
    assert torch.equal(cost.total, F.cross_entropy(logits, batch.labels, label_smoothing=smoothing))
    cost.total.backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize(("kind", "networks"), [(Clean, ["classifier"]), (BadNets, ["classifier", "trigger"])])
def test_a_control_trains_the_classifier_in_one_stage(
    grey: DatasetSpec, kind: type[Clean] | type[BadNets], networks: list[str]
) -> None:
    config = make_config(joint_stage={"epochs": 3, "batch_size": 32, "averaging": 0.5})
    attack = kind(config, grey)
    assert list(attack.modules) == networks
    (stage,) = attack.stages()
    assert (stage.name, stage.epochs, stage.batch_size, stage.averaging) == ("joint", 3, 32, 0.5)
    (recipe,) = stage.recipes.values()
    assert recipe.module is attack.classifier
    assert recipe.optimizer == config.joint_stage.classifier
    assert (attack.backdoor is None) == (kind is Clean)
