"""A checkpoint that the authors' release wrote, evaluated with our networks, against the release's scores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inputaware.api import Run, import_official
from inputaware.attacks.input_aware import InputAwareBackdoor
from inputaware.attacks.targets import target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.data.cache import load_images

NAME = "all2one_mnist_ckpt"
BATCH = 100

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("INPUTAWARE_GOLDEN" not in os.environ, reason="INPUTAWARE_GOLDEN is not set"),
    pytest.mark.usefixtures("real_data"),
]


def in_batches(network: nn.Module, images: Tensor) -> Tensor:
    """Return a network's output for many images."""
    return torch.cat([network(batch) for batch in images.split(BATCH)])


@torch.no_grad()
def test_checkpoint_of_the_release_scores_as_in_the_release(tmp_path: Path) -> None:
    folder = Path(os.environ["INPUTAWARE_GOLDEN"])
    expected: dict[str, float] = json.loads((folder / f"{NAME}.json").read_text())
    # Pattern and mask generator have the same shapes on MNIST: a swap would load, and score differently.
    official = import_official(folder / f"{NAME}.pth.tar", tmp_path / "run")
    assert official.epoch == expected["epoch"]
    run = Run.load(tmp_path / "run", device="cpu")
    assert isinstance(run.backdoor, InputAwareBackdoor)
    classifier = run.classifier
    mask_generator, pattern_generator = run.backdoor.mask_generator, run.backdoor.pattern_generator
    test = load_images("mnist", "test")
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
