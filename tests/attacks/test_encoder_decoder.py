"""The generators against a forward pass in NumPy, and what sets the two apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import Tensor, nn

from inputaware.attacks.encoder_decoder import EncoderDecoder, MaskGenerator, PatternGenerator, build_generators
from inputaware.data.spec import DatasetSpec
from inputaware.models.normalize import Normalize


def spec_of(channels: int) -> DatasetSpec:
    return DatasetSpec(
        name="case",
        shape=(1, 28, 28) if channels == 1 else (channels, 32, 32),
        classes=10,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_names=tuple("0123456789"),
    )


def scramble(network: nn.Module) -> None:
    """Give every weight and running statistic a value that is not its initial one."""
    generator = torch.Generator().manual_seed(0)
    for name, entry in network.state_dict().items():
        if entry.is_floating_point():
            values = torch.rand(entry.shape, generator=generator, dtype=entry.dtype)
            entry.copy_(0.5 + values if name.endswith(("norm.weight", "running_var")) else values - 0.5)


def numpy_block(weights: dict[str, np.ndarray], name: str, values: np.ndarray, *, relu: bool = True) -> np.ndarray:
    """Convolution with zero padding, batch-norm by its running statistics, ReLU."""
    kernels, biases = weights[f"{name}.convolution.weight"], weights[f"{name}.convolution.bias"]
    values = np.stack(
        [
            sum(correlate2d(channel, plane, "same") for channel, plane in zip(values, kernel, strict=True)) + bias
            for kernel, bias in zip(kernels, biases, strict=True)
        ]
    )
    scale, shift, mean, variance = (
        weights[f"{name}.norm.{part}"].reshape(-1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
    )
    values = (values - mean) / np.sqrt(variance + 1e-5) * scale + shift
    return np.maximum(values, 0) if relu else values


def numpy_upsample(values: np.ndarray) -> np.ndarray:
    """Double both sides: an output pixel's centre lies at (i + 1/2) / 2 - 1/2 of the input, not beyond its edge."""
    for axis in (1, 2):
        size = values.shape[axis]
        centres = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
        low = np.floor(centres).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (centres - low).reshape([-1 if a == axis else 1 for a in range(3)])
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def numpy_squash(values: np.ndarray) -> np.ndarray:
    return np.tanh(values) / (2 + 1e-7) + 0.5


def numpy_network(network: nn.Module, image: np.ndarray, stages: int) -> np.ndarray:
    """Return a generator's squashed output for one normalised image."""
    weights = {name: entry.numpy() for name, entry in network.state_dict().items()}
    values = image
    for stage in range(stages):
        for block in range(2):
            values = numpy_block(weights, f"encoder.{stage}.{block}", values)
        channels, height, width = values.shape
        values = values.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))
    values = numpy_block(weights, "middle", values)
    for stage in range(stages):
        values = numpy_block(weights, f"decoder.{stage}.1", numpy_upsample(values))
        values = numpy_block(weights, f"decoder.{stage}.2", values, relu=stage < stages - 1)
    return numpy_squash(values)


@pytest.mark.parametrize(
    ("network", "channels", "stages"),
    [
        (EncoderDecoder(2, 5, (3, 4), Normalize((0.5, 0.5), (0.25, 0.25))), 2, 2),
        (PatternGenerator(3, (2, 3, 4), Normalize((0.5,) * 3, (0.25,) * 3)), 3, 3),
        (MaskGenerator(3, (2, 3, 4), Normalize((0.5,) * 3, (0.25,) * 3)), 3, 3),
        (MaskGenerator(1, (4,), Normalize((0.5,), (0.25,))), 1, 1),
    ],
)
def test_output_is_numpys(network: EncoderDecoder, channels: int, stages: int) -> None:
    scramble(network.double().eval())
    images = torch.rand(2, channels, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(images)
    expected = np.stack([numpy_network(network, (image - 0.5) / 0.25, stages) for image in images.numpy()])
    if isinstance(network, MaskGenerator):
        expected = numpy_squash(20 * expected - 10)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert expected.std() > 0.05


@pytest.mark.parametrize(
    ("channels", "mask_parameters", "pattern_parameters"),
    [
        # A block from i to o channels has o (9 i + 3) parameters: convolution, bias, batch-norm's two.
        # 192 + 2,352 + 4,704 + 9,312, middle 9,312, up 9,312 + 4,656 + 2,352 + 147.
        (1, 42_339, 42_339),
        # 960 + 9,312 + 18,624 + 37,056 + 74,112 + 147,840, middle 147,840,
        # up 147,840 + 73,920 + 37,056 + 18,528 + 9,312, then 291 or 3 * 291.
        (3, 722_691, 723_273),
    ],
)
def test_parameter_counts(channels: int, mask_parameters: int, pattern_parameters: int) -> None:
    found = [sum(entry.numel() for entry in network.parameters()) for network in build_generators(spec_of(channels))]
    assert found == [mask_parameters, pattern_parameters]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_outputs_are_float32_and_lie_between_0_and_1(channels: int, autocast: bool, training: bool) -> None:
    spec = spec_of(channels)
    images = torch.rand(2, *spec.shape)
    for network, expected in zip(build_generators(spec), (1, channels), strict=True):
        network.train(training).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = network(images)
        assert found.shape == (2, expected, *spec.shape[1:])
        assert found.dtype == torch.float32
        assert found.min() >= 0
        assert found.max() <= 1


def test_squashing_is_half_a_tanh_in_float32() -> None:
    # With weights of zero the last batch-norm's bias alone is squashed.
    network = PatternGenerator(1, (1,), Normalize((0.0,), (1.0,))).eval()
    for entry in network.parameters():
        nn.init.zeros_(entry)
    for bias in (-30.0, -1.0, 0.3, 2.0, 30.0):
        nn.init.constant_(network.decoder[0][2].norm.bias, bias)
        assert torch.equal(network(torch.zeros(1, 1, 2, 2)), (torch.tensor(bias).tanh() / 2 + 0.5).expand(1, 1, 2, 2))


def test_mask_and_pattern_generator_are_two_classes_and_begin_apart() -> None:
    mask_generator, pattern_generator = build_generators(spec_of(1))
    assert type(mask_generator) is MaskGenerator
    assert type(pattern_generator) is PatternGenerator
    assert not isinstance(mask_generator, PatternGenerator)
    assert not isinstance(pattern_generator, MaskGenerator)
    first, second = (network.encoder[0][0].convolution.weight for network in (mask_generator, pattern_generator))
    assert not torch.equal(first, second)


def test_running_statistics_move_by_a_twentieth() -> None:
    _, network = build_generators(spec_of(1))
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        network(images)
        expected = 0.05 * network.encoder[0][0].convolution((images - 0.5) / 0.25).mean((0, 2, 3))
    torch.testing.assert_close(network.encoder[0][0].norm.running_mean, expected, rtol=1e-4, atol=1e-6)
    momenta = {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {0.05}


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_mode_does_not_depend_on_the_order_of_the_batch(channels: int) -> None:
    spec = spec_of(channels)
    images = torch.rand(4, *spec.shape, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    for network in build_generators(spec):
        scramble(network.double().eval())
        with torch.no_grad():
            found: Tensor = network(images[order])
            torch.testing.assert_close(found, network(images)[order], rtol=0, atol=1e-12)


def test_bfloat16_step_has_a_finite_gradient_for_every_parameter() -> None:
    for network in build_generators(spec_of(1)):
        with torch.autocast("cpu", torch.bfloat16):
            output = network(torch.rand(4, 1, 28, 28))
        output.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
