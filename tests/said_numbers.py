"""Numbers in the notebooks' texts that no cell shows, by notebook and reason."""

SAID: dict[str, dict[str, list[str]]] = {
    "00_start_here": {"a pixel in the file is at most": ["255"], "goals of the open task": ["86", "88"]},
    "01_energy_and_sampling": {"a goal of the open task": ["−4.25"]},
    "02_rbm_pretraining": {"goals of the open task": ["−184", "−173", "−166", "−163"]},
    "03_dbn_pretraining": {"goals of the open task": ["12.1", "11.8"]},
    "07_engine_cluster": {"the cable of the open task, in MB/s": ["125"]},
    "08_data_parallel": {"the largest batch that Goyal and others 2017 scaled to": ["8,192"]},
    "11_asynchronous": {"goals of the open task": ["10.5", "9.5"]},
}
