"""A GPU that is pretended: what would meet on two devices, or make the host wait, is found on a machine without one.

`start()` turns this process, for good, into one that has a device "gpu", by torch's backends in Python. A tensor there
(`OnGPU`) wraps the CPU's values: it computes the same numbers, to the bit. What a real GPU would refuse is refused:
tensors on two devices in an operation, but for what CUDA takes; a generator that is not where it draws; `.numpy()`.
What would make the host wait for the device is noted in `waits`. Autocast makes the products that CUDA's does.
Sources: torch.utils.backend_registration; torch's test_privateuseone_python_backend.py; c10::cuda::memcpy_and_sync, by
which each copy between host and device waits.
"""

import copy
import sys
import threading
from typing import Any

import torch
import torch.utils.backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "gpu"
CPU = torch.device("cpu")
aten = torch.ops.aten
waits: list[str] = []  # the operations so far for which the host would have waited
COPIES = {aten._to_copy, aten.copy_}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # the host's indices are copied there
WAITS = {  # for a size or a value that the host must know
    *(aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten.bincount),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive),
    *(aten._linalg_eigh, aten._linalg_svd, aten._linalg_slogdet, aten.linalg_cholesky_ex, aten.linalg_inv_ex),
}
CAST = ("mm", "mv", "matmul", "addmm", "bmm", "baddbmm", "linear", "convolution")
lacks: Any = None  # what the device has not, if it is to be Apple's: see pretended_mps.py
_libraries: list[torch.library.Library] = []  # of kernels, which are there for as long as these are
_generators: set[int] = set()  # those there, by their addresses: operations are given another Python object


class TwoDevices(RuntimeError):
    """What torch says where tensors, or a generator, are not on the device of an operation."""


class OnGPU(torch.Tensor):
    """A tensor on the pretended device, with its values in `held`."""

    @staticmethod
    def __new__(cls, held):
        options = {"dtype": held.dtype, "device": f"{NAME}:0", "requires_grad": False}
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), **options
        )
        tensor.held = held
        return tensor

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def __repr__(self, *, tensor_contents=None):
        return f"{self.held.detach()!r} on {self.device}"

    def __format__(self, spec):
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = memo[id(self)] = OnGPU(self.held.detach().clone()).requires_grad_(self.requires_grad)
            if hasattr(self, "_is_param"):
                copied._is_param = True
            copied.grad = None if self.grad is None else copy.deepcopy(self.grad, memo)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sees the operations that make a tensor there from none, and those of generators."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def leaves_of(args, kwargs):
    """The arguments of an operation, and what is in its lists: they are no deeper than that."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def dispatch(func, args, kwargs):
    """One operation, on the values; its result is where it would be."""
    leaves = list(leaves_of(args, kwargs))
    if any(map(is_shell, leaves)):
        return NotImplemented  # it comes back with the tensor that is in it
    here = [leaf for leaf in leaves if isinstance(leaf, OnGPU)]
    packet, asked = func.overloadpacket, kwargs.get("device")
    there = asked.type == NAME if asked is not None else bool(here)
    for leaf in leaves:
        if isinstance(leaf, torch._C.Generator) and (leaf._cdata in _generators) != there:
            raise TwoDevices(f"{func}: a generator on {'cpu' if there else NAME} for a tensor on the other device")
    if not here and not there:
        return func(*args, **kwargs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if packet is aten.copy_:
        there = isinstance(args[0], OnGPU)
    elif packet not in COPIES and here:
        check_devices(func, args, tensors, here)
    if lacks and packet not in COPIES:
        lacks.before(func, args)
    note_waits(packet, args, kwargs, here, there)
    values = [held(value) for value in args]
    with torch._C._DisableTorchDispatch():
        result = func(*values, **{name: held(value) for name, value in kwargs.items()})
    if lacks:
        lacks.after(tree_leaves(result))
    if not there:
        return args[0] if packet is aten.copy_ else result
    result = tree_map_only(torch.Tensor, lambda made: OnGPU(made.wait() if is_shell(made) else made), result)
    return return_and_correct_aliasing(func, args, kwargs, result) if here else result


def is_shell(leaf):
    """Is it one of torch's shells around a tensor: a DTensor, or what is waited for when it is used?"""
    if not isinstance(leaf, torch.Tensor) or isinstance(leaf, OnGPU):
        return False
    return type(leaf).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def held(value):
    """What the CPU is given in the place of an argument."""
    if isinstance(value, OnGPU):
        return value.held
    if isinstance(value, list | tuple):
        return [held(item) for item in value]
    return CPU if isinstance(value, torch.device) else value


