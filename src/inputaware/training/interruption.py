"""Stopping between two steps of training, when the state can be saved, and not within one."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["DeferredSignals"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_TOGETHER = 1.0
"""Seconds within which signals are one: a whole group of processes is told to stop, and its launcher tells them too."""


class DeferredSignals:
    """While it is entered, the first Ctrl-C or SIGTERM waits until :meth:`deliver`; a later one takes effect at once.

    Later is a second later: what follows sooner belongs to the first. So it is where a scheduler sends SIGTERM to all
    processes of a run, and the one that started them passes it on.

    Signals that are ignored stay ignored, and outside of the main thread, which alone gets signals, nothing changes.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self.since = 0.0
        self.own = True
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> DeferredSignals:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back; one that still waits takes effect, unless an error is on its way already."""
        self._restore()
        if kind is None:
            self.deliver()

    def hear(self, number: int) -> None:
        """Let a signal wait that another process got, unless one waits already; this one's own may come later."""
        if self.waiting is None:
            self.waiting, self.own = number, False

    def deliver(self) -> None:
        """Let a signal that waits take effect: whoever handled it before handles it now."""
        if self.waiting is not None:
            number, self.waiting = self.waiting, None
            self._hand_back(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.waiting is None or not self.own:
            self.waiting, self.since, self.own = number, time.monotonic(), True
        elif time.monotonic() - self.since > _TOGETHER:
            self.waiting = None
            self._hand_back(number, frame)

    def _hand_back(self, number: int, frame: FrameType | None) -> None:
        """Give the signals back, and let one of them take effect.

        Its handler is called rather than the signal sent again: that would never arrive in a worker of Ray, where
        SIGINT is blocked, and where a cell is interrupted with a signal that Python makes up.
        """
        self._restore()
        handler = signal.getsignal(number)
        if callable(handler):
            handler(number, frame)
        else:
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)
