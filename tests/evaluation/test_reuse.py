"""Triggers on images that resemble their own: hand-made pairs, and the nearest image beside scipy's."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import cdist

from inputaware.evaluation.reuse import nearest_images, rates_by_distance, reuse_rates


def test_the_nearest_image_is_scipys() -> None:
    images = torch.randint(0, 256, (40, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    distances = cdist(images.flatten(1).numpy(), images.flatten(1).numpy())
    distances[range(40), range(40)] = float("inf")
    assert nearest_images(images).tolist() == distances.argmin(1).tolist()


def test_no_image_is_its_own_nearest_and_of_several_the_first_counts() -> None:
    images = torch.tensor([7, 7, 255, 7], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    assert nearest_images(images).tolist() == [1, 0, 0, 0]


def test_differences_of_one_in_large_sums_count() -> None:
    # Squares of 255 at 3,072 places add up to more than float32 tells apart.
    images = torch.full((3, 3, 32, 32), 255, dtype=torch.uint8)
    images[0, :, :16] = 0
    images[1, :, :16] = 1
    images[2, :, :16] = 2
    images[2, 0, 0, 0] = 1
    assert nearest_images(images).tolist() == [1, 2, 1]


def test_what_an_image_is_already_does_not_count_for_the_attacker() -> None:
    labels, targets = torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.int64)
    assert reuse_rates(torch.tensor([0, 0, 2, 1]), labels, targets) == {"keeps_label": 2 / 4, "gets_target": 1 / 3}
    assert reuse_rates(labels[:1], labels[:1], targets[:1]) == {"keeps_label": 1.0, "gets_target": None}


def test_the_most_similar_pairs_come_first() -> None:
    distances = torch.tensor([0.9, 0.1, 0.5, 0.3] * 5)
    labels = torch.ones(20, dtype=torch.int64)
    predicted = torch.where(distances < 0.2, 0, 1)
    rows = rates_by_distance(distances, predicted, labels, torch.zeros_like(labels))
    assert [row["pairs"] for row in rows] == [2] * 10
    assert [row["distance"] for row in rows] == pytest.approx(
        [0.1, 0.1, 0.2, 0.3, 0.3, 0.5, 0.5, 0.7, 0.9, 0.9], abs=1e-6
    )
    assert [row["gets_target"] for row in rows] == [1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0]
    assert [row["keeps_label"] for row in rows] == [0, 0, 0.5, 1, 1, 1, 1, 1, 1, 1]


def test_few_pairs_make_fewer_parts() -> None:
    ones = torch.ones(3, dtype=torch.int64)
    rows = rates_by_distance(torch.tensor([0.3, 0.1, 0.2]), ones, ones, ones)
    assert [(row["pairs"], row["gets_target"]) for row in rows] == [(1, None)] * 3