def check_devices(func, args, tensors, here):
    """TwoDevices for an operation that CUDA would refuse; it takes numbers from the CPU, and the CPU's indices."""
    if func.overloadpacket in INDEXED:
        tensors = [args[0], *args[2:3]] if isinstance(args[0], OnGPU) else tensors
    strays = [x for x in tensors if isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) and x.ndim]
    changed = tree_leaves(args[0]) if func._schema.arguments[0].is_write else []
    if strays or not all(isinstance(x, OnGPU) for x in changed):
        devices = ", ".join(f"{tuple(x.shape)} on {x.device}" for x in tensors if isinstance(x, torch.Tensor))
        raise TwoDevices(f"{func}: expected all tensors to be on the same device, but found {devices}")


def note_waits(packet, args, kwargs, here, there):
    """Note an operation for which the host would wait for the device."""
    source = args[1] if packet is aten.copy_ else args[0] if packet is aten._to_copy else None
    waiting = source is not None and isinstance(source, OnGPU) != there
    waiting |= bool(here) and packet in WAITS
    if here and packet in INDEXED:  # by a mask, whose number of indices the host must know, or by the host's indices
        indices = [index for index in args[1] if index is not None]
        waiting |= any(index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnGPU) for index in indices)
    waiting |= bool(here) and packet is aten.repeat_interleave and kwargs.get("output_size") is None
    if waiting:
        waits.append(str(packet))


def autocast_products() -> None:
    """Let autocast there make these operations in its dtype, as CUDA's does; all others are left alone."""
    kernels, fallbacks = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    _libraries.extend([kernels, fallbacks])
    fallbacks.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    for name in CAST:
        operation = getattr(aten, name).default

        def cast(*args, operation=operation):
            with torch._C._ExcludeDispatchKeyGuard(key):
                dtype = torch.get_autocast_dtype(NAME)
                low = [x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x for x in args]
                return operation(*low)

        kernels.impl(name, cast, "AutocastPrivateUse1")


class Generator(torch.Generator):
    """A generator of the CPU that says where it was asked to be."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.on = torch.device(device)
        (_generators.add if made.on.type == NAME else _generators.discard)(made._cdata)
        return made

    device = property(lambda self: self.on)


class _Module(registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def synchronize(self, device=None):
        waits.append("synchronize")

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)


def start() -> None:
    """Pretend from now on, in all threads. RuntimeError if dlkit was there first, which has torch's own Generator.

    torch starts the threads of the backward pass with the first one: so the process must not have made any either.
    For ranks: `ranks.stop_all()`, then `team(2).call(pretended.start)`, and `stop_all()` again behind the tests.
    """
    if torch.Generator is Generator:
        return
    if "dlkit.core.random" in sys.modules:
        raise RuntimeError("dlkit is imported already: start pretending in a new process, first of all.")
    registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a Parameter there is an object of another class
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device="gpu") is seen
    autocast_products()
    torch.Generator = Generator
    Mode().__enter__()
    run = threading.Thread.run

    def run_pretending(thread):
        torch._C._set_only_lift_cpu_tensors(True)  # this, and modes, are of a thread
        with Mode():
            run(thread)

    threading.Thread.run = run_pretending
