"""Real images by name: checked on each read, offline, split the same way every time."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
