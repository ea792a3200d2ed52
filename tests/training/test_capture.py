"""Steps that are recorded and replayed: the bookkeeping with a stand-in for CUDA's graphs, the numbers on a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inputaware.attacks.base import StepLoss
from inputaware.benchmarking.workload import StageName, Workload
from inputaware.data.loader import Batch
from inputaware.training import capture
from inputaware.training.capture import CapturedSteps

CPU = torch.device("cpu")


class Machine:
    """A network of one weight, whose step adds a batch's mean to it, and the graphs that are made of its step."""

    def __init__(self) -> None:
        self.weight = torch.zeros(())
        self.told: list[Batch] = []
        self.replays = 0
        self.waits: list[str] = []
        self.collecting: bool | None = None

    def work(self, batch: Batch) -> StepLoss:
        """Do a step; it costs the weight before it, and what the labels add up to."""
        self.told.append(batch)
        self.collecting = gc.isenabled()
        before = self.weight.clone()
        self.weight.add_(batch.images.mean())
        if batch.partners is not None:
            self.weight.sub_(batch.partners.mean())
        return StepLoss(before, {"labels": batch.labels.sum().float()})

    @contextmanager
    def recording(self, graph: Any, **_: Any) -> Iterator[None]:
        """Stand in for ``torch.cuda.graph``: what is done within is undone, and done again by a replay."""
        weight, told = self.weight.clone(), len(self.told)
        try:
            yield
        except ZeroDivisionError:
            raise RuntimeError("capture_end: operation failed") from None
        self.weight.copy_(weight)
        assert len(self.told) == told + 1
        graph.batch = self.told.pop()

    def stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.waits.append(f"{name} for {other.name}"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    outside = made.stream("outside")
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: made.stream("own"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: outside)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", made.recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(made))
    return made


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.batch: Batch | None = None
        self.steps: CapturedSteps | None = None

    def replay(self) -> None:
        """Do what was recorded, with what lies now where it was read from, and write where it was written to."""
        assert self.batch is not None
        assert self.steps is not None
        (loss,) = (recorded.loss for recorded in self.steps.graphs.values() if recorded.batch is self.batch)
        self.machine.replays += 1
        again = self.machine.work(self.batch)
        self.machine.told.pop()
        loss.total.copy_(again.total)
        loss.parts["labels"].copy_(again.parts["labels"])


@pytest.fixture
def steps(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> CapturedSteps:
    made = CapturedSteps(CPU)

    def graph() -> Graph:
        new = Graph(machine)
        new.steps = made
        return new

    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    return made


def batch(value: float, count: int = 4, partners: float | None = None) -> Batch:
    """Return images that all have a value, and labels that have it too."""
    images = torch.full((count, 1, 2, 2), value)
    other = None if partners is None else torch.full((count, 1, 2, 2), partners)
    return Batch(images, torch.full((count,), int(value)), other)


def test_the_first_step_of_a_kind_runs_and_the_others_are_replayed(machine: Machine, steps: CapturedSteps) -> None:
    weight = 0.0
    kept = []
    for value, partners in ((1.0, 0.5), (2.0, 0.25), (4.0, 1.5), (8.0, 3.0)):
        loss = steps(machine.work, batch(value, partners=partners), ())
        assert (float(loss.total), float(loss.parts["labels"])) == (weight, 4 * value)
        weight += value - partners
        assert float(machine.weight) == weight
        kept.append(loss)
    assert (len(machine.told), machine.replays, len(steps.graphs)) == (1, 3, 1)
    # What was returned stays, though each replay writes to the same places.
    assert [float(loss.parts["labels"]) for loss in kept] == [4.0, 8.0, 16.0, 32.0]
    assert machine.waits == ["own for outside", "outside for own"] * 4


@pytest.mark.parametrize(
    ("other", "layout"), [(batch(1.0, count=3), ()), (batch(1.0), (2,)), (batch(3.0, partners=2.0), ())]
)
def test_another_shape_or_layout_is_another_kind(
    machine: Machine, steps: CapturedSteps, other: Batch, layout: tuple[int, ...]
) -> None:
    for _ in range(2):
        steps(machine.work, batch(1.0), ())
        steps(machine.work, other, layout)
    assert (len(machine.told), machine.replays, len(steps.graphs)) == (2, 2, 2)
    assert float(machine.weight) == 4.0


def test_the_batch_that_was_recorded_is_a_copy(machine: Machine, steps: CapturedSteps) -> None:
    own = batch(1.0, partners=3.0)
    steps(machine.work, own, ())
    steps(machine.work, own, ())
    steps(machine.work, batch(5.0, partners=2.0), ())
    assert (float(own.images.mean()), float(own.labels.sum())) == (1.0, 4.0)
    assert own.partners is not None
    assert float(own.partners.mean()) == 3.0
    assert float(machine.weight) == -1.0


def test_the_oldest_recording_goes_when_there_are_many(
    machine: Machine, steps: CapturedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_MOST", 2)
    for layout in (1, 2, 3, 1):
        for _ in range(2):
            steps(machine.work, batch(1.0), layout)
        assert len(steps.graphs) <= 2
    assert [kind[0] for kind in steps.graphs] == [3, 1]  # type: ignore[index]
    assert float(machine.weight) == 8.0
    # The fourth kind had run before: it was recorded again, and both of its steps were replayed.
    assert (len(machine.told), machine.replays) == (3, 5)


def test_no_garbage_is_collected_while_a_step_is_recorded(machine: Machine, steps: CapturedSteps) -> None:
    steps(machine.work, batch(1.0), ())
    assert machine.collecting
    seen = []
    steps(lambda own: (seen.append(gc.isenabled()), machine.work(own))[1], batch(1.0), ())
    assert seen == [False]
    assert gc.isenabled()


def test_what_fails_while_it_is_recorded_is_told_as_it_is(machine: Machine, steps: CapturedSteps) -> None:
    def broken(own: Batch) -> StepLoss:
        raise ZeroDivisionError("the cause")

    steps(machine.work, batch(1.0), ())
    with pytest.raises(ZeroDivisionError, match="the cause"):
        steps(broken, batch(1.0), ())
    assert gc.isenabled()
    assert not steps.graphs


def test_recordings_are_freed_with_their_step(machine: Machine) -> None:
    """Were they freed by Python's collector, that could be in the midst of the next stage's recording."""
    workload = Workload.build("digits", "mask", images=64, device=CPU, precision="32")
    workload.step.captured = CapturedSteps(CPU)
    alive = weakref.ref(workload.step.captured)
    with workload.arithmetic():
        workload.step(next(workload.batches()), epoch=0, progress=0.0)
    gc.disable()
    try:
        del workload
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_replayed_steps_do_what_steps_do(stage: StageName) -> None:
    """Rounding differs, since on a GPU some sums are added in another order each time: small steps keep it small."""

    def trained(*, captured: bool) -> tuple[list[float], Tensor]:
        torch.manual_seed(0)
        device = torch.device("cuda")
        workload = Workload.build("cifar10", stage, images=256, batch_size=64, device=device, precision="32")
        if not captured:
            workload.step.captured = None
        for member in workload.step.trained.values():
            member.config = replace(member.config, learning_rate=member.config.learning_rate / 100)
        parameters = [own for member in workload.step.trained.values() for own in member.parameters]
        before = torch.cat([own.detach().flatten().clone() for own in parameters])
        batches = workload.batches()
        with workload.arithmetic():
            # Over the start of the schedule, where learning rates differ from step to step, and two layouts in turn.
            losses = [
                workload.step(next(batches), epoch=0, progress=progress).total
                for progress in (0.0, 0.05, 0.9, 0.1, 0.15, 0.9, 0.2, 0.9)
            ]
        return [float(loss) for loss in losses], torch.cat([own.detach().flatten() for own in parameters]) - before

    (losses, moved), (expected_losses, expected) = trained(captured=True), trained(captured=False)
    assert losses == pytest.approx(expected_losses, rel=0.02)
    assert float((moved - expected).norm() / expected.norm()) < 0.2
