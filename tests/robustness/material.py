"""Good files to damage: a finished run with a defense's result, and checkpoints in the release's layout."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robustness.corruption import Material
from robustness.storage import small_config
from torch import Tensor

from inputaware.api import Run, train

__all__ = ["make_material", "official_checkpoint", "official_weights", "release_shapes"]

_GOLDEN = Path(__file__).parents[1] / "golden" / "release.json"

OPTIONS = {
    "data_root": "data/",
    "device": "cuda",
    "num_classes": 10,
    "batchsize": 64,
    "lr_G": 0.02,
    "lr_C": 0.03,
    "lr_M": 0.04,
    "schedulerG_milestones": [20, 30],
    "schedulerC_milestones": [10],
    "schedulerM_milestones": [5],
    "n_iters": 26,
    "lambda_div": 2.0,
    "lambda_norm": 90.0,
    "target_label": 3,
    "attack_mode": "all2one",
    "p_attack": 0.2,
    "p_cross": 0.25,
    "mask_density": 0.04,
    "EPSILON": 1e-7,
    "random_rotation": 10,
}
"""Options of the release, each different from its default where we read it."""


def release_shapes(dataset: str, network: str) -> list[tuple[str, list[int]]]:
    """Return names and shapes of a network's entries, as the release itself gave them."""
    found: list[tuple[str, list[int]]] = json.loads(_GOLDEN.read_text(encoding="utf-8"))[dataset][network]
    return found


def official_weights(dataset: str, network: str, seed: int) -> OrderedDict[str, Tensor]:
    """Return random weights with the release's names; no batch-norm divides by almost nothing."""
    generator = torch.Generator().manual_seed(seed)
    state = OrderedDict()
    for name, shape in release_shapes(dataset, network):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = max(1, int(np.prod(shape[1:])))
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return state


def official_checkpoint(dataset: str = "mnist", **options: Any) -> dict[str, Any]:
    """Return what the release saves after a joint epoch, with everything that lies around the networks."""
    names = ("netC", "classifier"), ("netG", "pattern_generator"), ("netM", "mask_generator")
    networks = {key: official_weights(dataset, network, seed) for seed, (key, network) in enumerate(names)}
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([parameter], 0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 20])
    return {
        **networks,
        "optimizerC": optimizer.state_dict(),
        "schedulerC": scheduler.state_dict(),
        "best_acc_clean": torch.tensor(99.5),
        "epoch": 26,
        "opt": argparse.Namespace(**{"dataset": dataset, **OPTIONS, **options}),
    }


def make_material(folder: Path) -> Material:
    """Return good files in a folder, made there unless they are there already."""
    run, legacy, zipped = folder / "run", folder / "legacy.pth.tar", folder / "zip.pth.tar"
    if not zipped.exists():
        folder.mkdir(parents=True, exist_ok=True)
        train(small_config(), run)
        Run.load(run, device="cpu").defend(["image-regularization"])
        content = official_checkpoint()
        torch.save(content, legacy, _use_new_zipfile_serialization=False)
        torch.save(content, zipped)
    return Material(run=run, official=legacy, official_zip=zipped, folder=folder)
