"""What is measured on a network that is known to look at the trigger."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.inspection.inspect import Inspection, inspect_classifier

SHAPE = (1, 8, 8)


class Corner(nn.Module):
    """Class 1 where the lower right corner is bright, else class 0: it looks nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        corner = self.layer(images - 0.25)[:, :, 6:, 6:]
        logits: Tensor = corner.mean((2, 3)) * 10
        return logits


class BrightCorner(Backdoor):
    universal = True

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[:, :, 6:, 6:] = 1
        return mask, torch.ones_like(images)


def data() -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 50, (12, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return images, torch.zeros(12, dtype=torch.int64)


def inspected(backdoor: Backdoor | None, **options: int):
    classifier = Corner()
    return inspect_classifier(classifier, classifier.layer, backdoor, *data(), ("dark", "bright"), **options)


def test_heat_lies_where_the_network_looks() -> None:
    backdoor = BrightCorner(shape=SHAPE, classes=2, target="all-to-one", target_class=1)
    found = inspected(backdoor, each=3)
    numbers = found.record["heat_on_trigger"]
    # On a black image with a white corner the weights are the same everywhere, and so is the map's sign.
    assert numbers["images"] == 12
    assert (numbers["mask_area"], numbers["without_mask"]) == (4 / 64, 0)
    assert numbers["backdoor"]["heat_share"] == 1
    assert numbers["backdoor"]["concentration"] == 16
    assert numbers["backdoor"]["auroc"] == 1
    assert numbers["clean"]["heat_share"] < 0.2
    assert numbers["clean"]["without_heat"] == 0
    for row in found.record["samples"]:
        assert (row["label"], row["class"], row["target"]) == (0, "dark", 1)
        assert row["clean"]["class"] == "dark"
        assert row["backdoor"]["prediction"] == 1
        assert row["backdoor"]["probability"] > 0.99
    assert found.record["feature_map"] == [8, 8]
    assert set(found.pictures) == {"gallery", "grad_cam"}
    assert len(found.grad_cam["backdoor_auroc"]) == 12
    json.dumps(found.record, allow_nan=False)


class HalfBright(Backdoor):
    """Half of a white pattern in the upper rows."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[:, :, :2] = 0.5
        return mask, torch.ones_like(images)


def test_a_gallery_holds_what_was_applied() -> None:
    gallery = inspected(HalfBright(shape=SHAPE, classes=2, target="all-to-all", target_class=0), each=3).gallery
    clean = data()[0].numpy()[gallery["index"]] / 255
    expected = clean.copy()
    expected[:, :, :2] = clean[:, :, :2] / 2 + 0.5
    for name, values in (("image", clean), ("poisoned", expected), ("residual", expected - clean)):
        np.testing.assert_allclose(gallery[name], values, rtol=0, atol=1e-6)
    assert not gallery["residual"][:, :, 2:].any()
    assert (gallery["mask"][:, :, :2] == 0.5).all()
    assert not gallery["mask"][:, :, 2:].any()
    assert (gallery["pattern"] == 1).all()
    assert gallery["target"].tolist() == [1, 1, 1]


class Uneven(Backdoor):
    """Masks by the image's first pixel: of no pixel, of all, or of the corner."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first = (images[:, 0, 0, 0] * 255).round()
        mask = torch.full((len(images), 1, *SHAPE[1:]), 0.5)
        mask[:, :, 6:, 6:] = torch.where(first == 0, 0.5, 0.75)[:, None, None, None]
        mask[first == 2] = 0.75
        return mask, torch.ones_like(images)


def test_images_whose_mask_has_no_edge_are_counted() -> None:
    images = data()[0]
    images[:, 0, 0, 0] = torch.tensor([0, 0, 0, 2, 2, *[1] * 7])
    backdoor = Uneven(shape=SHAPE, classes=2, target="all-to-one", target_class=1)
    classifier = Corner()
    found = inspect_classifier(classifier, classifier.layer, backdoor, images, data()[1], ("dark", "bright"))
    assert found.record["heat_on_trigger"]["without_mask"] == 5
    for kind in ("backdoor", "clean"):
        assert np.isnan(found.grad_cam[f"{kind}_auroc"]).sum() == 5


def test_the_seed_decides_which_images_are_shown() -> None:
    one, same, other = (inspected(None, each=4, seed=seed) for seed in (0, 0, 1))
    assert one.record == same.record
    assert all(np.array_equal(one.gallery[name], same.gallery[name]) for name in one.gallery)
    assert one.gallery["index"].tolist() != other.gallery["index"].tolist()


def test_a_clean_model_has_heat_maps_of_clean_images_only() -> None:
    heard: list[float] = []
    classifier = Corner()
    found = inspect_classifier(classifier, classifier.layer, None, *data(), ("dark", "bright"), progress=heard.append)
    assert found.record["heat_on_trigger"] is None
    assert found.record["samples"][0]["backdoor"] is None
    assert found.record["samples"][0]["target"] is None
    assert set(found.grad_cam) == {"index", "label", "clean"}
    assert set(found.gallery) == {"index", "label", "image", "clean_probabilities"}
    assert found.cross_trigger is None
    assert found.record["cross_trigger"] is None
    assert heard[-1] == 1


class OwnCorner(Backdoor):
    """Brightens the corner on one row only, which it takes from the image's first pixel."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[images[:, 0, 0, 0] > 0.5, :, 6:, 6:] = 1
        return mask, torch.ones_like(images)


def test_each_trigger_is_laid_over_each_image() -> None:
    images = torch.zeros(4, *SHAPE, dtype=torch.uint8)
    images[2:, 0, 0, 0] = 255
    images[1, 0, 6:, 6:] = 255  # of class 1 by its own
    labels = torch.tensor([0, 1, 2, 3])
    classifier = Corner()
    backdoor = OwnCorner(shape=SHAPE, classes=4, target="all-to-one", target_class=1)
    found = inspect_classifier(classifier, classifier.layer, backdoor, images, labels, ("a", "b", "c", "d"))
    assert found.cross_trigger is not None
    order = found.cross_trigger["label"]
    assert order.tolist() == [0, 1, 2, 3]
    predicted = found.cross_trigger["probabilities"].argmax(2)
    # Triggers 2 and 3 work on every image, 0 and 1 on none; image 1 is of the wanted class anyway.
    assert predicted.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert found.record["cross_trigger"] == {
        "images": 4,
        "own_trigger_gets_target": 2 / 3,  # of images 0, 2 and 3
        "other_trigger_gets_target": 4 / 9,
        "other_trigger_keeps_label": (1 + 3) / 12,  # images 0 and 1 where no trigger works, and 1 under any
    }


def test_named_images_are_shown_in_their_order_whatever_their_class() -> None:
    images = torch.zeros(14, *SHAPE, dtype=torch.uint8)
    images[:, 0, 0, 0] = 255
    labels = torch.tensor([0] * 13 + [2])
    classifier = Corner()
    backdoor = OwnCorner(shape=SHAPE, classes=3, target="all-to-one", target_class=1)

    def named(indices: list[int]) -> Inspection:
        names = ("a", "b", "c")
        return inspect_classifier(classifier, classifier.layer, backdoor, images, labels, names, indices=indices)

    mixed = named([13, 4, 2])
    assert (mixed.record["indices"], mixed.record["images_of_each_class"]) == ([13, 4, 2], None)
    assert [(row["index"], row["class"]) for row in mixed.record["samples"]] == [(13, "c"), (4, "a"), (2, "a")]
    for arrays in (mixed.gallery, mixed.grad_cam, mixed.cross_trigger):
        assert arrays is not None
        assert (arrays["index"].tolist(), arrays["label"].tolist()) == ([13, 4, 2], [2, 0, 0])
    # The numbers are of the test set, whichever images are shown.
    assert mixed.record["heat_on_trigger"] == inspected_numbers(classifier, backdoor, images, labels)

    many = named([12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])  # of one class
    assert len(many.gallery["image"]) == 12
    assert many.cross_trigger is not None
    assert many.cross_trigger["index"].tolist() == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
    assert many.cross_trigger["poisoned"].shape == (10, 10, *SHAPE)
    assert many.record["cross_trigger"]["other_trigger_gets_target"] == 1

    one = named([5])
    assert one.cross_trigger is not None
    assert one.cross_trigger["probabilities"].shape == (1, 1, 2)
    assert one.record["cross_trigger"] == {
        "images": 1,
        "own_trigger_gets_target": 1,
        "other_trigger_gets_target": None,  # there is no other one
        "other_trigger_keeps_label": None,
    }


def inspected_numbers(classifier: Corner, backdoor: Backdoor, images: Tensor, labels: Tensor) -> Any:
    found = inspect_classifier(classifier, classifier.layer, backdoor, images, labels, ("a", "b", "c"))
    assert (found.record["indices"], found.record["images_of_each_class"]) == (None, 1)
    return found.record["heat_on_trigger"]
