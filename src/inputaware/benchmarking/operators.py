"""Which of torch's operators a step spends its time in."""

from __future__ import annotations

from typing import Any

from torch.profiler import ProfilerActivity, profile

from inputaware.benchmarking.timing import synchronize
from inputaware.benchmarking.workload import MIDDLE, Workload

__all__ = ["seconds_by_operator"]

_MOST = 12


def seconds_by_operator(workload: Workload, steps: int) -> list[dict[str, Any]]:
    """Return the operators of a step that take longest, as torch's profiler sees them, the longest first.

    An operator's own time counts, without that of operators that it calls; on a GPU the time of its kernels. There the
    step is launched operator by operator, for a recording shows none.

    Args:
        workload: the product's stage, and its data.
        steps: how many steps to measure; one more is done before them.

    Returns:
        Twelve at most: the ``operator``, ``seconds`` and ``calls`` of a step, and the ``share`` of all operators' time.
    """
    step, on_gpu = workload.step, workload.device.type == "cuda"
    batch = next(workload.batches())

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with workload.arithmetic():
        step.unrecorded(batch, epoch=0, progress=MIDDLE)
        with profile(activities=activities, acc_events=True) as found:
            for _ in range(steps):
                step.unrecorded(batch, epoch=0, progress=MIDDLE)
            synchronize(workload.device)
    # Kernels have rows of their own on a GPU, beside those of the operators that launched them.
    rows = [row for row in found.key_averages() if row.device_type.name == "CPU"]
    times = {row.key: (row.self_device_time_total if on_gpu else row.self_cpu_time_total) for row in rows}
    calls = {row.key: row.count for row in rows}
    whole = sum(times.values()) or 1
    return [
        {"operator": name, "seconds": time / 1e6 / steps, "calls": calls[name] / steps, "share": time / whole}
        for name, time in sorted(times.items(), key=lambda item: -item[1])[:_MOST]
        if time > 0
    ]
