"""Wan2.1's two networks, read strictly from a diffusers layout and cut to what a tap needs.

They know no settings of ours: what is computed with them, and in which order, `wan.py` says. Both
keep nothing of a call, so that threads may share them.
Letters: B videos, T frames, t latent frames, z latent channels, L tokens, C channels.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vega3d.pipeline.backbones.checkpoints import read_config
from vega3d.pipeline.backbones.numerics import autocast
from vega3d.pipeline.backbones.sharing import is_sharing, once
from vega3d.pipeline.backbones.tensors import read_into
from vega3d.pipeline.backbones.wan_blocks import FoldedBlock, Rotary, distinct_rows
from vega3d.pipeline.backbones.wan_frames import FrameEncoder
from vega3d.pipeline.backbones.wan_layout import Transformer, Vae, knows_dit, knows_vae
from vega3d.pipeline.backbones.weights import load_strictly

_FILES = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors")
_DECODER = re.compile(r"(decoder|post_quant_conv)\..+")
_OF_TIME = re.compile(r".+\.time_conv\..+")
_HEAD = re.compile(r"proj_out\..+|scale_shift_table")


def read_vae(place: Path, *, alone: bool = False) -> Any:  # noqa: ANN401 - diffusers is untyped here
    """Return the AutoencoderKLWan in a folder, in float32.

    Args:
        place: The folder.
        alone: For `FrameEncoder` alone: of torch's layers, without what it has no use for.
    """
    config = read_config(place.parent, place.name)
    if not alone or not knows_vae(config):
        from diffusers import AutoencoderKLWan

        return load_strictly(AutoencoderKLWan, place, torch.float32)
    with torch.device("meta"):
        vae = Vae(config)
    return read_into(
        vae,
        place,
        prefix="",
        unread=_DECODER,
        files=_FILES,
        needed=lambda name: not _OF_TIME.fullmatch(name),
    )


def read_transformer(place: Path, last_block: int, *, folded: bool = False) -> Any:  # noqa: ANN401
    """Return the WanTransformer3DModel in a folder, in float32, without blocks after a tap's.

    Args:
        place: The folder.
        last_block: The last tap's.
        folded: For `WanTransformer.fold_prompt` alone: of torch's layers, without its head.
    """
    kept = "|".join(map(str, range(last_block + 1)))
    later = re.compile(rf"blocks\.(?!({kept})\.)\d+\..+")
    config = read_config(place.parent, place.name)
    if not folded or not knows_dit(config):
        from diffusers import WanTransformer3DModel

        return load_strictly(
            WanTransformer3DModel,
            place,
            torch.float32,
            may_skip=later,
            num_layers=last_block + 1,
        )
    with torch.device("meta"):
        model = Transformer(config, last_block + 1)
    return read_into(
        model,
        place,
        prefix="",
        unread=later,
        files=_FILES,
        needed=lambda name: not _HEAD.fullmatch(name),
    )


class WanVae:
    """The VAE's encoder; its decoder is dropped."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - diffusers is untyped here
        device: str,
        *,
        alone: bool,
        dtype: str = "float32",
    ) -> None:
        """Take what is needed of a model.

        Args:
            model: Its folder, or the model from `read_vae`, which is taken apart.
            device: Where it computes.
            alone: Rewrite it for single frames (`frame_latents`); videos then cannot be encoded.
            dtype: Precision of `frame_latents`; videos are encoded in float32.
        """
        self.model = read_vae(model, alone=alone) if isinstance(model, Path) else model
        self.model.decoder = self.model.post_quant_conv = None
        if alone:
            held = torch.float32 if dtype in ("float32", "tf32") else torch.bfloat16
            self.frames = FrameEncoder(self.model, held).to(device)
            self.model.encoder = self.model.quant_conv = None
        self.model.to(device)
        constants = torch.tensor([self.model.config.latents_mean, self.model.config.latents_std])
        self.mean, self.std = constants.float().to(device)

    def compile(self) -> None:
        """Compile what encodes views alone; videos are encoded as they are."""
        if hasattr(self, "frames"):
            compile_sizes(self.frames)

    def posterior_mean(
        self, video: Float32[Tensor, "B 3 T H W"]
    ) -> Float[Tensor, "B z t h_lat w_lat"]:
        """Return the posterior's mean by the class's own layers; nothing is sampled.

        The same to the bit as its `encode`, but the cache of frames is this call's own.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        model = self.model
        if (patch := model.config.patch_size) is not None:
            video = patchify(video, patch)
        past: defaultdict[int, Tensor | None] = defaultdict(lambda: None)
        latents = [model.encoder(x, feat_cache=past, feat_idx=[0]) for x in _pieces(video)]
        mean, _ = model.quant_conv(torch.cat(latents, dim=2)).chunk(2, dim=1)
        found: Tensor = mean
        return found

    def frame_latents(
        self, pixels: Float32[Tensor, "B 3 H W"]
    ) -> Float32[Tensor, "B z 1 h_lat w_lat"]:
        """Return the latents of views alone: equal to `latents` of one-frame videos."""
        if pixels.device.type != "cpu" or not is_sharing():
            return self._frame_latents(pixels)
        held = hashlib.sha256(pixels.numpy().tobytes()).digest()
        key = ("frame latents", self._bytes_hash, tuple(pixels.shape), held)
        return once(key, lambda: self._frame_latents(pixels))

    def _frame_latents(
        self, pixels: Float32[Tensor, "B 3 H W"]
    ) -> Float32[Tensor, "B z 1 h_lat w_lat"]:
        shape = (1, -1, 1, 1)
        mean = self.frames(any_batch(pixels))
        latents: Tensor = (mean - self.mean.view(shape)) / self.std.view(shape)
        return latents.unsqueeze(2)

    @cached_property
    def _bytes_hash(self) -> bytes:
        """Tell this VAE's weights, their type and its constants from any other's."""
        found = hashlib.sha256()
        for name, weight in [*self.frames.state_dict().items(), ("", self.mean), ("", self.std)]:
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            found.update(weight.flatten().view(torch.uint8).numpy().tobytes())
        return found.digest()

    def latents(self, video: Float32[Tensor, "B 3 T H W"]) -> Float32[Tensor, "B z t h_lat w_lat"]:
        """Return (mean - latents_mean) / latents_std.

        Source: diffusers, pipeline_wan_video2video.py; Wan-Video/Wan2.1, wan/modules/vae.py.
        """
        shape = (1, -1, 1, 1, 1)
        mean = self.posterior_mean(video)
        latents: Tensor = (mean - self.mean.view(shape)) / self.std.view(shape)
        return latents


class WanTransformer:
    """The DiT up to the last tap: patch embedding, time and text MLPs, blocks.

    With dtype bfloat16 the weights of the big matrix products are held in bfloat16; norms, time
    embedding and modulation stay float32 as the official model keeps them.

    Source: Wan-Video/Wan2.1, wan/modules/model.py (the asserts on float32).
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - diffusers is untyped here
        last_block: int,
        dtype: str,
        device: str,
    ) -> None:
        """Take what is needed of a model from `read_transformer`, which is taken apart."""
        self.model = model
        cut(self.model, last_block)
        if dtype in ("bfloat16", "float8"):
            _hold_in_bfloat16(self.model)
        self.model.to(device)
        self._device, self._dtype = device, dtype
        self._tables = dict[torch.Size, Rotary]()
        self.freq_dim: int = self.model.config.freq_dim

    def fold_prompt(self, rows: Float32[np.ndarray, "L D"], attended: int) -> None:
        """Compute once what the blocks make of a constant prompt; they then take no text.

        Args:
            rows: The prompt's embedding, without padding.
            attended: Rows that the blocks attend to, zero rows behind the prompt included.
        """
        text, counts = distinct_rows(torch.from_numpy(rows), attended)
        embedded = self.project_text(text[0].numpy())
        counts = counts.to(self._device)
        with autocast(self._dtype, self._device):
            for index, block in enumerate(self.model.blocks):  # one by one, to hold few twice
                self.model.blocks[index] = FoldedBlock(block, embedded, counts)
                if self._dtype == "float8":
                    self.model.blocks[index].round_to_float8()

    def compile(self) -> None:
        """Compile the folded blocks; they differ in weights alone, so it is done once."""
        for block in self.model.blocks:
            compile_sizes(block)

    def project_text(self, rows: Float32[np.ndarray, "L D"]) -> Float[Tensor, "1 L C"]:
        """Take the prompt through the text MLP."""
        with autocast(self._dtype, self._device):
            embedded: Tensor = self.model.condition_embedder.text_embedder(
                torch.from_numpy(rows)[None].to(self._device)
            )
        return embedded

    def sinusoid(self, timestep: int) -> Float32[Tensor, "1 freq"]:
        """Return the time sinusoid as diffusers computes it."""
        projected: Tensor = self.model.condition_embedder.timesteps_proj(
            torch.tensor([timestep], dtype=torch.float32)
        )
        return projected

    def modulation(self, sinusoid: Float32[Tensor, "1 freq"]) -> Float32[Tensor, "1 6 C"]:
        """Return the shifts, scales and gates that every block adds its own table to."""
        embedder = self.model.condition_embedder
        time = embedder.time_embedder(sinusoid.to(self._device))
        projected: Tensor = embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))
        return projected

    def embed(self, video: Float32[Tensor, "B z T h_lat w_lat"]) -> Float32[Tensor, "B L C"]:
        """Return the patch embedding, row by row within a frame."""
        hidden: Tensor = self.model.patch_embedding(video).float()
        return hidden.flatten(2).transpose(1, 2).contiguous()

    def run(
        self,
        hidden: Float32[Tensor, "B L C"],
        video: Float32[Tensor, "B z T h_lat w_lat"],
        text: Float[Tensor, "1 rows C"] | None,
        modulation: Float32[Tensor, "m 6 C"],
        blocks: Set[int],
    ) -> Iterator[tuple[int, Float32[Tensor, "B L C"]]]:
        """Yield the output of each of the named blocks.

        Args:
            hidden: From `embed`.
            video: Gives the positions' shape.
            text: From `project_text`; None where the prompt is folded in.
            modulation: From `modulation`, one for all videos or one for each.
            blocks: Whose outputs are wanted.
        """
        rotary = self._rotary(video)
        hidden, modulation = any_batch(hidden), any_batch(modulation)
        for index, block in enumerate(self.model.blocks):
            if text is None:
                hidden = block(hidden, modulation, rotary)
            else:
                hidden = block(hidden, text.expand(len(video), -1, -1), modulation, rotary)
            if index in blocks:
                yield index, hidden.float()

    def _rotary(self, video: Tensor) -> Rotary:
        """Return the tables of cosines and sines for a video's positions, once for a shape."""
        if (shape := video.shape[2:]) not in self._tables:
            self._tables[shape] = self.model.rope(video)
        return self._tables[shape]


