"""Parameters and operations of Stable Diffusion's networks up to a stage, from their config.json.

Stages of a UNet: 0 the end of the way down (what the middle is given), 1 the middle's output, 2 and
on the outputs of the blocks of the way up. Letters in comments: c channels.

Source: diffusers, unet_2d_condition.py, unet_spatio_temporal_condition.py, vae.py (Encoder) and the
blocks that they name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vega3d.pipeline.backbones.settings import Canvas
from vega3d.pipeline.backbones.tally import Tally

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetRun:
    """What a UNet runs on: 0 everywhere counts parameters alone."""

    rows: int = 0
    """Of the latent."""
    cols: int = 0
    frames: int = 1
    text_rows: int = 0

    def positions(self, level: int) -> float:
        """Return the cells of one frame at a level."""
        return self.rows * self.cols * 0.25**level


def stage_channels(unet: Config, stage: int) -> int:
    """Return the width of a stage's output."""
    widths = [int(width) for width in unet["block_out_channels"]]
    return widths[-1] if stage < 2 else widths[::-1][stage - 2]


def stage_px(unet: Config, stage: int) -> int:
    """Return the side of a stage's cell, px of the image: the VAE's 8 times the UNet's halvings."""
    levels = len(unet["block_out_channels"])
    ups = 0 if stage < 2 else min(stage - 1, levels - 1)  # the last block up keeps the size
    return int(8 * 2 ** (levels - 1 - ups))


def num_stages(unet: Config) -> int:
    """Return how many stages there are."""
    return 2 + len(unet["block_out_channels"])


def unet_tally(unet: Config, stage: int, run: UnetRun, *, temporal: bool) -> Tally:
    """Count a UNet up to a stage.

    Args:
        unet: Its config.json.
        stage: The last that is computed.
        run: What it runs on.
        temporal: Its blocks mix frames, as SVD's do.
    """
    walk = _Walk(unet, run, temporal)
    walk.stem()
    skips = walk.down()
    if stage >= 1:
        walk.middle()
    for index in range(max(0, stage - 1)):
        walk.up(index, skips)
    return walk.tally


class _Walk:
    def __init__(self, unet: Config, run: UnetRun, temporal: bool) -> None:
        self.unet, self.run, self.temporal = unet, run, temporal
        self.tally = Tally()
        self.widths: Sequence[int] = [int(width) for width in unet["block_out_channels"]]
        self.time = 4 * self.widths[0]
        self.layers = int(unet.get("layers_per_block", 2))
        self.cross = int(unet["cross_attention_dim"])

    def stem(self) -> None:
        first, cells = self.widths[0], self.run.positions(0)
        self.tally.conv(int(self.unet["in_channels"]), first, 9, cells)
        embeddings = [first]
        if self.temporal:
            embeddings.append(int(self.unet["projection_class_embeddings_input_dim"]))
        for inputs in embeddings:
            self.tally.linear(inputs, self.time, 1)
            self.tally.linear(self.time, self.time, 1)

    def down(self) -> list[int]:
        """Walk down, and return the width of every map that is kept for the way up."""
        skips = [self.widths[0]]
        before = self.widths[0]
        for level, width in enumerate(self.widths):
            attends = str(self.unet["down_block_types"][level]).startswith("CrossAttn")
            for _ in range(self.layers):
                self.residual(before, width, level)
                if attends:
                    self.attention(width, level)
                skips.append(width)
                before = width
            if level < len(self.widths) - 1:
                self.tally.conv(width, width, 9, self.run.positions(level + 1))
                skips.append(width)
        return skips

    def middle(self) -> None:
        width, level = self.widths[-1], len(self.widths) - 1
        self.residual(width, width, level)
        self.attention(width, level)
        self.residual(width, width, level)

    def up(self, index: int, skips: list[int]) -> None:
        level = len(self.widths) - 1 - index
        width = self.widths[level]
        before = self.widths[min(level + 1, len(self.widths) - 1)]
        attends = str(self.unet["up_block_types"][index]).startswith("CrossAttn")
        for _ in range(self.layers + 1):
            self.residual(before + skips.pop(), width, level)
            if attends:
                self.attention(width, level)
            before = width
        if index < len(self.widths) - 1:
            self.tally.conv(width, width, 9, self.run.positions(level - 1))

    def residual(self, before: int, after: int, level: int) -> None:
        self._residual(before, after, 9, self.run.positions(level))
        if self.temporal:
            self._residual(after, after, 3, self.run.positions(level))
            self.tally.table(1)  # how much of the two is taken

    def _residual(self, before: int, after: int, taps: int, cells: float) -> None:
        self.tally.norm(before)
        self.tally.conv(before, after, taps, cells)
        self.tally.linear(self.time, after, 1)
        self.tally.norm(after)
        self.tally.conv(after, after, taps, cells)
        if before != after:
            self.tally.linear(before, after, cells)

    def attention(self, c: int, level: int) -> None:
        cells = self.run.positions(level)
        self.tally.norm(c)
        self.tally.linear(c, c, cells)
        self._block(c, cells, cells)
        if self.temporal:
            self.tally.norm(c)
            self._mlp(c, cells)
            self._block(c, cells, self.run.frames)
            self.tally.linear(c, 4 * c, self.run.frames)
            self.tally.linear(4 * c, c, self.run.frames)
            self.tally.table(1)
        self.tally.linear(c, c, cells)

    def _block(self, c: int, cells: float, keys: float) -> None:
        """Count self-attention, attention to the text or image, and a gated MLP."""
        for _ in range(3):
            self.tally.norm(c)
        text = float(self.run.text_rows)
        for inputs, told, seen in ((c, cells, keys), (self.cross, text, text)):
            self.tally.linear(c, c, cells, bias=False)
            self.tally.linear(inputs, c, told, bias=False)
            self.tally.linear(inputs, c, told, bias=False)
            self.tally.linear(c, c, cells)
            self.tally.scores(cells, seen, c)
        self._mlp(c, cells)

    def _mlp(self, c: int, cells: float) -> None:
        self.tally.linear(c, 8 * c, cells)
        self.tally.linear(4 * c, c, cells)


def encoder_tally(vae: Config, canvas: Canvas) -> Tally:
    """Count the encoder of an AutoencoderKL on one image; the decoder is dropped."""
    tally = Tally()
    widths = [int(width) for width in vae["block_out_channels"]]
    cells: float = canvas[0] * canvas[1]
    tally.conv(int(vae.get("in_channels", 3)), widths[0], 9, cells)
    before = widths[0]
    for level, width in enumerate(widths):
        for _ in range(int(vae.get("layers_per_block", 1))):
            _plain_residual(tally, before, width, cells)
            before = width
        if level < len(widths) - 1:
            cells /= 4
            tally.conv(width, width, 9, cells)
    last, latent = widths[-1], 2 * int(vae["latent_channels"])
    _plain_residual(tally, last, last, cells)
    tally.norm(last)
    for _ in range(4):
        tally.linear(last, last, cells)
    tally.scores(cells, cells, last)
    _plain_residual(tally, last, last, cells)
    tally.norm(last)
    tally.conv(last, latent, 9, cells)
    if vae.get("use_quant_conv", True):
        tally.linear(latent, latent, cells)
    return tally


def _plain_residual(tally: Tally, before: int, after: int, cells: float) -> None:
    tally.norm(before)
    tally.conv(before, after, 9, cells)
    tally.norm(after)
    tally.conv(after, after, 9, cells)
    if before != after:
        tally.linear(before, after, cells)
