"""Wan's relatives against a plain use of their classes and of diffusers' own pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from small_backbones import SmallModels
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModel

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.registry import family
from vega3d.pipeline.backbones.wan22 import boundary
from vega3d.pipeline.errors import CheckpointError

SIZE = (64, 96)
VIEWS = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
PROMPT = np.random.default_rng(5).standard_normal((3, 32)).astype(np.float32)
IDS = ["a", "b", "c"]
PIXELS = torch.from_numpy(VIEWS).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def padded() -> Tensor:
    text = torch.zeros(1, 512, 32)
    text[0, :3] = torch.from_numpy(PROMPT)
    return text


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def noise_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def load(models: SmallModels, name: str, **settings: object) -> Any:  # noqa: ANN401
    usual = {"resolution": SIZE, "prompt_embeds": PROMPT, "blocks": (0, 2)}
    return models.load(name, **{**usual, **settings})


def outputs(model: nn.Module, modules: dict[str, nn.Module], call: Callable[[], object]) -> dict:
    """Run the whole model and keep what some modules give back."""
    kept: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda *at, name=name: kept.setdefault(name, at[2]))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return kept


def normalised(vae: Any, video: Tensor) -> Tensor:  # noqa: ANN401
    shape = (1, -1, 1, 1, 1)
    with torch.no_grad():
        mean = vae.encode(video).latent_dist.mode()
    mu, std = (
        torch.tensor(x).view(shape) for x in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (mean - mu) / std


def alone(vae: Any) -> Tensor:  # noqa: ANN401
    return torch.cat([normalised(vae, view[None, :, None]) for view in PIXELS])


@pytest.mark.parametrize("reference", ["none", pytest.param("first", marks=pytest.mark.slow)])
def test_vace_is_the_class_with_the_hint_added(models: SmallModels, reference: str) -> None:
    folder = Path(models.model("wan2.1-vace")["model"])
    latents_a_view = 1 if reference == "none" else 2
    noise = noise_of(3, 16, latents_a_view, 8, 12)
    found = load(models, "wan2.1-vace", reference=reference).encode(
        VIEWS, scene_id="room", view_ids=IDS, noise=noise
    )
    model = diffusers.WanVACETransformer3DModel.from_pretrained(folder / "transformer")
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    pipe = diffusers.WanVACEPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=None, transformer=model
    )
    for k, view in enumerate(PIXELS):
        video, mask = view[None, :, None], torch.ones(1, 3, 1, *SIZE)
        given = [[PIXELS[0]]] if reference == "first" else [[]]
        with torch.no_grad():
            context = pipe.prepare_video_latents(video, mask, given, None, torch.device("cpu"))
            context = torch.cat([context, pipe.prepare_masks(mask, given)], dim=1)
        clean = normalised(vae, video)
        if reference == "first":
            clean = torch.cat([normalised(vae, PIXELS[0][None, :, None]), clean], dim=2)
        noisy = 0.7 * clean + 0.3 * noise[k : k + 1]
        modules = {f"b{b}": model.blocks[b] for b in (0, 2)}
        modules |= {f"hint{b}": model.vace_blocks[i] for i, b in enumerate((0, 2))}
        kept = outputs(
            model,
            modules,
            lambda noisy=noisy, context=context: model(
                noisy, torch.tensor([300.0]), padded(), control_hidden_states=context
            ),
        )
        for block in (0, 2):
            own = (kept[f"b{block}"] + kept[f"hint{block}"][0])[:, -24:].reshape(4, 6, 48)
            assert error(found[f"k300_b{block}"][k], own) < 1e-5
            plain_hook = kept[f"b{block}"][:, -24:].reshape(4, 6, 48)
            assert error(plain_hook, own) > 1e-3  # misses the hint


@pytest.mark.slow
def test_vace_takes_latents_noise_reference_and_mask(models: SmallModels) -> None:
    """What a check against goldens of another implementation needs."""
    backbone = load(models, "wan2.1-vace")
    encoder = backbone._encoder
    folder = Path(models.model("wan2.1-vace")["model"])
    latents = alone(diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"))
    noise, grey = noise_of(3, 16, 2, 8, 12), noise_of(3, 16, 1, 8, 12)
    mask = (noise_of(3, 64, 1, 8, 12) > 0).float()
    with torch.inference_mode():
        found = encoder.features(
            latents, noise, 500, inactive=grey, reference=latents[:1].expand(3, -1, -1, -1, -1),
            mask=mask,
        )  # fmt: skip
    model = diffusers.WanVACETransformer3DModel.from_pretrained(folder / "transformer")
    first = latents[:1].expand(3, -1, -1, -1, -1)
    context = torch.cat(
        [
            torch.cat([first, torch.zeros(3, 80, 1, 8, 12)], 1),
            torch.cat([grey, latents, mask], 1),
        ],
        2,
    )
    noisy = 0.5 * torch.cat([first, latents], 2) + 0.5 * noise
    kept = outputs(
        model,
        {"b": model.blocks[2], "hint": model.vace_blocks[1]},
        lambda: model(
            noisy,
            torch.full((3,), 500.0),
            padded().expand(3, -1, -1),
            control_hidden_states=context,
        ),
    )
    own = (kept["b"] + kept["hint"][0])[:, 24:].reshape(3, 4, 6, 48)
    assert error(found[2], own) < 1e-5


@pytest.mark.parametrize("context", [pytest.param("frame", marks=pytest.mark.slow), "first"])
def test_image_to_video_is_the_pipelines_condition(models: SmallModels, context: str) -> None:
    folder = Path(models.model("wan2.1-i2v")["model"])
    num = 1 if context == "frame" else 2
    noise = noise_of(3, 16, num, 8, 12)
    found = load(models, "wan2.1-i2v", context=context).encode(
        VIEWS, scene_id="room", view_ids=IDS, noise=noise
    )
    model = diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer")
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    pipe = diffusers.WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=None,
        image_processor=CLIPImageProcessor.from_pretrained(folder / "image_processor"),
        image_encoder=CLIPVisionModel.from_pretrained(folder / "image_encoder"),
        transformer=model,
    )
    for k, view in enumerate(PIXELS):
        image = VIEWS[k] if context == "frame" else VIEWS[0]
        pixels = view if context == "frame" else PIXELS[0]
        with torch.no_grad():
            clip = pipe.encode_image(Image.fromarray(image), torch.device("cpu"))
            _, condition = pipe.prepare_latents(
                pixels[None], 1, 16, *SIZE, 1, torch.float32, torch.device("cpu"), None
            )
        clean = normalised(vae, view[None, :, None])
        if context == "first":
            grey = normalised(vae, torch.zeros(1, 3, 1, *SIZE))
            later = torch.cat([torch.zeros(1, 4, 1, 8, 12), grey], 1)
            condition = torch.cat([condition, later], 2)
            clean = torch.cat([normalised(vae, PIXELS[0][None, :, None]), clean], 2)
        noisy = torch.cat([0.7 * clean + 0.3 * noise[k : k + 1], condition], 1)
        kept = outputs(
            model,
            {"b0": model.blocks[0], "b2": model.blocks[2]},
            lambda noisy=noisy, clip=clip: model(noisy, torch.tensor([300.0]), padded(), clip),
        )
        for block in (0, 2):
            own = kept[f"b{block}"][:, -24:].reshape(4, 6, 48)
            assert error(found[f"k300_b{block}"][k], own) < 1e-5


def test_two_experts_share_the_noise_levels(models: SmallModels) -> None:
    folder = Path(models.model("wan2.2-t2v")["model"])
    noise = noise_of(3, 16, 1, 8, 12)
    found = load(models, "wan2.2-t2v", timesteps=(300, 875, 874)).encode(
        VIEWS, scene_id="room", view_ids=IDS, noise=noise
    )
    clean = alone(diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"))
    for k, part in ((300, "transformer_2"), (874, "transformer_2"), (875, "transformer")):
        model = diffusers.WanTransformer3DModel.from_pretrained(folder / part)
        noisy = (1 - k / 1000) * clean + k / 1000 * noise
        steps, text = torch.full((3,), float(k)), padded().expand(3, -1, -1)
        kept = outputs(
            model,
            {"b2": model.blocks[2]},
            lambda model=model, noisy=noisy, steps=steps, text=text: model(noisy, steps, text),
        )
        assert error(found[f"k{k}_b2"], kept["b2"].reshape(3, 4, 6, 48)) < 1e-5


def test_only_the_experts_that_are_asked_are_loaded(models: SmallModels) -> None:
    config = family("wan2.2-t2v")
    model = models.model("wan2.2-t2v")
    one = model_facts(config(**model, blocks=(2,), timesteps=(300,))).parameters
    both = model_facts(config(**model, blocks=(2,), timesteps=(300, 900))).parameters
    assert both > 1.5 * one
    with pytest.raises(CheckpointError, match="model_index.json must give boundary_ratio"):
        boundary({})


def test_the_small_wan22_gives_every_token_its_timestep(models: SmallModels) -> None:
    """The pipeline's way (a timestep a token) and ours (one a view) are one."""
    folder = Path(models.model("wan2.2-ti2v")["model"])
    noise = noise_of(3, 48, 1, 4, 6)
    found = load(models, "wan2.2-ti2v").encode(VIEWS, scene_id="room", view_ids=IDS, noise=noise)
    model = diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer")
    clean = alone(diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"))
    assert clean.shape == (3, 48, 1, 4, 6)
    noisy, steps = 0.7 * clean + 0.3 * noise, torch.full((3, 6), 300.0)
    kept = outputs(
        model,
        {"b2": model.blocks[2]},
        lambda: model(noisy, steps, padded().expand(3, -1, -1)),
    )
    assert error(found["k300_b2"], kept["b2"].reshape(3, 2, 3, 48)) < 1e-5


@pytest.mark.parametrize("name", ["wan-vae", pytest.param("wan2.2-ti2v", marks=pytest.mark.slow)])
def test_the_vae_alone_gives_the_normalised_mean(models: SmallModels, name: str) -> None:
    folder = Path(models.model(name)["model"])
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    backbone = models.load("wan-vae", model=str(folder), resolution=SIZE)
    found = backbone.encode(VIEWS, scene_id="room", view_ids=IDS)["latent"]
    assert error(found, alone(vae)[:, :, 0].permute(0, 2, 3, 1)) < 1e-5
