"""A small SigLIP from scratch: what its text half reads, resuming, the saved layout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, SiglipModel

from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.pretrain.config import PretrainRun, Recipe, SemanticConfig
from vega3d.train.pretrain.semantic import (
    PAD,
    UNKNOWN,
    pretrain_semantic,
    vocabulary,
    word_numbers,
)

SMALL = SemanticConfig(
    scenes="rooms:4?views=2&height=64&width=96&seed=101",
    choose="rooms:3?views=1&height=64&width=96&seed=102",
    height=64,
    width=96,
    hidden=16,
    ffn_dim=32,
    layers=2,
    heads=2,
    text_layers=1,
    batch=4,
    amp=False,
    recipe=Recipe(steps=6, cooldown=2, lr=1e-3, warmup=2, probe_every=3),
)
RUN = PretrainRun(save_every=2, log_every=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("semantic")
    pretrain_semantic(str(out), SMALL, RUN)
    return out


def test_words_are_numbered_and_padded() -> None:
    words = vocabulary([[["red plain sofa"], ["blue sofa"]]])
    assert words == ["blue", "plain", "red", "sofa"]
    rows = word_numbers(["red plain sofa", "green sofa"], words)
    assert rows[0].tolist() == [4, 3, 5, PAD, PAD, PAD, PAD, PAD]
    assert rows[1].tolist()[:3] == [UNKNOWN, 5, PAD]


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(finished: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(
        SMALL, recipe=dataclasses.replace(SMALL.recipe, steps=4, cooldown=0)
    )
    pretrain_semantic(str(tmp_path), short, RUN)
    pretrain_semantic(str(tmp_path), SMALL, RUN)
    name = "siglip/checkpoint-00000006.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_the_saved_folder_is_a_siglip_with_its_tokenizer(finished: Path) -> None:
    model = SiglipModel.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    read = tokenizer(["plain wall"], padding="max_length", return_tensors="pt")
    assert read["input_ids"].shape == (1, model.config.text_config.max_position_embeddings)
    assert UNKNOWN not in read["input_ids"]
    assert model.get_text_features(input_ids=read["input_ids"]).pooler_output.shape == (1, 16)


@pytest.mark.slow
def test_the_pipeline_takes_the_saved_model_as_any_other(finished: Path) -> None:
    views = read_scenes("rooms:1?views=2&height=64&width=96").read("room0000").views
    rgb = np.stack([view.read_rgb() for view in views])
    backbone = load_backbone("siglip", model=str(finished / "model"), resolution=(64, 96))
    features = backbone.encode(rgb, scene_id="room0000", view_ids=["0000", "0001"])
    assert features["b0"].shape == (2, 4, 6, 16)


@pytest.mark.slow
def test_a_run_goes_on_from_trained_weights_and_their_words(finished: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(SMALL.recipe, steps=1, cooldown=0, lr=1e-12)
    others = SMALL.scenes.replace("rooms:4", "rooms:3")  # fewer words
    config = dataclasses.replace(
        SMALL, scenes=others, batch=2, init=str(finished / "model"), seed=7, recipe=still
    )
    pretrain_semantic(str(tmp_path), config, RUN)
    begun, left = (load_file(p / "model/model.safetensors") for p in (finished, tmp_path))
    for name, values in begun.items():
        torch.testing.assert_close(left[name], values, atol=1e-6, rtol=0, msg=name)
    words = [AutoTokenizer.from_pretrained(p / "model").get_vocab() for p in (finished, tmp_path)]
    assert words[0] == words[1]


def test_scenes_without_words_are_refused(tmp_path: Path) -> None:
    from vega3d.pipeline.scenes.packing import pack

    pack(read_scenes("rooms:1?views=1&height=64&width=96"), str(tmp_path / "packed"))
    config = dataclasses.replace(SMALL, scenes=str(tmp_path / "packed"))
    with pytest.raises(UsageError, match="says nothing about its views"):
        pretrain_semantic(str(tmp_path / "run"), config, RUN)
