"""The MNIST classifier: its size, its precision, its layout, and NumPy's word on what it computes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import Tensor, nn

from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.normalize import Normalize


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def numpy_classifier(network: MnistCnn, image: np.ndarray) -> np.ndarray:
    """Return the logits of one normalised image of shape (1, 28, 28), computed without torch."""
    weights = {name: entry.numpy() for name, entry in network.state_dict().items()}
    values = image
    for name in ("first_convolution", "second_convolution"):
        kernels, biases = weights[f"{name}.weight"], weights[f"{name}.bias"]
        values = np.stack(
            [
                sum(correlate2d(channel, plane, "valid") for channel, plane in zip(values, kernel, strict=True)) + bias
                for kernel, bias in zip(kernels, biases, strict=True)
            ]
        )
        channels, height, width = values.shape
        values = np.maximum(values, 0).reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))
    hidden = np.maximum(weights["hidden.weight"] @ values.ravel() + weights["hidden.bias"], 0)
    logits: np.ndarray = weights["output.weight"] @ hidden + weights["output.bias"]
    return logits


@pytest.mark.parametrize(
    ("hidden_units", "expected"),
    [
        # 1*32*25 + 32, 32*64*25 + 64, 1024*h + h, 10*h + 10
        (1024, 832 + 51_264 + 1_049_600 + 10_250),
        (512, 832 + 51_264 + 524_800 + 5_130),
    ],
)
def test_parameter_count(hidden_units: int, expected: int) -> None:
    assert sum(entry.numel() for entry in MnistCnn(10, hidden_units=hidden_units).parameters()) == expected


def test_logits_are_numpys(images: Tensor) -> None:
    network = MnistCnn(7, hidden_units=20, normalize=Normalize((0.5,), (0.25,))).double().eval()
    with torch.no_grad():
        found = network(images)
    expected = [numpy_classifier(network, (image - 0.5) / 0.25) for image in images.numpy()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_float32_autocast_and_channels_last_agree_with_float64(images: Tensor, dropout: float) -> None:
    exact = MnistCnn(10, dropout=dropout).double().eval()
    network = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    pixels = images.float().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, found = exact(images), network(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            halved = network(pixels)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(halved.double(), expected, rtol=0, atol=0.01)


def test_evaluation_mode_does_not_depend_on_the_order_of_the_batch(images: Tensor) -> None:
    network = MnistCnn(10, dropout=0.5).double().eval()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        torch.testing.assert_close(network(images[order]), network(images)[order], rtol=0, atol=1e-14)


def test_training_mode_drops_after_each_of_three_layers(images: Tensor) -> None:
    # With biases of one and weights of zero, each layer's output shows what was dropped before it.
    network = MnistCnn(1, hidden_units=4000, dropout=0.5).double()
    for entry in network.parameters():
        nn.init.zeros_(entry)
    nn.init.ones_(network.hidden.bias)
    nn.init.constant_(network.output.weight, 1 / 4000)
    torch.manual_seed(0)
    assert network.training
    found = network(images).detach()
    assert found.unique().numel() == len(images)
    # The mean of 4000 values of 0 or 2 has a standard deviation of 1/sqrt(4000).
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=4 / 4000**0.5)
    assert (network.first_pool.probability, network.second_pool.probability) == (0.5, 0.5)
    torch.testing.assert_close(network.eval()(images), torch.ones_like(found), rtol=0, atol=1e-12)


def test_bfloat16_step_has_a_finite_gradient_for_every_parameter(images: Tensor) -> None:
    network = MnistCnn(10).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(images.float()).float().logsumexp(1).sum()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
