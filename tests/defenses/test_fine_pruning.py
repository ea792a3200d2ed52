"""Ranking against NumPy, pruning against really smaller networks, and what fine-tuning may touch."""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import augment
from inputaware.defenses.base import CleanData, Finding, Suspect, Trial
from inputaware.defenses.fine_pruning import FeatureCut, FinePruning, channel_activity
from inputaware.defenses.registry import build_defense
from inputaware.defenses.repair import divide
from inputaware.defenses.settings import FinePruningSettings
from inputaware.errors import ConfigError, DefenseError, TrainingError
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.normalize import Normalize
from inputaware.models.preact_resnet import PreActResNet18
from inputaware.models.registry import last_convolution

SHAPE = (1, 28, 28)
CLASSES = 3
KINDS = ("mnist-cnn", "preact-resnet18")


def network(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        normalize = Normalize((0.5,), (0.5,))
        if kind == "mnist-cnn":
            return MnistCnn(CLASSES, hidden_units=16, normalize=normalize).eval()
        found = PreActResNet18(CLASSES, channels=1, width=0.05, normalize=normalize)
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5
        with torch.no_grad():  # so that batch-norm has something to normalise by
            for _ in range(3):
                found(torch.rand(16, *SHAPE))
        return found.eval()


def suspect(kind: str, seed: int = 0) -> Suspect:
    classifier = network(kind, seed)
    return Suspect(classifier, SHAPE, CLASSES, last_convolution(classifier))


def data(per_class: int = 8, seed: int = 0) -> CleanData:
    """Return stripes whose place and distance are the class, on noise."""
    random = np.random.RandomState(seed)
    labels = np.arange(CLASSES).repeat(per_class)
    images = random.randint(0, 120, (len(labels), *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, 8 * label : 8 * label + 8 : label + 1] += 130
    return CleanData(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


class WhiteSquare(Backdoor):
    universal = True

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[:, :, 24:, 24:] = 1
        return mask, torch.ones_like(images)


def backdoor() -> Backdoor:
    return WhiteSquare(shape=SHAPE, classes=CLASSES, target="all-to-one", target_class=0)


@functools.cache
def trained(kind: str) -> Suspect:
    """Return a suspect that knows the stripes and the square."""
    found = suspect(kind)
    clean = data(5, seed=3)
    poisoned = backdoor().poison(clean.pixels, clean.labels)
    images, labels = torch.cat([clean.pixels, poisoned.images]), torch.cat([clean.labels, poisoned.targets])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(found.classifier.parameters(), lr=1e-2)
        found.classifier.train()
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(found.classifier(images), labels).backward()
            optimizer.step()
    found.classifier.eval()
    return found


@pytest.fixture(scope="module", params=KINDS)
def examined(request: pytest.FixtureRequest) -> tuple[Suspect, FinePruning, Finding]:
    kind = request.param
    found = trained(kind)
    defense = FinePruning(FinePruningSettings(epochs=2, batch_size=4))
    return found, defense, defense.run(found, data(), seed=1)


def numpy_features(found: Suspect, images: Tensor) -> np.ndarray:
    maps: list[Tensor] = []
    assert found.feature_layer is not None
    handle = found.feature_layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        found.classifier(images)
    handle.remove()
    return maps[0].numpy().astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_activity_is_numpys(kind: str) -> None:
    found, images = suspect(kind), data().pixels
    features = numpy_features(found, images)
    seen = np.maximum(features, 0) if kind == "mnist-cnn" else np.abs(features)
    expected = seen.mean((0, 2, 3))
    assert (features < 0).any()
    activity = FeatureCut(found, images[:2]).activity(images)
    np.testing.assert_allclose(activity, expected, rtol=1e-5)


def test_activity_counts_what_the_next_layer_reads() -> None:
    features = torch.tensor([[[[1.0, -3.0]]], [[[2.0, 0.0]]]])
    assert channel_activity(features, rectified=True).tolist() == [0.75]
    assert channel_activity(features, rectified=False).tolist() == [1.5]


def smaller(classifier: nn.Module, keep: list[int]) -> nn.Module:
    """Return a network from whose weights the other channels were taken out."""
    if isinstance(classifier, MnistCnn):
        small = copy.deepcopy(classifier)
        convolution = nn.Conv2d(32, len(keep), 5)
        convolution.weight.data = classifier.second_convolution.weight.data[keep]
        assert classifier.second_convolution.bias is not None
        convolution.bias.data = classifier.second_convolution.bias.data[keep]
        small.second_convolution = convolution
        small.hidden = nn.Linear(len(keep) * 16, 16)
        small.hidden.weight.data = classifier.hidden.weight.data.view(16, 64, 16)[:, keep].flatten(1)
        small.hidden.bias.data = classifier.hidden.bias.data
        return small.eval()
    assert isinstance(classifier, PreActResNet18)
    output = nn.Linear(len(keep), CLASSES)
    output.weight.data = classifier.output.weight.data[:, keep]
    output.bias.data = classifier.output.bias.data

    class Small(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            values = classifier.groups(classifier.convolution(classifier.normalize(images)))
            logits: Tensor = output(values[:, keep].mean((2, 3)))
            return logits

    return Small().eval()


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_is_taking_channels_out_of_the_weights(kind: str) -> None:
    found, images = suspect(kind), data().pixels
    cut = FeatureCut(found, images[:2])
    features = cut.features(images)
    order = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(0))
    for count in (0, 1, 7, len(order) - 1):
        pruned = features.clone()
        pruned[:, order[:count]] = 0
        with torch.no_grad():
            expected = smaller(found.classifier, order[count:].tolist())(images)
        torch.testing.assert_close(cut.logits(pruned, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_prunes_one_channel_more_each_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inputaware.data.loader._CHUNK", {"cpu": 10})
    found, images = trained(kind), data().pixels
    cut = FeatureCut(found, images[:2])
    order = cut.activity(images).argsort(stable=True)
    heard: list[float] = []
    predictions = cut.pruned_predictions(images, order, heard.append)
    assert predictions.shape == (len(order) + 1, len(images))
    assert heard == pytest.approx([10 / 24, 20 / 24, 1])
    with torch.no_grad():
        assert torch.equal(predictions[0], found.classifier(images).argmax(1))
        middle = smaller(found.classifier, order[len(order) // 2 :].tolist())(images).argmax(1)
        assert torch.equal(predictions[len(order) // 2], middle)
    assert predictions[-1].unique().numel() == 1


def test_a_network_with_an_unknown_head_gives_the_same() -> None:
    found, images = trained("mnist-cnn"), data().pixels

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = found.classifier

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images)
            return logits

    order = torch.arange(64)[::13]
    stranger = FeatureCut(Suspect(Wrapper(), SHAPE, CLASSES, found.feature_layer), images[:2])
    assert stranger.head is None
    expected = FeatureCut(found, images[:2]).pruned_predictions(images, order)
    assert torch.equal(stranger.pruned_predictions(images, order), expected)


def test_the_trunk_is_run_once_an_image() -> None:
    found, images = suspect("mnist-cnn"), data().pixels
    cut = FeatureCut(found, images[:2])
    seen = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        seen += len(inputs[0])

    handle = found.classifier.get_submodule("first_convolution").register_forward_hook(count)
    cut.pruned_predictions(images, torch.arange(64))
    handle.remove()
    assert seen == len(images)


def test_ranking_and_choice_use_different_images(examined: tuple[Suspect, FinePruning, Finding]) -> None:
    found, _, finding = examined
    channels = 64 if isinstance(found.classifier, MnistCnn) else 24
    assert finding.scores["channels"] == channels
    assert (finding.scores["ranking_images"], finding.scores["held_out_images"]) == (12, 12)
    ranking, held_out = (torch.from_numpy(finding.arrays[f"{name}_indices"]) for name in ("ranking", "held_out"))
    assert set(ranking.tolist()) | set(held_out.tolist()) == set(range(24))
    assert not set(ranking.tolist()) & set(held_out.tolist())
    assert torch.bincount(data().labels[held_out]).tolist() == [4, 4, 4]
    activity = FeatureCut(found, data().pixels[:2]).activity(data().pixels[ranking])
    np.testing.assert_allclose(finding.arrays["activity"], activity, rtol=1e-6)
    assert finding.arrays["order"].tolist() == np.argsort(activity.numpy(), kind="stable").tolist()
    curve = finding.arrays["held_out_accuracy"]
    with torch.no_grad():
        hits = found.classifier(data().pixels[held_out]).argmax(1) == data().labels[held_out]
    assert curve[0] == float(hits.double().mean())
    assert len(curve) == channels + 1
    assert finding.scores["pruned_channels"] == max(np.flatnonzero(curve >= curve[0] - 0.04))


def test_the_scores_follow_from_the_curves(examined: tuple[Suspect, FinePruning, Finding]) -> None:
    found, defense, finding = examined
    test = data(seed=9)
    heard: list[float] = []
    score = defense.score(finding, found, Trial(test, backdoor()), progress=heard.append)
    count = finding.scores["pruned_channels"]
    poisoned = backdoor().poison(test.pixels, test.labels)
    with torch.no_grad():
        clean_hits = found.classifier(test.pixels).argmax(1) == test.labels
        attack_hits = found.classifier(poisoned.images).argmax(1) == poisoned.targets
    assert score.arrays["clean_accuracy"][0] == float(clean_hits.double().mean())
    assert score.arrays["attack_success_rate"][0] == float(attack_hits.double().mean())
    assert float(attack_hits.double().mean()) > 0.9
    assert score.arrays["clean_accuracy"][-1] == pytest.approx(1 / 3)
    for point, place in (("original", 0), ("pruned", count)):
        assert score.scores[point]["clean_accuracy"] == score.arrays["clean_accuracy"][place]
        assert score.scores[point]["attack"]["attack_success_rate"] == score.arrays["attack_success_rate"][place]
    assert heard == [0.5, 1.0]
    json.dumps([finding.record(), score.scores], allow_nan=False)


def test_fine_tuned_weights_are_kept_and_pruned_channels_stay_so(
    examined: tuple[Suspect, FinePruning, Finding],
) -> None:
    found, defense, finding = examined
    count, order = finding.scores["pruned_channels"], finding.arrays["order"]
    assert 0 < count < len(order)
    tuned = copy.deepcopy(found.classifier)
    weights = {
        name.removeprefix("fine_tuned."): torch.from_numpy(values)
        for name, values in finding.arrays.items()
        if name.startswith("fine_tuned.")
    }
    tuned.load_state_dict(weights)
    test = data(seed=9)
    with torch.no_grad():
        expected = smaller(tuned, sorted(order[count:].tolist()))(test.pixels).argmax(1) == test.labels
    score = defense.score(finding, found, Trial(test, None))
    assert score.scores["fine_tuned"] == {"clean_accuracy": float(expected.double().mean()), "attack": None}
    assert list(score.arrays) == ["clean_accuracy"]
    if isinstance(tuned, MnistCnn):
        # No gradient reached a pruned channel's filters, and one reached every other's.
        before = found.classifier.get_parameter("second_convolution.weight")
        same = (tuned.second_convolution.weight == before).flatten(1).all(1)
        assert same[order[:count]].all()
        assert not same[order[count:]].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_suspect_is_left_as_it_was(kind: str) -> None:
    found = trained(kind)
    before = copy.deepcopy(found.classifier.state_dict())
    defense = FinePruning(FinePruningSettings(epochs=1, batch_size=4))
    finding = defense.run(found, data())
    defense.score(finding, found, Trial(data(seed=9), backdoor()))
    after = found.classifier.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    changed = [name for name in before if not np.array_equal(before[name], finding.arrays[f"fine_tuned.{name}"])]
    assert "output.weight" in changed
    assert found.feature_layer is not None
    assert not found.feature_layer._forward_hooks


def test_the_seed_decides() -> None:
    defense = build_defense("fine-pruning")
    one, same, other = (defense.run(suspect("mnist-cnn"), data(), seed=seed) for seed in (1, 1, 2))
    assert one.record() == same.record()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, same.arrays[name])
    name = "fine_tuned.output.weight"
    assert not np.array_equal(one.arrays[name], other.arrays[name])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_fine_tuning_is_sgd_by_its_formula(schedule: Literal["constant", "cosine"]) -> None:
    found = trained("preact-resnet18")
    chosen = FinePruningSettings(
        epochs=2, batch_size=5, learning_rate=0.02, schedule=schedule, weight_decay=0.01, held_out=0.4
    )
    defense = FinePruning(chosen)
    finding = defense.run(found, data(), seed=3)
    ranking, _ = divide(data().labels, held_out=0.4, seed=3)
    images, labels = data().pixels[ranking], data().labels[ranking]
    tuned = copy.deepcopy(found.classifier).train().requires_grad_(True)
    layer = last_convolution(tuned)
    assert layer is not None
    keep = torch.ones(len(finding.arrays["order"]), 1, 1)
    keep[finding.arrays["order"][: finding.scores["pruned_channels"]]] = 0
    layer.register_forward_hook(lambda module, inputs, output: output * keep)
    generator = torch.Generator().manual_seed(3)
    velocity = [torch.zeros_like(weight) for weight in tuned.parameters()]
    steps = 2 * -(-len(images) // 5)
    step = 0
    for _ in range(2):
        for batch in torch.split(torch.randperm(len(images), generator=generator), 5):
            loss = F.cross_entropy(tuned(images[batch]), labels[batch])
            gradients = torch.autograd.grad(loss, list(tuned.parameters()))
            rate = 0.02 * (0.5 + 0.5 * math.cos(math.pi * step / steps) if schedule == "cosine" else 1.0)
            with torch.no_grad():
                for weight, moved, gradient in zip(tuned.parameters(), velocity, gradients, strict=True):
                    moved.mul_(0.9).add_(gradient + 0.01 * weight)
                    weight.sub_(rate * moved)
            step += 1
    assert step == steps
    for name, values in tuned.state_dict().items():
        np.testing.assert_allclose(finding.arrays[f"fine_tuned.{name}"], values.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [4, 1000])
def test_fine_tuning_that_diverges_is_refused(kind: str, batch_size: int) -> None:
    found = trained(kind)
    before = copy.deepcopy(found.classifier.state_dict())
    message = (
        "fine-pruning: expected finite weights in fine-tuning; found others after epoch 1; "
        "choose a lower --fine-pruning.learning-rate, or name the other defenses alone"
    )
    # Of one batch the loss is that of the weights before its step.
    with pytest.raises(TrainingError, match=rf"^{re.escape(message)}$"):
        FinePruning(FinePruningSettings(epochs=1, batch_size=batch_size, learning_rate=1e38, weight_decay=1e3)).run(
            found, data()
        )
    assert all(torch.equal(before[name], values) for name, values in found.classifier.state_dict().items())


def test_images_of_the_fine_tuning_are_shifted_and_mirrored_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AugmentationConfig] = []

    def noted(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
        seen.append(config)
        return augment(images, config, generator)

    monkeypatch.setattr("inputaware.defenses.fine_pruning.augment", noted)
    plain, *others = (
        FinePruning(FinePruningSettings(epochs=1, **options)).run(trained("preact-resnet18"), data(), seed=1)
        for options in ({}, {"crop_padding": 4}, {"horizontal_flip": True})
    )
    assert list(dict.fromkeys((one.crop_padding, one.horizontal_flip, one.rotation_degrees) for one in seen)) == [
        (0, False, 0.0),
        (4, False, 0.0),
        (0, True, 0.0),
    ]
    name = "fine_tuned.output.weight"
    for finding in others:
        assert not np.array_equal(finding.arrays[name], plain.arrays[name])
        # Ranking and choice are on the images as they are.
        assert finding.scores["held_out_accuracy"]["pruned"] == plain.scores["held_out_accuracy"]["pruned"]
        np.testing.assert_array_equal(finding.arrays["activity"], plain.arrays["activity"])


def test_without_epochs_the_network_is_only_pruned() -> None:
    found = suspect("mnist-cnn")
    finding = FinePruning(FinePruningSettings(epochs=0)).run(found, data())
    assert finding.scores["held_out_accuracy"]["fine_tuned"] is None
    assert not [name for name in finding.arrays if name.startswith("fine_tuned.")]
    assert finding.sentence.endswith(" % pruned; Fine-Pruning judges no model.")
    count = finding.scores["pruned_channels"]
    score = FinePruning().rate(finding, found, Trial(data(seed=1), backdoor()))
    assert score.scores["fine_tuned"] is None
    before, pruned = (score.scores[name]["clean_accuracy"] for name in ("original", "pruned"))
    assert score.sentence.startswith(
        f"Clean accuracy is {100 * before:.1f} % before, {100 * pruned:.1f} % with {count} channels pruned; the attack "
        "succeeds on "
    )
    clean = FinePruning().rate(finding, found, Trial(data(seed=1), None))
    assert clean.sentence.endswith(f"with {count} channels pruned; a clean model has no attack to lose.")


class Small(nn.Module):
    """A convolution, what comes next, and a batch-norm that needs two images."""

    def __init__(self, activation: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(1, 4, 3)
            self.output = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
        self.activation, self.scale = activation, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.activation(self.convolution(images)).mean((2, 3)))
        return self.scale * logits


@pytest.mark.parametrize("kind", [nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Hardswish])
def test_an_activation_that_works_in_place_changes_nothing(kind: type[nn.Module]) -> None:
    order = torch.arange(4)
    found = []
    for inplace in (False, True):
        classifier = Small(kind(inplace=inplace)).eval()
        cut = FeatureCut(Suspect(classifier, SHAPE, CLASSES, classifier.convolution), data().pixels[:4])
        found.append((cut.pruned_predictions(data().pixels, order), cut.activity(data().pixels)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_rest_of_one_image_is_left_out_of_an_epoch() -> None:
    classifier = Small(nn.ReLU())
    settings = FinePruningSettings(epochs=1, batch_size=11)  # of the 12 images that fine-tune
    finding = FinePruning(settings).run(Suspect(classifier, SHAPE, CLASSES, classifier.convolution), data())
    assert finding.scores["ranking_images"] == 12
    assert finding.scores["held_out_accuracy"]["fine_tuned"] is not None


def test_batches_of_one_image_are_no_rest() -> None:
    found = suspect("mnist-cnn")
    finding = FinePruning(FinePruningSettings(epochs=1, batch_size=1)).run(found, data(2))
    before = found.classifier.get_parameter("output.bias").numpy(force=True)
    assert not np.array_equal(finding.arrays["fine_tuned.output.bias"], before)


class Around(nn.Module):
    """A convolution, and a way around it."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.output = nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = self.convolution(images).relu() + 5 * images
        logits: Tensor = self.output(values.mean((2, 3)))
        return self.scale * logits


def case_without_layer() -> Suspect:
    return Suspect(network("mnist-cnn"), SHAPE, CLASSES)


def case_around() -> Suspect:
    classifier = Around()
    return Suspect(classifier, SHAPE, CLASSES, classifier.convolution)


def case_around_with_small_logits() -> Suspect:
    classifier = Around(scale=1e-4)
    return Suspect(classifier, SHAPE, CLASSES, classifier.convolution)


def case_flat() -> Suspect:
    classifier = network("mnist-cnn")
    return Suspect(classifier, SHAPE, CLASSES, classifier.get_submodule("hidden"))


def case_stranger() -> Suspect:
    return Suspect(network("mnist-cnn"), SHAPE, CLASSES, nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            case_without_layer,
            "suspect: expected a feature layer, the module whose output is the last map of features; found none; "
            "give it as feature_layer, or leave fine-pruning out",
        ),
        (
            case_around,
            "suspect: expected a feature layer that everything passes through on its way to the logits; "
            "found one (Conv2d) beside which something else does; give a later layer",
        ),
        (
            case_around_with_small_logits,
            "suspect: expected a feature layer that everything passes through on its way to the logits; "
            "found one (Conv2d) beside which something else does; give a later layer",
        ),
        (
            case_flat,
            "suspect: expected a feature layer that is run once and returns a map (batch, channel, height, width); "
            "found shape (8, 16); give the last convolution or the block around it",
        ),
        (
            case_stranger,
            "suspect: expected a feature layer that is run once and returns a map (batch, channel, height, width); "
            "found 0 runs; give the last convolution or the block around it",
        ),
    ],
)
def test_a_layer_that_cuts_nothing_is_refused(case, message: str) -> None:
    with pytest.raises(DefenseError) as error:
        FinePruning(FinePruningSettings()).run(case(), data())
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 1.5}, "fine_pruning.tolerance: expected a number of at least 0 and at most 1; found 1.5"),
        ({"held_out": 0.0}, "fine_pruning.held_out: expected a number of at least 0.05 and at most 0.95; found 0.0"),
        ({"epochs": -1}, "fine_pruning.epochs: expected a number of at least 0; found -1"),
        ({"schedule": "linear"}, "fine_pruning.schedule: expected constant or cosine; found 'linear'"),
        ({"weight_decay": -0.1}, "fine_pruning.weight_decay: expected a number of at least 0; found -0.1"),
        ({"crop_padding": -1}, "fine_pruning.crop_padding: expected a number of at least 0 and at most 32; found -1"),
        ({"batch_size": 0}, "fine_pruning.batch_size: expected a number of at least 1; found 0"),
        ({"learning_rate": 0.0}, "fine_pruning.learning_rate: expected a number above 0; found 0.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    made = object.__new__(FinePruningSettings)
    for name, value in {**vars(FinePruningSettings()), **settings}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(ConfigError) as error:
        FinePruning(made)
    assert str(error.value) == message
