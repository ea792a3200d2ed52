"""Pure functions that turn predictions and images into numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = [
    "SSIM_WINDOW",
    "attack_rates",
    "class_rates",
    "mean_over",
    "peak_signal_to_noise",
    "rms_distance",
    "round_to_8_bits",
    "structural_similarity",
]

_NOISE_FLOOR = 1e-10
"""Smallest mean squared error that counts, so that two equal images have 100 dB and not infinity."""
SSIM_WINDOW = 11
"""Side of the window of :func:`structural_similarity` in pixels."""
_SIGMA = 1.5


def mean_over(hits: Bool[Tensor, "*shape"], where: Bool[Tensor, "*shape"] | None = None) -> float | None:
    """Return the share of hits among the images that are counted; none where none is counted."""
    counted = hits if where is None else hits[where]
    return None if counted.numel() == 0 else int(counted.sum()) / counted.numel()


def attack_rates(
    predicted: Int64[Tensor, " batch"], targets: Int64[Tensor, " batch"], labels: Int64[Tensor, " batch"]
) -> dict[str, float | None]:
    """Return attack success and robust accuracy by both conventions.

    Args:
        predicted: the classes of images with their triggers.
        targets: the classes that the attacker wants.
        labels: the true classes.

    Returns:
        Fractions in [0, 1], over all images and over those that are not of the target class already; none where
        there are no such images.
    """
    others = labels != targets
    success, robust = predicted == targets, predicted == labels
    return {
        "attack_success_rate": mean_over(success),
        "attack_success_rate_excluding_target": mean_over(success, others),
        "robust_accuracy": mean_over(robust),
        "robust_accuracy_excluding_target": mean_over(robust, others),
    }


def round_to_8_bits(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return pixels in [0, 1] rounded to the 256 values that an image file can hold."""
    return (images * 255).round().clamp(0, 255) / 255


def rms_distance(
    first: Float[Tensor, "batch channel height width"], second: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, " batch"]:
    """Return the root mean square difference of each pair of images."""
    return (first - second).flatten(1).square().mean(1).sqrt()


def peak_signal_to_noise(
    first: Float[Tensor, "batch channel height width"], second: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, " batch"]:
    """Return ``10 log10(1 / mean squared error)`` in dB for each pair of images in [0, 1], at most 100."""
    error = (first - second).flatten(1).square().mean(1).clamp_min(_NOISE_FLOOR)
    return -10 * error.log10()


def structural_similarity(
    first: Float[Tensor, "batch channel height width"], second: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, " batch"]:
    """Return the structural similarity of each pair of images in [0, 1].

    Wang et al. 2004, equation 13, with their Gaussian window of 11 pixels (sigma 1.5), constants
    ``(0.01)^2`` and ``(0.03)^2``, averaged over the places where the window lies within the image and over
    channels.

    Raises:
        ValueError: the images are smaller than the window.
    """
    channels, height, width = first.shape[1:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"images: expected at least {SSIM_WINDOW} pixels a side; found {height}x{width}")
    offsets = torch.arange(SSIM_WINDOW, dtype=first.dtype, device=first.device) - SSIM_WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(channels, 1, -1, -1)

    def blur(images: Tensor) -> Tensor:
        return F.conv2d(images, kernel, groups=channels)

    mean_1, mean_2 = blur(first), blur(second)
    variance_1 = blur(first * first) - mean_1**2
    variance_2 = blur(second * second) - mean_2**2
    covariance = blur(first * second) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1**2 + mean_2**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_1 + variance_2 + 0.03**2)
    return (luminance * structure).flatten(1).mean(1)


def class_rates(hits: Bool[Tensor, " batch"], labels: Int64[Tensor, " batch"], classes: int) -> list[float | None]:
    """Return the share of hits for each true class; none for a class without images."""
    return [mean_over(hits, labels == index) for index in range(classes)]
