"""Wan's networks of torch's layers alone, against diffusers' classes of the same checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vega3d.pipeline.backbones.small.wan import write_wan
from vega3d.pipeline.backbones.wan_layout import Transformer, Vae
from vega3d.pipeline.backbones.wan_networks import (
    WanTransformer,
    WanVae,
    read_transformer,
    read_vae,
)
from vega3d.pipeline.errors import CheckpointError


@pytest.fixture(scope="module", params=[True, False], ids=["normed", "not_normed"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    write_wan(folder, cross_attn_norm=request.param, rope_max_seq_len=40)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_the_transformer_gives_the_same_bits(small: Path, dtype: str) -> None:
    models = [read_transformer(small / "transformer", 2, folded=folded) for folded in (True, False)]
    assert isinstance(models[0], Transformer)
    ours, theirs = (WanTransformer(model, 2, dtype, "cpu") for model in models)
    assert ours.freq_dim == theirs.freq_dim
    for timestep in (0, 1, 300, 999, 1000):
        assert torch.equal(ours.sinusoid(timestep), theirs.sinusoid(timestep))
    rows = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    assert torch.equal(ours.project_text(rows), theirs.project_text(rows))
    for made in (ours, theirs):
        made.fold_prompt(rows, 512)
    video = torch.randn((2, 16, 3, 10, 14), generator=torch.Generator().manual_seed(0))
    for left, right in zip(ours._rotary(video), theirs._rotary(video), strict=True):
        assert torch.equal(left, right)
    level = ours.modulation(ours.sinusoid(300))
    assert torch.equal(level, theirs.modulation(theirs.sinusoid(300)))
    hidden = [made.embed(video) for made in (ours, theirs)]
    assert torch.equal(*hidden)
    taps = [
        dict(made.run(start, video, None, level, {0, 2}))
        for made, start in zip((ours, theirs), hidden, strict=True)
    ]
    assert taps[0].keys() == taps[1].keys() == {0, 2}
    assert all(torch.equal(taps[0][block], taps[1][block]) for block in (0, 2))


@torch.inference_mode()
def test_the_vae_gives_the_same_bits(small: Path) -> None:
    laid_out = read_vae(small / "vae", alone=True)
    assert isinstance(laid_out, Vae)
    ours = WanVae(laid_out, "cpu", alone=True)
    theirs = WanVae(read_vae(small / "vae"), "cpu", alone=True)
    pixels = torch.rand((2, 3, 48, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(ours.frame_latents(pixels), theirs.frame_latents(pixels))


@pytest.mark.parametrize(
    ("part", "member"), [("transformer", "rope_max_seq_len"), ("vae", "latents_mean")]
)
def test_a_config_that_leaves_a_member_out_takes_the_class(
    tmp_path: Path, part: str, member: str
) -> None:
    write_wan(tmp_path)
    path = tmp_path / part / "config.json"
    config = json.loads(path.read_text())
    del config[member]
    path.write_text(json.dumps(config))
    if part == "vae":
        assert type(read_vae(tmp_path / part, alone=True)).__name__ == "AutoencoderKLWan"
    else:
        found = read_transformer(tmp_path / part, 1, folded=True)
        assert type(found).__name__ == "WanTransformer3DModel"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("transformer", "blocks.1.attn2.norm_k.weight"),
        ("transformer", "proj_out.bias"),
        ("vae", "encoder.mid_block.resnets.1.conv2.bias"),
        ("vae", "encoder.down_blocks.5.time_conv.weight"),
    ],
)
def test_weights_are_read_strictly(tmp_path: Path, part: str, name: str) -> None:
    """What is laid out is checked, even where nothing of it is computed."""
    write_wan(tmp_path)
    path = tmp_path / part / "diffusion_pytorch_model.safetensors"
    whole = load_file(path)
    assert name in whole

    def read() -> None:
        if part == "vae":
            read_vae(tmp_path / part, alone=True)
        else:
            read_transformer(tmp_path / part, 2, folded=True)

    read()
    for wrong in ({}, {f"{name}.more": torch.zeros(1), name: whole[name]}, {name: whole[name][:1]}):
        save_file({k: v for k, v in whole.items() if k != name} | wrong, path)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read()


@pytest.mark.slow
def test_the_desk_model_needs_no_diffusers() -> None:
    """Nor its seconds: views alone go through layers of ours."""
    code = (
        "import sys, numpy as np\nfrom vega3d.pipeline import load_backbone\n"
        "rows = np.zeros((1, 32), np.float32)\n"
        "encoder = load_backbone('wan2.1-t2v', model='desk', blocks=(1,), prompt_embeds=rows)\n"
        "rgb = np.zeros((2, 48, 64, 3), np.uint8)\n"
        "encoder.encode(rgb, scene_id='s', view_ids=['0', '1'])\n"
        "print([m for m in ('diffusers', 'transformers', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
