"""How fast this package is on a machine, beside plainly written training and beside the paper's latencies."""

from inputaware.benchmarking.suite import benchmark

__all__ = ["benchmark"]
