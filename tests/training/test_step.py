"""A step is its four parts in their order; what training does with it is tested with the loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from inputaware.attacks.base import Stage, StepLoss
from inputaware.attacks.registry import build_attack
from inputaware.config.fields import AttackName
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch
from inputaware.data.spec import dataset_spec
from inputaware.training.processes import Processes
from inputaware.training.schedules import learning_rate
from inputaware.training.step import TrainingStep, beneath, place_modules

CPU = torch.device("cpu")


def step_and_batch() -> tuple[TrainingStep, Batch]:
    """Return the mask stage's step from the same weights each time, and a batch."""
    config = preset_config("fast", dataset="digits")
    torch.manual_seed(0)
    attack = build_attack(config, dataset_spec("digits"))
    place_modules(attack, CPU)
    step = TrainingStep(next(iter(attack.stages())), device=CPU, precision="32")
    step.train_mode()
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return step, Batch(images=images, labels=torch.zeros(4, dtype=torch.int64), partners=None)


def test_a_step_is_its_parts() -> None:
    whole, batch = step_and_batch()
    parts, _ = step_and_batch()
    for number in range(2):
        loss = whole(batch, epoch=0, progress=number / 2)
        parts.prepare(epoch=0, progress=number / 2)
        other = parts.loss(batch, number / 2)
        parts.backward(other)
        parts.update()
        parts.follow()
        assert torch.equal(loss.total, other.total)
    (first,), (second,) = whole.trained.values(), parts.trained.values()
    for one, two in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(one, two)
    rate = learning_rate(first.config, epoch=0, progress=0.5)
    assert [group["lr"] for group in first.optimizer.param_groups] == [rate]


def test_a_step_changes_the_weights() -> None:
    step, batch = step_and_batch()
    (member,) = step.trained.values()
    before = [parameter.detach().clone() for parameter in member.parameters]
    step(batch, epoch=0, progress=0.0)
    assert any(not torch.equal(old, new) for old, new in zip(before, member.parameters, strict=True))


@pytest.mark.parametrize(("precision", "expected"), [("32", False), ("bf16", True)])
def test_the_loss_is_computed_in_the_precision_asked_for(precision: str, expected: bool) -> None:
    step, batch = step_and_batch()
    step.precision = precision  # type: ignore[assignment]
    seen: list[bool] = []
    step.stage.generator.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))  # type: ignore[attr-defined]
    step.loss(batch, 0.0)
    assert seen == [expected]


def test_names_beneath_a_prefix() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert beneath("a/", {"a/x": one, "b/x": two}) == {"x": one}


class Recorder:
    """Stands in for what records steps on a GPU: does them, and keeps their layouts."""

    def __init__(self, device: torch.device) -> None:
        self.layouts: list[object] = []

    def __call__(self, work: Callable[[Batch], StepLoss], batch: Batch, layout: object) -> StepLoss:
        self.layouts.append(layout)
        return work(batch)


def step_on(
    monkeypatch: pytest.MonkeyPatch, device: str, *, number: int = 1, processes: int = 1, captured: bool = True
) -> tuple[TrainingStep, Batch]:
    """Return a stage's step on a device that need not be there, and a batch: all networks stay on the CPU."""
    monkeypatch.setattr("inputaware.training.step.CapturedSteps", Recorder)
    config = preset_config("fast", dataset="digits", joint_stage={"averaging": 0.5})
    torch.manual_seed(0)
    attack = build_attack(config, dataset_spec("digits"))
    place_modules(attack, CPU)
    stage = next(itertools.islice(attack.stages(), number, None))
    step = TrainingStep(
        stage, device=torch.device(device), precision="32", processes=Processes(0, processes), captured=captured
    )
    step.train_mode()
    images = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return step, Batch(images=images, labels=torch.zeros(10, dtype=torch.int64), partners=None)


def test_a_gpu_records_what_a_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, batch = step_on(monkeypatch, "cuda")
    cpu, _ = step_on(monkeypatch, "cpu")
    assert cpu.captured is None
    for progress in (0.0, 0.9):
        torch.manual_seed(2)
        one = gpu(batch, epoch=0, progress=progress)
        torch.manual_seed(2)
        assert torch.equal(one.total, cpu(batch, epoch=0, progress=progress).total)
        assert not one.total.requires_grad
    assert isinstance(gpu.captured, Recorder)
    assert gpu.captured.layouts == [gpu.stage.layout(batch, 0.0), gpu.stage.layout(batch, 0.9)]
    assert gpu.captured.layouts[0] != gpu.captured.layouts[1]
    for name, member in gpu.trained.items():
        # Weights and their averages.
        for key, tensor in member.state().items():
            assert torch.equal(tensor, cpu.trained[name].state()[key])
        assert member.state().keys() >= {"average/steps"}
        assert int(member.state()["average/steps"]) == 2


@pytest.mark.parametrize(("device", "processes", "captured"), [("cpu", 1, True), ("cuda", 2, True), ("cuda", 1, False)])
def test_what_is_never_recorded(device: str, processes: int, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = step_on(monkeypatch, device, processes=processes, captured=captured)
    assert step.captured is None


def test_a_stage_that_says_no_layout_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    step, batch = step_on(monkeypatch, "cuda", number=0)
    monkeypatch.setattr(type(step.stage), "layout", Stage.layout)
    step(batch, epoch=0, progress=0.0)
    assert isinstance(step.captured, Recorder)
    assert step.captured.layouts == []


@pytest.mark.parametrize("attack", ["input-aware", "badnets", "none"])
def test_at_one_layout_a_loss_does_not_depend_on_progress(attack: AttackName) -> None:
    """Else a recording would repeat the number of the step that it was made of."""
    config = preset_config("fast", dataset="digits", attack=attack, model={"dropout": 0.0})
    built = build_attack(config, dataset_spec("digits"))
    images = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    batch = Batch(images=images, labels=torch.arange(20) % 10, partners=None)
    for stage in built.stages():
        found: dict[object, set[float]] = {}
        for number in range(10):
            layout = stage.layout(batch, number / 10)
            assert layout is not None
            found.setdefault(layout, set()).add(float(stage.loss(batch, number / 10).total.detach()))
        assert all(len(losses) == 1 for losses in found.values())
