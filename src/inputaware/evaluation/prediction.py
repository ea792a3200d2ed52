"""What a classifier says of images: one pass in evaluation mode, in float32, without gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inputaware.data.loader import in_chunks
from inputaware.models.precision import full_float32

__all__ = ["logits", "predict", "probabilities"]


def logits(
    classifier: nn.Module, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch classes"]:
    """Return the classifier's logits of each image, a few hundred images at a time; it is left in evaluation mode.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        images: pixels in [0, 1].
    """
    classifier.eval()
    with torch.no_grad(), full_float32():
        return torch.cat([classifier(chunk) for chunk in in_chunks(images)])


def predict(classifier: nn.Module, images: Float[Tensor, "batch channel height width"]) -> Int64[Tensor, " batch"]:
    """Return the classifier's class for each image, as in :func:`logits`."""
    return logits(classifier, images).argmax(1)


def probabilities(
    classifier: nn.Module, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch classes"]:
    """Return the softmax of the classifier's logits for each image, as in :func:`logits`."""
    return logits(classifier, images).softmax(1)
