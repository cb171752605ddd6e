"""Numbers in the notebooks' texts that no cell shows, by notebook and reason."""

SAID: dict[str, dict[str, list[str]]] = {
    "08_data_parallel": {"the largest batch that Goyal and others 2017 scaled to": ["8,192"]},
}
