"""`dlkit bench NAME`: runs a bench by its name and prints its table."""

from importlib import import_module

from dlkit.core.reports import emit

NAMES = ("rbm", "dbn", "cnn", "parallel", "scaling", "asynchronous")


def run(name: str, as_json: bool = False) -> None:
    """Measure one bench and print its table, or JSON. ValueError if there is no bench of that name."""
    if name not in NAMES:
        raise ValueError(f"no bench named {name!r}: there are {', '.join(NAMES)}.")
    bench = import_module(f"dlkit.bench.{name}")
    emit(bench.measure(), bench.TITLE, as_json)
