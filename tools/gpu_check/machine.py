"""What there is: each GPU, torch, its libraries."""

import torch
from gpu_check.setting import Parts, Setting

from dlkit.core.text_table import format_bytes


def parts(setting: Setting) -> Parts:
    yield "torch", versions
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", lambda index=index: gpu(index)


def versions() -> str:
    if not torch.cuda.is_available():
        return f"{torch.__version__}, CPU"
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    return f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {nccl}"


def gpu(index: int) -> str:
    """It computes, and has its name, free memory and UUID."""
    x = torch.arange(6.0, device=f"cuda:{index}").view(2, 3)
    assert (x @ x.T).tolist() == [[5.0, 14.0], [14.0, 50.0]]
    properties = torch.cuda.get_device_properties(index)
    free, size = map(format_bytes, torch.cuda.mem_get_info(index))
    return f"{properties.name}, {free} of {size} free, {properties.uuid}"
