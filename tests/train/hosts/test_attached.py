"""Real classes of transformers with small random weights, a prior in the way of their tokens."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vega3d.pipeline.errors import UsageError
from vega3d.train.hosts import attach_prior
from vega3d.train.hosts.layouts import ViewTokens

IMAGE, VIDEO = 60, 61
SCENE = "room0000"
TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
Inputs = dict[str, Tensor]


class Prior:
    """Tokens of a 4 x 5 grid whose one channel is not known."""

    num_channels = 6

    def __init__(self) -> None:
        self.values = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 4, 5, 6))).float()

    def tokens(self, scene_id: str, views: list[int]) -> Tensor:
        assert scene_id == SCENE
        return self.values[list(views)]


def llava() -> tuple[nn.Module, Inputs, int]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                num_attention_heads=2, image_size=28, patch_size=4)  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=IMAGE,
        video_token_id=VIDEO, image_grid_pinpoints=[[28, 28]], vision_feature_layer=-1,
    )  # fmt: skip
    frames, tokens = 3, 3 * 4 * 4 + 1  # 7 x 7 patches halve to 4 x 4; a newline ends the video
    ids = torch.tensor([[5, *[VIDEO] * tokens, 7, 8, 9]])
    pixels = torch.randn(1, frames, 3, 28, 28)
    model = LlavaOnevisionForConditionalGeneration(config)
    return model, {"input_ids": ids, "pixel_values_videos": pixels}, frames


def qwen25() -> tuple[nn.Module, Inputs, int]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
              "patch_size": 4, "window_size": 16, "out_hidden_size": 32,
              "fullatt_block_indexes": [1]}  # fmt: skip
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": ROPE},
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=62,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), _two_images(), 2


def qwen3() -> tuple[nn.Module, Inputs, int]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
              "patch_size": 4, "out_hidden_size": 32, "num_position_embeddings": 64,
              "deepstack_visual_indexes": [0]}  # fmt: skip
    config = Qwen3VLConfig(
        vision_config=vision, text_config={**TEXT, "head_dim": 8, "rope_parameters": ROPE},
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=62,
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config), _two_images(), 2


def _two_images() -> Inputs:
    """Patch grids of 4 x 6 and 8 x 4: 6 and 8 tokens after the 2 x 2 merger."""
    grids = torch.tensor([[1, 4, 6], [1, 8, 4]])
    ids = [5, 62, *[IMAGE] * 6, 62, *[IMAGE] * 8, 7, 8, 9]
    return {
        "input_ids": torch.tensor([ids]),
        "pixel_values": torch.randn(int(grids.prod(-1).sum()), 3 * 2 * 4 * 4),
        "image_grid_thw": grids,
        "mm_token_type_ids": torch.tensor([[int(i == IMAGE) for i in ids]]),
    }


HOSTS = {"llava-onevision": llava, "qwen2.5-vl": qwen25, "qwen3-vl": qwen3}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> tuple[nn.Module, Inputs, int]:
    torch.manual_seed(0)
    model, inputs, views = HOSTS[request.param]()
    return model.eval(), inputs, views


def told(views: int) -> list[Any]:
    return [(SCENE, list(range(views)))]


@pytest.mark.slow
def test_with_the_gate_at_one_the_host_is_itself(host: tuple[nn.Module, Inputs, int]) -> None:
    model, inputs, views = host
    with torch.no_grad():
        before = model(**inputs).logits
        prior = attach_prior(model, Prior())
        with prior.views(told(views)):
            fused = model(**inputs).logits
            prior.force_gate = 1.0
            same = model(**inputs).logits
        assert torch.equal(same, before)
        assert not torch.allclose(fused, before)
        assert len(prior.gates) == views
        prior.detach()
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.slow
def test_training_moves_what_was_added_and_lowers_the_loss(
    host: tuple[nn.Module, Inputs, int], tmp_path: Path
) -> None:
    model, inputs, views = host
    before = copy.deepcopy(model.state_dict())
    prior = attach_prior(model, Prior())
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = inputs["input_ids"][:, -3:]
    losses = []
    for _ in range(12):
        with prior.views(told(views)):
            loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    prior.save(tmp_path)
    with torch.no_grad(), prior.views(told(views)):
        trained = model(**inputs).logits
    prior.detach()
    again = attach_prior(model, Prior())
    again.load(tmp_path)
    with torch.no_grad(), again.views(told(views)):
        assert torch.equal(model(**inputs).logits, trained)
    host_size = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in again.parameters()) < host_size


@pytest.mark.slow
def test_it_generates(host: tuple[nn.Module, Inputs, int]) -> None:
    model, inputs, views = host
    given = {**inputs, "max_new_tokens": 4, "do_sample": False, "min_new_tokens": 4}
    plain = model.generate(**given)
    prior = attach_prior(model, Prior())
    prior.force_gate = 1.0
    with prior.views(told(views)):
        same = model.generate(**given)
        prior.force_gate = 0.0
        other = model.generate(**given)
    assert torch.equal(plain, same)
    assert other.shape == plain.shape


@pytest.mark.slow
def test_a_view_reads_its_own_prior(host: tuple[nn.Module, Inputs, int]) -> None:
    """Another prior of view 1 changes the tokens of view 1 alone."""
    model, inputs, views = host
    source = Prior()
    prior = attach_prior(model, source)

    def tokens() -> list[Tensor]:
        name = "get_video_features" if "pixel_values_videos" in inputs else "get_image_features"
        given = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image_grid"))}
        if "pixel_values_videos" in inputs:
            given |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        with torch.no_grad(), prior.views(told(views)):
            found = getattr(model.model, name)(**given).pooler_output
        flat = torch.cat([each.reshape(-1, each.shape[-1]) for each in found])
        sizes = [16] * 3 + [1] if views == 3 else [6, 8]
        return list(flat.split(sizes))

    before = tokens()
    source.values[1] += 1
    after = tokens()
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [index == 1 for index in range(len(changed))]


@pytest.mark.slow
def test_the_host_must_be_told_its_views() -> None:
    model, inputs, views = llava()
    prior = attach_prior(model, Prior())
    with pytest.raises(UsageError, match="the host sees 3 views and was told of none"):
        model(**inputs)
    with prior.views(told(views - 1)), pytest.raises(UsageError, match="was told of 2"):
        model(**inputs)


class Plain(nn.Module):
    """A host that hands no visual tokens over."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(4, 8)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings


def test_a_host_without_visual_tokens_and_an_unknown_one() -> None:
    with pytest.raises(UsageError, match="has no get_image_features"):
        attach_prior(Plain(), Prior())
    host = Plain()
    host.get_image_features = lambda: None
    host.config = type("Config", (), {"model_type": "other"})()
    with pytest.raises(UsageError, match="no layout is known for a host of type 'other'"):
        attach_prior(host, Prior())


def test_fuse_is_the_protocol_for_models_that_take_embeddings() -> None:
    host = Plain()
    host.get_image_features = lambda: None
    layout: Callable[..., list[ViewTokens]] = lambda *_: []  # noqa: E731
    prior = attach_prior(host, Prior(), layout=layout)
    prior.force_gate = 1.0
    tokens = torch.randn(6, 8)
    assert torch.equal(prior.fuse(tokens, SCENE, 2, 2, 3), tokens)
    prior.force_gate = None
    assert prior.fuse(tokens, SCENE, 2, 2, 3).shape == (6, 8)
    assert not host.embeddings.weight.requires_grad
