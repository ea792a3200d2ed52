"""PreActResNet-18: its size, its widths, and that images in a batch do not touch each other."""

from __future__ import annotations

import pytest
import torch

from inputaware.models.normalize import Normalize
from inputaware.models.preact_resnet import PreActResNet18


def count(network: torch.nn.Module) -> int:
    return sum(entry.numel() for entry in network.parameters())


def expected_count(classes: int, channels: int, widths: tuple[int, ...]) -> int:
    """Return the number of parameters by hand: convolutions without bias, batch-norms with two each."""
    total = channels * widths[0] * 9
    before = widths[0]
    for group, after in enumerate(widths):
        total += 2 * before + before * after * 9 + 2 * after + after * after * 9
        total += before * after if group or before != after else 0
        total += 2 * (2 * after + after * after * 9)
        before = after
    return total + before * classes + classes


@pytest.mark.parametrize(
    ("classes", "channels", "width", "expected"),
    [
        (10, 3, 1.0, 11_171_146),
        (43, 3, 1.0, 11_171_146 + 33 * 513),
        (10, 1, 1.0, 11_171_146 - 2 * 64 * 9),
        (10, 3, 0.25, expected_count(10, 3, (16, 32, 64, 128))),
        (5, 3, 0.001, expected_count(5, 3, (8, 8, 8, 8))),
        (5, 3, 0.2, expected_count(5, 3, (16, 24, 48, 104))),
    ],
)
def test_parameter_count(classes: int, channels: int, width: float, expected: int) -> None:
    # At width 1, with the first convolution, four groups and the linear layer:
    # 1,728 + 147,968 + 525,184 + 2,098,944 + 8,392,192 + 5,130 = 11,171,146.
    assert count(PreActResNet18(classes, channels=channels, width=width)) == expected


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_reads_both_sizes_and_channel_counts(channels: int, size: int) -> None:
    network = PreActResNet18(43, channels=channels, width=0.05).eval()
    assert network(torch.rand(2, channels, size, size)).shape == (2, 43)


def test_evaluation_mode_does_not_depend_on_the_order_of_the_batch() -> None:
    network = PreActResNet18(10, width=0.1, normalize=Normalize((0.5,) * 3, (0.2,) * 3)).double().eval()
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        torch.testing.assert_close(network(images[order]), network(images)[order], rtol=0, atol=1e-12)


def test_normalizes_what_it_reads() -> None:
    network = PreActResNet18(10, width=0.1).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network((images - 0.4) / 0.3)
        network.normalize = Normalize((0.4,) * 3, (0.3,) * 3)
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-12)


def test_bfloat16_step_has_a_finite_gradient_for_every_parameter() -> None:
    network = PreActResNet18(10, width=0.1).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.rand(4, 3, 32, 32))
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
