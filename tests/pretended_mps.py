"""What Apple's GPU lacks, for the pretended device: float64, and the operations that have no kernel there.

`lack()` makes the device lack them, for good: torch's own errors are raised, in torch's words. Which operations have a
kernel is read from torch's table of them, native_functions.yaml, which each torch brings: so it is that of the torch
that is installed. What an operation of many parts lacks inside is not found where the CPU has a kernel for the whole.
Sources, in torch's repository, for 2.11 to 2.13: aten/src/ATen/mps/EmptyTensor.cpp (float64), MPSFallback.mm (no
kernel, and those that go over the CPU), aten/src/ATen/native/mps/operations/Copy.mm, AdaptivePooling.mm; issues 96056,
192413.
"""

import re
from pathlib import Path

import pretended
import torch
import torchgen

aten = torch.ops.aten
OVER_THE_CPU = {"embedding_renorm_", "linalg_svd", "linalg_svd.U", "col2im", "upsample_nearest3d.vec"}  # torch warns
NOT_ASKED = {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}  # torch asks some kinds of device alone
DOUBLE = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
MISSING = (
    "The operator 'aten::{}' is not currently implemented for the MPS device. If you want this op to be considered for "
    "addition please comment on https://github.com/pytorch/pytorch/issues/141287 and mention use-case, that resulted "
    "in missing op as well as commit hash 0. As a temporary fix, you can set the environment variable "
    "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower than "
    "running natively on MPS."
)
POOL = (
    "Adaptive pool MPS: input sizes must be divisible by output sizes. Non-divisible input sizes are not implemented "
    "on MPS device yet. For now, you can manually transfer tensor to cpu in this case."
)


def without_kernel() -> set[str]:
    """The operations of this torch that Apple's GPU has not, by their names with the overload."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    delegates: dict[str, str] = {}
    keys: dict[str, set[str]] = {}
    for entry in re.split(r"(?m)^- func: ", table.read_text())[1:]:
        name = entry.split("(", 1)[0]
        if delegate := re.search(r"(?m)^  structured_delegate: (\S+)", entry):
            delegates[name] = delegate[1]
        dispatch = re.search(r"(?m)^  dispatch:\n((?:    .*\n)+)", entry)
        lines = dispatch[1].splitlines() if dispatch else []
        keys[name] = {key.strip() for line in lines for key in line.split("#")[0].split(":")[0].split(",")} - {""}

    def has(name: str) -> bool:
        own = keys[delegates.get(name, name)]
        return not own or "MPS" in own or any(key.startswith("Composite") for key in own)

    return {name for name in keys if not has(name)} - OVER_THE_CPU - NOT_ASKED


class Lacks:
    """Raises what Apple's GPU raises."""

    def __init__(self):
        self.missing = without_kernel()

    def before(self, func, args):
        schema = func._schema
        name = ".".join(filter(None, (schema.name.removeprefix("aten::"), schema.overload_name)))
        if schema.name.startswith("aten::") and name in self.missing:
            raise NotImplementedError(MISSING.format(name))
        if func.overloadpacket is aten._adaptive_avg_pool2d:
            sizes = zip(args[0].shape[-2:], args[1], strict=True)
            if any(max(inside, outside) % min(inside, outside) for inside, outside in sizes):
                raise NotImplementedError(POOL)

    def after(self, made):
        """made: tensors that are there, or that have come from there; those are cast on that GPU, before they come."""
        if any(isinstance(x, torch.Tensor) and x.dtype in (torch.float64, torch.complex128) for x in made):
            raise TypeError(DOUBLE)


def lack() -> None:
    """Let the pretended device lack it, and let dlkit take the device for Apple's."""
    import dlkit.core.apple as apple  # not before the device is pretended

    pretended.lacks = Lacks()
    apple.APPLE = pretended.NAME
    torch.backends.mps.is_available = lambda: True
    torch.mps._get_default_mps_generator = lambda: torch.default_generator  # from which the pretended device draws
