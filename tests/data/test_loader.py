import pytest
import torch

from inputaware.config.fields import AugmentationConfig
from inputaware.data.loader import Loader, derangement, in_chunks
from inputaware.errors import ConfigError

PLAIN = AugmentationConfig(crop_padding=0)
RICH = AugmentationConfig(rotation_degrees=10.0, horizontal_flip=True)


def loader_of(count=50, *, batch_size=8, augmentation=PLAIN, partners="derangement", seed=0):
    """Serve images whose every pixel is the image's number; the label is the number as well."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    return Loader(
        images, numbers, batch_size=batch_size, augmentation=augmentation, partners=partners, generator=generator
    )


def numbers_of(images):
    numbers = (images * 255).round().long()
    assert bool((numbers == numbers[:, :1, :1, :1]).all())
    return numbers[:, 0, 0, 0]


def test_an_epoch_serves_each_image_once_in_a_random_order_and_drops_the_rest():
    loader = loader_of()
    epochs = [torch.cat([batch.labels for batch in loader]) for _ in range(2)]
    assert len(loader) == 6
    for order in epochs:
        assert len(order) == len(order.unique()) == 48
        assert not torch.equal(order, order.sort().values)
    assert not torch.equal(*epochs)


def test_batches_hold_float_pixels_of_their_labels():
    for batch in loader_of(count=256, batch_size=64):
        assert batch.images.dtype == torch.float32
        assert torch.equal(numbers_of(batch.images), batch.labels)
        assert batch.images.max() <= 1
        assert batch.partners is None


def test_pixels_are_bytes_over_255():
    (batch,) = loader_of(count=256, batch_size=256)
    expected = batch.labels.double() / 255
    assert torch.allclose(batch.images[:, 0, 0, 0].double(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("partners", ["second-order", "distinct-order"])
def test_partners_are_a_second_independent_order(partners):
    loader = loader_of(count=200, batch_size=20, partners=partners)
    batches = list(loader)
    images = torch.cat([numbers_of(batch.images) for batch in batches])
    others = torch.cat([numbers_of(batch.partners) for batch in batches])
    assert torch.equal(images, torch.cat([batch.labels for batch in batches]))
    assert len(images) == len(others)
    assert len(others.unique()) == len(others)
    correlation = torch.corrcoef(torch.stack([images, others]).double())[0, 1]
    assert abs(correlation) < 0.25


def test_only_distinct_order_leaves_out_images_that_meet_themselves():
    # A set of 10: about one image an epoch meets itself.
    kept = loader_of(count=10, batch_size=5, partners="second-order")
    removed = loader_of(count=10, batch_size=5, partners="distinct-order")
    lost = 0
    for _ in range(60):
        for full, partial in zip(kept, removed, strict=True):
            same = numbers_of(full.images) == numbers_of(full.partners)
            lost += int(same.sum())
            assert len(full.images) == 5
            assert torch.equal(numbers_of(partial.images), numbers_of(full.images)[~same])
            assert torch.equal(numbers_of(partial.partners), numbers_of(full.partners)[~same])
            assert torch.equal(partial.labels, full.labels[~same])
    assert 30 < lost < 95


def test_a_batch_of_which_nothing_is_left_is_left_out():
    loader = loader_of(count=2, batch_size=2, partners="distinct-order")
    epochs = [[len(batch.images) for batch in loader] for _ in range(30)]
    assert [] in epochs
    assert [2] in epochs
    assert all(epoch in ([], [2]) for epoch in epochs)


def test_images_and_partners_are_changed_independently():
    count = 64
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(count, 1, 1, 1)
    loader = Loader(
        images,
        torch.zeros(count, dtype=torch.int64),
        batch_size=count,
        augmentation=AugmentationConfig(crop_padding=2),
        partners="second-order",
        generator=torch.Generator().manual_seed(0),
    )
    (batch,) = loader
    # The pixel at (4, 4) tells each image's shift, one of 25.
    first, second = batch.images[:, 0, 4, 4], batch.partners[:, 0, 4, 4]
    assert len(first.unique()) > 15
    assert (first == second).float().mean() < 0.25


@pytest.mark.parametrize("partners", ["derangement", "second-order", "distinct-order"])
def test_the_generators_state_is_all_the_state_of_the_epochs(partners):
    loader = loader_of(augmentation=RICH, partners=partners)
    list(loader)
    state = loader.generator.get_state()
    expected = list(loader)
    following = list(loader)
    other = loader_of(augmentation=RICH, partners=partners, seed=9)
    other.generator.set_state(state)
    for epoch in (expected, following):
        for batch, repeated in zip(epoch, other, strict=True):
            assert torch.equal(batch.images, repeated.images)
            assert torch.equal(batch.labels, repeated.labels)
            if batch.partners is None:
                assert repeated.partners is None
            else:
                assert torch.equal(batch.partners, repeated.partners)
    assert not torch.equal(expected[0].images, following[0].images)


def test_the_data_set_itself_is_not_changed():
    loader = loader_of(augmentation=RICH)
    before = loader.images.clone()
    list(loader)
    assert torch.equal(loader.images, before)


def test_a_batch_larger_than_the_set_is_refused():
    assert len(loader_of(count=8, batch_size=8)) == 1
    with pytest.raises(ConfigError) as error:
        loader_of(count=7, batch_size=8)
    assert str(error.value) == "batch_size: expected at most 7, the images of the training split; found 8"


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_a_derangement_is_a_single_cycle_through_all(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        partners = derangement(count, generator).tolist()
        assert all(partner != index for index, partner in enumerate(partners))
        place, visited = 0, []
        for _ in range(count):
            visited.append(place)
            place = partners[place]
        assert sorted(visited) == list(range(count))
        assert place == 0


def test_every_partner_is_equally_likely():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([derangement(4, generator) for _ in range(3000)])
    for index in range(4):
        counts = torch.bincount(draws[:, index], minlength=4)
        assert counts[index] == 0
        assert (counts[counts > 0] - 1000).abs().max() < 120


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_partner(count):
    with pytest.raises(
        ValueError, match=f"^count: expected at least 2 images, an image and its partner; found {count}$"
    ):
        derangement(count, torch.Generator())


def test_chunks_are_all_the_images_in_order() -> None:
    images = torch.arange(300.0).view(300, 1, 1, 1)
    parts = in_chunks(images)
    assert [len(part) for part in parts] == [128, 128, 44]
    assert torch.equal(torch.cat(parts), images)
