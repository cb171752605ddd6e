"""`dlkit bench NAME`: how fast, as ratios to a reference measured in the same run."""

from importlib import import_module

from dlkit.core.reports import emit

NAMES = ("rbm", "dbn", "cnn", "parallel")


def run(name: str, as_json: bool = False) -> None:
    """Measure and print the table of one bench. ValueError if there is none of that name."""
    if name not in NAMES:
        raise ValueError(f"no bench named {name!r}: there are {', '.join(NAMES)}.")
    bench = import_module(f"dlkit.bench.{name}")
    emit(bench.measure(), bench.TITLE, as_json)
