"""The three tests against hand-made classifiers and backdoors whose answers are known."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.config.fields import TargetName
from inputaware.evaluation.evaluate import evaluate, three_accuracies

CLASSES = 4
SHAPE = (1, 12, 12)
ATTACK = ("attack_success_rate", "robust_accuracy")
ATTACK_KEYS = [f"{name}{part}{bits}" for name in ATTACK for part in ("", "_excluding_target") for bits in ("", "_8bit")]
CROSS_KEYS = [f"cross_accuracy{part}{bits}" for part in ("", "_std", "_by_pairing") for bits in ("", "_8bit")]


def step(value: Tensor) -> Tensor:
    """Return which step of 32 of 255 a pixel lies on."""
    return (value * 255 / 32).round().long()


class Reader(nn.Module):
    """Reads the class from the first pixel, or one more where the second pixel is bright.

    A bright second pixel only counts when the third is that of the image's own trigger: equal to the first.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        super().__init__()
        self.threshold = threshold
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training or torch.is_grad_enabled())
        first, second, third = images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 0, 0, 2]
        fires = (second >= self.threshold) & (step(third) == step(first))
        return nn.functional.one_hot((step(first) + fires) % CLASSES, CLASSES).float()


class Copier(Backdoor):
    """Makes the second pixel bright and copies the first pixel of the trigger's image to the third."""

    def __init__(self, target: TargetName = "all-to-all", universal: bool = False, brightness: float = 1.0) -> None:
        super().__init__(shape=SHAPE, classes=CLASSES, target=target, target_class=1)
        self.universal = universal
        self.brightness = brightness
        self.calls = 0
        self.images = 0

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        self.images += len(images)
        masks = torch.zeros_like(images[:, :1])
        masks[:, :, 0, 1:3] = 1
        patterns = torch.zeros_like(images)
        patterns[:, :, 0, 1] = self.brightness
        patterns[:, :, 0, 2] = images[:, :, 0, 0]
        return masks, patterns


