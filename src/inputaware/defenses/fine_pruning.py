"""Fine-Pruning (Liu, Dolan-Gavitt & Garg 2018): remove the channels that clean images leave idle, then fine-tune.

A backdoor that hides in channels of its own goes with them. The channels of the last map of features are removed in the
order of their activity on clean images; how clean and attack accuracy fall with their number is the paper's figure 4.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import augment
from inputaware.data.loader import in_chunks, to_pixels
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.features import changed_output, known_layer, run_with_features
from inputaware.defenses.repair import curve_arrays, divide, most_pruned, rates_along, rates_in_words
from inputaware.defenses.settings import FinePruningSettings
from inputaware.errors import DefenseError, TrainingError
from inputaware.evaluation.metrics import mean_over
from inputaware.evaluation.prediction import predict
from inputaware.models.precision import full_float32
from inputaware.models.registry import head_after

__all__ = ["FeatureCut", "FinePruning", "channel_activity"]

_MOMENTUM = 0.9
_WEIGHTS = "fine_tuned."
"""How the names of the fine-tuned network's arrays begin."""


class FeatureCut:
    """A classifier cut in two at its last map of features, so that its head can be run alone.

    The networks of this package offer their head. Of any other network the head is the whole, with the output of its
    feature layer replaced: right, but the part before the layer is computed again each time.

    Args:
        suspect: the classifier and its feature layer.
        images: a few images, on which the two parts are compared with the whole.

    Raises:
        DefenseError: the feature layer is unknown, its output is no map of features, or something of the image
            reaches the logits beside it.
    """

    def __init__(self, suspect: Suspect, images: Float[Tensor, "batch channel height width"]) -> None:
        self.classifier = suspect.classifier.eval()
        self.layer = known_layer(suspect)
        self.suspect = suspect
        self.head = head_after(suspect.classifier, self.layer)
        features = self.features(images)
        whole = suspect.logits(images)
        try:
            # Of other images, so that whatever takes another way is seen.
            parts = self.logits(features, images.roll(1, 0))
            matches = torch.allclose(parts, whole, rtol=0, atol=1e-3 * whole.abs().max().item())
        except (RuntimeError, DefenseError):
            matches = False
        if not matches:
            raise DefenseError(
                "suspect: expected a feature layer that everything passes through on its way to the logits; "
                f"found one ({type(self.layer).__name__}) beside which something else does; give a later layer"
            )

    def features(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """Return the map of features of a chunk of images."""
        return run_with_features(self.suspect, images)[0]

    def logits(
        self,
        features: Float[Tensor, "batch features rows columns"],
        images: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits of a chunk of features.

        Args:
            features: the map of features, pruned or not.
            images: as many images, for a network whose head is not known; what they show does not matter.
        """
        with torch.no_grad(), full_float32():
            if self.head is not None:
                logits = self.head(features)
            else:
                with changed_output(self.layer, lambda output: features.clone()):
                    logits = self.classifier(images)
        self.suspect.check(logits)
        return logits

    def activity(self, images: Float[Tensor, "batch channel height width"]) -> Float64[Tensor, " features"]:
        """Return how active each channel is on images: :func:`channel_activity` of their features.

        Where the head ignores negative values, since ReLU comes next, they count as zero; elsewhere all
        values count by their size. Which it is, the head itself tells.
        """
        sums: list[Tensor] = []
        for chunk in in_chunks(images):
            features = self.features(chunk)
            rectified = torch.equal(self.logits(features, chunk), self.logits(features.relu(), chunk))
            sums.append(len(chunk) * channel_activity(features, rectified=rectified))
        return torch.stack(sums).sum(0) / len(images)

    def pruned_predictions(
        self,
        images: Float[Tensor, "batch channel height width"],
        order: Int64[Tensor, " features"],
        progress: Progress = lambda share: None,
    ) -> Int64[Tensor, "counts batch"]:
        """Return the predicted classes with no channel pruned, with the first one, and so on to all of them.

        The part before the feature layer is run once an image, where the head is known.

        Args:
            images: pixels in [0, 1].
            order: the channels in the order in which they are pruned.
            progress: told the share of the work that is done.
        """
        parts = []
        done = 0
        for chunk in in_chunks(images):
            features = self.features(chunk)
            rows = [self.logits(features, chunk).argmax(1)]
            for channel in order.tolist():
                features[:, channel] = 0
                rows.append(self.logits(features, chunk).argmax(1))
            parts.append(torch.stack(rows))
            done += len(chunk)
            progress(done / len(images))
        return torch.cat(parts, 1)


def channel_activity(
    features: Float[Tensor, "batch features rows columns"], *, rectified: bool
) -> Float64[Tensor, " features"]:
    """Return each channel's mean activation over images and places (Liu et al. 2018, section 3.2).

    ``mean max(0, A)`` where the network applies ReLU to the map ``A``, ``mean |A|`` elsewhere.

    Deviation: the authors' release takes the mean of the values as they are. After ReLU that is the same; but on
    PreActResNet-18 nothing rectifies the last map, and a channel that is strongly negative would count as idle.

    Args:
        features: the map of features.
        rectified: whether ReLU follows.
    """
    values = features.relu() if rectified else features.abs()
    # In float64 on the CPU, for not every device has it.
    return values.mean((0, 2, 3)).cpu().double()


class FinePruning(Defense):
    """Channels ranked and the network fine-tuned on one part of the clean data, the number chosen on the other.

    Deviation: the authors' release ranks on the test images that it reports on, and on MNIST it begins with the channel
    that is second in its ranking. Here the test set is only scored, and the least active channel goes first.

    Deviation: the paper shows pruning alone (figure 4). Fine-tuning is the half of the defense that is left out there;
    it is done here at the chosen number of channels.
    """

    name = "fine-pruning"
    minimum_images = 4
    settings: FinePruningSettings

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that the feature layer is known.

        Raises:
            DefenseError: the data are such as no defense takes, or it is not.
        """
        super().check(suspect, clean)
        known_layer(suspect, self.name)

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Rank channels, choose how many to prune, and fine-tune a copy; no verdict, for it judges no model.

        Raises:
            DefenseError: the features cannot be cut.
            TrainingError: the weights of the fine-tuning are not finite.
        """
        ranking, held_out = divide(clean.labels, held_out=self.settings.held_out, seed=seed)
        cut = FeatureCut(suspect, clean.pixels[:8])
        activity = cut.activity(clean.pixels[ranking])
        order = activity.argsort(stable=True)
        predictions = cut.pruned_predictions(clean.pixels[held_out], order, lambda share: progress(share / 2))
        accuracy = (predictions == clean.labels[held_out]).cpu().double().mean(1)
        count = most_pruned(accuracy, tolerance=self.settings.tolerance)
        keep = _kept(order, count).to(clean.images.device)
        tuned_accuracy, weights = None, {}
        if self.settings.epochs:
            tuned, layer = self._fine_tune(
                suspect,
                keep,
                clean.images[ranking],
                clean.labels[ranking],
                seed,
                lambda share: progress(0.5 + share / 2),
            )
            predicted = _predict_pruned(tuned, layer, keep, clean.pixels[held_out])
            tuned_accuracy = mean_over(predicted == clean.labels[held_out])
            weights = {f"{_WEIGHTS}{name}": values.cpu().numpy() for name, values in tuned.state_dict().items()}
        channels = len(order)
        return Examination(
            "no-verdict",
            f"Of {channels} channels {count} were pruned: held-out accuracy is {100 * float(accuracy[0]):.1f} % "
            f"before, {100 * float(accuracy[count]):.1f} % pruned"
            + (f", {100 * tuned_accuracy:.1f} % fine-tuned" if tuned_accuracy is not None else "")
            + "; Fine-Pruning judges no model.",
            {
                "channels": channels,
                "pruned_channels": count,
                "ranking_images": len(ranking),
                "held_out_images": len(held_out),
                "held_out_accuracy": {
                    "original": float(accuracy[0]),
                    "pruned": float(accuracy[count]),
                    "fine_tuned": tuned_accuracy,
                },
            },
            {
                "ranking_indices": ranking.cpu().numpy(),
                "held_out_indices": held_out.cpu().numpy(),
                "order": order.numpy(),
                "activity": activity.numpy(),
                "held_out_accuracy": accuracy.numpy(),
                **weights,
            },
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return clean and attack rates of the original, the pruned and the fine-tuned network.

        Arrays hold the rates for every number of pruned channels, which is figure 4.
        """
        order = torch.from_numpy(finding.arrays["order"])
        count = finding.scores["pruned_channels"]
        cut = FeatureCut(suspect, trial.clean.pixels[:8])
        curve = rates_along(lambda images, told: cut.pruned_predictions(images, order, told), trial, progress)
        points: dict[str, Any] = {"original": curve[0], "pruned": curve[count], "fine_tuned": None}
        weights = {
            name.removeprefix(_WEIGHTS): torch.from_numpy(values)
            for name, values in finding.arrays.items()
            if name.startswith(_WEIGHTS)
        }
        if weights:  # none where it was left out
            tuned, layer = _copy(suspect)
            tuned.load_state_dict(weights)
            keep = _kept(order, count).to(trial.clean.labels.device)
            (points["fine_tuned"],) = rates_along(
                lambda images, told: _predict_pruned(tuned, layer, keep, images)[None], trial
            )
        stages = {"original": "before", "pruned": f"with {count} channels pruned", "fine_tuned": "fine-tuned"}
        # Without those of a fine-tuning that was left out.
        made = {words: point for name, words in stages.items() if (point := points[name]) is not None}
        return Score(rates_in_words(made), {"pruned_channels": count, **points}, curve_arrays(curve))

    def _fine_tune(
        self, suspect: Suspect, keep: Tensor, images: Tensor, labels: Tensor, seed: int, progress: Progress
    ) -> tuple[nn.Module, nn.Module]:
        """Return a copy that was trained on clean images with its pruned channels at zero, and its feature layer."""
        tuned, layer = _copy(suspect)
        tuned.train().requires_grad_(True)
        settings = self.settings
        optimizer = torch.optim.SGD(
            tuned.parameters(), lr=settings.learning_rate, momentum=_MOMENTUM, weight_decay=settings.weight_decay
        )
        full, rest = divmod(len(images), settings.batch_size)
        # Of a rest of one image batch-norm cannot take a variance.
        in_epoch = full + (rest > 1 or not full)
        steps = settings.epochs * in_epoch

        def share_of_rate(step: int) -> float:
            return (1 + math.cos(math.pi * step / steps)) / 2 if settings.schedule == "cosine" else 1.0

        course = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)
        changes = AugmentationConfig(crop_padding=settings.crop_padding, horizontal_flip=settings.horizontal_flip)
        generator = torch.Generator().manual_seed(seed)
        with full_float32(), changed_output(layer, lambda output: _pruned(output, keep)):
            for epoch in range(settings.epochs):
                shuffled = torch.randperm(len(images), generator=generator)
                for batch in torch.split(shuffled.to(images.device), settings.batch_size)[:in_epoch]:
                    optimizer.zero_grad()
                    logits = tuned(to_pixels(augment(images[batch], changes, generator)))
                    loss = F.cross_entropy(logits, labels[batch])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    course.step()
                # Once an epoch, for a look makes a GPU wait; weights that are no numbers stay so.
                if not all(torch.isfinite(weight).all() for weight in tuned.parameters()):
                    raise TrainingError(
                        f"fine-pruning: expected finite weights in fine-tuning; found others after epoch {epoch + 1}; "
                        "choose a lower --fine-pruning.learning-rate, or name the other defenses alone"
                    )
                progress((epoch + 1) / settings.epochs)
        return tuned.eval().requires_grad_(False), layer


def _copy(suspect: Suspect) -> tuple[nn.Module, nn.Module]:
    """Return a copy of the classifier, and the copy's feature layer."""
    classifier, layer = copy.deepcopy((suspect.classifier, suspect.feature_layer))
    assert layer is not None
    return classifier, layer


def _kept(order: Tensor, count: int) -> Bool[Tensor, " features"]:
    """Return which channels stay where the first ``count`` are pruned."""
    keep = torch.ones(len(order), dtype=torch.bool)
    keep[order[:count]] = False
    return keep


def _pruned(features: Tensor, keep: Tensor) -> Tensor:
    return features * keep.view(-1, 1, 1)


def _predict_pruned(classifier: nn.Module, layer: nn.Module, keep: Tensor, images: Tensor) -> Int64[Tensor, " batch"]:
    """Return the predictions of a network with pruned channels."""
    with changed_output(layer, lambda output: _pruned(output, keep)):
        return predict(classifier, images)
