"""A built-in defense with other settings, beside itself: inputaware defend RUN beatrix examples/beatrix_last.py:last.

Results are kept by the defense's name, so that this one needs another.
"""

from inputaware.defenses.beatrix import Beatrix
from inputaware.defenses.settings import BeatrixSettings


class LastMap(Beatrix):
    """Beatrix on the last map of features, with one threshold for all classes."""

    name = "beatrix-last"


last = LastMap(BeatrixSettings(map="last", per_class=False))
