"""Every test runs dlkit with its tensor shapes and types checked, and can be interrupted."""

import signal

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("dlkit", "checked.check")
torch.set_num_threads(1)  # the tensors here are small: a second thread would only be waited for
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to Ctrl-C


def pytest_collection_modifyitems(items):
    """A file's tests go to one worker, to share what they start; browser tests by notebook (its conftest)."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def unchecked():
    """No shapes and types checked: a user has none of it, and for some mistakes it would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