def make_images(labels: list[int], shown: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Return images that show classes in their first pixel, and their labels."""
    images = torch.zeros(len(labels), *SHAPE, dtype=torch.uint8)
    images[:, 0, 0, 0] = 32 * torch.tensor(shown or labels, dtype=torch.uint8)
    return images, torch.tensor(labels)


LABELS = [0, 0, 0, 1, 1, 2, 2, 3]
SHOWN = [0, 0, 1, 1, 1, 2, 3, 3]
"""The third and the seventh image look like another class."""


def test_all_to_all() -> None:
    result = evaluate(Reader(), Copier("all-to-all"), *make_images(LABELS, SHOWN), CLASSES)
    # Triggered predictions are one more than what is shown: 1 1 2 2 2 3 0 0, wanted are 1 1 1 2 2 3 3 0.
    expected = {"clean": 6 / 8, "attack": 6 / 8, "robust": 0.0}
    assert result["test_images"] == 8
    assert result["clean_accuracy"] == result["clean_accuracy_8bit"] == expected["clean"]
    for part in ("", "_excluding_target", "_8bit", "_excluding_target_8bit"):
        assert result[f"attack_success_rate{part}"] == expected["attack"]
        assert result[f"robust_accuracy{part}"] == expected["robust"]
    assert result["per_class"] == {
        "images": [3, 2, 2, 1],
        "clean_accuracy": [2 / 3, 1, 0.5, 1],
        "attack_success_rate": [2 / 3, 1, 0.5, 1],
        "robust_accuracy": [0, 0, 0, 0],
        "cross_accuracy": result["per_class"]["cross_accuracy"],
    }


def test_all_to_one_counts_the_target_class_by_both_conventions() -> None:
    result = evaluate(Reader(), Copier("all-to-one"), *make_images(LABELS, SHOWN), CLASSES)
    # Triggered predictions are 1 1 2 2 2 3 0 0, wanted is 1; without the two images of class 1: 1 1 2 3 0 0.
    assert result["attack_success_rate"] == 2 / 8
    assert result["attack_success_rate_excluding_target"] == 2 / 6
    # None is given its true label, of 0 0 0 1 1 2 2 3.
    assert result["robust_accuracy"] == result["robust_accuracy_excluding_target"] == 0
    assert result["per_class"]["attack_success_rate"] == [2 / 3, 0, 0, 0]


def test_robust_accuracy_by_both_conventions() -> None:
    # The trigger is too dark to fire: triggered images are classified as they look.
    result = evaluate(Reader(), Copier("all-to-one", brightness=0.5), *make_images(LABELS, SHOWN), CLASSES)
    assert result["attack_success_rate"] == 3 / 8
    assert result["attack_success_rate_excluding_target"] == 1 / 6
    assert result["robust_accuracy"] == 6 / 8
    assert result["robust_accuracy_excluding_target"] == 4 / 6
    assert result["cross_accuracy"] == 6 / 8
    assert result["cross_accuracy_std"] == 0


def test_images_of_the_target_class_alone_leave_nothing_to_count() -> None:
    result = evaluate(Reader(), Copier("all-to-one"), *make_images([1, 1, 1]), CLASSES)
    assert result["attack_success_rate"] == 0
    assert result["attack_success_rate_excluding_target"] is None
    assert result["robust_accuracy_excluding_target"] is None
    assert result["per_class"]["clean_accuracy"] == [None, 1.0, None, None]


def test_a_cross_trigger_is_that_of_another_image() -> None:
    # Every image is of its own class, so another image's trigger never fires.
    result = evaluate(Reader(), Copier(), *make_images([0, 1, 2, 3]), CLASSES)
    assert result["attack_success_rate"] == 1
    assert result["cross_accuracy"] == 1
    assert result["cross_accuracy_by_pairing"] == [1, 1, 1]
    # All images are alike, so it always fires.
    result = evaluate(Reader(), Copier(), *make_images([2, 2, 2, 2]), CLASSES)
    assert result["cross_accuracy"] == 0


def test_cross_accuracy_is_the_mean_over_pairings() -> None:
    result = evaluate(Reader(), Copier(), *make_images([0] * 20 + [1] * 20), CLASSES)
    rates = result["cross_accuracy_by_pairing"]
    assert len(rates) == 3
    assert len(set(rates)) > 1
    assert result["cross_accuracy"] == pytest.approx(sum(rates) / 3)
    assert result["cross_accuracy_std"] == pytest.approx(np.std(rates, ddof=1))
    assert statistics.fmean(result["per_class"]["cross_accuracy"][:2]) == pytest.approx(result["cross_accuracy"])
    assert result == evaluate(Reader(), Copier(), *make_images([0] * 20 + [1] * 20), CLASSES)


def test_a_trigger_works_on_the_image_that_resembles_its_own() -> None:
    # Each class has two images, which are alike, so that the nearest one's trigger fires and hardly any other does.
    result = evaluate(Reader(), Copier("all-to-one"), *make_images([0, 1, 2, 3] * 2), CLASSES)
    # Predicted 1 2 3 0, wanted is 1, which images of class 1 are already.
    nearest = {"images": 8, "distance": 0, "same_class": 1, "keeps_label": 0, "gets_target": 2 / 6}
    assert result["reuse"]["nearest"] == nearest
    rows = result["reuse"]["by_distance"]
    assert sum(row["pairs"] for row in rows) == 3 * 8
    assert [row["distance"] for row in rows] == sorted(row["distance"] for row in rows)
    assert sum(row["pairs"] * row["keeps_label"] for row in rows) / 24 == pytest.approx(result["cross_accuracy"])
    # Those of one class are the most similar.
    assert rows[0]["keeps_label"] == 0
    assert {row["keeps_label"] for row in rows if row["distance"] > 0.03} == {1}


def test_the_nearest_image_is_sought_among_some(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = torch.tensor([1, 4, 6, 7])
    monkeypatch.setattr("inputaware.evaluation.reuse._COMPARED", 4)
    monkeypatch.setattr("inputaware.evaluation.reuse.subset_indices", lambda labels, indices, count: chosen)
    # Shown are 3 0 3 3, labelled 3 0 1 3: the nearest have places 6, 6, 1 and 1, for of several the first counts, and
    # the trigger of one that looks alike fires.
    images, labels = make_images([0, 3, 2, 1, 0, 2, 1, 3], [1, 3, 1, 1, 0, 1, 3, 3])
    nearest = evaluate(Reader(), Copier("all-to-one"), images, labels, CLASSES)["reuse"]["nearest"]
    # Said is 0 0 0 0, wanted is 1.
    step = 3 * 32 / 255 / 12
    assert nearest == {
        "images": 4,
        "distance": pytest.approx(step / 4),
        "same_class": 1 / 4,
        "keeps_label": 1 / 4,
        "gets_target": 0,
    }
    nearest = evaluate(Reader(), Copier(), images, labels, CLASSES)["reuse"]["nearest"]
    assert nearest["gets_target"] == 2 / 4  # wanted is 0 1 2 0


def test_rounding_to_8_bits_can_stop_a_trigger() -> None:
    # 0.9 lies between 229 and 230 of 255; 229.4 rounds down to 0.898.
    result = evaluate(Reader(229.2 / 255), Copier(brightness=229.4 / 255), *make_images(LABELS), CLASSES)
    assert result["attack_success_rate"] == 1
    assert result["attack_success_rate_8bit"] == 0
    assert result["robust_accuracy"] == 0
    assert result["robust_accuracy_8bit"] == 1
    assert result["cross_accuracy"] < 1
    assert result["cross_accuracy_8bit"] == 1


def test_a_clean_model_has_no_attack() -> None:
    result = evaluate(Reader(), None, *make_images(LABELS, SHOWN), CLASSES)
    assert result["clean_accuracy"] == 6 / 8
    keys = (*ATTACK_KEYS, *CROSS_KEYS, "reuse", "trigger")
    assert {key: result[key] for key in keys} == dict.fromkeys(keys)
    assert set(result["per_class"]) == {"images", "clean_accuracy"}


def test_a_universal_trigger_has_no_cross_test() -> None:
    result = evaluate(Reader(), Copier(universal=True), *make_images(LABELS), CLASSES)
    assert result["attack_success_rate"] == 1
    assert {key: result[key] for key in (*CROSS_KEYS, "reuse")} == dict.fromkeys((*CROSS_KEYS, "reuse"))
    assert "cross_accuracy" not in result["per_class"]


class Mover(Copier):
    """A change of the whole image: what Copier would leave of it, as the pattern, with a mask that covers all."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        masks, patterns = super().make_trigger(images)
        return torch.ones_like(masks), images + (patterns - images) * masks


def test_a_trigger_that_is_the_whole_image_has_no_cross_test() -> None:
    data = make_images(LABELS)
    found = evaluate(Reader(), Mover(), *data, CLASSES)
    assert found["attack_success_rate"] == 1.0
    assert all(found[key] is None for key in CROSS_KEYS)
    assert found["reuse"] is None
    assert "cross_accuracy" not in found["per_class"]
    assert found["trigger"]["mask_area"] == 1.0
    assert found["trigger"]["l2"] == evaluate(Reader(), Copier(), *data, CLASSES)["trigger"]["l2"]
    assert three_accuracies(Reader(), Mover(), *data)["cross_accuracy"] is None
    # A mask that leaves a pixel of one image alone leaves a notion of the other's trigger.
    assert evaluate(Reader(), Copier(), *data, CLASSES)["cross_accuracy"] is not None


def test_images_too_small_for_structural_similarity_are_evaluated() -> None:
    images, labels = make_images(LABELS)
    small = Copier()
    small.shape = (1, 12, 8)
    found = evaluate(Reader(), small, images[..., :8], labels, CLASSES)
    assert found["trigger"]["ssim"] is None
    assert found["attack_success_rate"] == 1.0


def test_a_single_image_has_no_other() -> None:
    result = evaluate(Reader(), Copier(), *make_images([2]), CLASSES)
    assert result["attack_success_rate"] == 1
    assert result["cross_accuracy"] is None
    assert result["cross_accuracy_by_pairing"] is None
    assert result["reuse"] is None
    assert result["trigger"]["mask_distance"] is None


def test_every_answer_has_the_same_entries() -> None:
    images = make_images(LABELS)
    keys = [
        list(evaluate(Reader(), backdoor, *images, CLASSES)) for backdoor in (None, Copier(), Copier(universal=True))
    ]
    assert keys[0] == keys[1] == keys[2]
    assert {*ATTACK_KEYS, *CROSS_KEYS} < set(keys[0])


@pytest.mark.parametrize("target", ["all-to-one", "all-to-all"])
def test_the_order_of_images_does_not_matter(target: TargetName) -> None:
    images, labels = make_images(LABELS * 5, SHOWN * 5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    first = evaluate(Reader(), Copier(target), images, labels, CLASSES)
    second = evaluate(Reader(), Copier(target), images[order], labels[order], CLASSES)
    for key in ("clean_accuracy", *ATTACK_KEYS):
        assert first[key] == second[key], key
    for key in ("mask_area", "l2", "psnr_db", "ssim"):
        assert first["trigger"][key] == pytest.approx(second["trigger"][key], rel=1e-5)


def test_each_trigger_is_made_once() -> None:
    backdoor = Copier()
    evaluate(Reader(), backdoor, *make_images(LABELS * 100), CLASSES)
    assert (backdoor.images, backdoor.calls) == (800, math.ceil(800 / 128))


def test_the_size_of_the_trigger() -> None:
    images, labels = make_images([0, 1, 2, 3])
    size = evaluate(Reader(), Copier(), images, labels, CLASSES)["trigger"]
    pixels = 12 * 12
    thirds = np.array([0, 32, 64, 96]) / 255
    squares = 1 + thirds**2
    assert size["mask_area"] == pytest.approx(2 / pixels)
    assert size["mask_distance"] == 0
    assert size["l2"] == pytest.approx(np.mean(np.sqrt(squares)), rel=1e-5)
    assert size["psnr_db"] == pytest.approx(np.mean([-10 * math.log10(s / pixels) for s in squares]), rel=1e-5)
    # Partners differ by one to three steps in one pixel.
    assert 32 / 255 / 12 <= size["pattern_distance"] <= 96 / 255 / 12
    assert 0 < size["ssim"] < 1


@pytest.mark.parametrize("universal", [None, True, False])
def test_progress_rises_to_one(universal: bool | None) -> None:
    told: list[float] = []
    backdoor = None if universal is None else Copier(universal=universal)
    evaluate(Reader(), backdoor, *make_images(LABELS), CLASSES, progress=told.append)
    assert told == sorted(told)
    if universal is not False:
        assert told == ([1, 1] if backdoor is None else [0.25, 0.5, 0.75, 1, 1])
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("backdoor", "expected"),
    [
        (None, {"clean_accuracy": 0.75, "attack_success_rate": None, "cross_accuracy": None}),
        (Copier(universal=True), {"clean_accuracy": 0.75, "attack_success_rate": 0.75, "cross_accuracy": None}),
        # Too dark to fire; the two images that look like the next class pass for successes.
        (Copier(brightness=0.5), {"clean_accuracy": 0.75, "attack_success_rate": 0.25, "cross_accuracy": 0.75}),
    ],
)
def test_what_is_watched_during_training(backdoor: Backdoor | None, expected: dict[str, Any]) -> None:
    assert three_accuracies(Reader(), backdoor, *make_images(LABELS, SHOWN)) == expected


def test_what_is_watched_agrees_with_the_first_pairing() -> None:
    images = make_images([0] * 20 + [1] * 20)
    watched = three_accuracies(Reader(), Copier(), *images)
    assert watched["cross_accuracy"] == evaluate(Reader(), Copier(), *images, CLASSES)["cross_accuracy_by_pairing"][0]


def test_a_single_image_is_watched_without_cross_test() -> None:
    assert three_accuracies(Reader(), Copier(), *make_images([2]))["cross_accuracy"] is None
