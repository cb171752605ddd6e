"""dlkit: deep learning and high-performance computing, to run, break and measure."""

import os
from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("dlkit")
# For cuBLAS to give the same bits twice. torch reads it once in a process, at the first product on a GPU, which may be
# the reader's own. Source: alertCuBLASConfigNotDeterministic in torch's Context.cpp.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
