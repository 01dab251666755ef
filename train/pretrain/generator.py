"""Pretrain a small Wan: the story of `vega3d-train pretrain generator`.

Views are rendered or decoded once, the VAE's encoder is a PCA of their patches, latents are kept on
disk, the DiT learns flow matching on clips of 1, 3 and 5 latents with the empty prompt, and at last
the VAE's decoder learns to undo the encoder. Letters: B clips of T latents, z latent channels.
"""

import json
import logging
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
from vega3d.train.pretrain.loop import train
from vega3d.train.pretrain.probes import GeneratorProbe, load_scored
from vega3d.train.pretrain.saving import save_generator
from vega3d.train.processes import Processes, join_processes

CLIP_LENGTHS = (1, 3, 5)
_LENGTH_SHARE = (0.42, 0.33, 0.25)
_PATCH = 2
_log = logging.getLogger(__name__)


def pretrain_generator(out: str, config: GeneratorConfig, run: PretrainRun) -> dict[str, Any]:
    """Train the VAE and the DiT, and leave a diffusers folder in `out`/model.

    Repeat the call to resume. Returns a summary: where the model is, its size, the last scores.

    Raises:
        UsageError: `out` holds a run with another config.
    """
    torch.set_num_threads(run.threads)
    folder = Path(out)
    with join_processes(run.device) as processes:
        if processes.is_first:
            check_same(folder, config.identity())
        vae, latents = _prepare(folder, config, run, processes)
        transformer = new_transformer(config)
        probe = GeneratorProbe(load_scored(config, vae, processes.device), config)
        batches = _Batches(latents, config, processes)
        transformer = train(
            transformer, batches.loss, probe, config.transformer, run,
            folder / "transformer", config.identity(), processes,
        )  # fmt: skip
        if processes.is_first:  # the DiT is there whatever becomes of the decoder
            save_generator(folder / "model", transformer, vae, config)
        decoding = _Decoding(vae, folder, config, run, processes)
        vae = train(
            vae, decoding.loss, decoding.score, config.decoder, run,
            folder / "decoder", config.identity(), processes,
        )  # fmt: skip
        if processes.is_first:
            save_generator(folder / "model", transformer, vae, config)
    scores = [line for line in read_metrics(folder / "transformer") if line["kind"] == "val"]
    return {"model": str(folder / "model"), "transformer": scores[-1]}


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
    """Return the VAE with its encoder in place, and the latents of all views, [S, V, z, h, w]."""
    if processes.is_first:
        views = _views(config.scenes, folder, config, run)
        vae = _started_vae(folder, config, views)
        _encode_all(vae, views, folder, processes)
    processes.gather(None)  # the others wait for the files
    views = _views(config.scenes, folder, config, run)
    vae = _started_vae(folder, config, views)
    return vae, _encode_all(vae, views, folder, processes)


def _views(
    location: str, folder: Path, config: GeneratorConfig, run: PretrainRun
) -> list[np.ndarray]:
    place = views_folder(location, config.height, config.width, run.cache, folder)
    return cache_views(location, place, config.height, config.width)


def _started_vae(
    folder: Path, config: GeneratorConfig, views: list[np.ndarray]
) -> AutoencoderKLWan:
    """Return the VAE whose encoder is the PCA of some of the views, the same in every process."""
    vae = images.new_vae(config.vae_width, config.vae_blocks, config.seed)
    sample = np.concatenate([part[::5, ::6].reshape(-1, *part.shape[2:]) for part in views[:6]])
    kept = images.start_encoder(vae, sample[:240])
    _log.info("encoder: a PCA that keeps %.4f of the variance of its last level", kept)
    return images.for_pictures(vae)


def _encode_all(
    vae: AutoencoderKLWan, views: list[np.ndarray], folder: Path, processes: Processes
) -> list[np.ndarray]:
    numbers = [str(i) for i in range(sum(len(part) for part in views))]
    flat = [(part, i) for part in views for i in range(len(part))]
    vae.to(processes.device)

    def make(ids: Any) -> np.ndarray:  # noqa: ANN401 - a sequence of strings
        found = []
        with torch.autocast(processes.device.type, torch.bfloat16):
            for number in ids:
                part, index = flat[int(number)]
                found.append(images.encode(vae, part[index], processes.device).half().cpu().numpy())
        return np.stack(found)

    return cached(numbers, folder / "latents", "latents", make)


class _Batches:
    """Clips of latents, noised: a pure function of the seed, the step and the process."""

    def __init__(
        self, latents: list[np.ndarray], config: GeneratorConfig, processes: Processes
    ) -> None:
        self._latents = np.concatenate([np.asarray(part) for part in latents])
        self._config, self._processes = config, processes

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the flow-matching loss of one step's clips."""
        rng = np.random.default_rng([self._config.seed, 1, step])
        length = int(rng.choice(CLIP_LENGTHS, p=_LENGTH_SHARE))
        rng = np.random.default_rng([self._config.seed, 2, step, self._processes.rank])
        clips = self._clips(rng, length, max(1, self._config.views_a_step // length))
        device = self._processes.device
        clean = torch.from_numpy(clips).to(device).float().transpose(1, 2)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(device)
        sigma = torch.from_numpy(_sigmas(rng, len(clips), length)).to(device)
        mixed = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        prompt = empty_prompt(len(clips), self._config, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            velocity = model(mixed, 1000 * sigma, prompt).sample
        gap: Tensor = velocity.float() - (noise - clean)
        return gap.square().mean()

    def _clips(self, rng: np.random.Generator, length: int, count: int) -> np.ndarray:
        """Draw clips: views of a scene at a stride, forwards or backwards; [B, T, z, h, w]."""
        num_scenes, num_views = self._latents.shape[:2]
        length = min(length, num_views)
        clips = []
        for scene in rng.integers(num_scenes, size=count):
            longest = (num_views - 1) // max(length - 1, 1)
            stride = int(rng.integers(1, min(longest, 4) + 1))
            start = rng.integers(num_views - stride * (length - 1))
            chosen = start + stride * np.arange(length)
            clips.append(self._latents[scene, chosen[::-1] if rng.uniform() < 0.5 else chosen])
        return np.stack(clips)


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
        """Return how far 8 crops of 64 px are from what the decoder makes of them."""
        rng = np.random.default_rng([self._config.seed, 3, step, self._processes.rank])
        crops = np.stack([self._crop(rng, min(64, self._config.height)) for _ in range(8)])
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
