"""Examine a classifier that was trained elsewhere: python examples/own_classifier.py [FOLDER].

A small network is trained on scikit-learn's digits, once as it should be and once with a patch in a tenth of the
images, as somebody else might have done it. Defenses examine both, and are scored with the patch. With a folder the
results are kept there.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.console.tables import defense_table
from inputaware.defenses.base import CleanData, Suspect, Trial
from inputaware.defenses.examine import examine
from inputaware.defenses.settings import DefenseSettings, NeuralCleanseSettings
from inputaware.errors import UsageError

SHAPE, CLASSES, TARGET = (1, 8, 8), 10, 0
SETTINGS = DefenseSettings(neural_cleanse=NeuralCleanseSettings(rounds=10))
"""Few rounds, for a quick look."""


class Network(nn.Module):
    """Somebody's own classifier: pixels in [0, 1] in, logits out, with the normalisation as its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(32 * 4 * 4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        features = self.body((images - 0.3) / 0.4)
        logits: Tensor = self.head(features.flatten(1))
        return logits


class Patch(Backdoor):
    """A trigger that is known: a white square in the lower right corner, for one class."""

    universal = True  # one trigger serves every image

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the trigger lies and what it shows, for each image."""
        masks = torch.zeros_like(images[:, :1])
        masks[:, :, -3:, -3:] = 1
        return masks, torch.ones_like(images)


def train(images: Tensor, labels: Tensor, backdoor: Backdoor | None) -> Network:
    """Return a network, trained on images of which the first tenth gets the trigger and its label."""
    pixels = images / 255
    if backdoor is not None:
        tenth = len(pixels) // 10
        poisoned = backdoor.poison(pixels[:tenth], labels[:tenth])
        pixels = torch.cat([poisoned.images, pixels[tenth:]])
        labels = torch.cat([poisoned.targets, labels[tenth:]])
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(20):
        for batch in torch.split(torch.randperm(len(pixels)), 64):
            optimizer.zero_grad()
            F.cross_entropy(network(pixels[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


def main() -> int:
    """Train both, examine both, and print a table of each."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(digits.images).mul(255 / 16).round().byte()[order, None]  # grey: one channel
    labels = torch.from_numpy(digits.target)[order]
    train_split, defender, test = (slice(0, 997), slice(997, 1397), slice(1397, 1797))
    clean = CleanData(images[defender], labels[defender], split="defender")
    known = CleanData(images[test], labels[test], split="test")
    patch = Patch(shape=SHAPE, classes=CLASSES, target="all-to-one", target_class=TARGET)
    try:
        for name, backdoor in (("clean", None), ("patched", patch)):
            network = train(images[train_split], labels[train_split], backdoor)
            records = examine(
                Suspect(network, SHAPE, CLASSES, feature_layer=network.body),
                clean,
                trial=Trial(known, backdoor),
                settings=SETTINGS,
                output=Path(sys.argv[1]) / name if len(sys.argv) > 1 else None,
            )
            Console().print(defense_table(records, name))
    except UsageError as error:
        print(f"own_classifier: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
