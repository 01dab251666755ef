"""A small Wan from scratch: what the encoder is, what a step is, resuming, and the saved layout."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.journal import read_metrics
from vega3d.train.pretrain import vae as images
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun, Recipe
from vega3d.train.pretrain.generator import new_transformer, pretrain_generator
from vega3d.train.pretrain.loop import rate
from vega3d.train.pretrain.probes import depth_r2, ridge

SMALL = GeneratorConfig(
    scenes="rooms:3?views=6&height=64&width=96&seed=101",
    choose="rooms:4?views=2&height=64&width=96&seed=102",
    height=64,
    width=96,
    heads=2,
    head_dim=16,
    layers=2,
    ffn_dim=32,
    views_a_step=5,
    amp=False,  # most CPUs have no instruction for it
    transformer=Recipe(steps=6, cooldown=2, lr=1e-3, warmup=2, probe_every=3),
    decoder_steps=2,
)
SIZE = "height=32&width=48&seed=101"
RUN = PretrainRun(save_every=2, log_every=1)


def pictures(count: int) -> np.ndarray:
    views = [
        view.read_rgb()
        for i in range(count // 4)
        for view in read_scenes("rooms:9?views=4&height=64&width=96").read(f"room{i:04d}").views
    ]
    return np.stack(views)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain")
    pretrain_generator(str(out), SMALL, RUN)
    return out


@pytest.mark.slow
def test_the_encoder_is_a_pca_of_patches() -> None:
    """Latents are linear in the patch, uncorrelated, and keep most of the picture."""
    seen = pictures(24)
    vae = images.for_pictures(images.new_vae(16, 1, seed=0))
    kept = images.start_encoder(vae, seen)
    latents = images.encode(vae, seen, torch.device("cpu")).permute(0, 2, 3, 1).reshape(-1, 16)
    patches = seen.reshape(-1, 8, 8, 12, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192) / 127.5
    z = latents.numpy()
    correlation = np.corrcoef(z.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.1
    design = np.column_stack([patches, np.ones(len(patches))])
    fitted = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    assert ((fitted - z) ** 2).mean() < 1e-3 * z.var()
    back = np.column_stack([z, np.ones(len(z))])
    error = back @ np.linalg.lstsq(back, patches, rcond=None)[0] - patches
    assert (error**2).mean() < 0.1 * patches.var()
    assert kept > 0.9


@pytest.mark.slow
def test_a_single_picture_is_encoded_as_the_class_itself_does() -> None:
    seen = pictures(4)
    x = images.to_input(seen, torch.device("cpu"))
    vae = images.new_vae(16, 1, seed=0)
    with torch.no_grad():
        expected = vae.encode(x).latent_dist.mode()[:, :, 0]
        rebuilt = vae.decode(expected.unsqueeze(2)).sample[:, :, 0]
    fast = images.for_pictures(vae)
    torch.testing.assert_close(images.encode(fast, seen, x.device), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        decoded = images.decode(fast, expected).clamp(-1, 1)
    torch.testing.assert_close(decoded, rebuilt, atol=1e-5, rtol=1e-4)


def test_one_row_of_the_empty_prompt_is_as_good_as_512() -> None:
    model = new_transformer(SMALL)
    z, k = torch.randn(1, 16, 1, 8, 12), torch.tensor([300.0])
    with torch.no_grad():
        one = model(z, k, torch.zeros(1, 1, 32)).sample
        all_rows = model(z, k, torch.zeros(1, 512, 32)).sample
    torch.testing.assert_close(one, all_rows, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(finished: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(SMALL.transformer, steps=4, cooldown=0)
    pretrain_generator(str(tmp_path), dataclasses.replace(SMALL, transformer=short), RUN)
    pretrain_generator(str(tmp_path), SMALL, RUN)
    name = "transformer/checkpoint-00000006.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_another_config_is_refused(finished: Path) -> None:
    with pytest.raises(UsageError, match="another run: .*layers"):
        pretrain_generator(str(finished), dataclasses.replace(SMALL, layers=3), RUN)


@pytest.mark.slow
def test_a_run_goes_on_from_trained_weights(finished: Path, tmp_path: Path) -> None:
    """One step at a rate of nothing leaves what it began with, the VAE and its decoder too.

    In bfloat16, for the weights stay float32.
    """
    still = dataclasses.replace(SMALL.transformer, steps=1, cooldown=0, lr=1e-12)
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    small = dataclasses.replace(
        SMALL,
        scenes=f"rooms:1?views=5&{SIZE}",
        choose=f"rooms:4?views=1&{SIZE}",
        height=32,
        width=48,
        views_a_step=5,
        amp=True,
    )
    config = dataclasses.replace(small, init=str(model), seed=7, transformer=still)
    out = tmp_path / "run"
    pretrain_generator(str(out), config, RUN)
    for part in ("transformer", "vae"):
        weights = f"{part}/diffusion_pytorch_model.safetensors"
        begun, left = load_file(model / weights), load_file(out / "model" / weights)
        for name, values in begun.items():
            torch.testing.assert_close(left[name], values, atol=1e-6, rtol=0, msg=name)
    wide = dataclasses.replace(config, ffn_dim=48)
    with pytest.raises(UsageError, match="has other sizes"):
        pretrain_generator(str(tmp_path / "wide"), wide, RUN)
    save_file({name: values + 1 for name, values in begun.items()}, model / weights)
    with pytest.raises(UsageError, match="another run: .*vae"):  # other bytes, the same name
        pretrain_generator(str(out), config, RUN)


@pytest.mark.slow
def test_metrics_hold_losses_and_scores(finished: Path) -> None:
    lines = read_metrics(finished / "transformer")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    scores = [line for line in lines if line["kind"] == "val"]
    assert [line["step"] for line in scores] == [3, 6]
    assert {"loss_k300", "depth_r2", "depth_r2_position"} <= set(scores[0])
    assert json.loads((finished / "config.json").read_text())["layers"] == 2


@pytest.mark.slow
def test_the_pipeline_takes_the_saved_model_as_any_other(finished: Path, tmp_path: Path) -> None:
    backbone = WanConfig(model=str(finished / "model"), blocks=(0,), resolution=(64, 96))
    config = ExtractConfig(backbone=backbone, num_views=2)
    scenes = read_scenes("rooms:1?views=2&height=64&width=96&seed=103")
    out = str(tmp_path / "store.zarr")
    summary = extract(scenes, out, config, numerics=Numerics(threads=1), run=run_inline)
    assert (summary.committed, summary.failures) == (1, {})


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, cooldown=20, lr=1.0, warmup=10)
    rates = [rate(step, recipe) for step in range(100)]
    assert rates[0] == 0.1
    assert set(rates[9:80]) == {1.0}
    assert rates[90] == 0.5
    assert rates[99] == 0.05


def test_depth_is_read_from_features_that_hold_it_and_not_from_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    depth = torch.randn(8, 2, 3, 4, generator=rng)
    depth[0, 0, 0, 0] = torch.nan
    noise = torch.randn(8, 2, 3, 4, 5, generator=rng)
    holding = torch.cat([noise, 2 * depth.nan_to_num(0)[..., None] + 1], -1)
    assert depth_r2(holding, depth, with_position=False) > 0.999
    assert depth_r2(noise, depth, with_position=False) < 0.2
    flat, answers = noise.double().reshape(-1, 5), depth.double().nan_to_num(0).reshape(-1, 1)
    standard = (flat - flat.mean(0)) / flat.std(0)
    plain = torch.linalg.lstsq(standard, answers - answers.mean()).solution
    found = ridge(flat, answers, flat, strength=1e-12)
    torch.testing.assert_close(found, standard @ plain + answers.mean(), atol=1e-5, rtol=1e-4)
