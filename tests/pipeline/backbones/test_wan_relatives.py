"""Wan's relatives against a plain use of their classes and of diffusers' own pipelines."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from golden import FOLDER, drawn
from PIL import Image
from small_backbones import SmallModels
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModel

from vega3d.pipeline.backbones.checkpoints import model_facts
from vega3d.pipeline.backbones.loading import load_backbone
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


def drawn_as(name: str, *shape: int) -> Tensor:
    """Standard normal, by its name."""
    return torch.from_numpy(drawn(name, shape) * np.sqrt(np.prod(shape[1:]))).float()


@pytest.fixture(scope="module")
def vace_of_golden(models: SmallModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that the official module was run with: by their names in diffusers' class."""
    folder = tmp_path_factory.mktemp("golden") / "vace"
    shutil.copytree(models.model("wan2.1-vace")["model"], folder)
    model = diffusers.WanVACETransformer3DModel.from_pretrained(folder / "transformer")
    weights = {k: torch.from_numpy(drawn(k, tuple(v.shape))) for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    model.save_pretrained(folder / "transformer")
    return folder


@pytest.mark.parametrize("references", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_vace_is_the_official_module(vace_of_golden: Path, references: int) -> None:
    """All that a pass works on is given: latents, noise, references, mask of pixels.

    The goldens: Wan-Video/Wan2.1 @ 9737cba, wan/modules/vace_model.py with attention by torch, 4
    layers of 48 channels, hints at 0 and 2, k = 300; the mask as wan/vace.py packs it.
    """
    backbone = load_backbone(
        "wan2.1-vace",
        model=str(vace_of_golden),
        resolution=(32, 48),
        blocks=(0, 1, 2, 3),
        timesteps=(300,),
        prompt_embeds=drawn_as("prompt", 3, 32).numpy(),
    )
    given = {
        "latents": drawn_as("latents", 2, 16, 1, 4, 6),
        "inactive_latents": drawn_as("inactive", 2, 16, 1, 4, 6),
        "reactive_latents": drawn_as("reactive", 2, 16, 1, 4, 6),
        "mask": (drawn_as("mask", 2, 1, 32, 48) > 0).float(),
    }
    if references:
        given["reference_latents"] = drawn_as("reference", 2, 16, references, 4, 6)
    noise = drawn_as(f"noise{references}", 2, 16, 1 + references, 4, 6)
    found = backbone.encode(None, scene_id="", view_ids=["0", "1"], noise=noise, **given)
    with np.load(FOLDER / "vace_tiny.npz") as golden:
        for block in range(4):
            expected = torch.from_numpy(golden[f"r{references}_b{block}"])
            assert error(found[f"k300_b{block}"], expected) < 1e-5


def test_given_latents_are_what_the_vae_would_give(models: SmallModels) -> None:
    backbone = load(models, "wan2.1-vace", reference="first")
    noise = noise_of(3, 16, 2, 8, 12)
    usual = backbone.encode(VIEWS, scene_id="room", view_ids=IDS, noise=noise)
    vae = diffusers.AutoencoderKLWan.from_pretrained(
        Path(models.model("wan2.1-vace")["model"]) / "vae"
    )
    found = backbone.encode(None, scene_id="", view_ids=IDS, noise=noise, latents=alone(vae))
    assert error(found["k300_b2"], usual["k300_b2"]) < 1e-5


def test_what_an_encoder_cannot_be_given_is_refused(models: SmallModels) -> None:
    vace = load(models, "wan2.1-vace")
    with pytest.raises(ValueError, match="takes inactive_latents, latents, mask, .*given depth"):
        vace.encode(VIEWS, scene_id="s", view_ids=IDS, depth=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="latents must be one a view, got 2 for 3 views"):
        vace.encode(None, scene_id="s", view_ids=IDS, latents=noise_of(2, 16, 1, 8, 12))
    with pytest.raises(ValueError, match="resolution, 96x64 px; they are 8 x 8 cells"):
        vace.encode(None, scene_id="s", view_ids=IDS, latents=noise_of(3, 16, 1, 8, 8))
    with pytest.raises(ValueError, match="without rgb, latents must be given"):
        vace.encode(None, scene_id="s", view_ids=IDS)
    with pytest.raises(ValueError, match="wan2.1-i2v looks at pixels alone"):
        load(models, "wan2.1-i2v").encode(
            VIEWS, scene_id="s", view_ids=IDS, latents=noise_of(3, 16, 1, 8, 12)
        )


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("wan2.1-i2v", "first"),
        pytest.param("wan2.1-i2v", "frame", marks=pytest.mark.slow),
        pytest.param("wan2.2-i2v", "first", marks=pytest.mark.slow),
        pytest.param("wan2.2-i2v", "frame", marks=pytest.mark.slow),
    ],
)
def test_image_to_video_is_the_pipelines_condition(
    models: SmallModels, name: str, context: str
) -> None:
    folder = Path(models.model(name)["model"])
    clip_there = (folder / "image_encoder").exists()  # Wan2.2's models read none
    expert = "transformer" if clip_there else "transformer_2"  # of k = 300
    num = 1 if context == "frame" else 2
    noise = noise_of(3, 16, num, 8, 12)
    found = load(models, name, context=context).encode(
        VIEWS, scene_id="room", view_ids=IDS, noise=noise
    )
    model = diffusers.WanTransformer3DModel.from_pretrained(folder / expert)
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    pipe = diffusers.WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=None,
        image_processor=CLIPImageProcessor.from_pretrained(folder / "image_processor")
        if clip_there
        else None,
        image_encoder=CLIPVisionModel.from_pretrained(folder / "image_encoder")
        if clip_there
        else None,
        transformer=model,
    )
    for k, view in enumerate(PIXELS):
        image = VIEWS[k] if context == "frame" else VIEWS[0]
        pixels = view if context == "frame" else PIXELS[0]
        with torch.no_grad():
            clip = (
                pipe.encode_image(Image.fromarray(image), torch.device("cpu"))
                if clip_there
                else None
            )
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


@pytest.mark.parametrize(
    "name", ["wan2.2-i2v", *(pytest.param(n, marks=pytest.mark.slow) for n in ("wan2.1-i2v",))]
)
def test_a_scene_of_more_views_than_a_batch_has_one_condition(
    models: SmallModels, name: str
) -> None:
    """The scene's first view goes with every batch, and the batches come as one."""
    together, apart = (
        load(models, name, context="first", batch_size=size).encode(
            VIEWS, scene_id="room", view_ids=IDS
        )["k300_b2"]
        for size in (3, 2)
    )
    assert error(apart, together) < 1e-5


@pytest.mark.slow
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
