"""Heat maps against gradients by hand in float64, and their numbers against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from inputaware.inspection.grad_cam import concentration, grad_cam, heat_auroc, heat_share
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.preact_resnet import PreActResNet18
from inputaware.models.registry import last_map


def network(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = MnistCnn(5, hidden_units=12) if kind == "mnist-cnn" else PreActResNet18(5, channels=1, width=0.1)
    return found.double().eval()


def random_images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def differences(classifier: nn.Module, features: Tensor, label: int) -> Tensor:
    """Return the gradient of a logit for a map, one central difference after the other."""
    gradient = torch.zeros_like(features)
    flat, target = features.clone().flatten(), gradient.view(-1)
    step = 1e-6
    for place in range(flat.numel()):
        moved = []
        for sign in (1, -1):
            changed = flat.clone()
            changed[place] += sign * step
            moved.append(classifier.head(changed.view_as(features)[None])[0, label])
        target[place] = (moved[0] - moved[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("kind", ["mnist-cnn", "preact-resnet18"])
@pytest.mark.parametrize("frozen", [True, False])
def test_heat_is_the_formulas(kind: str, frozen: bool) -> None:
    classifier, images = network(kind).requires_grad_(not frozen), random_images()
    layer, classes = last_map(classifier), torch.tensor([0, 4, 2, 2])
    maps: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))
    classifier(images)
    handle.remove()
    features = maps[0].clone().requires_grad_(True)
    rest = classifier.head
    if kind == "mnist-cnn":  # its head begins with the ReLU, which lies before the map

        def rest(features: Tensor) -> Tensor:
            pooled = F.max_pool2d(features, 2).flatten(1)
            logits: Tensor = classifier.output(F.relu(classifier.hidden(pooled)))
            return logits

    rest(features).gather(1, classes[:, None]).sum().backward()
    assert features.grad is not None
    weights = features.grad.mean((2, 3))
    small = torch.einsum("bk,bkij->bij", weights, features.detach()).clamp_min(0)
    expected = F.interpolate(small[:, None], (28, 28), mode="bilinear", align_corners=False)[:, 0]
    found = grad_cam(classifier, layer, images, classes)
    assert found.shape == (4, 28, 28)
    assert not found.requires_grad
    assert all(parameter.grad is None or not frozen for parameter in classifier.parameters())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.max() > 0


def test_the_gradient_is_that_of_differences() -> None:
    classifier, images = network("preact-resnet18"), random_images(1)
    layer = last_map(classifier)
    maps: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))
    with torch.no_grad():
        label = int(classifier(images).argmax())
        handle.remove()
        features = maps[0][0]
        gradient = differences(classifier, features, label)
    small = (gradient.mean((1, 2))[:, None, None] * features).sum(0).clamp_min(0)
    expected = F.interpolate(small[None, None], (28, 28), mode="bilinear", align_corners=False)[0, 0]
    found = grad_cam(classifier, layer, images, torch.tensor([label]))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_heat_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images = network("mnist-cnn"), random_images(5)
    layer, classes = last_map(classifier), torch.tensor([0, 1, 2, 3, 4])
    whole = grad_cam(classifier, layer, images, classes)
    monkeypatch.setattr("inputaware.inspection.grad_cam._CHUNK", 2)
    torch.testing.assert_close(grad_cam(classifier, layer, images, classes), whole, rtol=0, atol=1e-14)


def test_shares_by_hand() -> None:
    heat = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.5]], [[1.0, 1.0], [0.0, 0.0]]])
    assert heat_share(heat, masks)[:2].tolist() == [0.75, 0.25]
    assert concentration(heat, masks)[:2].tolist() == [3.0, 1.0]
    assert math.isnan(heat_share(heat, masks)[2])
    assert math.isnan(concentration(heat, masks)[2])


def test_auroc_is_scikit_learns_with_ties() -> None:
    random = np.random.RandomState(0)
    heat = random.randint(0, 6, (20, 7, 9)).astype(np.float32)
    masks = (random.rand(20, 7, 9) < 0.2).astype(np.float32) * random.choice([0.6, 1.0], (20, 7, 9))
    found = heat_auroc(torch.from_numpy(heat), torch.from_numpy(masks.astype(np.float32)))
    expected = [roc_auc_score(mask.ravel() > 0.5, one.ravel()) for one, mask in zip(heat, masks, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert heat_auroc(torch.zeros(1, 2, 2), torch.eye(2)[None]).item() == 0.5


def test_auroc_needs_both_kinds_of_pixels() -> None:
    for masks in (torch.zeros(1, 2, 2), torch.ones(1, 2, 2)):
        assert math.isnan(heat_auroc(torch.rand(1, 2, 2), masks).item())
