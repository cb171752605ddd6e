"""torchvision's nets, also where its package was built for CUDA and torch was not."""

import importlib
import sys
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

HAS_TORCHVISION = find_spec("torchvision") is not None
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library's operators are gone when it is


@cache
def torchvision_models() -> ModuleType:
    """`torchvision.models`. ImportError where it is not installed.

    The package from the registry is built for CUDA: beside a torch for CPUs its operators cannot be loaded, and its
    import ends at "operator torchvision::nms does not exist". No net that classifies needs them: given a schema, they
    let it import.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    for schema in OPERATORS:
        library.define(schema)
    return importlib.import_module("torchvision.models")
