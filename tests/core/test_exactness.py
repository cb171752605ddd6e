"""On a GPU a run asks torch for the same bits twice, and leaves torch's settings as they were."""

import os
import subprocess
import sys

import pytest
import torch

from dlkit.core.exactness import exact, quick

CUDA = torch.device("cuda", 0)  # none is used here: these settings are torch's own


def settings():
    cudnn = torch.backends.cudnn
    precisions = (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)
    return (*precisions, cudnn.benchmark, torch.are_deterministic_algorithms_enabled())


def by_older_names():
    """torch raises where these and the newer ones differ; what compiles a net reads them."""
    backends = torch.backends
    return torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


def test_a_gpu_computes_in_full_float32_by_deterministic_algorithms_meanwhile():
    before = settings()
    with exact(CUDA):
        assert settings() == ("ieee", "ieee", "ieee", False, True)
    assert settings() == before


def test_one_that_is_to_be_fast_computes_in_tf32_by_whichever_algorithms_are():
    before = settings()
    torch.use_deterministic_algorithms(True)
    try:
        with quick(CUDA):
            assert settings() == ("tf32", "tf32", "tf32", True, False)
        with quick(CUDA, alone=False):  # trials may end otherwise on each rank
            assert settings() == ("tf32", "tf32", "tf32", False, False)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert settings() == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_what_torch_calls_these_settings_by_older_names_agrees_meanwhile_and_comes_back(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        before = settings(), by_older_names(), torch.backends.mkldnn.matmul.fp32_precision
        for context, expected in ((exact, ("highest", False, False)), (quick, ("high", True, True))):
            with context(CUDA):
                assert by_older_names() == expected
            assert (settings(), by_older_names(), torch.backends.mkldnn.matmul.fp32_precision) == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_a_reader_s_newer_names_come_back_too():
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # the older ones cannot be read now
    try:
        for context in (exact, quick):
            before = settings()
            with context(CUDA):
                assert torch.get_float32_matmul_precision() == ("high" if context is quick else "highest")
            assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_a_cpu_is_left_alone():
    before = settings()
    for context in (exact, quick):
        with context(torch.device("cpu")):
            assert settings() == before


def test_settings_of_the_reader_s_own_come_back_after_an_error():
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        with pytest.raises(ValueError, match="of one's own"), exact(CUDA):
            raise ValueError("of one's own")
        assert settings() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


def test_an_operation_without_a_deterministic_algorithm_is_named_with_the_mend():
    """`put_` has none on a CPU either."""
    said = r"^put_ gives other bits each time on a GPU: `fast=True` lets it, or run on the CPU"
    with pytest.raises(RuntimeError, match=said), exact(CUDA):
        torch.zeros(5).put_(torch.tensor([0, 0]), torch.ones(2))
    with exact(torch.device("cpu")):
        torch.zeros(5).put_(torch.tensor([0, 0]), torch.ones(2))


def test_cublas_is_told_before_any_product():
    """torch reads it at the first one, the reader's own too."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    script = 'import dlkit, os, sys; print(os.environ["CUBLAS_WORKSPACE_CONFIG"], "torch" in sys.modules)'
    for given, expected in (({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8")):
        done = subprocess.run([sys.executable, "-c", script], env=environment | given, capture_output=True, text=True)
        assert done.stdout.split() == [expected, "False"], done.stderr


def test_a_product_that_came_before_dlkit_is_told_with_the_mend():
    said = (  # torch's words
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or `at::Context::"
        "setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses CuBLAS and you "
        "have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment variable before "
        "running your PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
    )
    told = r"^a product on the GPU came before dlkit, .* begin anew with `import dlkit`, .* or let it by `fast=True`\.$"
    with pytest.raises(RuntimeError, match=told), exact(CUDA):
        raise RuntimeError(said)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="cannot be multiplied"), exact(CUDA):
        torch.ones(2, 3) @ torch.ones(2, 3)
