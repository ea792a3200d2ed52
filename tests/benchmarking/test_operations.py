"""Counted operations are those that paper and pencil give, hand-written gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inputaware.benchmarking.operations import count_operations, matrix_product_peak
from inputaware.models.mnist_cnn import MnistCnn

BATCH, HIDDEN = 3, 20

FIRST = 2 * BATCH * 24 * 24 * 32 * 1 * 25
# The first convolution and its bias are one product: see models.input_convolution.
FIRST_WITH_BIAS = FIRST // 25 * 26
"""A convolution does 2 * outputs * weights of an output: 24x24 places, 32 channels, 5x5 of one channel."""
SECOND = 2 * BATCH * 8 * 8 * 64 * 32 * 25
DENSE = 2 * BATCH * (1024 * HIDDEN + HIDDEN * 10)


@pytest.fixture(params=[0.0, 0.1], ids=["without dropout", "with dropout"])
def classifier(request: pytest.FixtureRequest) -> MnistCnn:
    return MnistCnn(10, hidden_units=HIDDEN, dropout=request.param)


def test_a_linear_layer() -> None:
    layer, values = nn.Linear(7, 5), torch.rand(3, 7)
    assert count_operations(lambda: layer(values)) == 2 * 3 * 7 * 5
    # Back: the gradient of the weights alone, since the input wants none.
    assert count_operations(lambda: layer(values).sum().backward()) == 2 * (2 * 3 * 7 * 5)


def test_the_classifier_forward(classifier: MnistCnn) -> None:
    images = torch.rand(BATCH, 1, 28, 28)
    assert count_operations(lambda: classifier(images)) == FIRST_WITH_BIAS + SECOND + DENSE


@pytest.mark.parametrize("wanted", [False, True], ids=["weights only", "images too"])
def test_the_classifier_forward_and_backward(classifier: MnistCnn, wanted: bool) -> None:
    images = torch.rand(BATCH, 1, 28, 28, requires_grad=wanted)

    def step() -> None:
        F.cross_entropy(classifier(images), torch.zeros(BATCH, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]

    # Each gradient costs as much as the pass forward; the first layer's for its input only where it is wanted.
    assert count_operations(step) == 2 * FIRST_WITH_BIAS + (FIRST if wanted else 0) + 3 * SECOND + 3 * DENSE


def test_what_is_done_to_single_elements_is_not_counted() -> None:
    values = torch.rand(4, 3, 8, 8)
    norm = nn.BatchNorm2d(3)
    assert count_operations(lambda: F.max_pool2d(F.relu(norm(values)), 2)) == 0


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_peak_is_the_fastest_product(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([4.0, 2.0, 9.0, 8.0])
    monkeypatch.setattr("inputaware.benchmarking.operations.seconds_of", lambda action, device: next(times))
    found = matrix_product_peak(torch.device("cpu"), precision, sides=(4, 6), tries=2)  # type: ignore[arg-type]
    assert found == {"operations_per_second": 2 * 4**3 / 2.0, "side": 4, "precision": precision}
