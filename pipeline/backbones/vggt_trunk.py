"""The modules of VGGT's trunk, called as in the published checkpoint.

Letters: n views, N tokens of a view with those in front, C channels. See `vggt`.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vega3d.pipeline.backbones.towers import TowerSizes
from vega3d.pipeline.backbones.vit import Block, VisionTransformer, VitSizes, grid_turns

REGISTERS = 4
ROPE_BASE = 100.0


class Trunk(nn.Module):
    """A DINOv2 encoder, special tokens, and layers within views and across them."""

    def __init__(self, sizes: TowerSizes, *, heads: int, encoder_depth: int) -> None:
        """Make the parameters."""
        super().__init__()
        width = sizes.width
        self.patch_embed = VisionTransformer(
            VitSizes(
                width=width,
                depth=encoder_depth,
                heads=heads,
                mlp=sizes.mlp,
                patch=sizes.patch,
                side=sizes.native_px // sizes.patch,
                registers=REGISTERS,
            )
        )
        # One for the first view, one for all others.
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.empty(1, 2, REGISTERS, width))

        def layers() -> nn.ModuleList:
            make = [
                Block(width, heads, sizes.mlp, eps=1e-5, normalised=True)
                for _ in range(sizes.layers)
            ]
            return nn.ModuleList(make)

        self.frame_blocks, self.global_blocks = layers(), layers()
        self._head, self._patch = width // heads, sizes.patch

    def pairs(
        self, pixels: Float[Tensor, "n 3 H W"], *, joint: bool
    ) -> Iterator[Float[Tensor, "n N two_C"]]:
        """Yield, after each pair of layers, the view's and the scene's tokens side by side.

        Args:
            pixels: Normalised; the first view is the scene's first.
            joint: The views see one another; else each is a scene of its own.
        """
        tokens = self._embedded(pixels, joint)
        rows, cols = (side // self._patch for side in pixels.shape[2:])
        turns = grid_turns(rows, cols, 1 + REGISTERS, self._head, str(pixels.device), ROPE_BASE)
        views = len(pixels) if joint else 1
        all_turns = (turns[0].repeat(views, 1), turns[1].repeat(views, 1))
        for within, across in zip(self.frame_blocks, self.global_blocks, strict=True):
            frame = within(tokens, turns)
            tokens = across(frame.reshape(len(pixels) // views, -1, frame.shape[-1]), all_turns)
            tokens = tokens.reshape(frame.shape)
            yield torch.cat([frame, tokens], dim=-1)[:, 1 + REGISTERS :]

    def _embedded(self, pixels: Float[Tensor, "n 3 H W"], joint: bool) -> Float[Tensor, "n N C"]:
        """Return camera, register and patch tokens of each view."""
        encoder = self.patch_embed
        hidden = encoder.embed(pixels)
        for block in encoder.blocks:
            hidden = block(hidden)
        patches = encoder.norm(hidden)[:, encoder.prefix :]
        special = torch.cat([self.camera_token, self.register_token], dim=2)[0]  # 2 1+R C
        which = torch.ones(len(pixels), dtype=torch.long, device=pixels.device)
        which[: 1 if joint else None] = 0
        return torch.cat([special[which], patches], dim=1)
