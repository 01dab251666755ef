"""Pretrain a small Wan: the story of `vega3d-train pretrain generator`.

Views are rendered or decoded once, the VAE's encoder is a PCA of their patches, its decoder learns
to undo it, latents of the views and of their mirror images are kept on disk, and the DiT learns
flow matching on clips of 1, 3 and 5 latents with the empty prompt.
Letters: S scenes, V views, B clips of T latents, z latent channels.
"""

import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from vega3d.train.checkpoint import check_same_run, write_json
from vega3d.train.journal import read_metrics
from vega3d.train.pretrain import vae as images
from vega3d.train.pretrain.clips import cache_views, cached, views_folder
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun
from vega3d.train.pretrain.loop import Place, compile_each, train
from vega3d.train.pretrain.probes import GeneratorProbe, load_scored
from vega3d.train.pretrain.saving import save_generator
from vega3d.train.pretrain.starting import identity_of, take_weights
from vega3d.train.processes import Processes, join_processes

CLIP_LENGTHS = (1, 3, 5)
_LENGTH_SHARE = (0.42, 0.33, 0.25)
_LONGEST_STRIDE = 4
_ENCODED_AT_ONCE = {"cuda": 256, "cpu": 8}
"""Pictures, by kind of device."""

_DECODER_SHARE = 0.12
"""Of the time that is left after the views, where there is a limit, for the decoder at most."""

_log = logging.getLogger(__name__)


def pretrain_generator(out: str, config: GeneratorConfig, run: PretrainRun) -> dict[str, Any]:
    """Train the VAE and the DiT, and leave a diffusers folder in `out`/model.

    Repeat the call to resume. Returns a summary: where the model is, its steps, the last scores.

    Raises:
        UsageError: `out` holds a run with another config.
    """
    torch.set_num_threads(run.threads)
    folder, begun_s, identity = Path(out), time.monotonic(), identity_of(config)
    with join_processes(run.device) as processes:
        if processes.is_first:
            check_same(folder, identity)
        vae, latents = _prepare(folder, config, run, processes)
        scored = load_scored(
            config, vae, processes.device, _views(config.choose, folder, config, run)
        )
        ends_s = begun_s + 60 * run.max_minutes if run.max_minutes else math.inf
        place = Place(folder / "transformer", identity, run, processes, ends_s)
        transformer = new_transformer(config)
        if config.init:
            take_weights(transformer, config.init, "transformer")
        if not (config.vae or config.init):
            vae = _train_decoder(vae, config, place)
        if run.compile:
            compile_each(transformer.blocks)
        transformer, steps = train(
            transformer, _Batches(latents, config, processes).loss, GeneratorProbe(scored, config),
            config.transformer, place,
        )  # fmt: skip
        if processes.is_first:
            save_generator(folder / "model", transformer, vae, config)
    scores = [line for line in read_metrics(folder / "transformer") if line["kind"] == "val"]
    return {"model": str(folder / "model"), "steps": steps, "transformer": scores[-1]}


def _train_decoder(vae: AutoencoderKLWan, config: GeneratorConfig, place: Place) -> nn.Module:
    """Return the VAE with a decoder that has learnt to undo the encoder."""
    folder = place.folder.parent
    decoding = _Decoding(vae, folder, config, place.run, place.processes)
    ends_s = time.monotonic() + _DECODER_SHARE * (place.ends_s - time.monotonic())
    place = replace(place, folder=folder / "decoder", ends_s=ends_s)
    return train(vae, decoding.loss, decoding.score, config.decoder, place)[0]


