"""What is timed is what ``inputaware train`` runs."""

from __future__ import annotations

import pytest
import torch

from inputaware.attacks.input_aware import JointStage, MaskStage
from inputaware.benchmarking.workload import MIDDLE, STAGES, StageName, Workload, random_images
from inputaware.config.presets import preset_config
from inputaware.data.spec import dataset_spec

CPU = torch.device("cpu")


@pytest.mark.parametrize(("stage", "kind"), [("mask", MaskStage), ("joint", JointStage)])
def test_a_stage_is_the_products_with_preset_fast(stage: StageName, kind: type[MaskStage | JointStage]) -> None:
    workload = Workload.build("mnist", stage, images=300, device=CPU, precision="32")
    assert type(workload.stage) is kind
    assert workload.config == preset_config("fast", dataset="mnist")
    assert workload.step.stage is workload.stage
    for recipe in workload.stage.recipes.values():
        assert recipe.module.training
        assert all(
            parameter.is_contiguous(memory_format=torch.channels_last)
            for parameter in recipe.module.parameters()
            if parameter.ndim == 4
        )
    batches = workload.batches()
    # Two batches an epoch; a third comes from the next one.
    assert [len(next(batches).images) for _ in range(3)] == [128, 128, 128]


def test_both_steps_start_from_the_same_weights_and_change_their_own() -> None:
    workload = Workload.build("digits", "joint", images=64, device=CPU, precision="32", batch_size=32)
    plain = workload.plain_step()
    before = {name: member.module.state_dict() for name, member in plain.trained.items()}
    for name, member in workload.step.trained.items():
        for key, entry in member.module.state_dict().items():
            assert torch.equal(entry, before[name][key])
    kept = {name: {key: entry.clone() for key, entry in state.items()} for name, state in before.items()}
    workload.step(next(workload.batches()), epoch=0, progress=MIDDLE)
    for name, state in kept.items():
        assert all(torch.equal(before[name][key], entry) for key, entry in state.items())
        weights = workload.step.trained[name].module.state_dict()
        assert any(not torch.equal(weights[key], entry) for key, entry in state.items())
    assert plain.precision == "32"


def test_random_images_have_the_sets_shape_and_classes() -> None:
    images, labels = random_images(dataset_spec("gtsrb"), 500, CPU)
    assert (tuple(images.shape), images.dtype) == ((500, 3, 32, 32), torch.uint8)
    assert (int(labels.min()), int(labels.max())) == (0, 42)


def test_stages_stand_in_their_order() -> None:
    assert STAGES == ("mask", "joint")
