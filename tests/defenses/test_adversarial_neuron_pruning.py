"""Adversarial Neuron Pruning against NumPy in float64, with explicit weights."""

from __future__ import annotations

import copy
import functools
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inputaware.api import Run
from inputaware.attacks.base import Backdoor
from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import augment
from inputaware.defenses.adversarial_neuron_pruning import AdversarialNeuronPruning, Neurons, worst_perturbation
from inputaware.defenses.base import CleanData, Finding, Suspect, Trial
from inputaware.defenses.settings import AdversarialNeuronPruningSettings, DefenseSettings
from inputaware.errors import ConfigError, DefenseError, TrainingError
from inputaware.evaluation.prediction import predict
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.preact_resnet import PreActResNet18

SHAPE = (1, 4, 4)
CLASSES = 3
HIDDEN = 12
KINDS = ("linear", "norm")


class Small(nn.Module):
    """A linear layer, batch-norm where it is asked for, ReLU, and a linear layer."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, HIDDEN)
        self.norm = nn.BatchNorm1d(HIDDEN) if norm else nn.Identity()
        self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.norm(self.hidden(images.flatten(1))).relu())
        return logits


def data(per_class: int = 8, seed: int = 0) -> CleanData:
    """Return noise with a bright row for each class."""
    random = np.random.RandomState(seed)
    labels = np.arange(CLASSES).repeat(per_class)
    images = random.randint(0, 120, (len(labels), *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, label] += 130
    return CleanData(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


class WhiteRow(Backdoor):
    """A white last row, for class 0."""

    universal = True

    def __init__(self) -> None:
        super().__init__(shape=SHAPE, classes=CLASSES, target="all-to-one", target_class=0)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, 4, 4)
        mask[:, :, 3] = 1
        return mask, torch.ones_like(images)


@functools.cache
def trained(kind: str) -> Suspect:
    """Return a suspect that knows the rows, and the white one."""
    clean = data(5, seed=3)
    poisoned = WhiteRow().poison(clean.pixels, clean.labels)
    images, labels = torch.cat([clean.pixels, poisoned.images]), torch.cat([clean.labels, poisoned.targets])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Small(norm=kind == "norm")
        optimizer = torch.optim.Adam(classifier.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(classifier(images), labels).backward()
            optimizer.step()
    return Suspect(classifier.eval(), SHAPE, CLASSES)


def anp(**changes: Any) -> AdversarialNeuronPruning:
    return AdversarialNeuronPruning(AdversarialNeuronPruningSettings(**{"iterations": 4, "batch_size": 7, **changes}))


def explicit(classifier: nn.Module) -> dict[str, np.ndarray]:
    """Return weights and biases in float64: batch-norm's, as ``gamma (x - mean) / sqrt(variance + eps) + beta``."""
    found = {name: values.double().numpy() for name, values in classifier.state_dict().items()}
    hidden, bias = found["hidden.weight"], found["hidden.bias"]
    if "norm.weight" in found:
        deviation = np.sqrt(found["norm.running_var"] + 1e-5)
        # With the scale times s and the shift times t a channel is s W x + s c + t b.
        weight = hidden * (found["norm.weight"] / deviation)[:, None]
        offset = (bias - found["norm.running_mean"]) * found["norm.weight"] / deviation
        bias = found["norm.bias"]
    else:
        weight, offset = hidden, np.zeros_like(bias)
    return {"W": weight, "c": offset, "b": bias, "V": found["output.weight"], "d": found["output.bias"]}


