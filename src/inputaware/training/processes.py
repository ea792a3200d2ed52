"""Several processes that train one run: how they find each other, and what they exchange.

Accelerate reads what ``torchrun``, ``accelerate launch`` or :func:`launch` say of the processes, and connects them:
with gloo on the CPU, with NCCL on GPUs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from inputaware.attacks.share import Share
from inputaware.errors import ConfigError, DeviceError
from inputaware.runs.environment import usable_processors

_T = TypeVar("_T")

__all__ = ["Processes", "join_processes", "launch"]

_PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which evaluates while they do."""
_FAREWELL = 30.0
"""Seconds that processes have to stop."""


class Processes:
    """The processes that train a run together; without arguments, one that is alone.

    Args:
        rank: this process's number, from 0; number 0 is the one that writes.
        count: how many there are.
        local_rank: this process's number among those of its machine.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.share = Share(rank, count)
        self.local_rank = local_rank

    @property
    def count(self) -> int:
        """How many there are."""
        return self.share.count

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes the run folder and evaluates."""
        return self.share.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: on GPUs each has its own."""
        return torch.device("cuda", self.local_rank) if self.count > 1 and device.type == "cuda" else device

    def prepare(self, module: nn.Module, device: torch.device) -> None:
        """Let batch-norm take its statistics over all processes' images on GPUs; on a CPU each takes its own's."""
        if self.count > 1 and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]

    def draw_anew(self, *numbers: int) -> None:
        """Let each process but the first draw dropout from a stream of its own, which follows from these numbers.

        Called before each step with the step's number, it lets a run that is resumed after any step draw the same,
        though only the first process's state is in the checkpoint.
        """
        if not self.writes:
            torch.manual_seed(hash((self.share.rank, *numbers)) % 2**63)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.count > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            self._spread(flat, tensors)

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first process's."""
        if self.count > 1:
            # In the tensors' order, which is the same in all processes.
            for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
                same = [tensor for tensor in tensors if tensor.dtype == kind]
                flat = torch.cat([tensor.reshape(-1) for tensor in same])
                torch.distributed.broadcast(flat, 0)
                self._spread(flat, same)

    def first(self, value: _T) -> _T:
        """Return what the first process gives, for what each process might answer otherwise."""
        values = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(values, 0)
        return values[0]

    def any(self, told: bool, device: torch.device) -> bool:
        """Tell in all processes whether one of them was told something; on a GPU this waits for it."""
        if self.count == 1:
            return told
        flag = torch.tensor(float(told), device=device)
        self.add([flag])
        return bool(flag > 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """Part from the others, when all is done."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

    @staticmethod
    def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def join_processes(device: str) -> Processes:
    """Return the processes that a launcher has started, connected; one that is alone where there was no launcher.

    Args:
        device: the configuration's device; cpu takes the CPU where there are GPUs too.

    Raises:
        ConfigError: Accelerate is not installed.
        DeviceError: one GPU is named, or there are fewer GPUs than processes on a machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError:
        raise ConfigError(
            "devices: expected Accelerate, of the extra 'cluster'; found none; "
            "in the checkout: pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(
            f"device: expected auto, cpu or cuda with several processes, for each takes its own GPU; found {device!r}"
        )
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device != "cpu" and 0 < gpus < local:
        raise DeviceError(
            f"devices: expected at most {gpus}, the GPUs of this machine; found {local} processes; "
            "take fewer, or --device cpu"
        )
    state = PartialState(cpu=device == "cpu" or not gpus, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, state.local_process_index)


def launch(count: int, entry: Callable[..., None], *arguments: Any) -> int:
    """Run a function in several processes of this machine that find each other, and return their exit code.

    The machine's processors are shared out, unless ``OMP_NUM_THREADS`` says otherwise. When one process fails, the
    others are ended. Ctrl-C and SIGTERM reach them as one SIGTERM, which this process sends.

    Args:
        count: how many processes.
        entry: called in each with its rank and the arguments; it ends with :func:`sys.exit`.
        arguments: for the function.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "OMP_NUM_THREADS": str(max(1, usable_processors() // count)),
        # The processes are all here, so that nothing need listen elsewhere.
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    before = dict(os.environ)
    os.environ |= {
        **{name: value for name, value in settings.items() if name not in before},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    # A terminal sends Ctrl-C to the children too. They ignore it from the start, so that the SIGTERM below is the first
    # signal that they get: a second one would end them before their step is saved.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        context: Any = spawn(_start, (entry, arguments), count, join=False, daemon=True)  # type: ignore[no-untyped-call]
    finally:
        signal.signal(signal.SIGINT, handler)
        # They have been started with it, and what this process does next is done by it alone.
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ |= before
    try:
        while not context.join(timeout=1.0):
            pass
    except ProcessExitedException as error:
        # A process that a signal ended has a negative code.
        return error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
    except ProcessRaisedException as error:
        print(error, file=sys.stderr)
        return 1
    except BaseException as error:
        for process in context.processes:
            with suppress(ProcessLookupError, TypeError):
                os.kill(process.pid, signal.SIGTERM)
        for process in context.processes:
            process.join(_FAREWELL)
        # The first process has said how to go on, unless it failed; the others stop with it.
        with suppress(ProcessExitedException):
            try:
                context.join(timeout=0)
            except ProcessRaisedException as failure:
                print(failure, file=sys.stderr)
        return 128 + (signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
    return 0


def _start(rank: int, entry: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Torch has the system send SIGINT when the parent dies, which would be ignored. A torch without this function of
    # its own must not keep a run that is alone from starting, so it is asked for here.
    with suppress(ImportError):
        from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

        _prctl_pr_set_pdeathsig(signal.SIGTERM)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    entry(*arguments)
