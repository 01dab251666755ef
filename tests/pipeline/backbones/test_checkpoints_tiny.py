import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vega3d.pipeline.backbones.grid import pool_to_grid
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.tiny import write_tiny_siglip, write_tiny_wan


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tiny_wan, write_tiny_siglip])
def test_a_seed_gives_the_same_bytes_and_leaves_torchs_own_alone(
    write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    write(tmp_path / "a", 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    write(tmp_path / "b", 0)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    write(tmp_path / "c", 1)
    assert digests(tmp_path / "a") != digests(tmp_path / "c")
    size = sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert size < 10e6


def test_the_layouts_are_the_published_ones(tmp_path: Path) -> None:
    write_tiny_wan(tmp_path / "wan")
    write_tiny_siglip(tmp_path / "siglip")
    assert sorted(digests(tmp_path)) == [
        "siglip/config.json",
        "siglip/model.safetensors",
        "wan/text_encoder/config.json",
        "wan/text_encoder/model.safetensors",
        "wan/tokenizer/tokenizer.json",
        "wan/tokenizer/tokenizer_config.json",
        "wan/transformer/config.json",
        "wan/transformer/diffusion_pytorch_model.safetensors",
        "wan/vae/config.json",
        "wan/vae/diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan2.1-t2v", "siglip"])
def test_features_carry_the_images_layout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path / "cache"))
    (write_tiny_siglip if name == "siglip" else write_tiny_wan)(tmp_path / "model")
    settings = {} if name == "siglip" else {"resolution": (224, 224)}
    backbone = load_backbone(name, model=str(tmp_path / "model"), **settings)
    colours = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
    rgb = colours.repeat(32, axis=1).repeat(32, axis=2)
    features = backbone.encode(rgb, scene_id="s", view_ids=["0", "1"])[backbone.taps[0]]
    assert 0.3 < float(features.std(dim=(0, 1, 2)).mean()) < 10
    assert float(features.abs().max()) < 100
    token_map = backbone.token_map(224, 224)
    pooled, _ = pool_to_grid(features.numpy(), token_map, 224, 224, (7, 7))
    x = pooled.reshape(98, -1)
    y = colours.reshape(98, 3).astype(np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    # Colour, random in each square, is read off the ten strongest components by a linear map:
    # 10 / 98 of it by chance. Noise at sigma 0.3 and the mixing of 21 random blocks hide the rest.
    components = x @ np.linalg.svd(x, full_matrices=False)[2][:10].T
    rest = y - components @ np.linalg.lstsq(components, y, rcond=None)[0]
    assert 1 - (rest**2).sum() / (y**2).sum() > 0.3
