"""On Apple's GPU, rehearsed on a machine without one: the pretended device lacks what torch lacks there."""

import pretended_mps
import pytest
import rehearsal
from rehearsed import apple
from test_rehearsal import Process

CASES = [
    (package, name)
    for package in rehearsal.PACKAGES_ON_APPLE
    for name, _ in rehearsal.cases(package)
    if apple.can_differ(package, name)
]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    process = Process("rehearsal.py", tmp_path_factory.mktemp("apple") / "cases", "apple")
    yield process
    process.process.kill()
    process.process.wait()


@pytest.mark.parametrize(("package", "case"), CASES, ids=lambda part: part)
def test_it_does_the_same_on_apple_s_gpu_or_is_refused_with_the_reason(package, case, process):
    went_wrong = process.read(package)[case]
    if reason := apple.CANNOT.get((package, case)):
        assert reason in went_wrong
    else:
        assert went_wrong == "", went_wrong


def test_what_cannot_be_there_is_among_the_cases():
    assert set(apple.CANNOT) <= set(CASES)


def test_the_operations_without_a_kernel_are_read_from_torch_s_own_table():
    missing = pretended_mps.without_kernel()
    assert {"linalg_eig", "fractional_max_pool2d", "rrelu_with_noise", "_fused_adagrad_"} <= missing
    assert not {"add.Tensor", "mm", "convolution", "uniform_", "erfinv_", "_fused_adam_", "col2im"} & missing
