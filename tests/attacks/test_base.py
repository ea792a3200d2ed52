"""What every backdoor does with images: checks, chunks, blends, labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.fields import TargetName
from inputaware.errors import ConfigError, DataError


class Shade(Backdoor):
    """Covers each image with its own brightness, half transparent."""

    def __init__(self, target: TargetName = "all-to-one") -> None:
        super().__init__(shape=(2, 3, 4), classes=5, target=target, target_class=2)
        self.chunks: list[int] = []
        self.gradients: list[bool] = []

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.chunks.append(len(images))
        self.gradients.append(torch.is_grad_enabled())
        return torch.full_like(images[:, :1], 0.5), images.mean((1, 2, 3), keepdim=True).expand_as(images)


def make_images(count: int) -> Tensor:
    return torch.rand(count, 2, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("count", "chunks"), [(1, [1]), (128, [128]), (129, [128, 1]), (300, [128, 128, 44])])
def test_triggers_are_made_in_chunks_without_gradients(count: int, chunks: list[int]) -> None:
    backdoor, images = Shade(), make_images(count)
    masks, patterns = backdoor.trigger(images)
    assert backdoor.chunks == chunks
    assert not any(backdoor.gradients)
    assert masks.shape == (count, 1, 3, 4)
    assert torch.equal(patterns[:, 0, 0, 0], images.mean((1, 2, 3)))


@pytest.mark.parametrize(("target", "wanted"), [("all-to-one", [2, 2, 2, 2, 2]), ("all-to-all", [1, 2, 3, 4, 0])])
def test_poisoned_images_and_their_labels(target: TargetName, wanted: list[int]) -> None:
    images = make_images(5)
    poisoned = Shade(target).poison(images, torch.arange(5))
    mean = images.double().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(poisoned.images.double(), (images.double() + mean) / 2, atol=1e-6)
    assert poisoned.targets.tolist() == wanted
    assert torch.equal(poisoned.masks, torch.full((5, 1, 3, 4), 0.5))


@pytest.mark.parametrize(
    ("shape", "found"),
    [((5, 1, 3, 4), "(5, 1, 3, 4)"), ((5, 2, 4, 3), "(5, 2, 4, 3)"), ((5, 2, 3, 5), "(5, 2, 3, 5)")],
)
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], found: str) -> None:
    with pytest.raises(DataError) as caught:
        Shade().trigger(torch.zeros(shape))
    assert str(caught.value) == f"images: expected a tensor of shape (batch, 2, 3, 4); found {found}"


@pytest.mark.parametrize("shape", [(4,), (3, 1)])
def test_labels_that_do_not_match_the_images_are_refused(shape: tuple[int, ...], unchecked: None) -> None:
    with pytest.raises(DataError) as caught:
        Shade().poison(make_images(3), torch.zeros(shape, dtype=torch.int64))
    assert str(caught.value) == (f"labels: expected a tensor of shape (3,), a class for each image; found {shape}")


def test_black_and_white_bytes_are_no_pixels(unchecked: None) -> None:
    with pytest.raises(DataError) as caught:
        Shade().trigger(make_images(3).round().to(torch.uint8))
    assert str(caught.value) == (
        "images: expected pixels in [0, 1] as floating-point numbers; found torch.uint8; divide bytes by 255"
    )


def test_poisoned_images_have_no_gradient_and_those_of_a_trigger_made_by_hand_have_the_whole_one() -> None:
    images = make_images(3).requires_grad_()
    assert not Shade().poison(images, torch.arange(3)).images.requires_grad
    mask, pattern = Shade().make_trigger(images)
    blended = apply_trigger(images, mask, pattern)
    (slope,) = torch.autograd.grad(blended[0, 0, 0, 0], images)
    expected = torch.zeros_like(images)
    expected[0] = 0.5 / 24  # what a pixel adds to the image's brightness, half of which shows
    expected[0, 0, 0, 0] += 0.5
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (255.0, "0 to 255; divide bytes by 255"),
        (-0.5, "-0.5 to 0; divide bytes by 255"),
        (float("nan"), "nan to nan; take out what is no number"),
    ],
)
def test_pixels_that_are_none_are_refused(value: float, found: str) -> None:
    images = torch.zeros(3, 2, 3, 4)
    images[1, 0, 0, 0] = value
    with pytest.raises(DataError) as caught:
        Shade().trigger(images)
    assert str(caught.value) == f"images: expected pixels in [0, 1]; found {found}"


WHITE = torch.ones(3, 2, 3, 4)
WRONG_TRIGGERS = {
    "one mask for all": (
        (WHITE[0, :1], WHITE),
        "masks of shape (3, 1, 3, 4), floating-point numbers; found (1, 3, 4), torch.float32; "
        "return one for each image",
    ),
    "a mask of all channels": (
        (WHITE, WHITE),
        "masks of shape (3, 1, 3, 4), floating-point numbers; found (3, 2, 3, 4), torch.float32; "
        "return one for each image",
    ),
    "bytes": (
        (WHITE[:, :1], WHITE.byte()),
        "patterns of shape (3, 2, 3, 4), floating-point numbers; found (3, 2, 3, 4), torch.uint8; "
        "return one for each image",
    ),
    "numbers of bytes": ((WHITE[:, :1], 255 * WHITE), "patterns in [0, 1]; found 255 to 255; divide bytes by 255"),
}


@pytest.mark.parametrize("case", WRONG_TRIGGERS)
def test_what_is_no_trigger_is_refused(case: str, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    made, message = WRONG_TRIGGERS[case]
    monkeypatch.setattr(Shade, "make_trigger", lambda *given: made)
    with pytest.raises(DataError) as caught:
        Shade().poison(make_images(3), torch.arange(3))
    assert str(caught.value) == f"make_trigger: expected {message}"


def test_what_is_no_tensor_is_refused(unchecked: None) -> None:
    images, labels = make_images(3), torch.arange(3)
    for given, name, found, remedy in (
        ((images.numpy(), labels), "images", "ndarray", "torch.from_numpy(images).float()"),
        ((images.tolist(), labels), "images", "list", "torch.from_numpy(images).float()"),
        ((images, labels.numpy()), "labels", "ndarray", "torch.from_numpy(labels)"),
    ):
        with pytest.raises(DataError) as caught:
            Shade().poison(*given)  # type: ignore[arg-type]
        assert str(caught.value) == f"{name}: expected a tensor; found {found}; for arrays of NumPy take {remedy}"
    with pytest.raises(DataError, match=r"^images: expected a tensor; found ndarray; "):
        Shade().trigger(images.numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [torch.float32, torch.int32, torch.bool])
def test_labels_that_are_no_whole_numbers_are_refused(precision: torch.dtype, unchecked: None) -> None:
    with pytest.raises(DataError) as caught:
        Shade("all-to-all").poison(make_images(3), torch.arange(3).to(precision))
    assert str(caught.value) == (
        f"labels: expected whole numbers of 64 bits, torch.int64; found {precision}; convert them with labels.long()"
    )


@pytest.mark.parametrize("labels", [[0, 1, 5], [-1, 0, 4]])
def test_labels_of_no_class_are_refused(labels: list[int]) -> None:
    with pytest.raises(DataError) as caught:
        Shade().poison(make_images(3), torch.tensor(labels))
    assert str(caught.value) == f"labels: expected classes from 0 to 4; found {labels[0]} to {labels[2]}"


def test_no_images_give_no_triggers() -> None:
    poisoned = Shade().poison(make_images(0), torch.zeros(0, dtype=torch.int64))
    assert poisoned.images.shape == (0, 2, 3, 4)
    assert poisoned.targets.shape == (0,)


WRONG_BACKDOORS: list[tuple[dict[str, object], str]] = [
    (
        {"target": "all_to_one"},
        "target: expected one of all-to-one, all-to-all; found 'all_to_one'; did you mean all-to-one?",
    ),
    ({"target": None}, "target: expected one of all-to-one, all-to-all; found None"),
    ({"target_class": 5}, "target_class: expected a class from 0 to 4; found 5"),
    ({"target_class": -1, "target": "all-to-all"}, "target_class: expected a class from 0 to 4; found -1"),
    ({"target_class": "2"}, "target_class: expected a class from 0 to 4; found '2'"),
    ({"target_class": 2.0}, "target_class: expected a class from 0 to 4; found 2.0"),
    ({"target_class": True}, "target_class: expected a class from 0 to 4; found True"),
    ({"classes": 1}, "classes: expected a whole number of at least 2; found 1"),
    ({"classes": 5.0}, "classes: expected a whole number of at least 2; found 5.0"),
    *(
        (
            {"shape": shape},
            "shape: expected three whole numbers of at least 1, the channels, height and width of an image; "
            f"found {shape!r}",
        )
        for shape in [(28, 28), (1, 28.0, 28), (1, 28, 0), (6, 1, 28, 28), 28, "abc", None]
    ),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_BACKDOORS)
def test_what_is_no_backdoor_is_refused_where_it_is_made(
    wrong: dict[str, object], message: str, unchecked: None
) -> None:
    class Own(Shade):
        def __init__(self, **given: Any) -> None:
            Backdoor.__init__(self, **given)

    given = {"shape": (2, 3, 4), "classes": 5, "target": "all-to-one", "target_class": 2}
    assert Own(**given | {"shape": [2, 3, 4]}).shape == (2, 3, 4)
    with pytest.raises(ConfigError) as caught:
        Own(**given | wrong)
    assert str(caught.value) == message


def test_a_backdoor_that_does_not_say_what_it_is_for_is_told_how() -> None:
    class Own(Shade):
        def __init__(self) -> None:
            self.side = 3

    for use in (
        lambda: Own().trigger(make_images(2)),
        lambda: Own().targets(torch.arange(2)),
        lambda: Own().poison(make_images(2), torch.arange(2)),
    ):
        with pytest.raises(ConfigError) as caught:
            use()
        assert str(caught.value) == (
            "Own: expected a backdoor with its shape; found none; call super().__init__(shape=..., classes=..., "
            "target=..., target_class=...) in its __init__"
        )
