"""What STRIP's adding does to a trigger: the script's numbers beside a plain computation."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inputaware import Run
from inputaware.errors import DefenseError
from inputaware.runs.files import read_arrays

Copy = Callable[..., Path]
MEASURE = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "strip-whole-trigger"))["measure"]


def test_the_numbers_are_those_of_a_plain_computation(copy_of: Copy) -> None:
    run = Run.load(copy_of("badnets"), device="cpu")
    found = MEASURE(run, 3)
    overlays = torch.from_numpy(read_arrays(run.folder.defenses / "strip.npz")["overlays"]) / 255
    images, _ = run.images("test")
    assert run.backdoor is not None
    mask, pattern = run.backdoor.trigger(images[:1] / 255)
    for kind in ("clean", "triggered", "triggered, trigger whole"):
        hits, entropies = [], []
        for image in images[:3] / 255:
            for overlay in overlays:
                tested = image if kind == "clean" else image * (1 - mask[0]) + pattern[0] * mask[0]
                blend = (tested + overlay).clamp(0, 1)
                if kind == "triggered, trigger whole":
                    blend = blend * (1 - mask[0]) + pattern[0] * mask[0]
                chances = run.classifier(blend[None]).softmax(1)[0].double()
                hits.append(bool(chances.argmax() == 0))
                entropies.append(float(-(chances * chances.log2()).sum()))
        assert found[kind]["blends_in_the_target_class"] == pytest.approx(sum(hits) / len(hits))
        assert found[kind]["mean_entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
        assert 0 <= found[kind]["accepted"] <= 1
    assert (found["images"], found["overlays"]) == (3, 2)


def test_a_run_without_a_trigger_is_refused(copy_of: Copy) -> None:
    with pytest.raises(DefenseError, match="expected a run with a backdoor, all-to-one; found another"):
        MEASURE(Run.load(copy_of("none"), device="cpu"), 3)
