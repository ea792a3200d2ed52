"""A built-in defense with other settings, beside itself: inputaware defend RUN beatrix examples/beatrix_raw.py:raw.

Results are kept by the defense's name, so that this one needs another.
"""

from inputaware.defenses.beatrix import Beatrix
from inputaware.defenses.settings import BeatrixSettings

raw = Beatrix(BeatrixSettings(features="raw"))
raw.name = "beatrix-raw"