def _pieces(video: Float32[Tensor, "B c T H W"]) -> Iterator[Float32[Tensor, "B c F H W"]]:
    """Yield the first frame, then four at a time: each piece makes one latent frame."""
    yield video[:, :, :1]
    for start in range(1, video.shape[2], 4):
        yield video[:, :, start : start + 4]


def compile_sizes(module: torch.nn.Module) -> None:
    """Compile a module for each size of input that comes, but for any size of a batch.

    By itself torch gives the second size code for all sizes, which may round otherwise: a store's
    bits would depend on which scene came first. `gpu_kernels` lets so many sizes be compiled.
    """
    module.compile(dynamic=False)


def any_batch(batch: Tensor) -> Tensor:
    """Have code that is compiled for a batch take batches of other sizes too.

    On a GPU: elsewhere nothing is compiled, and the compiler is seconds of import.
    """
    if batch.is_cuda and len(batch) > 1:  # a batch of one always gets code of its own
        torch._dynamo.maybe_mark_dynamic(batch, 0)
    return batch


def cut(transformer: Any, last_block: int) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Drop the blocks after the last tap, and the head."""
    transformer.blocks = transformer.blocks[: last_block + 1]
    del transformer.norm_out, transformer.proj_out, transformer.scale_shift_table


def _hold_in_bfloat16(transformer: Any) -> None:  # noqa: ANN401 - diffusers is untyped here
    """Cast the big matrices, and feed query and key norms float32 as the official model does."""
    transformer.condition_embedder.text_embedder.to(torch.bfloat16)
    for block in transformer.blocks:
        block.ffn.to(torch.bfloat16)
        for attention in (block.attn1, block.attn2):
            for linear in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
                linear.to(torch.bfloat16)
            for norm in (attention.norm_q, attention.norm_k):
                norm.register_forward_pre_hook(_to_float32)


def _to_float32(_module: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (args[0].float(),)
