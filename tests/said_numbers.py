"""Numbers in the notebooks' texts that no cell shows, by notebook and reason."""

SAID: dict[str, dict[str, list[str]]] = {}
