"""Latencies stand beside the paper's, for each network and batch size."""

from __future__ import annotations

import pytest
import torch

from inputaware.benchmarking.baseline import plain_copy
from inputaware.benchmarking.latency import NETWORKS, measure_latency
from inputaware.config.presets import preset_config
from inputaware.data.spec import dataset_spec
from inputaware.models.registry import build_classifier
from inputaware.runs.results import published_latency

PAPER = {"mnist": (6.51, 0.94, 0.99), "cifar10": (7.96, 1.36, 1.41), "gtsrb": (7.88, 1.36, 1.42)}


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_milliseconds(dataset: str) -> None:
    assert published_latency(dataset) == dict(zip(NETWORKS, PAPER[dataset], strict=True))


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_plain_network_is_the_same_one_in_the_same_mode(dataset: str) -> None:
    torch.manual_seed(0)
    spec = dataset_spec(dataset)
    network = build_classifier(preset_config("fast", dataset=dataset).model, spec)
    assert plain_copy(network.train()).training
    plain = plain_copy(network.eval())
    assert not any(part.training for part in plain.modules())
    images = torch.rand(3, *spec.shape)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), network(images))


@pytest.mark.parametrize(("dataset", "published"), [("cifar10", PAPER["cifar10"]), ("digits", (None, None, None))])
def test_every_network_and_batch_is_timed(dataset: str, published: tuple[float | None, ...]) -> None:
    found = measure_latency(dataset, repeats=5, warm_up=1, device=torch.device("cpu"), batches=(1, 2))
    assert tuple(found) == NETWORKS
    assert tuple(row["published_ms"] for row in found.values()) == published
    for row in found.values():
        assert list(row["batch"]) == ["1", "2"]
        for times in row["batch"].values():
            for who in (times, times["plain"]):
                assert 0 < who["median_ms"] <= who["percentile_95_ms"]
        assert [times["speedup"]["rounds"] for times in row["batch"].values()] == [5, 1]
