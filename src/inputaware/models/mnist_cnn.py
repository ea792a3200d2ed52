"""The classifier for grey images of 28x28 pixels."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.models.dropout import ReluDropoutPool, cheap_dropout
from inputaware.models.input_convolution import InputConvolution
from inputaware.models.normalize import Normalize

__all__ = ["MnistCnn"]


class MnistCnn(nn.Module):
    """The paper's MNIST classifier (supplement, table 1).

    Convolution 5x5 to 32 channels, ReLU, dropout, max-pooling 2x2; the same to 64 channels; a linear layer with
    ReLU and dropout; a linear layer. The convolutions have no padding. It returns logits: the table's softmax
    is part of the loss.

    Deviation: see :mod:`inputaware.models.dropout` for how dropout draws.

    Args:
        classes: how many classes there are.
        hidden_units: units of the first linear layer; the paper has 1024, the authors' release 512.
        dropout: dropout probability, in [0, 0.99].
        normalize: step from pixels to normalised values; none: the network reads pixels as they are.
    """

    def __init__(
        self,
        classes: int,
        *,
        hidden_units: int = 1024,
        dropout: float = 0.1,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__()
        self.normalize = nn.Identity() if normalize is None else normalize
        self.first_convolution = InputConvolution(32, 5)
        self.first_pool = ReluDropoutPool(dropout)
        self.second_convolution = nn.Conv2d(32, 64, 5)
        self.second_pool = ReluDropoutPool(dropout)
        self.hidden = nn.Linear(64 * 4 * 4, hidden_units)
        self.output = nn.Linear(hidden_units, classes)
        self.dropout = dropout

    def forward(self, images: Float[Tensor, "batch 1 28 28"]) -> Float[Tensor, "batch classes"]:
        """Return the logits.

        Args:
            images: pixels in [0, 1].
        """
        values = self.first_pool(self.first_convolution(self.normalize(images)))
        return self.head(self.second_convolution(values))

    def head(self, features: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "batch classes"]:
        """Return the logits that follow from the second convolution's output, the last map of features.

        Args:
            features: that map, before ReLU.
        """
        values = F.relu(self.hidden(self.second_pool(features).flatten(1)))
        if self.training:
            values = cheap_dropout(values, self.dropout)
        logits: Tensor = self.output(values)
        return logits
