"""A signal waits for the end of a step, and then takes effect."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# A process for each, for a signal may end it, and a mask has to be there before the first thread.
BEGIN = """
import _thread, os, signal, sys
number = signal.Signals[sys.argv[1]]
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
from inputaware.training.interruption import DeferredSignals
"""
ONCE = """
try:
    with DeferredSignals() as signals:
        _thread.interrupt_main(number) if sys.argv[2] == "blocked" else os.kill(os.getpid(), number)
        assert signals.waiting == number
        print("the step ends", flush=True)
        signals.deliver()
        print("another step", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""
TWICE = """
import time
from inputaware.training import interruption
interruption._TOGETHER = float(sys.argv[3])
try:
    with DeferredSignals() as signals:
        for _ in range(2):
            time.sleep(0.01)
            _thread.interrupt_main(number) if sys.argv[2] == "blocked" else os.kill(os.getpid(), number)
        print("the step ends", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


HEARD = """
try:
    with DeferredSignals() as signals:
        signals.hear(signal.SIGTERM)
        _thread.interrupt_main(number) if sys.argv[2] == "blocked" else os.kill(os.getpid(), number)
        print("the step ends", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


def outcome(program: str, number: signal.Signals, mask: str, together: float = 0.0) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, number.name, mask, str(together)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


# Ray blocks SIGINT in its workers, and interrupts them with one that Python makes up.
@pytest.mark.parametrize("mask", ["open", "blocked"])
def test_a_signal_waits_until_it_is_delivered_and_a_second_one_does_not(mask: str) -> None:
    assert outcome(ONCE, signal.SIGINT, mask) == (0, ["the step ends", "interrupted"])
    assert outcome(TWICE, signal.SIGINT, mask) == (0, ["interrupted"])
    # A group's signal and its launcher's are one.
    assert outcome(TWICE, signal.SIGINT, mask, together=60.0) == (0, ["the step ends", "interrupted"])


def test_ones_own_signal_is_the_first_after_one_that_was_heard_of() -> None:
    assert outcome(HEARD, signal.SIGINT, "open") == (0, ["the step ends", "interrupted"])


def test_a_signal_that_nobody_handles_ends_the_process() -> None:
    assert outcome(ONCE, signal.SIGTERM, "open") == (-signal.SIGTERM, ["the step ends"])
