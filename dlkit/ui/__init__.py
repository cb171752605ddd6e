"""Widgets for the notebooks, and the drawing functions that they and the notebooks use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
