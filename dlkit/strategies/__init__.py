"""How a run is split over ranks: the same strategies serve notebooks and scripts under torchrun."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
