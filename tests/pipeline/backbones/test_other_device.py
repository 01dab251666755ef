"""Each encoder on a device that is not the CPU: nothing is made, or stays, on the wrong one.

A GPU would say so of one encoder at a time, and there is none in CI.
"""

from typing import Any

import numpy as np
import pytest
import torch
from other_device import WrongDeviceError, other_device
from small_backbones import SMALL, SmallModels

from vega3d.pipeline.backbones import loading
from vega3d.pipeline.backbones.backbone import Backbone, Pooled
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import backbone_names

VIEWS = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
QUICK = ("wan2.1-t2v", "siglip", "random")

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in backbone_names()),
    ("wan2.1-t2v", {"context": "clip", "timesteps": (300, 700)}),
    ("wan2.1-t2v", {"context": "stack", "noise_samples": 2}),
    ("wan2.1-t2v", {"recipe": "reference", "fit": "crop"}),
    ("wan2.1-vace", {"reference": "first", "resolution": "auto"}),
    ("wan2.1-i2v", {"context": "first", "timesteps": (300, 700)}),
    ("wan2.2-i2v", {"context": "first"}),
    ("svd", {"context": "clip", "fit": "crop"}),
    ("vjepa2", {"context": "clip"}),
    ("vjepa2", {"context": "stack"}),
    ("vggt", {"context": "stack"}),
    ("qwen2.5-vl-vision", {"merger": "after", "blocks": (3,)}),
]


def on(device: str, models: SmallModels, name: str, settings: dict[str, Any]) -> Backbone:
    numerics = Numerics(batch_size=2)
    object.__setattr__(numerics, "device", device)  # which knows of a CPU and CUDA alone
    config = loading.configured(name, {**models.model(name), **SMALL[name].early, **settings})
    return loading.load_from_config(config, numerics)


def pooled(backbone: Backbone) -> Pooled:
    return backbone.encode_pooled(VIEWS, (4, 4), scene_id="room", view_ids=["a", "b", "c"])


def test_what_is_on_two_devices_is_an_error() -> None:
    with other_device() as device:
        there = torch.ones(3).to(device)
        assert there.device.type == device
        assert (there + 1).cpu().tolist() == [2, 2, 2]
        with pytest.raises(WrongDeviceError, match="aten::add"):
            there + torch.ones(3)
        with pytest.raises(WrongDeviceError, match="no array"):
            there.numpy()
        layer = torch.nn.Linear(3, 2)
        with pytest.raises(WrongDeviceError):
            layer(there)
        assert layer.to(device)(there).device.type == device


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(
            name,
            settings,
            id="-".join([name, *map(str, settings.values())]),
            marks=() if name in QUICK and not settings else pytest.mark.slow,
        )
        for name, settings in CASES
    ],
)
def test_an_encoder_has_all_it_needs_on_its_device(
    models: SmallModels, name: str, settings: dict[str, Any]
) -> None:
    expected, seen = pooled(on("cpu", models, name, settings))
    with other_device() as device:
        found, also_seen = pooled(on(device, models, name, settings))
    assert found.keys() == expected.keys()
    for tap, values in expected.items():
        close = 1e-5 * np.nanmax(np.abs(values))  # products of the pooling in another order
        np.testing.assert_allclose(found[tap], values, rtol=0, atol=close)
    np.testing.assert_array_equal(also_seen, seen)
