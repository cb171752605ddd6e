"""Ranks that talk: groups and their exchanges, links to emulate, what each rank did when."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
