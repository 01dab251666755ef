"""Blocks with a constant prompt folded in, against diffusers' own with all 512 rows."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from vega3d.pipeline.backbones.tiny import seed_weights
from vega3d.pipeline.backbones.wan_blocks import FoldedBlock, distinct_rows

ROWS = 512


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    made = WanTransformer3DModel(
        num_attention_heads=3, attention_head_dim=16, text_dim=24, freq_dim=32, ffn_dim=80,
        num_layers=3,
    )  # fmt: skip
    seed_weights(made, 5)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 1:  # biases and norms that matter
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize("prompt_rows", [1, 2, 7, ROWS])
@pytest.mark.parametrize("videos", [1, 3])
def test_equals_the_class_over_all_rows(
    model: WanTransformer3DModel, prompt_rows: int, videos: int
) -> None:
    generator = torch.Generator().manual_seed(prompt_rows)
    prompt = torch.randn((prompt_rows, 24), generator=generator)
    latents = torch.randn((videos, 16, 2, 8, 12), generator=generator)
    embedder = model.condition_embedder
    with torch.inference_mode():
        time = embedder.time_embedder(embedder.timesteps_proj(torch.tensor([300.0])))
        modulation = embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))
        rotary = model.rope(latents)
        hidden = model.patch_embedding(latents).flatten(2).transpose(1, 2)
        padded = nn.functional.pad(prompt, (0, 0, 0, ROWS - prompt_rows))[None]
        text = embedder.text_embedder(padded).expand(videos, -1, -1)
        rows, counts = distinct_rows(prompt, ROWS)
        folded = [FoldedBlock(b, embedder.text_embedder(rows), counts) for b in model.blocks]
        ours = theirs = hidden
        for block, ours_block in zip(model.blocks, folded, strict=True):
            theirs = block(theirs, text, modulation, rotary)
            ours = ours_block(ours, modulation, rotary)
            assert float((ours - theirs).norm() / theirs.norm()) < 2e-6
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_each_video_may_have_a_noise_level_of_its_own(model: WanTransformer3DModel) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((3, 16, 1, 8, 12), generator=generator)
    prompt = torch.randn((1, 24), generator=generator)
    embedder = model.condition_embedder
    with torch.inference_mode():
        time = embedder.time_embedder(embedder.timesteps_proj(torch.tensor([0.0, 300.0, 999.0])))
        modulation = embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))
        rotary = model.rope(latents)
        hidden = model.patch_embedding(latents).flatten(2).transpose(1, 2)
        rows, counts = distinct_rows(prompt, ROWS)
        block = FoldedBlock(model.blocks[0], embedder.text_embedder(rows), counts)
        text = embedder.text_embedder(nn.functional.pad(prompt, (0, 0, 0, ROWS - 1))[None])
        theirs = model.blocks[0](hidden, text.expand(3, -1, -1), modulation, rotary)
        ours = block(hidden, modulation, rotary)
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6


def test_padding_counts_as_often_as_it_is_there() -> None:
    rows, counts = distinct_rows(torch.ones((3, 4)), 10)
    assert counts.tolist() == [1, 1, 1, 7]
    assert rows.shape == (1, 4, 4)
    assert rows[0, -1].tolist() == [0, 0, 0, 0]
    full, counts = distinct_rows(torch.ones((10, 4)), 10)
    assert full.shape == (1, 10, 4)
    assert counts.tolist() == [1] * 10
