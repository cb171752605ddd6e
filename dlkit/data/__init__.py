"""Data sets by name, checked each time they are read, available offline, with fixed splits."""

from dlkit.data.bars import bars_and_stripes
from dlkit.data.checks import check
from dlkit.data.files import verify
from dlkit.data.images import Dataset, Split, load
from dlkit.data.photos import Patches, patches
from dlkit.data.tones import tones

__all__ = ["Dataset", "Patches", "Split", "bars_and_stripes", "check", "load", "patches", "tones", "verify"]
