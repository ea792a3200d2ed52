"""Steps that are recorded and replayed: the bookkeeping with a stand-in for CUDA's graphs, the numbers on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

    def work(self, batch: Batch, progress: float) -> StepLoss:
        """Do a step; what it costs is the weight before it."""
        self.told.append(batch)
        before = self.weight.clone()
        self.weight.add_(batch.images.mean())
        if batch.partners is not None:
            self.weight.sub_(batch.partners.mean())
        return StepLoss(before, {"label": batch.labels.sum().float()})

    @contextmanager
    def recording(self, graph: Any, **_: Any) -> Iterator[None]:
        """Stand in for ``torch.cuda.graph``: what is done within is undone, and done again by a replay."""
        weight, told = self.weight.clone(), len(self.told)
        yield
        self.weight.copy_(weight)
        assert len(self.told) == told + 1
        graph.batch = self.told.pop()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    waits = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: waits)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: waits)
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

    def replay(self) -> None:
        """Do what was recorded, with what lies now where it was read from."""
        assert self.batch is not None
        self.machine.replays += 1
        self.machine.work(self.batch, 0.0)
        self.machine.told.pop()


def batch(value: float, count: int = 4, partners: float | None = None) -> Batch:
    images = torch.full((count, 1, 2, 2), value)
    other = None if partners is None else torch.full((count, 1, 2, 2), partners)
    return Batch(images, torch.full((count,), int(value)), other)


def test_the_first_step_of_a_kind_runs_and_the_others_are_replayed(machine: Machine) -> None:
    steps = CapturedSteps(CPU, machine.work)
    values = (1.0, 2.0, 4.0, 8.0)
    for number, value in enumerate(values):
        steps(batch(value), 0.0, ())
        assert float(machine.weight) == sum(values[: number + 1])
    assert (len(machine.told), machine.replays, len(steps.graphs)) == (1, 3, 1)


@pytest.mark.parametrize(
    ("other", "layout"), [(batch(1.0, count=3), ()), (batch(1.0), (2,)), (batch(3.0, partners=2.0), ())]
)
def test_another_shape_or_layout_is_another_kind(machine: Machine, other: Batch, layout: tuple[int, ...]) -> None:
    steps = CapturedSteps(CPU, machine.work)
    for _ in range(2):
        steps(batch(1.0), 0.0, ())
        steps(other, 0.0, layout)
    assert (len(machine.told), machine.replays, len(steps.graphs)) == (2, 2, 2)
    assert float(machine.weight) == 4.0


def test_losses_that_were_returned_stay_as_they_are(machine: Machine) -> None:
    steps = CapturedSteps(CPU, machine.work)
    for _ in range(2):
        steps(batch(1.0), 0.0, ())
    (recorded,) = steps.graphs.values()
    loss = steps(batch(1.0), 0.0, ())
    kept: list[Tensor] = [loss.total.clone(), loss.parts["label"].clone()]
    recorded.loss.total.fill_(-1.0)
    recorded.loss.parts["label"].fill_(-1.0)
    assert torch.equal(loss.total, kept[0])
    assert torch.equal(loss.parts["label"], kept[1])


def test_the_batch_that_was_recorded_is_a_copy(machine: Machine) -> None:
    steps = CapturedSteps(CPU, machine.work)
    own = batch(1.0, partners=3.0)
    for _ in range(3):
        steps(own, 0.0, ())
    assert float(own.images.mean()) == 1.0
    (recorded,) = steps.graphs.values()
    assert recorded.batch.images.data_ptr() != own.images.data_ptr()
    assert float(machine.weight) == -6.0


def test_the_oldest_recording_goes_when_there_are_many(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MOST", 2)
    steps = CapturedSteps(CPU, machine.work)
    for layout in (1, 2, 3, 1):
        for _ in range(2):
            steps(batch(1.0), 0.0, layout)
        assert len(steps.graphs) <= 2
    assert [kind[0] for kind in steps.graphs] == [3, 1]  # type: ignore[index]
    assert float(machine.weight) == 8.0
    # The fourth kind had run before: it was recorded again, and both of its steps were replayed.
    assert (len(machine.told), machine.replays) == (3, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_replayed_steps_cost_what_steps_cost(stage: StageName) -> None:
    """Two runs differ a little: on a GPU some sums are added in another order each time."""

    def losses(*, captured: bool) -> list[float]:
        torch.manual_seed(0)
        workload = Workload.build(
            "cifar10", stage, images=256, batch_size=64, device=torch.device("cuda"), precision="32"
        )
        if not captured:
            workload.step.captured = None
        batches = workload.batches()
        with workload.arithmetic():
            found = [workload.step(next(batches), epoch=0, progress=0.5).total for _ in range(4)]
        return [float(loss) for loss in found]

    assert losses(captured=True) == pytest.approx(losses(captured=False), rel=0.02)