def loss_and_gradients(
    own: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray, s: np.ndarray, t: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the cross-entropy of a network whose weights are times ``s`` and biases times ``t``, and its gradients."""
    flat = images.reshape(len(images), -1)
    inner = flat @ own["W"].T + own["c"]
    values = s * inner + t * own["b"]
    logits = np.maximum(values, 0) @ own["V"].T + own["d"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(odds[rows, labels]).mean()
    odds[rows, labels] -= 1
    back = (odds / len(labels)) @ own["V"] * (values > 0)
    return float(loss), (back * inner).sum(0), (back * own["b"]).sum(0)


def expected_masks(found: Suspect, clean: CleanData, used: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Return the masks after all iterations, in float64."""
    own, epsilon, steps = explicit(found.classifier), settings["epsilon"], settings["steps"]
    pixels, labels = clean.images.numpy()[used] / 255, clean.labels.numpy()[used]
    generator = torch.Generator().manual_seed(settings["seed"])
    masks, velocity = np.ones(HIDDEN), np.zeros(HIDDEN)
    for _ in range(settings["iterations"]):
        batch = torch.randint(len(used), (settings["batch_size"],), generator=generator).numpy()
        images, wanted = pixels[batch], labels[batch]
        delta, xi = epsilon * (2 * torch.rand(2, HIDDEN, generator=generator).double().numpy() - 1)
        for _ in range(steps):
            _, for_weights, for_biases = loss_and_gradients(own, images, wanted, masks + delta, 1 + xi)
            bound = epsilon if settings["clip"] else np.inf
            delta = np.clip(delta + epsilon / steps * np.sign(for_weights), -bound, bound)
            xi = np.clip(xi + epsilon / steps * np.sign(for_biases), -bound, bound)
        _, natural, _ = loss_and_gradients(own, images, wanted, masks, np.ones(HIDDEN))
        _, robust, _ = loss_and_gradients(own, images, wanted, masks + delta, 1 + xi)
        velocity = 0.9 * velocity + settings["alpha"] * natural + (1 - settings["alpha"]) * robust
        masks = np.clip(masks - settings["learning_rate"] * velocity, 0, 1)
    return masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 1},
        {"iterations": 5, "steps": 3},
        {"alpha": 0.7},
        {"epsilon": 0.1},
        {"images": 5},
        {"clip": False},
    ],
    ids=str,
)
def test_masks_are_learned_as_in_float64(kind: str, changes: dict[str, Any]) -> None:
    defense, found = anp(**{"learning_rate": 0.5, **changes}), trained(kind)
    finding = defense.run(found, data(), seed=3)
    used = finding.arrays["optimizing_indices"]
    assert len(used) == changes.get("images", 12)
    expected = expected_masks(found, data(), used, {**finding.settings, "seed": 3})
    assert (expected < 0.999).any()
    np.testing.assert_allclose(finding.arrays["masks"], expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_scaled_as_their_weights_and_biases_are(kind: str) -> None:
    found, clean = trained(kind), data()
    neurons = Neurons(found, clean.pixels[:2])
    random = np.random.default_rng(0)
    masks, change = random.random(HIDDEN), random.random((2, HIDDEN)) - 0.5
    own, arguments = explicit(found.classifier), (clean.pixels.double().numpy(), clean.labels.numpy())
    mine = [torch.from_numpy(values).float() for values in (masks, change)]
    for given, s, t in (
        (mine[:1], masks, np.ones(HIDDEN)),
        (mine, masks + change[0], 1 + change[1]),
    ):
        expected, _, _ = loss_and_gradients(own, *arguments, s, t)
        assert neurons.loss(clean.pixels, clean.labels, *given).item() == pytest.approx(expected, abs=1e-5)
    # Afterwards the classifier is what it was.
    before, _, _ = loss_and_gradients(own, *arguments, np.ones(HIDDEN), np.ones(HIDDEN))
    logits = found.classifier(clean.pixels)
    assert F.cross_entropy(logits, clean.labels).item() == pytest.approx(before, abs=1e-5)


def test_the_worst_perturbation_is_at_the_bound_of_a_linear_loss() -> None:
    slopes = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, -0.1]])
    found = worst_perturbation(lambda change: (slopes * change).sum(), torch.zeros(2, 3), epsilon=0.4, steps=4)
    torch.testing.assert_close(found, 0.4 * slopes.sign())
    assert not found.requires_grad
    started = worst_perturbation(lambda change: (slopes * change).sum(), torch.full((2, 3), 0.3), epsilon=0.4, steps=1)
    # One step is of the size of the bound, and none leads beyond it.
    torch.testing.assert_close(started, torch.where(slopes > 0, torch.tensor(0.4), torch.tensor(-0.1)))
    beyond = worst_perturbation(
        lambda change: (slopes * change).sum(), torch.full((2, 3), 0.3), epsilon=0.4, steps=1, clip=False
    )
    torch.testing.assert_close(beyond, torch.where(slopes > 0, torch.tensor(0.7), torch.tensor(-0.1)))


