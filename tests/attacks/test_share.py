"""A process's share: even, complete, and without overlap; what several processes compute is tested with training."""

from __future__ import annotations

import pytest
import torch

from inputaware.attacks.share import WHOLE, Share
from inputaware.errors import TrainingError


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 6, 7, 128])
def test_parts_are_even_and_complete(count: int, size: int) -> None:
    values = torch.arange(size)
    parts = [Share(rank, count).mine(values) for rank in range(count)]
    assert torch.equal(torch.cat(parts), values)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_weighed_means_of_all_parts_add_up_to_the_mean() -> None:
    values = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [(Share(rank, 4), Share(rank, 4).mine(values)) for rank in range(4)]
    total = sum(share.weigh(part.mean(), len(part), len(values)) for share, part in parts)
    torch.testing.assert_close(total, values.mean(), rtol=1e-12, atol=0)


def test_alone_everything_stays_as_it_is() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert WHOLE.mine(images) is images
    assert WHOLE.weigh(images.mean(), 3, 3) == images.mean()
    assert torch.equal(WHOLE.apply(lambda values: 2 * values, images), 2 * images)


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(TrainingError) as error:
        Share(0, 4).apply(lambda values: values, torch.rand(3, 1, 4, 4))
    assert str(error.value) == (
        "processes: expected at least one image for each of the 4 processes in a part of a batch that has triggers; "
        "found 3 images; take larger batches or fewer processes"
    )
