"""Adversarial Neuron Pruning (Wu & Wang 2021): remove the neurons through which a small change misleads the network.

The neurons of a backdoor need little to fire: change them a little, in the worst way for clean images, and the network
takes those for the attacker's class. Masks are learned that make the network withstand such changes, and what they put
down is removed. No trigger is needed, and a few hundred clean images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import augment
from inputaware.data.loader import to_pixels
from inputaware.data.splits import subset_indices
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.features import changed_output
from inputaware.defenses.repair import curve_arrays, divide, most_pruned, rates_along, rates_in_words
from inputaware.defenses.settings import AdversarialNeuronPruningSettings
from inputaware.errors import DefenseError, TrainingError
from inputaware.evaluation.prediction import predict
from inputaware.models.input_convolution import first_order_gradients
from inputaware.models.precision import full_float32

__all__ = ["AdversarialNeuronPruning", "Neurons", "worst_perturbation"]

_MOMENTUM = 0.9
_LOOK = 100
"""Iterations after which the masks are looked at, which a GPU would have to be waited for."""
_NO_NEURONS = (
    "suspect: expected a classifier with batch-norm, or with convolutions or linear layers before its last one; found "
    "none; leave adversarial-neuron-pruning out"
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv2d, nn.Linear)


class Neurons:
    """The neurons of a classifier, whose weights can be scaled without a change of the classifier.

    Where it has batch-norm, its neurons are the channels of batch-norm, with their scale for weights and their shift
    for a bias; elsewhere the output channels of its convolutions and the units of its linear layers, but for the
    layer whose output is the logits, or that runs last.

    Args:
        suspect: the classifier.
        images: a few images, to see which layers run.

    Raises:
        DefenseError: there are no such layers.
    """

    def __init__(self, suspect: Suspect, images: Float[Tensor, "batch channel height width"]) -> None:
        self.classifier = suspect.classifier.eval()
        ran: dict[nn.Module, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.classifier.modules():
                if isinstance(layer, _NORMS + _LAYERS):
                    stack.enter_context(changed_output(layer, partial(_note, ran, layer)))
            logits = suspect.logits(images)
        # Where no layer's output is the logits, something scales them: then the layer that runs last has the classes,
        # unless it is batch-norm, behind which something else makes them.
        inner = [layer for layer, output in ran.items() if not torch.equal(output, logits)]
        if len(inner) == len(ran) and inner and not isinstance(inner[-1], _NORMS):
            inner = inner[:-1]
        chosen = [layer for layer in inner if isinstance(layer, _NORMS)] or inner
        if not chosen:
            raise DefenseError(_NO_NEURONS)
        names = {layer: name for name, layer in self.classifier.named_modules()}
        self.layers = {names[layer]: layer for layer in chosen}
        self.counts = [_neurons(layer) for layer in chosen]
        self.biases = torch.cat([_bias(layer, images) for layer in chosen])

    def __len__(self) -> int:
        """Return how many neurons there are."""
        return len(self.biases)

    @contextmanager
    def scaled(
        self, weights: Float[Tensor, " neurons"], biases: Float[Tensor, " neurons"] | float = 1.0
    ) -> Iterator[None]:
        """Let each neuron return ``s (y - b) + t b`` in place of its output ``y``, with its bias ``b``.

        That is what it returns with ``s`` times its weights, and ``t`` times its bias.

        Args:
            weights: ``s``, layer by layer.
            biases: ``t``, the same, or one number for all.
        """
        shifts = (biases - weights) * self.biases
        with ExitStack() as stack:
            parts = (torch.split(values, self.counts) for values in (weights, shifts))
            for layer, scale, shift in zip(self.layers.values(), *parts, strict=True):
                # A linear layer has its units last, the others have their channels behind the batch.
                along = -1 if isinstance(layer, nn.Linear) else 1
                stack.enter_context(changed_output(layer, partial(_scaled, scale, shift, along)))
            yield

    def loss(
        self,
        images: Float[Tensor, "batch channel height width"],
        labels: Int64[Tensor, " batch"],
        masks: Float[Tensor, " neurons"],
        change: Float[Tensor, "2 neurons"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy with masked neurons: ``L((m + delta) w, (1 + xi) b)``.

        Args:
            images: pixels in [0, 1].
            labels: their true classes.
            masks: ``m``.
            change: ``delta`` and ``xi``; none: zeros.
        """
        scaled = self.scaled(masks) if change is None else self.scaled(masks + change[0], 1 + change[1])
        with scaled:
            return F.cross_entropy(self.classifier(images), labels)

    def pruned_predictions(
        self,
        images: Float[Tensor, "batch channel height width"],
        masks: NDArray[np.float64],
        thresholds: NDArray[np.float64],
        progress: Progress = lambda share: None,
    ) -> Int64[Tensor, "stages batch"]:
        """Return the predicted classes with nothing pruned, and with the neurons that each threshold prunes.

        Args:
            images: pixels in [0, 1].
            masks: of the neurons.
            thresholds: ascending; a neuron whose mask is no higher keeps nothing but its bias.
            progress: told the share of the work that is done.
        """
        kept = [np.ones(len(masks), dtype=bool), *(masks > threshold for threshold in thresholds)]
        rows: list[Tensor] = []
        for stage, keep in enumerate(kept):
            # Most masks are near 0 or 1, so that between many thresholds there is none.
            if stage and keep.sum() == kept[stage - 1].sum():
                rows.append(rows[-1])
            else:
                with self.scaled(torch.from_numpy(keep).to(self.biases)):
                    rows.append(predict(self.classifier, images))
            progress((stage + 1) / len(kept))
        return torch.stack(rows)


