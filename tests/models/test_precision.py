"""Whatever judges a network or makes a trigger computes in float32 and a fixed order, backward passes included."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.defenses.base import CleanData, Suspect, Trial
from inputaware.defenses.registry import DEFENSES, build_defense
from inputaware.defenses.settings import (
    AdversarialNeuronPruningSettings,
    DefenseSettings,
    FinePruningSettings,
    NeuralCleanseSettings,
    StripSettings,
)
from inputaware.evaluation.evaluate import evaluate, three_accuracies
from inputaware.evaluation.prediction import probabilities
from inputaware.inspection.grad_cam import grad_cam
from inputaware.models.precision import full_float32

SHAPE = (1, 12, 12)
SEEN: set[tuple[str, bool]] = set()
"""What was computed, and whether convolutions on a GPU might have rounded, or come to other bits, there."""


def rounds() -> bool:
    cudnn = torch.backends.cudnn
    return bool(cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32)


def note(what: str) -> None:
    SEEN.add((what, rounds() or not torch.backends.cudnn.deterministic))


class Probe(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        note("forward")
        return values.clone()

    @staticmethod
    def backward(context: Any, gradients: Tensor) -> Tensor:  # type: ignore[override]
        note("backward")
        return gradients


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 5)
        self.output = nn.Linear(4 * 8 * 8, 10)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = Probe.apply(self.convolution(images))  # type: ignore[no-untyped-call]
        return self.output(found.relu().flatten(1))  # type: ignore[no-any-return]


class Nothing(Backdoor):
    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        note("trigger")
        return torch.zeros(len(images), 1, *SHAPE[1:]), torch.zeros_like(images)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    SEEN.clear()
    return Network().eval().requires_grad_(False)


def backdoor() -> Backdoor:
    return Nothing(shape=SHAPE, classes=10, target="all-to-one", target_class=0)


def data() -> CleanData:
    images = np.random.RandomState(0).randint(0, 256, (60, *SHAPE))
    return CleanData(torch.from_numpy(images.astype(np.uint8)), torch.arange(60) % 10)


@pytest.mark.parametrize("name", DEFENSES)
def test_defenses_and_their_scores(name: str, network: Network) -> None:
    settings = DefenseSettings(
        neural_cleanse=NeuralCleanseSettings(rounds=1, images_per_round=32),
        strip=StripSettings(overlays=5, images=10),
        fine_pruning=FinePruningSettings(epochs=1),
        adversarial_neuron_pruning=AdversarialNeuronPruningSettings(iterations=1),
    )
    defense = build_defense(name, settings)
    suspect = Suspect(network, SHAPE, 10, network.convolution)
    finding = defense.run(suspect, data())
    defense.rate(finding, suspect, Trial(data(), backdoor()))
    trains = name in ("neural-cleanse", "fine-pruning", "adversarial-neuron-pruning")
    # Neural Cleanse needs no triggered images: it is scored by what it flagged.
    expected = {"forward", *(["backward"] if trains else []), *(["trigger"] if name != "neural-cleanse" else [])}
    assert {(what, False) for what in expected} == SEEN


def test_evaluation_inspection_and_poisoning(network: Network) -> None:
    clean = data()
    three_accuracies(network, backdoor(), clean.images, clean.labels)
    assert {("forward", False), ("trigger", False)} == SEEN
    evaluate(network, backdoor(), clean.images, clean.labels, 10)
    probabilities(network, clean.pixels)
    backdoor().poison(clean.pixels, clean.labels)
    grad_cam(network, network.convolution, clean.pixels, clean.labels)
    assert {("forward", False), ("backward", False), ("trigger", False)} == SEEN


def test_what_comes_after_is_left_as_it_was(network: Network) -> None:
    with full_float32():
        note("within")
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    note("after")
    assert {("within", False), ("after", True)} == SEEN
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (True, False)


def test_autocast_is_put_off(network: Network) -> None:
    clean = data()
    exact = probabilities(network, clean.pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(clean.pixels).dtype == torch.bfloat16
        assert torch.equal(probabilities(network, clean.pixels), exact)
        with full_float32(), torch.autocast("cpu", torch.bfloat16):  # as a defense asks for itself
            assert network(clean.pixels).dtype == torch.bfloat16
        assert network(clean.pixels).dtype == torch.bfloat16


def test_products_of_a_matrix_are_exact_whatever_was_asked_for_and_older_names_can_be_read() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with full_float32(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has the older switches only"
)
def test_the_newer_switches_may_be_used() -> None:
    # In a process of its own: what is set there cannot be taken back.
    program = """
import torch
from inputaware.models.precision import full_float32
cudnn, onednn = torch.backends.cudnn, torch.backends.mkldnn
parts = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, onednn.conv, onednn.matmul)
def precisions():
    return [part.fp32_precision for part in parts]
def check():
    before = precisions()
    for _ in range(2):
        with full_float32(), full_float32():
            assert precisions() == ["ieee"] * 5, (before, precisions())
        assert precisions() == before, (before, precisions())
for asked in ("ieee", "tf32", "ieee"):
    torch.backends.fp32_precision = asked
    assert precisions() == [asked] * 5  # what was inherited before is inherited still
    check()
for place in (cudnn, onednn, *parts):
    for asked in ("ieee", "tf32"):
        place.fp32_precision = asked
        check()
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
