"""Steps on a GPU that are launched as a whole: recorded once as a CUDA graph, then replayed.

A step of these networks is several hundred kernels of a few microseconds each. Launched one by one from Python they
take longer to launch than to run; a graph of them is launched at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from inputaware.attacks.base import StepLoss
from inputaware.data.loader import Batch

__all__ = ["CapturedSteps"]

_MOST = 16
"""Graphs that are kept. The sizes of a batch's parts move slowly from one to the next and do not come back."""


@dataclass(frozen=True)
class _Graph:
    """A step that is recorded.

    Attributes:
        replay: launches its kernels.
        batch: what it reads.
        loss: what it writes.
    """

    replay: Callable[[], None]
    batch: Batch
    loss: StepLoss


class CapturedSteps:
    """Runs a step of a stage, and from the second of its kind on replays a recording of it.

    Two steps are of a kind where batches have the same shapes and the same layout. The first of a kind runs as it is
    written, which also makes what is made only once; the second is recorded. A replay computes what the step itself
    would: weights, statistics of batch-norm and the states of optimisers and random generators are changed in place.

    All of it happens on a stream of its own, which waits for what was launched before, and which what is launched
    afterwards waits for.

    Args:
        device: a CUDA device.
        work: the step, from gradients that are cleared to changed weights; must not wait for the device, nor read
            anything from Python that changes from step to step within a kind.
    """

    def __init__(self, device: torch.device, work: Callable[[Batch, float], StepLoss]) -> None:
        self.device = device
        self.work = work
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[Hashable] = set()
        self.graphs: OrderedDict[Hashable, _Graph] = OrderedDict()

    def __call__(self, batch: Batch, progress: float, layout: Hashable) -> StepLoss:
        """Do a step and return what the batch cost before it.

        Args:
            batch: images, labels and, where they are drawn, partners.
            progress: the share of the stage that lies behind, in [0, 1).
            layout: all else that decides which kernels run.
        """
        partners = None if batch.partners is None else batch.partners.shape
        kind = (layout, batch.images.shape, partners)
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            if kind in self.seen:
                loss = self._replay(kind, batch, progress)
            else:
                self.seen.add(kind)
                loss = self.work(batch, progress)
        outside.wait_stream(self.stream)
        return loss

    def _replay(self, kind: Hashable, batch: Batch, progress: float) -> StepLoss:
        if kind in self.graphs:
            self.graphs.move_to_end(kind)
        else:
            self.graphs[kind] = self._record(batch, progress)
            if len(self.graphs) > _MOST:
                self.graphs.popitem(last=False)
        recorded = self.graphs[kind]
        recorded.batch.images.copy_(batch.images)
        recorded.batch.labels.copy_(batch.labels)
        if recorded.batch.partners is not None and batch.partners is not None:
            recorded.batch.partners.copy_(batch.partners)
        recorded.replay()
        # Copies, for the next replay writes to the same places.
        loss = recorded.loss
        return StepLoss(loss.total.clone(), {name: part.clone() for name, part in loss.parts.items()})

    def _record(self, batch: Batch, progress: float) -> _Graph:
        """Return a recording of a step; nothing of it runs yet."""
        partners = None if batch.partners is None else batch.partners.clone()
        own = Batch(batch.images.clone(), batch.labels.clone(), partners)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            loss = self.work(own, progress)
        return _Graph(graph.replay, own, loss)
