"""Every test runs dlkit with its tensor shapes and types checked, and can be interrupted."""

import gc
import re
import signal

import jaxtyping
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

gc.disable()  # until all tests are imported: there is no garbage to find
jaxtyping.install_import_hook("dlkit", "checked.check")
torch.set_num_threads(1)  # the tensors here are small: a second thread would only be waited for
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to Ctrl-C


class ByFileAndNotebook(LoadScopeScheduling):
    """Keeps a file's tests on one worker, and all browser tests of a notebook, to share what they start.

    By the test's name: pytest-xdist 3.8 with pytest 9.2 does not heed its own mark `xdist_group`.
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        notebook = re.search(r"\w+\.ipynb", test) if "/browser/" in file else None
        return notebook[0] if notebook else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFileAndNotebook(config, log)


def pytest_collection_modifyitems(items):
    """What takes longest first, so that at the end no worker waits for long: notebooks, then what starts a cluster."""
    on_cluster = {item.path for item in items if "cluster" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item.get_closest_marker("browser") is None, item.path not in on_cluster))


def pytest_collection_finish():
    gc.freeze()  # what is loaded by now stays, and need not be looked through again
    gc.enable()


@pytest.fixture(scope="session")
def two_engines():
    from dlkit.cluster import Cluster

    cluster = Cluster(2)
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(two_engines):
    """Two engines, started for the first test that asks for them; one that an earlier test lost is there again."""
    return two_engines.start().recover()


@pytest.fixture
def unchecked():
    """No shapes and types checked: a user has none of it, and for some mistakes it would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
