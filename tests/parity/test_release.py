"""Networks, trigger and both stages' losses against values that the authors' release computed, in float64.

Weights and images follow a formula, so that no checkpoint is needed: see the functions below. The figures in
``tests/golden`` are the release's own.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.attacks.encoder_decoder import MaskGenerator, PatternGenerator, build_generators
from inputaware.attacks.input_aware import JointStage, MaskStage
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.fields import ModelConfig, TargetName
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec
from inputaware.models.normalize import Normalize
from inputaware.models.registry import build_classifier

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parents[1] / "golden"
SPECS = {
    "mnist": DatasetSpec(
        name="mnist", shape=(1, 28, 28), classes=10, mean=(0.5,), std=(0.5,), class_names=tuple("0123456789")
    ),
    "cifar10": DatasetSpec(
        name="cifar10",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.243, 0.261),
        class_names=tuple("0123456789"),
    ),
    "gtsrb": DatasetSpec(
        name="gtsrb",
        shape=(3, 32, 32),
        classes=43,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        class_names=tuple(map(str, range(43))),
    ),
}
NETWORKS = ("classifier", "mask_generator", "pattern_generator")

each_dataset = pytest.mark.parametrize("dataset", sorted(SPECS))


class Networks(NamedTuple):
    """The three networks with the formula's weights."""

    classifier: nn.Module
    mask_generator: MaskGenerator
    pattern_generator: PatternGenerator
    normalize: Normalize


@cache
def release() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the release's figures and arrays."""
    with np.load(GOLDEN / "release.npz") as arrays:
        return json.loads((GOLDEN / "release.json").read_text()), dict(arrays)


def value(number: int, shape: tuple[int, ...], scale: float) -> Tensor:
    """Return ``scale * sin(0.7 i + number)``, where i is the flat index modulo 997."""
    return torch.from_numpy(np.resize(scale * np.sin(0.7 * np.arange(997) + number), shape))


