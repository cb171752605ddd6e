"""All exercises that ask for a function: the solution is right, a stub is no answer, an exception is a line."""

from functools import cache
from importlib import import_module

import pytest
from answers import solutions, verdict

FUNCTIONS = {
    "01_energy_and_sampling": ["energy", "free_energy", "gibbs_step", "cd_statistics"],
    "02_rbm_pretraining": ["fill_grad", "pseudo_log_likelihood"],
    "03_dbn_pretraining": ["features", "upside_down", "corrupt", "ista_step"],
    "04_dbn_fine_tuning": ["label_free_energies", "wake", "unroll", "principal_components"],
    "05_cnn_feature_maps": ["convolve", "parameters", "sub_sample", "receptive_field"],
    "06_what_a_cnn_sees": ["occlude", "saliency", "integrated_gradients", "ascend"],
    "07_engine_cluster": ["latency_and_bandwidth", "hand_round", "bytes_sent", "broadcast"],
    "08_data_parallel": ["whole_gradient", "waits", "smallest_batch", "learning_rate"],
    "09_model_parallel": ["put_together", "free_energy_part", "halo", "microbatches", "add_split"],
    "10_hybrid": ["crossing_batch", "cheaper", "groups", "hybrid_bytes", "combined"],
}
solved = cache(solutions)


@pytest.fixture(params=[(notebook, name) for notebook, names in FUNCTIONS.items() for name in names], ids="-".join)
def exercise(request):
    """(notebook, name, the check of that name)."""
    notebook, name = request.param
    return notebook, name, getattr(import_module(f"dlkit.exercises.{notebook[3:]}"), name)


def test_the_solution_is_right(capsys, exercise):
    notebook, name, check = exercise
    assert verdict(capsys, check, solved(notebook)[name]).startswith("✓")


@pytest.mark.parametrize("stub", [None, ..., lambda *_: None, lambda *_: ...])
def test_an_untouched_stub_is_not_answered_yet(capsys, exercise, stub):
    assert verdict(capsys, exercise[2], stub).startswith("○")


def test_what_the_students_code_raises_is_told_in_a_line(capsys, exercise):
    assert "Your code raised ZeroDivisionError" in verdict(capsys, exercise[2], lambda *_: 1 / 0)
