"""Every test runs dlkit with its tensor shapes and types checked, and can be interrupted."""

import signal
import sys

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("dlkit", "checked.check")
torch.set_num_threads(1)  # the tensors here are small: a second thread would only be waited for
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to Ctrl-C


@pytest.fixture(scope="module", autouse=True)
def ranks_end_with_their_module():
    """A rank takes half a gigabyte."""
    yield
    if "ranks" in sys.modules:
        sys.modules["ranks"].stop_all()


@pytest.fixture
def unchecked():
    """No shapes and types checked: a user has none of it, and for some mistakes it would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
