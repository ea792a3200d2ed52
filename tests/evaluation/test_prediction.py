"""Predictions are those of a network in evaluation mode, whatever mode it is in and however many images there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inputaware.evaluation.prediction import logits, predict, probabilities


class Reader(nn.Module):
    """Reads the logits of two classes from the first two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training or torch.is_grad_enabled())
        return images[:, 0, 0, :2]


def test_predictions_are_made_in_evaluation_mode_without_gradients() -> None:
    classifier = Reader().train()
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    assert predict(classifier, images).tolist() == [0, 1]
    assert classifier.modes == [False]


def test_chunks_do_not_change_what_is_said() -> None:
    images = torch.rand(1203, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    classifier = Reader()
    flat = images.view(-1, 2)
    assert torch.equal(logits(classifier, images), flat)
    assert len(classifier.modes) > 1
    assert torch.equal(predict(classifier, images), flat.argmax(1))
    assert torch.equal(probabilities(classifier, images), flat.softmax(1))
