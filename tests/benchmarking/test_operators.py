"""The operators of a step: real ones, the longest first, with what they take of the whole."""

from __future__ import annotations

import pytest
import torch

from inputaware.benchmarking.operators import seconds_by_operator
from inputaware.benchmarking.workload import StageName, Workload


@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_convolutions_and_their_gradients_are_among_the_longest(stage: StageName) -> None:
    workload = Workload.build("digits", stage, images=32, device=torch.device("cpu"), precision="32", batch_size=16)
    found = seconds_by_operator(workload, 2)
    assert 1 < len(found) <= 12
    assert {"aten::convolution_backward", "aten::mkldnn_convolution"} & {row["operator"] for row in found}
    times = [row["seconds"] for row in found]
    assert times == sorted(times, reverse=True)
    assert min(times) > 0
    assert sum(row["share"] for row in found) <= 1
    for row in found:
        assert row["share"] == pytest.approx(row["seconds"] * found[0]["share"] / found[0]["seconds"])
    # Each step has as many calls as the other.
    assert all(row["calls"] == int(row["calls"]) for row in found if row["operator"].startswith("aten::"))
