"""The errors of this package.

::

    InputAwareError                something went wrong that we can explain
    ├── UsageError                 the caller can mend it: exit code 2, nothing was written
    │   ├── CheckpointError        a checkpoint of the authors' release is missing, corrupt or of another layout
    │   ├── ConfigError            an option is out of its range, or options contradict each other
    │   ├── DataError              a data set or an image is missing, corrupt or of the wrong form
    │   ├── DefenseError           a suspect or clean data that a defense cannot work with
    │   ├── DeviceError            the device or precision asked for is not there
    │   └── RunFolderError         a run folder is missing, in the way, corrupt, locked or of another kind
    ├── TrainingError              training or fine-tuning cannot go on (numbers that are not finite): exit code 1
    └── WriteError                 the disk is full, or a folder is gone or read-only: exit code 1, what was there stays

A message says what was expected, what was found and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DefenseError",
    "DeviceError",
    "InputAwareError",
    "RunFolderError",
    "TrainingError",
    "UsageError",
    "WriteError",
    "did_you_mean",
]


class InputAwareError(Exception):
    """Base of every error that this package raises on purpose."""


class UsageError(InputAwareError):
    """The caller can mend this; nothing was written."""


class CheckpointError(UsageError):
    """A checkpoint of the authors' release is missing, corrupt or of another layout."""


class ConfigError(UsageError):
    """An option is out of its range, unknown, or contradicts another."""


class DataError(UsageError):
    """A data set or an image is missing, corrupt or of the wrong form."""


class DefenseError(UsageError):
    """A defense cannot work with this suspect or these clean data."""


class DeviceError(UsageError):
    """The device or the precision asked for is not there."""


class RunFolderError(UsageError):
    """A run folder is missing, in the way, corrupt, locked or of another kind."""


class TrainingError(InputAwareError):
    """Training cannot go on from here, and its last good checkpoint is kept; or a defense's fine-tuning cannot."""


class WriteError(InputAwareError):
    """A file cannot be written, since the disk is full or the folder gone or read-only; what was there before stays."""


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """Return the end of a message, which asks whether the choice that is closest to a word was meant; else nothing.

    Args:
        word: what was found; capitals do not matter. What is no text is like nothing.
        choices: what may stand there.
    """
    if not isinstance(word, str):
        return ""
    known = {choice.lower(): choice for choice in choices}
    return "".join(f"; did you mean {known[found]}?" for found in get_close_matches(word.lower(), known, n=1))
