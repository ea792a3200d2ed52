"""The first convolution: values and gradients are those of torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from inputaware.models.input_convolution import InputConvolution, first_order_gradients
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.normalize import Normalize


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("side", "height", "width"), [(5, 28, 28), (3, 7, 11), (1, 4, 4)])
def test_values_and_gradients_are_those_of_torch(
    side: int, height: int, width: int, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = InputConvolution(4, side).double().to(memory_format=memory_format)  # type: ignore[call-overload]
    images = torch.rand(3, 1, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, 4, height - side + 1, width - side + 1, dtype=torch.float64)
    inputs = [images, layer.weight, layer.bias]
    found = torch.autograd.grad((layer(images) * weight).sum(), inputs)
    expected = torch.autograd.grad((F.conv2d(images, layer.weight, layer.bias) * weight).sum(), inputs)
    torch.testing.assert_close(layer(images), F.conv2d(images, layer.weight, layer.bias), rtol=1e-13, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_images_without_gradients_cost_none() -> None:
    layer = InputConvolution(4, 3)
    layer(torch.rand(2, 1, 6, 6)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None


def test_of_no_images_there_is_no_output() -> None:
    assert InputConvolution(4, 3)(torch.rand(0, 1, 6, 6)).shape == (0, 4, 4, 4)


@pytest.mark.parametrize("strides", ["rows", "mirrored", "expanded"])
def test_takes_images_in_any_layout(strides: str) -> None:
    layer = InputConvolution(4, 3)
    images = torch.rand(2, 1, 6, 5)
    images = {"rows": images, "mirrored": images.transpose(2, 3), "expanded": images[:1].expand(2, -1, -1, -1)}[strides]
    expected = F.conv2d(images.contiguous(), layer.weight, layer.bias)
    torch.testing.assert_close(layer(images), expected, rtol=1e-6, atol=1e-6)


def test_under_autocast_it_computes_in_bfloat16() -> None:
    torch.manual_seed(0)
    layer = InputConvolution(32, 5)
    images = torch.rand(4, 1, 28, 28, requires_grad=True)
    direction = torch.randn(4, 32, 24, 24)
    inputs = [images, layer.weight, layer.bias]
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(images)
    assert result.dtype == torch.bfloat16
    found = torch.autograd.grad((result.float() * direction).sum(), inputs)
    expected = torch.autograd.grad((F.conv2d(*inputs) * direction).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.02 * other.abs().max()


def network() -> MnistCnn:
    torch.manual_seed(0)
    return MnistCnn(3, hidden_units=16, normalize=Normalize((0.5,), (0.5,))).eval().requires_grad_(False)


def test_in_evaluation_mode_gradients_have_gradients() -> None:
    classifier = network()
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    (first,) = torch.autograd.grad(classifier(images).logsumexp(1).sum(), images, create_graph=True)
    first.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_in_evaluation_mode_torch_func_works() -> None:
    classifier = network()
    images = torch.rand(2, 1, 28, 28)
    slopes = torch.func.vmap(torch.func.jacrev(lambda image: classifier(image[None])[0]))(images)
    asking = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(classifier(asking)[:, 1].sum(), asking)
    torch.testing.assert_close(slopes[:, 1], expected)


def test_hastened_gradients_are_those_of_torch_and_end() -> None:
    classifier = network()
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    (expected,) = torch.autograd.grad(classifier(images)[:, 1].sum(), images)
    with first_order_gradients(classifier):
        with first_order_gradients(classifier):
            pass
        output = classifier(images)
        assert "_Convolve" in str(classifier.first_convolution(images).grad_fn)
        (found,) = torch.autograd.grad(output[:, 1].sum(), images)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ZeroDivisionError), first_order_gradients(classifier):
        raise ZeroDivisionError
    assert "_Convolve" not in str(classifier.first_convolution(images).grad_fn)
