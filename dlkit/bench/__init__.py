"""How fast this machine trains: benches that measure a speed beside a reference that is measured in the same run."""

from dlkit.bench.runner import NAMES, run

__all__ = ["NAMES", "run"]