def fill(network: nn.Module) -> None:
    """Set every entry of the state dict by the formula; its number counts all entries from 0."""
    for number, (name, entry) in enumerate(network.state_dict().items()):
        shape = tuple(entry.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = 1 + 0.5 * value(number, shape, 1).abs()
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + value(number, shape, 0.2)
        elif len(shape) == 1:
            values = value(number, shape, 0.1)
        else:
            values = value(number, shape, 0.5 * np.sqrt(2 / np.prod(shape[1:])))
        entry.copy_(values)


def images(count: int, shape: tuple[int, ...], number: int) -> Tensor:
    """Return images ``0.5 + 0.5 sin(0.37 i (1 + 0.01 number) + number)``."""
    pixels = 0.5 + 0.5 * np.sin(0.37 * np.arange(997) * (1 + 0.01 * number) + number)
    return torch.from_numpy(np.resize(pixels, (count, *shape)))


def build(dataset: str) -> Networks:
    """Return the networks of a data set in float64 and in evaluation mode, without dropout."""
    spec = SPECS[dataset]
    classifier = build_classifier(ModelConfig(hidden_units=512, dropout=0.0), spec)
    networks = Networks(classifier, *build_generators(spec), Normalize(spec.mean, spec.std))
    for network in networks:
        fill(network.double().eval())
    return networks


def check(found: Tensor | list[float], expected: Any) -> None:
    """Compare with ``|a - b| <= 1e-9 max(1, |b|)``."""
    actual = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
    wanted = np.asarray(expected)
    assert actual.shape == wanted.shape
    assert np.all(np.abs(actual - wanted) <= 1e-9 * np.maximum(1, np.abs(wanted)))


def gradient_norms(network: nn.Module) -> list[float]:
    """Return the norm of each parameter's gradient in ``named_parameters()`` order."""
    gradients = [parameter.grad for parameter in network.parameters()]
    return [float(gradient.norm()) for gradient in gradients if gradient is not None]


def running_norms(network: nn.Module) -> list[float]:
    """Return the norm of each running statistic in ``named_buffers()`` order."""
    return [float(entry.norm()) for name, entry in network.named_buffers() if "running" in name]


@each_dataset
@pytest.mark.parametrize("network", NETWORKS)
def test_state_dict_has_the_shapes_of_the_release_in_order(dataset: str, network: str) -> None:
    found = getattr(build(dataset), network).state_dict()
    expected = release()[0][dataset][network]
    assert [list(entry.shape) for entry in found.values()] == [shape for _, shape in expected]
    # With the kind (weight, bias, running_mean, ...) in order too, weights can be copied by position.
    assert [name.split(".")[-1] for name in found] == [name.split(".")[-1] for name, _ in expected]


@each_dataset
def test_outputs_in_evaluation_mode_are_those_of_the_release(dataset: str) -> None:
    classifier, mask_generator, pattern_generator, normalize = build(dataset)
    arrays = release()[1]
    own, partners = (images(4, SPECS[dataset].shape, number) for number in (1, 2))
    with torch.no_grad():
        mask, pattern = mask_generator(own), pattern_generator(own)
        backdoor = apply_trigger(own, mask, pattern)
        cross = apply_trigger(own, mask_generator(partners), pattern_generator(partners))
        found = {
            "raw_pattern": pattern,
            "mask": mask,
            "backdoor_normalised": normalize(backdoor),
            "cross_normalised": normalize(cross),
            "logits_clean": classifier(own),
            "logits_backdoor": classifier(backdoor),
            "logits_cross": classifier(cross),
        }
    assert {f"{dataset}/{name}" for name in found} == {name for name in arrays if name.startswith(dataset)}
    for name, values in found.items():
        check(values, arrays[f"{dataset}/{name}"])


@each_dataset
def test_mask_stage_has_the_losses_and_gradients_of_the_release(dataset: str) -> None:
    networks = build(dataset)
    networks.mask_generator.train()
    expected = release()[0][dataset]["stage1"]
    own, partners = (images(4, SPECS[dataset].shape, number) for number in (1, 2))
    config = preset_config("official", dataset=dataset)
    stage = MaskStage(networks.mask_generator, networks.normalize, config.mask_stage)
    found = stage.loss(Batch(own, torch.zeros(4, dtype=torch.int64), partners), 0.0)
    found.total.backward()
    for name, part in {**found.parts, "total": found.total}.items():
        check(part, expected[name])
    assert set(found.parts) == {"norm", "diversity"}
    check(gradient_norms(networks.mask_generator), expected["grad_l2"])


@pytest.mark.parametrize("target", get_args(TargetName))
@each_dataset
def test_joint_stage_has_the_losses_gradients_and_statistics_of_the_release(dataset: str, target: TargetName) -> None:
    networks = build(dataset)
    networks.classifier.train()
    networks.pattern_generator.train()
    expected = release()[0][dataset][f"stage2/{target}"]
    own, partners = (images(8, SPECS[dataset].shape, number) for number in (3, 4))
    # Of eight images two are attacked, two crossed and four clean.
    shares = {"attack_probability": 0.25, "cross_probability": 0.25}
    config = preset_config("official", dataset=dataset, target=target, target_class=0, joint_stage=shares)
    stage = JointStage(networks.classifier, networks.mask_generator, networks.pattern_generator, SPECS[dataset], config)
    found = stage.loss(Batch(own, torch.arange(8), partners), 0.0)
    found.total.backward()
    for name, part in {**found.parts, "total": found.total}.items():
        check(part, expected[name])
    assert set(found.parts) == {"cross_entropy", "diversity"}
    for name in ("classifier", "pattern_generator"):
        check(gradient_norms(getattr(networks, name)), expected[f"grad_l2_{name}"])
        check(running_norms(getattr(networks, name)), expected[f"running_l2_{name}"])
    assert all(parameter.grad is None for parameter in networks.mask_generator.parameters())
