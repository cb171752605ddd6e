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


RANKS = r"tests/(strategies|distributed)/"
ENGINES = r"tests/(cluster/|ui/test_ui_live|bench/test_bench_(parallel|scaling|asynchronous))"


class ByWhatIsShared(LoadScopeScheduling):
    """Keeps on one worker the tests that share what takes long to start: ranks, engines, a notebook; and each file's.

    By the test's name: pytest-xdist 3.8 with pytest 9.2 does not heed its own mark `xdist_group`.
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        if re.match(RANKS, file):
            return "ranks"
        if re.match(ENGINES, file):
            return "engines"
        notebook = re.search(r"\w+\.ipynb", test) if "/browser/" in file else None
        return notebook[0] if notebook else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByWhatIsShared(config, log)


def pytest_collection_modifyitems(items):
    """What keeps a worker longest first, so that at the end none waits for another."""

    def order(item):
        in_browser = item.get_closest_marker("browser") is not None
        return not re.match(RANKS, item.nodeid), not in_browser, not re.match(ENGINES, item.nodeid)

    items.sort(key=order)


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