def worst_perturbation(
    loss: Callable[[Float[Tensor, "2 neurons"]], Float[Tensor, ""]],
    start: Float[Tensor, "2 neurons"],
    *,
    epsilon: float,
    steps: int,
    clip: bool = True,
) -> Float[Tensor, "2 neurons"]:
    """Return a change of the neurons that raises a loss: ``p = clip(p + epsilon / steps * sign(dL / dp))``, repeated.

    Wu & Wang 2021, the inner maximisation, over ``delta`` and ``xi`` in ``[-epsilon, epsilon]``.

    Args:
        loss: of a perturbation; its rows are ``delta``, of the weights, and ``xi``, of the biases.
        start: where it begins.
        epsilon: the bound.
        steps: how many steps.
        clip: whether the bound is kept. The authors' release does not, and from its random start reaches
            ``2 epsilon``.
    """
    found = start
    for _ in range(steps):
        found = found.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(found), found)
        found = found.detach() + epsilon / steps * gradient.sign()
        if clip:
            found = found.clamp(-epsilon, epsilon)
    return found.detach()


class AdversarialNeuronPruning(Defense):
    """Masks of neurons are learned on some clean images, and what they put down is pruned.

    Wu & Wang 2021, *Adversarial Neuron Pruning Purifies Backdoored Deep Models*, NeurIPS. With ``w`` a neuron's
    weights, ``b`` its bias, and ``L`` the cross-entropy on clean images::

        min over m in [0, 1]^n   alpha L(m w, b) + (1 - alpha) max L((m + delta) w, (1 + xi) b)
        max over delta, xi in [-epsilon, epsilon]^n

    Of neurons with ``m`` of at most the threshold the weights are set to zero; the bias stays.

    Deviation: the classifier stays in evaluation mode, so that batch-norm has its stored statistics. The release learns
    masks with those of each batch, and prunes a network with the stored ones. Here what is optimised is what is pruned.

    Deviation: images are taken as they are, unless shifts and mirroring are asked for. Paper and release have both, for
    CIFAR-10, but digits and signs must not be mirrored.

    The perturbation is kept within its bound, as the paper states it, unless ``clip`` is off: the release does not keep
    it there.

    Beside the paper's threshold stands the highest that costs at most ``tolerance`` of accuracy on held-out images
    (``chosen`` in the scores), as Fine-Pruning chooses: masks of another network need not be spread as theirs are.
    """

    name = "adversarial-neuron-pruning"
    minimum_images = 4
    settings: AdversarialNeuronPruningSettings

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that the classifier has layers with neurons.

        Raises:
            DefenseError: the data are such as no defense takes, or it has none.
        """
        super().check(suspect, clean)
        layers = [layer for layer in suspect.classifier.modules() if isinstance(layer, _NORMS + _LAYERS)]
        if len(layers) < 2 and not any(isinstance(layer, _NORMS) for layer in layers):
            raise DefenseError(_NO_NEURONS)

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Learn the masks, and prune by them; no verdict, for it judges no model.

        Raises:
            DefenseError: the classifier has no neurons to prune.
            TrainingError: loss or masks are not finite.
        """
        settings = self.settings
        used, held_out = divide(clean.labels, held_out=settings.held_out, seed=seed)
        if len(used) > settings.images:
            used = subset_indices(clean.labels, used, settings.images, seed).to(used)
        neurons = Neurons(suspect, clean.pixels[:8])
        learned = self._learn(
            neurons, clean.images[used], clean.labels[used], seed, lambda share: progress(0.95 * share)
        )
        # As the thresholds are: a comparison of float32 with a plain number would round that one.
        masks = learned.numpy(force=True).astype(np.float64)
        thresholds = np.unique([*(np.arange(20) / 20), settings.threshold])
        predictions = neurons.pruned_predictions(
            clean.pixels[held_out], masks, thresholds, lambda share: progress(0.95 + 0.05 * share)
        )
        accuracy = (predictions == clean.labels[held_out]).cpu().double().mean(1)
        chosen = most_pruned(accuracy, tolerance=settings.tolerance)
        stages = {"original": 0, "pruned": _stage(thresholds, settings.threshold), "chosen": chosen}
        pruned = masks <= settings.threshold
        return Examination(
            "no-verdict",
            f"Of {len(masks)} neurons {pruned.sum()} have masks of at most {settings.threshold:g} and were pruned: "
            f"held-out accuracy is {100 * float(accuracy[0]):.1f} % before, "
            f"{100 * float(accuracy[stages['pruned']]):.1f} % pruned; Adversarial Neuron Pruning judges no model.",
            {
                "neurons": len(masks),
                "pruned_neurons": int(pruned.sum()),
                "threshold": settings.threshold,
                "chosen_threshold": float(thresholds[chosen - 1]) if chosen else None,
                "chosen_neurons": int((masks <= thresholds[chosen - 1]).sum()) if chosen else 0,
                "layers": {
                    name: {"neurons": len(part), "pruned": int(part.sum())}
                    for name, part in zip(neurons.layers, np.split(pruned, np.cumsum(neurons.counts)[:-1]), strict=True)
                },
                "optimizing_images": len(used),
                "held_out_images": len(held_out),
                "held_out_accuracy": {name: float(accuracy[stage]) for name, stage in stages.items()},
            },
            {
                "optimizing_indices": used.cpu().numpy(),
                "held_out_indices": held_out.cpu().numpy(),
                "masks": masks,
                "thresholds": thresholds,
                "pruned_neurons": (masks[None] <= thresholds[:, None]).sum(1),
                "held_out_accuracy": accuracy[1:].numpy(),
            },
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return clean and attack rates of the original and the pruned network.

        Arrays hold the rates for each threshold.
        """
        thresholds = finding.arrays["thresholds"]
        neurons = Neurons(suspect, trial.clean.pixels[:8])
        masks = finding.arrays["masks"]
        before, *curve = rates_along(
            lambda images, told: neurons.pruned_predictions(images, masks, thresholds, told), trial, progress
        )
        found = finding.scores
        threshold, chosen = found["threshold"], found["chosen_threshold"]
        points = {
            "original": before,
            "pruned": curve[_stage(thresholds, threshold) - 1],
            "chosen": before if chosen is None else curve[_stage(thresholds, chosen) - 1],
        }
        words = {"before": before, f"with {found['pruned_neurons']} neurons pruned": points["pruned"]}
        if chosen is not None:
            words[f"with {found['chosen_neurons']} (threshold {chosen:g}, by held-out images)"] = points["chosen"]
        arrays = {"thresholds": thresholds, **curve_arrays(curve)}
        return Score(rates_in_words(words), {"threshold": threshold, **points}, arrays)

    def _learn(
        self,
        neurons: Neurons,
        images: Tensor,
        labels: Tensor,
        seed: int,
        progress: Progress,
    ) -> Float[Tensor, " neurons"]:
        """Return the masks after all iterations."""
        settings, device = self.settings, images.device
        masks = torch.ones(len(neurons), device=device, requires_grad=True)
        optimizer = torch.optim.SGD([masks], lr=settings.learning_rate, momentum=_MOMENTUM)
        changes = AugmentationConfig(crop_padding=settings.crop_padding, horizontal_flip=settings.horizontal_flip)
        generator = torch.Generator().manual_seed(seed)
        with full_float32(), first_order_gradients(neurons.classifier):
            for iteration in range(1, settings.iterations + 1):
                # With replacement: a batch may be larger than the images are many.
                batch = torch.randint(len(images), (settings.batch_size,), generator=generator).to(device)
                pixels, own = to_pixels(augment(images[batch], changes, generator)), labels[batch]
                start = settings.epsilon * (2 * torch.rand(2, len(neurons), generator=generator) - 1)
                change = worst_perturbation(
                    partial(neurons.loss, pixels, own, masks.detach()),
                    start.to(device),
                    epsilon=settings.epsilon,
                    steps=settings.steps,
                    clip=settings.clip,
                )
                optimizer.zero_grad()
                loss = settings.alpha * neurons.loss(pixels, own, masks)
                loss = loss + (1 - settings.alpha) * neurons.loss(pixels, own, masks, change)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                with torch.no_grad():
                    masks.clamp_(0, 1)
                # Masks that are no numbers stay so.
                looks = iteration % _LOOK == 0 or iteration == settings.iterations
                if looks and not (torch.isfinite(loss) & torch.isfinite(masks).all()):
                    raise TrainingError(
                        f"adversarial-neuron-pruning: expected a finite loss; found another after iteration "
                        f"{iteration}; choose a lower --adversarial-neuron-pruning.learning-rate or --adversarial-"
                        "neuron-pruning.epsilon, or name the other defenses alone"
                    )
                progress(iteration / settings.iterations)
        return masks.detach()


def _note(ran: dict[nn.Module, Tensor], layer: nn.Module, output: Tensor) -> Tensor:
    """Note what a layer returned, as the last one so far."""
    ran.pop(layer, None)
    ran[layer] = output.clone()  # an activation that comes next may work in place
    return output


def _neurons(layer: nn.Module) -> int:
    """Return how many neurons a layer has."""
    kinds = {nn.Conv2d: "out_channels", nn.Linear: "out_features"}
    for kind, name in kinds.items():
        if isinstance(layer, kind):
            return int(getattr(layer, name))
    return int(layer.num_features)  # type: ignore[arg-type]


def _bias(layer: nn.Module, images: Tensor) -> Float[Tensor, " neurons"]:
    """Return a layer's biases, zeros where it has none."""
    bias = layer.bias
    return bias.detach() if isinstance(bias, Tensor) else images.new_zeros(_neurons(layer))


def _scaled(scale: Tensor, shift: Tensor, along: int, output: Tensor) -> Tensor:
    """Return an output with each neuron scaled and shifted; they lie along a dimension."""
    shape = [1] * output.ndim
    shape[along] = -1
    return torch.addcmul(shift.view(shape), output, scale.view(shape))


def _stage(thresholds: NDArray[np.float64], threshold: float) -> int:
    """Return which stage of the pruning a threshold is; 0 is nothing pruned."""
    return int(np.flatnonzero(thresholds == threshold)[0]) + 1
