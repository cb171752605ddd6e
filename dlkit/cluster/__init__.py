"""Where it runs: engines on this machine, each on a device or on CPU cores of its own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
