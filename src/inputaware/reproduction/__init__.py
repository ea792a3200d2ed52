"""The paper's tables and figures, ours beside theirs."""

from inputaware.reproduction.plan import plan_reproduction, reproduce

__all__ = ["plan_reproduction", "reproduce"]