class Probed(nn.Module):
    """A network of which some layers have no weights, run twice, or do not run."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.twice = nn.Conv2d(2, 2, 3, padding=1)
        self.idle = nn.Linear(5, 5)
        self.hidden = nn.Linear(8, 4)
        self.output = nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = self.twice(self.twice(self.convolution(images)).relu()).relu()
        logits: Tensor = self.output(self.hidden(values.mean(3).flatten(1)).relu())
        return logits


def test_neurons_are_those_of_batch_norm_or_of_all_layers_but_the_last() -> None:
    images = torch.rand(2, 1, 28, 28)
    grey = Neurons(Suspect(MnistCnn(10, hidden_units=16).eval(), (1, 28, 28), 10), images)
    assert dict(zip(grey.layers, grey.counts, strict=True)) == {
        "first_convolution": 32,
        "second_convolution": 64,
        "hidden": 16,
    }
    colour = Neurons(Suspect(PreActResNet18(10, width=0.125).eval(), (3, 32, 32), 10), torch.rand(2, 3, 32, 32))
    assert len(colour.layers) == 16
    assert all(name.endswith(("first_norm", "second_norm")) for name in colour.layers)
    mixed = Neurons(Suspect(Probed().eval(), SHAPE, CLASSES), torch.rand(2, *SHAPE))
    assert dict(zip(mixed.layers, mixed.counts, strict=True)) == {"convolution": 2, "twice": 2, "hidden": 4}
    assert len(mixed) == 8


@pytest.mark.parametrize(
    "make",
    [lambda: MnistCnn(CLASSES, hidden_units=16), lambda: PreActResNet18(CLASSES, channels=1, width=0.1)],
    ids=["mnist-cnn", "preact-resnet18"],
)
def test_pruning_is_setting_weights_to_zero(make: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier, images = make().eval(), torch.rand(12, 1, 28, 28)
        for module in classifier.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias)
    neurons = Neurons(Suspect(classifier, (1, 28, 28), CLASSES), images[:2])
    masks = np.random.default_rng(0).random(len(neurons))
    heard: list[float] = []
    thresholds = np.array([0.0, 0.3, 0.30001, 0.8])
    found = neurons.pruned_predictions(images, masks, thresholds, heard.append)
    assert heard == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert torch.equal(found[0], predict(classifier, images))
    for threshold, row in zip(thresholds, found[1:], strict=True):
        pruned, start = copy.deepcopy(classifier), 0
        for name, count in zip(neurons.layers, neurons.counts, strict=True):
            pruned.get_parameter(f"{name}.weight").data[torch.from_numpy(masks[start : start + count] <= threshold)] = 0
            start += count
        logits = pruned(images).detach()
        assert torch.equal(row, logits.argmax(1))
        with neurons.scaled(torch.from_numpy((masks > threshold).astype(np.float32))):
            torch.testing.assert_close(classifier(images).detach(), logits, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=KINDS)
def examined(request: pytest.FixtureRequest) -> tuple[Suspect, AdversarialNeuronPruning, Finding]:
    found = trained(request.param)
    defense = anp(iterations=1, learning_rate=1e4, threshold=0.33)  # masks of 0 and 1
    return found, defense, defense.run(found, data(), seed=1)


def test_a_finding_says_what_was_pruned(examined: tuple[Suspect, AdversarialNeuronPruning, Finding]) -> None:
    found, _, finding = examined
    scores, arrays = finding.scores, finding.arrays
    np.testing.assert_allclose(arrays["thresholds"], sorted([*np.arange(0, 1, 0.05), 0.33]))
    masks = arrays["masks"]
    np.testing.assert_array_equal(arrays["pruned_neurons"], [np.sum(masks <= one) for one in arrays["thresholds"]])
    count = np.sum(masks <= 0.33)
    assert 0 < count < HIDDEN
    assert (scores["neurons"], scores["pruned_neurons"], scores["threshold"]) == (HIDDEN, count, 0.33)
    assert [{"neurons": HIDDEN, "pruned": count}] == [*scores["layers"].values()]
    parts = arrays["optimizing_indices"], arrays["held_out_indices"]
    assert sorted(np.concatenate(parts)) == [*range(24)]
    assert (scores["optimizing_images"], scores["held_out_images"]) == (12, 12)
    held_out = data().pixels[parts[1]]
    hits = predict(found.classifier, held_out) == data().labels[parts[1]]
    before = scores["held_out_accuracy"]["original"]
    assert before == float(hits.double().mean())
    curve = dict(zip(arrays["thresholds"].tolist(), arrays["held_out_accuracy"].tolist(), strict=True))
    assert scores["held_out_accuracy"]["pruned"] == curve[0.33]
    allowed = [one for one in curve if curve[one] >= before - 0.04 - 1e-9]
    assert scores["chosen_threshold"] == (max(allowed) if allowed else None)
    assert scores["chosen_neurons"] == (np.sum(masks <= max(allowed)) if allowed else 0)
    assert scores["held_out_accuracy"]["chosen"] == (curve[max(allowed)] if allowed else before)
    assert finding.verdict == "no-verdict"
    assert finding.sentence == (
        f"Of 12 neurons {count} have masks of at most 0.33 and were pruned: held-out accuracy is {100 * before:.1f} % "
        f"before, {100 * curve[0.33]:.1f} % pruned; Adversarial Neuron Pruning judges no model."
    )


def test_the_scores_follow_from_the_masks(examined: tuple[Suspect, AdversarialNeuronPruning, Finding]) -> None:
    found, defense, finding = examined
    test, heard = data(seed=9), []
    score = defense.rate(finding, found, Trial(test, WhiteRow()), progress=heard.append)
    poisoned = WhiteRow().poison(test.pixels, test.labels)
    pruned = copy.deepcopy(found.classifier)
    name = "norm" if isinstance(pruned.get_submodule("norm"), nn.BatchNorm1d) else "hidden"
    pruned.get_parameter(f"{name}.weight").data[torch.from_numpy(finding.arrays["masks"] <= 0.33)] = 0
    for point, classifier in (("original", found.classifier), ("pruned", pruned)):
        hits = predict(classifier, test.pixels) == test.labels
        attack = predict(classifier, poisoned.images) == poisoned.targets
        assert score.scores[point]["clean_accuracy"] == float(hits.double().mean())
        assert score.scores[point]["attack"]["attack_success_rate"] == float(attack.double().mean())
    place = int(np.flatnonzero(finding.arrays["thresholds"] == 0.33)[0])
    np.testing.assert_array_equal(score.arrays.pop("thresholds"), finding.arrays["thresholds"])
    for rate, values in score.arrays.items():
        assert len(values) == 21
        pruned_point = score.scores["pruned"]
        assert values[place] == (pruned_point if rate == "clean_accuracy" else pruned_point["attack"])[rate]
    assert score.sentence.startswith("Clean accuracy is ")
    words = f" % with {finding.scores['pruned_neurons']} neurons pruned"
    if finding.scores["chosen_threshold"] is not None:
        rate = 100 * score.scores["chosen"]["clean_accuracy"]
        words += f", {rate:.1f} % with {finding.scores['chosen_neurons']} (threshold 0.95, by held-out images)"
    assert f"{words}; the attack succeeds on " in score.sentence
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    json.dumps([finding.record(), score.scores], allow_nan=False)
    clean = defense.rate(finding, found, Trial(test, None))
    assert list(clean.arrays) == ["thresholds", "clean_accuracy"]
    assert clean.scores["pruned"] == {"clean_accuracy": score.scores["pruned"]["clean_accuracy"], "attack": None}
    assert clean.sentence == score.sentence.partition("; the attack")[0] + "; a clean model has no attack to lose."


def test_where_nothing_may_be_pruned_the_second_threshold_is_none() -> None:
    found = trained("linear")
    # Every neuron's mask is at zero after one step of that size, or at one.
    defense = anp(iterations=1, learning_rate=1e4, tolerance=0.0)
    chosen = [defense.run(found, data(), seed=seed) for seed in range(6)]
    none = [finding for finding in chosen if finding.scores["chosen_threshold"] is None]
    assert none
    score = defense.rate(none[0], found, Trial(data(seed=9), WhiteRow()))
    assert score.scores["chosen"] == score.scores["original"]
    assert none[0].scores["chosen_neurons"] == 0
    assert "held-out" not in score.sentence


@pytest.mark.parametrize("kind", KINDS)
def test_the_suspect_is_left_as_it_was(kind: str) -> None:
    found = trained(kind)
    before = copy.deepcopy(found.classifier.state_dict())
    defense = anp()
    finding = defense.run(found, data())
    defense.rate(finding, found, Trial(data(seed=9), WhiteRow()))
    assert all(torch.equal(before[name], values) for name, values in found.classifier.state_dict().items())
    assert all(weight.requires_grad for weight in found.classifier.parameters())
    assert not any(module._forward_hooks for module in found.classifier.modules())


def test_the_seed_decides() -> None:
    one, same, other = (anp().run(trained("norm"), data(), seed=seed) for seed in (1, 1, 2))
    assert one.record() == same.record()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, same.arrays[name])
    assert not np.array_equal(one.arrays["masks"], other.arrays["masks"])


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    anp(iterations=4).run(trained("linear"), data(), progress=heard.append)
    assert heard == sorted(heard)
    assert heard[:4] == pytest.approx([0.95 * share for share in (0.25, 0.5, 0.75, 1.0)])
    assert heard[-1] == 1.0


def test_images_are_shifted_and_mirrored_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AugmentationConfig] = []

    def noted(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
        seen.append(config)
        return augment(images, config, generator)

    monkeypatch.setattr("inputaware.defenses.adversarial_neuron_pruning.augment", noted)
    plain, *others = (
        anp(iterations=1, **options).run(trained("linear"), data(), seed=1)
        for options in ({}, {"crop_padding": 2}, {"horizontal_flip": True})
    )
    assert [(one.crop_padding, one.horizontal_flip, one.rotation_degrees) for one in seen] == [
        (0, False, 0.0),
        (2, False, 0.0),
        (0, True, 0.0),
    ]
    for finding in others:
        assert not np.array_equal(finding.arrays["masks"], plain.arrays["masks"])


class Side(nn.Module):
    """A small network beside which another head runs, after it or not at all; its logits may be scaled."""

    def __init__(self, *, last: bool, scale: float) -> None:
        super().__init__()
        self.small, self.beside = Small(norm=False), nn.Linear(16, 2)
        self.last, self.scale = last, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.small(images)
        if self.last:
            self.beside(images.flatten(1))
        return logits * self.scale if self.scale != 1 else logits


@pytest.mark.parametrize(
    ("last", "scale", "layers"),
    [(True, 1.0, ["small.hidden", "beside"]), (False, 1.0, ["small.hidden"]), (False, 2.0, ["small.hidden"])],
)
def test_the_layer_whose_output_is_the_logits_has_no_neurons(last: bool, scale: float, layers: list[str]) -> None:
    found = Suspect(Side(last=last, scale=scale).eval(), SHAPE, CLASSES)
    assert list(Neurons(found, data().pixels[:2]).layers) == layers


def test_batch_norm_that_runs_last_has_neurons() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.weight = nn.BatchNorm2d(1), nn.Parameter(torch.randn(CLASSES, 16))

        def forward(self, images: Tensor) -> Tensor:
            return F.linear(self.norm(images).relu().flatten(1), self.weight)

    found = Suspect(Functional().eval(), SHAPE, CLASSES)
    anp().check(found, data())
    assert list(Neurons(found, data().pixels[:2]).layers) == ["norm"]


def test_a_classifier_without_neurons_is_refused_before_any_work() -> None:
    found = Suspect(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), SHAPE, CLASSES)
    with pytest.raises(DefenseError, match=r"^suspect: expected a classifier with batch-norm, or with convolutions"):
        anp().check(found, data())


@pytest.mark.parametrize("iterations", [1, 250])
def test_an_optimisation_that_diverges_is_refused(iterations: int) -> None:
    message = (
        f"adversarial-neuron-pruning: expected a finite loss; found another after iteration {min(iterations, 100)}; "
        "choose a lower --adversarial-neuron-pruning.learning-rate or --adversarial-neuron-pruning.epsilon, or name "
        "the other defenses alone"
    )
    with pytest.raises(TrainingError, match=rf"^{re.escape(message)}$"):
        anp(iterations=iterations, epsilon=1e38).run(trained("linear"), data())


def test_a_classifier_without_hidden_neurons_is_refused() -> None:
    linear = Suspect(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), SHAPE, CLASSES)
    with pytest.raises(DefenseError) as error:
        anp().run(linear, data())
    assert str(error.value) == (
        "suspect: expected a classifier with batch-norm, or with convolutions or linear layers before its last one; "
        "found none; leave adversarial-neuron-pruning out"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold: expected a number of at least 0 and at most 1; found 1.5"),
        ({"tolerance": -0.1}, "tolerance: expected a number of at least 0 and at most 1; found -0.1"),
        ({"held_out": 0.0}, "held_out: expected a number of at least 0.05 and at most 0.95; found 0.0"),
        ({"images": 0}, "images: expected a number of at least 1; found 0"),
        ({"iterations": 0}, "iterations: expected a number of at least 1; found 0"),
        ({"batch_size": 0}, "batch_size: expected a number of at least 1; found 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0; found 0.0"),
        ({"epsilon": -1.0}, "epsilon: expected a number of at least 0; found -1.0"),
        ({"steps": 0}, "steps: expected a number of at least 1; found 0"),
        ({"alpha": 1.1}, "alpha: expected a number of at least 0 and at most 1; found 1.1"),
        ({"crop_padding": 33}, "crop_padding: expected a number of at least 0 and at most 32; found 33"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        anp(**settings)
    assert str(error.value) == f"adversarial_neuron_pruning.{message}"


def test_a_run_is_repaired(badnets: Run) -> None:
    settings = AdversarialNeuronPruningSettings(iterations=20, batch_size=32)
    record = badnets.defend("adversarial-neuron-pruning", DefenseSettings(adversarial_neuron_pruning=settings))
    scores = record["adversarial-neuron-pruning"]["scoring"]["scores"]
    assert scores["original"]["attack"]["attack_success_rate"] > 0.9
    assert scores["pruned"].keys() == scores["original"].keys()
