"""Steps on a GPU that are launched as a whole: recorded once as a CUDA graph, then replayed.

A step of these networks is many small kernels, and launching each from Python takes its time. A graph of them is
launched at once.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from inputaware.attacks.base import StepLoss
from inputaware.data.loader import Batch

__all__ = ["CapturedSteps"]

_MOST = 16
"""Recordings that are kept. Sizes of a batch's parts move slowly from one to the next and do not come back; those of
whole batches, where an image that meets itself is left out, are a few that do."""


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
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[Hashable] = set()
        self.graphs: OrderedDict[Hashable, _Graph] = OrderedDict()

    def __call__(self, work: Callable[[Batch], StepLoss], batch: Batch, layout: Hashable) -> StepLoss:
        """Do a step and return what the batch cost before it.

        Args:
            work: the step, from gradients that are cleared to changed weights. It must not wait for the device, nor
                read anything from Python that changes from step to step within a kind. It is not kept: an object that
                held its own recordings would free them whenever Python collects its garbage, and where that is in the
                midst of another recording, it breaks that one.
            batch: images, labels and, where they are drawn, partners.
            layout: all else that decides which kernels run.
        """
        partners = None if batch.partners is None else batch.partners.shape
        kind = (layout, batch.images.shape, partners)
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            if kind in self.seen:
                loss = self._replay(kind, work, batch)
            else:
                self.seen.add(kind)
                loss = work(batch)
        outside.wait_stream(self.stream)
        return loss

    def _replay(self, kind: Hashable, work: Callable[[Batch], StepLoss], batch: Batch) -> StepLoss:
        if kind in self.graphs:
            self.graphs.move_to_end(kind)
        else:
            self.graphs[kind] = self._record(work, batch)
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

    def _record(self, work: Callable[[Batch], StepLoss], batch: Batch) -> _Graph:
        """Return a recording of a step; nothing of it runs yet."""
        partners = None if batch.partners is None else batch.partners.clone()
        own = Batch(batch.images.clone(), batch.labels.clone(), partners)
        graph = torch.cuda.CUDAGraph()
        failure: BaseException | None = None
        try:
            with _no_garbage_collection(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                try:
                    loss = work(own)
                except BaseException as error:
                    failure = error
                    raise
        except BaseException as error:
            # What the end of a recording that failed says of itself explains nothing.
            raise (failure or error) from None
        return _Graph(graph.replay, own, loss)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from freeing, in the midst of a recording, what belongs to CUDA."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
