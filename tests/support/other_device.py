"""A device that is not the CPU, computed on it: what is on the wrong one is an error, as on CUDA.

torch lets Python stand in for a device's backend. A tensor that is `elsewhere` wraps one on the
CPU; every operation is done on what is wrapped, after it was asked whether all of it is in one
place. Numbers are the CPU's own. Events and pinned memory, which only an accelerator has, do
nothing here.
Source: torch.utils.backend_registration, `_setup_privateuseone_for_python_backend`.
"""

# ruff: noqa: ANN401 - operations take anything

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"

_LIBRARY = torch.library.Library("aten", "IMPL")

_MOVES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
_INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
"""Which take indices from the CPU on CUDA, too."""


class WrongDeviceError(RuntimeError):
    """Tensors of two devices met."""


class Elsewhere(torch.Tensor):
    """A tensor that says it is elsewhere."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type["Elsewhere"], held: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What does not come by way of operations."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.tensor and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        if args and isinstance(args[0], Elsewhere):
            if func is torch.Tensor.numpy:
                raise WrongDeviceError("what is elsewhere has no array; copy it to the CPU first")
            if func in (torch.Tensor.tolist, torch.Tensor.__format__):
                args = (args[0].held, *args[1:])
        return func(*args, **kwargs)


class _Module:
    """What torch asks of any device; it is there for as long as `other_device` says."""

    is_here = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.is_here

    def device_count(self) -> int:
        return int(self.is_here)

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        pass


class _Event:
    def __init__(self, **_: object) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def other_device() -> Iterator[str]:
    """Give the name of a device that is there for a while."""
    _register()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _Module.is_here = True
    try:
        with _Operations(), _Calls(), patch("torch.cuda.Event", _Event), _no_inference():
            yield NAME
    finally:
        _Module.is_here = False
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _no_inference() -> AbstractContextManager[Any]:
    """Wrapped tensors have versions, which tensors of `torch.inference_mode` lack."""
    return patch("torch.inference_mode", torch.no_grad)


def _register() -> None:
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        # What torch makes from lists comes past the modes.
        _LIBRARY.impl("empty_strided", _made, "PrivateUse1")
        _LIBRARY.impl("_copy_from", _copied, "PrivateUse1")


def _made(size: Any, stride: Any, *, dtype: Any = None, **_: object) -> "Elsewhere":
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def _copied(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _held(target).copy_(_held(source))
    return target


def _done(operation: Any, args: Any, kwargs: Any) -> Any:
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, Elsewhere)]
    here = [one for one in tensors if not isinstance(one, Elsewhere) and one.dim() > 0]
    if there and here and name not in (*_MOVES, *_INDEXES):
        sizes = [tuple(one.shape) for one in here], [tuple(one.shape) for one in there]
        raise WrongDeviceError(f"{name}: {sizes[0]} on the CPU beside {sizes[1]} elsewhere")
    asked = kwargs.get("device")
    goes_there = bool(there) if asked is None else torch.device(asked).type == NAME
    found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name in ("aten::copy_", "aten::_copy_from"):
        return args[0] if name == "aten::copy_" else args[1]
    known = {id(one.held): one for one in there}  # what is done in place is the same tensor

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Elsewhere):
            return value
        if id(value) in known:
            return known[id(value)]
        return Elsewhere(value) if goes_there else value

    return tree_map(placed, found)


def _held(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.held
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value
