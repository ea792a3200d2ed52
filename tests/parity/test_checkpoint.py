"""A checkpoint that the authors' release wrote, evaluated with our networks, against the release's scores."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inputaware.attacks.encoder_decoder import build_generators
from inputaware.attacks.targets import target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.config import ModelConfig
from inputaware.data.cache import load_images
from inputaware.models.registry import build_classifier

NAME = "all2one_mnist_ckpt"
BATCH = 100

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("INPUTAWARE_GOLDEN" not in os.environ, reason="INPUTAWARE_GOLDEN is not set"),
    pytest.mark.skipif("INPUTAWARE_DATA" not in os.environ, reason="INPUTAWARE_DATA is not set"),
]


def copy_by_order(weights: dict[str, Tensor], network: nn.Module) -> None:
    """Copy a release's state dict into ours: the entries' order is the same, the names are not."""
    names = network.state_dict().keys()
    network.load_state_dict(dict(zip(names, weights.values(), strict=True)))


def in_batches(network: nn.Module, images: Tensor) -> Tensor:
    """Return a network's output for many images."""
    return torch.cat([network(batch) for batch in images.split(BATCH)])


@torch.no_grad()
def test_checkpoint_of_the_release_scores_as_in_the_release() -> None:
    folder = Path(os.environ["INPUTAWARE_GOLDEN"])
    expected: dict[str, float] = json.loads((folder / f"{NAME}.json").read_text())
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint: dict[str, Any] = torch.load(folder / f"{NAME}.pth.tar", map_location="cpu", weights_only=True)
    test = load_images("mnist", "test")
    classifier = build_classifier(ModelConfig(hidden_units=512), test.spec)
    mask_generator, pattern_generator = build_generators(test.spec)
    # Pattern and mask generator have the same shapes on MNIST: a swap would load, and score differently.
    for network, key in ((classifier, "netC"), (pattern_generator, "netG"), (mask_generator, "netM")):
        copy_by_order(checkpoint[key], network.eval())

    images, labels = test.images.float() / 255, test.labels
    masks = in_batches(mask_generator, images)
    patterns = in_batches(pattern_generator, images)
    predictions = {
        "clean": in_batches(classifier, images).argmax(1),
        "attack": in_batches(classifier, apply_trigger(images, masks, patterns)).argmax(1),
        "cross": in_batches(classifier, apply_trigger(images, masks.roll(-1, 0), patterns.roll(-1, 0))).argmax(1),
    }
    targets = target_labels(labels, "all-to-one", 10, 0)
    others = labels != targets
    attacked, robust = predictions["attack"] == targets, predictions["attack"] == labels
    counted = {
        "clean_accuracy": predictions["clean"] == labels,
        "attack_success_rate": attacked,
        "attack_success_rate_excluding_target": attacked[others],
        "robust_accuracy": robust,
        "robust_accuracy_excluding_target": robust[others],
        "cross_accuracy_partner_is_next_image": predictions["cross"] == labels,
    }
    for name, right in counted.items():
        # Two of 10,000 images, with room for the float32 in which the rates were written down.
        assert right.double().mean().item() == pytest.approx(expected[name], abs=2.01e-4), name
    assert masks.double().mean().item() == pytest.approx(expected["mask_mean"], abs=1e-6)
