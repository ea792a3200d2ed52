"""Every trigger on every image, against the blend by hand; and which images take part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.inspection.cross_trigger import choose_of_each, cross_triggers

SHAPE = (3, 2, 2)


class Own(Backdoor):
    """Mask and pattern are the image's own mean and its negative."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.mean(1, keepdim=True), 1 - images


def test_rows_are_triggers_and_columns_images() -> None:
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    backdoor = Own(shape=SHAPE, classes=2, target="all-to-one", target_class=0)
    found = cross_triggers(backdoor, images)
    assert found.shape == (4, 4, *SHAPE)
    for row in range(4):
        for column in range(4):
            mask, pattern, image = images[row].double().mean(0), 1 - images[row].double(), images[column].double()
            expected = image + (pattern - image) * mask
            torch.testing.assert_close(found[row, column].double(), expected, rtol=0, atol=1e-6)
    own = backdoor.poison(images, torch.zeros(4, dtype=torch.int64)).images
    torch.testing.assert_close(found[range(4), range(4)], own, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "most", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], 10, [0, 2, 4]),
        ([3], 10, [0]),
        ([*range(43)], 4, [0, 14, 28, 42]),
        ([0, 0, 0, 4, 4, 9], 2, [0, 5]),
    ],
)
def test_one_image_of_a_class_takes_part(labels: list[int], most: int, expected: list[int]) -> None:
    assert choose_of_each(torch.tensor(labels), most).tolist() == expected
