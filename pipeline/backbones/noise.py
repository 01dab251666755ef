"""The noise of one view: a pure function of its key, the same on every machine and in any order.

Torch's CPU generator keeps 32 bits of a seed (a million views would collide) and its normals
differ between instruction sets, so the draw is numpy's: the counter-based Philox, keyed with 128
bits of a hash of everything that names the draw. numpy promises Philox's raw stream for ever, but
may change how `Generator.standard_normal` turns it into normals (NEP 19): a golden test pins that,
and should it ever fail, NOISE_VERSION goes up and so does every config digest.
"""

import hashlib

import numpy as np
from jaxtyping import Float32

NOISE_VERSION = 1
"""Part of the config digest; raise it with any change that alters a single drawn value."""


def view_noise(
    noise_seed: int,
    scene_id: str,
    view_id: str,
    timestep: int,
    sample: int,
    shape: tuple[int, ...],
) -> Float32[np.ndarray, "..."]:
    """Draw standard normal noise for one view at one timestep.

    Args:
        noise_seed: The store's seed, 0..2**63 - 1.
        scene_id: Names the scene; any text.
        view_id: Names the view within its scene; any text.
        timestep: k, 0..1000.
        sample: Which independent draw, from 0.
        shape: Shape of the result; it does not enter the key.

    Returns:
        float32 values, independent of any other key's.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), for Philox.
    """
    key = _key(noise_seed, scene_id, view_id, timestep, sample)
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)


def _key(*fields: int | str) -> int:
    """Hash the fields to 128 bits; each carries its length, so that none runs into the next."""
    digest = hashlib.blake2b(digest_size=16, person=b"vega3d-noise")
    for field in (NOISE_VERSION, *fields):
        data = field.to_bytes(8, "little") if isinstance(field, int) else field.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
