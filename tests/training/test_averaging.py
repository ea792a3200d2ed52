"""The moving average against its closed formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from inputaware.training.averaging import WeightAverage

STEPS = 40


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def move(network: nn.Sequential, step: int) -> None:
    """Change every parameter, and the statistics of the batch-norm, to values of a formula."""
    with torch.no_grad():
        for index, tensor in enumerate(network.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(torch.sin(torch.arange(tensor.numel()) + 0.3 * step + index).reshape(tensor.shape))
            else:
                tensor.fill_(step)


def run(average: WeightAverage, network: nn.Sequential, first: int, last: int) -> None:
    for step in range(first, last + 1):
        move(network, step)
        average.update()


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.99])
def test_the_average_is_the_weighted_sum_of_all_weights(decay: float) -> None:
    network = make_network()
    history = {name: [tensor.clone().numpy()] for name, tensor in network.state_dict().items()}
    average = WeightAverage(network, decay=decay)
    for step in range(1, STEPS + 1):
        run(average, network, step, step)
        for name, tensor in network.state_dict().items():
            history[name].append(tensor.clone().numpy())
    # After step s: d = min(decay, (1 + s) / (10 + s)). What a step adds is scaled by every later d.
    kept = np.array([1.0] + [min(decay, (1 + step) / (10 + step)) for step in range(1, STEPS + 1)])
    shares = [(1 - kept[step] if step else 1.0) * np.prod(kept[step + 1 :]) for step in range(STEPS + 1)]
    assert sum(shares) == pytest.approx(1)
    average.apply()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            expected = sum(share * value for share, value in zip(shares, history[name], strict=True))
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-10, atol=1e-12)
        else:
            assert int(tensor) == STEPS


def test_before_the_first_step_the_average_is_the_network() -> None:
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = WeightAverage(network, decay=0.9)
    move(network, 5)
    average.apply()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_applied_for_a_while_the_network_gets_its_weights_back() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.9)
    run(average, network, 1, 10)
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = list(network.parameters())

    class StoppedError(Exception):
        pass

    inside = {}

    def look_and_stop() -> None:
        with average.applied():
            inside.update({name: tensor.clone() for name, tensor in network.state_dict().items()})
            raise StoppedError

    with pytest.raises(StoppedError):
        look_and_stop()
    assert not torch.equal(inside["0.weight"], own["0.weight"])
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())
    # An optimiser keeps pointing at the same tensors.
    assert all(old is new for old, new in zip(parameters, network.parameters(), strict=True))
    average.apply()
    assert all(torch.equal(tensor, inside[name]) for name, tensor in network.state_dict().items())


def test_restored_it_goes_on_bit_for_bit() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.99)
    run(average, network, 1, 15)
    state = {name: tensor.clone() for name, tensor in average.state().items()}
    run(average, network, 16, STEPS)

    other = make_network()
    resumed = WeightAverage(other, decay=0.99)
    resumed.restore(state)
    run(resumed, other, 16, STEPS)
    first, second = average.state(), resumed.state()
    assert int(second["steps"]) == STEPS
    assert first.keys() == second.keys() == {"steps", *network.state_dict()}
    assert all(torch.equal(first[name], second[name]) for name in first)
    # What was restored is a copy: the saved state has not moved.
    assert int(state["steps"]) == 15
