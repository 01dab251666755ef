"""Views and words as a host takes them: pixels, grids, and placeholders for the visual tokens.

What the host's own processor does for one sample: LLaVA's views are one video (one grid a frame,
halved), Qwen's are images of a size that it is free to choose.

Letters: V views, L tokens of a sample, A tokens of the answer with its end.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vega3d.pipeline.errors import UsageError
from vega3d.train.hosts.loading import Host

IGNORED = -100
"""Label of a token that is not learned."""

Inputs = dict[str, Tensor]
Views = Sequence[UInt8[np.ndarray, "H W 3"]]


class Writer:
    """Turns views, a question and maybe an answer into a host's inputs."""

    def __init__(self, host: Host, view_pixels: int) -> None:
        """Take a host; raises UsageError for one whose inputs are not known."""
        self.host, self.config = host, host.model.config
        if host.kind.startswith("llava_onevision"):
            self.is_video = True
            self.placeholder = int(self.config.video_token_id)
            self._images = _frames(host.images)
        elif host.kind.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")):
            self.is_video = False
            self.placeholder = int(self.config.image_token_id)
            self._images = host.images
            smallest = min(int(host.images.size["shortest_edge"]), view_pixels)
            self._size = {"shortest_edge": smallest, "longest_edge": view_pixels}
        else:
            raise UsageError(
                f"the host {host.name} is a {host.kind}: LLaVA-OneVision, Qwen2.5-VL and Qwen3-VL "
                "are known here. Others take `attach_prior` with a layout, in a loop of their own"
            )

    def pixels(self, views: Views) -> Inputs:
        """Return what the host sees of a scene."""
        images = [np.ascontiguousarray(view) for view in views]
        if self.is_video:
            found = self._images(images=images, return_tensors="pt")
            return {"pixel_values_videos": found["pixel_values"][None]}
        found = self._images(images=images, size=self._size, return_tensors="pt")
        return {name: found[name] for name in ("pixel_values", "image_grid_thw")}

    def inputs(self, pixels: Mapping[str, Tensor], question: str) -> Inputs:
        """Return the inputs of a question, up to where the answer begins."""
        return self._with_ids(pixels, self._prompt(pixels, question))

    def example(
        self, pixels: Mapping[str, Tensor], question: str, answer: str
    ) -> tuple[Inputs, Tensor]:
        """Return the inputs with an answer, and the labels [1, L] of its tokens and their end."""
        prompt = self._prompt(pixels, question)
        said = self.host.tokenizer.encode(answer, add_special_tokens=False)
        said = [*said, self.host.ends[0]]
        labels = torch.tensor([[IGNORED] * len(prompt) + said])
        return self._with_ids(pixels, [*prompt, *said]), labels

    def _with_ids(self, pixels: Mapping[str, Tensor], ids: list[int]) -> Inputs:
        row = torch.tensor([ids])
        found = {**pixels, "input_ids": row, "attention_mask": torch.ones_like(row)}
        if not self.is_video:
            found["mm_token_type_ids"] = (row == self.placeholder).long()
        return found

    def _prompt(self, pixels: Mapping[str, Tensor], question: str) -> list[int]:
        """Return the tokens of a question; a placeholder of the template becomes its tokens."""
        counts = self._counts(pixels)
        kind = "video" if self.is_video else "image"
        content = [*({"type": kind} for _ in counts), {"type": "text", "text": question}]
        text = self.host.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.host.template,
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = self.host.tokenizer.encode(text, add_special_tokens=False)
        if (there := ids.count(self.placeholder)) != len(counts):
            raise UsageError(
                f"the chat template of {self.host.name} wrote {there} placeholders for "
                f"{len(counts)}: is it of another host, or does a question hold one?"
            )
        waiting = iter(counts)
        return [
            one
            for token in ids
            for one in ([token] * next(waiting) if token == self.placeholder else [token])
        ]

    def _counts(self, pixels: Mapping[str, Tensor]) -> list[int]:
        """Return how many tokens stand for each placeholder."""
        if self.is_video:
            vision = self.config.vision_config
            half = math.ceil(int(vision.image_size) // int(vision.patch_size) / 2)
            frames = pixels["pixel_values_videos"].shape[1]
            return [frames * half * half + 1]  # a newline ends the video
        merged = int(self.config.vision_config.spatial_merge_size) ** 2
        return [int(grid) // merged for grid in pixels["image_grid_thw"].prod(dim=-1)]


def _frames(images: Any) -> Any:  # noqa: ANN401 - transformers is untyped here
    """Return what brings frames to the host's one size: LLaVA's own video processor, by numbers."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(
        size={"height": images.size["height"], "width": images.size["width"]},
        image_mean=images.image_mean,
        image_std=images.image_std,
        rescale_factor=images.rescale_factor,
        resample=images.resample,
    )
