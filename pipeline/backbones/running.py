"""Running a published class's own forward up to the last tap, and holding its weights in bfloat16.

What is kept is a block's output as the next block is given it: whatever the class adds between the
two, such as VACE's hints, is in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Models = Any
"""A diffusers or transformers model; both are untyped here."""


class _Reached(Exception):  # noqa: N818 - no error: the way out of a forward
    """The block after the last tap was called."""


class End(nn.Module):
    """Stands in the place of what comes after the last tap."""

    resnets = ()  # UNets ask a block up for these before they call it

    def forward(self, *_: object, **__: object) -> None:
        """End the forward that came here."""
        raise _Reached


def cut_after(owner: Models, name: str, last: int) -> None:
    """Drop the blocks after one: the forward ends there, so that nothing behind it is needed."""
    blocks = list(getattr(owner, name))
    setattr(owner, name, nn.ModuleList([*blocks[: last + 1], End()]))


def run_taps(
    forward: Callable[[], object], following: Mapping[int, nn.Module]
) -> Iterator[tuple[int, Tensor]]:
    """Run a forward that ends where nothing more is needed; yield what some modules are given.

    Args:
        forward: Calls the model, which comes to an `End`.
        following: Tap -> the module that is called with its output, first or as `hidden_states`.
    """
    kept: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            kept[index] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

        return hook

    hooks = [
        module.register_forward_pre_hook(keep(index), with_kwargs=True)
        for index, module in following.items()
    ]
    try:
        forward()
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    yield from sorted(kept.items())


def in_bfloat16(linears: Iterable[nn.Module]) -> None:
    """Hold some layers in bfloat16; what comes to them is rounded to it, all else stays."""
    for linear in linears:
        linear.to(torch.bfloat16)
        linear.register_forward_pre_hook(_to_bfloat16)


def norm_in_float32(norms: Iterable[nn.Module]) -> None:
    """Compute norms inside of bfloat16 products in float32, and round what comes out."""
    for norm in norms:
        norm.register_forward_pre_hook(_to_float32)
        norm.register_forward_hook(_rounded)


def _to_bfloat16(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(torch.bfloat16), *args[1:])


def _to_float32(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].float(), *args[1:])


def _rounded(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out.to(torch.bfloat16)
