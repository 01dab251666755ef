"""Random numbers as a pure function of a seed and an index: the same on any device and process.

A counter-based generator lets data-parallel processes, accumulated parts and a resumed run draw
what one undisturbed process would have drawn. Letters: the seeds' shape is the caller's.
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK_TOP = {27: (1 << 37) - 1, 30: (1 << 34) - 1, 31: (1 << 33) - 1, 40: (1 << 24) - 1}


def seed_of(*parts: str | int) -> int:
    """Return a 63-bit seed of any strings and integers, stable over machines and versions."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def uniform(seeds: Int[Tensor, "*batch"], count: int, salt: int) -> Float[Tensor, "*batch {count}"]:
    """Return `count` float32 numbers in [0, 1) for every seed; `salt` sets apart two uses.

    Source: the finalizer of SplitMix64, Steele, Lea and Flood, OOPSLA 2014, fig. 16 (in int64,
    whose products wrap; its arithmetic shifts are masked into logical ones).
    """
    index = torch.arange(count, device=seeds.device, dtype=torch.int64)
    start = _mix(seeds.to(torch.int64) + _signed(salt * _GOLDEN))
    x = start[..., None] + (index + 1) * _signed(_GOLDEN)
    return _shift(_mix(x), 40).to(torch.float32) * 2.0**-24


def dropout(
    x: Float[Tensor, "*batch N D"], share: float, seeds: Int[Tensor, "*batch"] | None, salt: int
) -> Float[Tensor, "*batch N D"]:
    """Return `x` with a share of its values dropped and the rest scaled up.

    Args:
        x: Tokens.
        share: In [0, 1); 0 returns `x` itself.
        seeds: One for each leading index, so that the mask belongs to the sample; None draws from
            torch's own generator.
        salt: Another mask for each place in the network.
    """
    if share == 0:
        return x
    if seeds is None:
        return torch.nn.functional.dropout(x, share)
    kept = uniform(seeds, x.shape[-2] * x.shape[-1], salt).reshape(x.shape) >= share
    return x * kept / (1 - share)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & _MASK_TOP[bits]


def _signed(value: int) -> int:
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value