def new_transformer(config: GeneratorConfig) -> WanTransformer3DModel:
    """Return a DiT whose residual branches start small, as the config's seed gives it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = WanTransformer3DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            text_dim=config.text_dim,
            freq_dim=64,
            ffn_dim=config.ffn_dim,
            num_layers=config.layers,
            rope_max_seq_len=128,
        )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and "condition" not in name:
                    nn.init.xavier_uniform_(weight)
                if name.endswith("bias"):
                    weight.zero_()
            for block in model.blocks:
                block.scale_shift_table.zero_()
                block.scale_shift_table[:, [2, 5]] = 0.2  # the gates of both branches
                block.attn2.to_out[0].weight.mul_(0.1)
            model.condition_embedder.time_proj.weight.mul_(0.1)
            model.scale_shift_table.zero_()
            model.proj_out.weight.mul_(0.1)
    return model


def empty_prompt(batch: int, config: GeneratorConfig, device: torch.device) -> Tensor:
    """Return the empty prompt of a text encoder whose last norm is zero, one row.

    All 512 rows are equal then, and attention over equal rows is attention over one.
    """
    return torch.zeros(batch, 1, config.text_dim, device=device)


def check_same(folder: Path, identity: dict[str, Any]) -> None:
    """Write what decides the numbers; raise UsageError where a run with something else is there."""
    path = folder / "config.json"
    identity = json.loads(json.dumps(identity))
    if path.exists():
        check_same_run(path, json.loads(path.read_text()), identity)
    write_json(path, identity)


def _prepare(
    folder: Path, config: GeneratorConfig, run: PretrainRun, processes: Processes
) -> tuple[AutoencoderKLWan, list[np.ndarray]]:
    """Return the VAE with its encoder in place, and the latents of all views, in parts."""
    if processes.is_first:
        views = _views(config.scenes, folder, config, run)
        vae = _started_vae(folder, config, views)
        _encode_all(vae, views, folder, config, processes)
    processes.gather(None)  # the others wait for the files
    views = _views(config.scenes, folder, config, run)
    vae = _started_vae(folder, config, views)
    return vae, _encode_all(vae, views, folder, config, processes)


def _views(
    location: str, folder: Path, config: GeneratorConfig, run: PretrainRun
) -> list[np.ndarray]:
    place = views_folder(location, config.height, config.width, run.cache, folder)
    return cache_views(location, place, config.height, config.width, run.workers)


def _started_vae(
    folder: Path, config: GeneratorConfig, views: list[np.ndarray]
) -> AutoencoderKLWan:
    """Return the VAE whose encoder is the PCA of some of the views, the same in every process."""
    vae = images.new_vae(config.vae_width, config.vae_blocks, config.seed)
    if trained := config.vae or config.init:
        take_weights(vae, trained, "vae")
        return images.for_pictures(vae)
    sample = np.concatenate([part[::5, ::6].reshape(-1, *part.shape[2:]) for part in views[:6]])
    kept = images.start_encoder(vae, sample[:240])
    _log.info("encoder: a PCA that keeps %.4f of the variance of its last level", kept)
    return images.for_pictures(vae)


def _encode_all(
    vae: AutoencoderKLWan,
    views: list[np.ndarray],
    folder: Path,
    config: GeneratorConfig,
    processes: Processes,
) -> list[np.ndarray]:
    """Return latents of views and mirror images, [S, 2, V, z, h, w] float16 in parts."""
    numbers = [str(i) for i in range(sum(len(part) for part in views))]
    flat = [(part, i) for part in views for i in range(len(part))]
    vae.to(processes.device)
    at_once = _ENCODED_AT_ONCE[processes.device.type]

    def make(ids: Any) -> np.ndarray:  # noqa: ANN401 - a sequence of strings
        scenes = np.stack([flat[int(number)][0][flat[int(number)][1]] for number in ids])
        both = np.stack([scenes, scenes[..., ::-1, :]], 1)
        pictures, parts = both.reshape(-1, *both.shape[3:]), []
        for start in range(0, len(pictures), at_once):
            some = pictures[start : start + at_once]
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=config.amp):
                parts.append(images.encode(vae, some, processes.device))
        latents = torch.cat(parts).half().cpu().numpy()
        return latents.reshape(*both.shape[:3], *latents.shape[1:])

    return cached(numbers, folder / "latents", "mirrored", make)


class _Batches:
    """Clips of latents, noised: a pure function of the seed, the step and the process."""

    def __init__(
        self, latents: list[np.ndarray], config: GeneratorConfig, processes: Processes
    ) -> None:
        self._latents = torch.from_numpy(np.concatenate(latents)).to(processes.device)
        self._config, self._processes = config, processes

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the flow-matching loss of one step's clips."""
        rng = np.random.default_rng([self._config.seed, 1, step])
        length = int(rng.choice(CLIP_LENGTHS, p=_LENGTH_SHARE))
        rng = np.random.default_rng([self._config.seed, 2, step, self._processes.rank])
        clean = self._clips(rng, length, max(1, self._config.views_a_step // length))
        device = self._processes.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(clean.shape, generator=generator, device=device)
        sigma = torch.from_numpy(_sigmas(rng, len(clean), length)).to(device)
        mixed = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        prompt = empty_prompt(len(clean), self._config, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            velocity = model(mixed, 1000 * sigma, prompt).sample
        gap: Tensor = velocity.float() - (noise - clean)
        return gap.square().mean()

    def _clips(self, rng: np.random.Generator, length: int, count: int) -> Tensor:
        """Draw clips: a scene's views at a stride, either way, mirrored or not; [B, z, T, h, w]."""
        num_scenes, _, num_views = self._latents.shape[:3]
        length = min(length, num_views)
        longest = (num_views - 1) // max(length - 1, 1)
        stride = rng.integers(1, max(1, min(longest, _LONGEST_STRIDE)) + 1, count)
        start = rng.integers(num_views - stride * (length - 1))
        views = start[:, None] + stride[:, None] * np.arange(length)
        views = np.where(rng.uniform(size=(count, 1)) < 0.5, views[:, ::-1], views)
        scenes, sides = rng.integers(num_scenes, size=count), rng.integers(2, size=count)
        at = (torch.from_numpy(index) for index in (scenes[:, None], sides[:, None], views))
        return self._latents[tuple(at)].float().transpose(1, 2)


def _sigmas(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Draw noise levels: logit-normal, shifted up for clips, every tenth uniform.

    Source: Esser et al. 2024 (Stable Diffusion 3), sec. 3.1 and 5.3.2.
    """
    sigma = 1 / (1 + np.exp(-1.1 * rng.standard_normal(count)))
    shift = 1.0 if length == 1 else 1.8
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    is_uniform = rng.uniform(size=count) < 0.1
    return np.where(is_uniform, rng.uniform(size=count), sigma).astype(np.float32)


class _Decoding:
    """Crops of views, encoded and decoded again; only the decoder learns."""

    def __init__(
        self,
        vae: AutoencoderKLWan,
        folder: Path,
        config: GeneratorConfig,
        run: PretrainRun,
        processes: Processes,
    ) -> None:
        self._views = _views(config.scenes, folder, config, run)
        self._scored = _views(config.choose, folder, config, run)[0]
        self._config, self._processes = config, processes
        vae.requires_grad_(False)
        for module in (vae.decoder, vae.post_quant_conv):
            module.requires_grad_(True)

    def loss(self, vae: nn.Module, step: int) -> Tensor:
        """Return how far crops of 64 px are from what the decoder makes of them."""
        rng = np.random.default_rng([self._config.seed, 3, step, self._processes.rank])
        side = min(64, self._config.height)
        crops = np.stack([self._crop(rng, side) for _ in range(self._config.crops)])
        device = self._processes.device
        wanted = images.to_input(crops, device)[:, :, 0]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            latents = images.encode(vae, crops, device)
            made = images.decode(vae, latents).float()
        gap = made - wanted
        edges = gap.diff(dim=3).abs().mean() + gap.diff(dim=2).abs().mean()
        return gap.abs().mean() + gap.square().mean() + 0.25 * edges

    def score(self, vae: nn.Module) -> dict[str, float]:
        """Return the peak signal-to-noise ratio on views of scenes that are not trained on, dB."""
        pictures = self._scored[:16, 0]
        device = self._processes.device
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            made = images.decode(vae, images.encode(vae, pictures, device)).float().clamp(-1, 1)
        gap = (made - images.to_input(pictures, device)[:, :, 0]).square().mean((1, 2, 3))
        return {"psnr_db": float((10 * torch.log10(4 / gap)).mean())}

    def _crop(self, rng: np.random.Generator, side: int) -> np.ndarray:
        part = self._views[rng.integers(len(self._views))]
        view = part[rng.integers(len(part)), rng.integers(part.shape[1])]
        top = rng.integers(view.shape[0] - side + 1)
        left = rng.integers(view.shape[1] - side + 1)
        return np.asarray(view[top : top + side, left : left + side])
