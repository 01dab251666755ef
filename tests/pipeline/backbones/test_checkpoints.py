import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vega3d.pipeline.backbones.checkpoints import (
    model_facts,
    resolve_model,
)
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.hashing import model_sha256, weights_sha256
from vega3d.pipeline.backbones.prompt import TEXT_PARTS
from vega3d.pipeline.backbones.settings import ModelFacts, resolve_blocks
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.errors import CheckpointError

WAN_1_3B = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "num_layers": 30,
    "ffn_dim": 8960,
    "patch_size": [1, 2, 2],
    "in_channels": 16,
}
SO400M = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """The published configs, with files that stand for the weights: nothing here opens them."""
    for part, config in [
        ("transformer", WAN_1_3B),
        ("vae", {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16}),
    ]:
        (tmp_path / "wan" / part).mkdir(parents=True)
        (tmp_path / "wan" / part / "config.json").write_text(json.dumps(config))
        (tmp_path / "wan" / part / "model.safetensors").write_bytes(part.encode())
    return tmp_path / "wan"


@pytest.fixture
def siglip(tmp_path: Path) -> Path:
    (tmp_path / "siglip").mkdir()
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(SO400M))
    (tmp_path / "siglip" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "siglip"


def wan_config(folder: Path, **settings: object) -> WanConfig:
    return WanConfig(model=str(folder), **{"resolution": (480, 832), **settings})


def flops(
    config: BackboneConfig, facts: ModelFacts, image_size: tuple[int, int], num_views: int = 32
) -> float:
    return config.flops_per_view(facts, config.canvas(facts, *image_size), num_views)


def test_facts_of_wan(wan: Path) -> None:
    facts = model_facts(wan_config(wan, blocks=(20, -1), timesteps=(300, 500), noise_samples=2))
    assert facts.channels == 1536
    assert facts.num_blocks == 30
    assert facts.blocks == (20, 29)
    assert facts.taps[:4] == ("k300_b20", "k300_b29", "k500_b20", "k500_b29")
    assert facts.taps[4:] == ("k300_b20_n1", "k300_b29_n1", "k500_b20_n1", "k500_b29_n1")
    assert model_sha256(wan_config(wan)) == weights_sha256(wan, WanConfig.parts)


def test_facts_of_siglip(siglip: Path) -> None:
    facts = model_facts(SiglipConfig(model=str(siglip)))
    assert (facts.channels, facts.num_blocks, facts.blocks) == (1152, 27, (25,))
    assert facts.taps == ("b25",)
    assert (facts.native_px, facts.auto_tokens, facts.token_px) == (384, 729, 14)


def test_flops_of_one_view_are_those_of_the_shapes(wan: Path) -> None:
    config = wan_config(wan)
    facts = model_facts(config)
    total = flops(config, facts, (480, 832))
    n, d = 1560, 1536
    block = 8 * n * d * d + 4 * n * n * d  # query, key, value, out; scores and their use
    block += 2 * n * d * d + 2 * n * d * 2 + 2 * n * 12 * 2 * d  # query, scores and use of 2 rows
    block += 2 * 2 * n * d * 8960
    assert 21 * block == pytest.approx(2.893e12, rel=0.001)
    vae = total - 21 * block
    assert vae == pytest.approx(0.83e12, rel=0.3)
    twice = wan_config(wan, timesteps=(300, 600))
    assert flops(twice, model_facts(twice), (480, 832)) == pytest.approx(42 * block + vae)


def test_flops_of_the_reference_recipe_count_all_rows_of_text(wan: Path) -> None:
    large = wan_config(
        wan, resolution=(720, 1280), recipe="reference", fit="crop", dtype="bfloat16"
    )
    n, d = 3600, 1536
    block = 8 * n * d * d + 4 * n * n * d + 4 * n * d * 8960
    block += 4 * n * d * d + 4 * 512 * d * d + 4 * n * 512 * d
    assert 21 * block == pytest.approx(8.31e12, rel=0.002)
    vae = flops(large, model_facts(large), (720, 1280)) - 21 * block
    assert vae == pytest.approx(2.5e12 * (720 * 1280) / (480 * 832), rel=0.3)


def test_flops_of_a_clip_are_shared_by_its_views(wan: Path) -> None:
    clip = wan_config(wan, context="clip")  # 9 latents, 14040 tokens
    facts = model_facts(clip)
    n, d = 14040, 1536
    block = 10 * n * d * d + 4 * n * n * d + 4 * n * d * 8960
    vae = flops(clip, facts, (480, 832), 33) - 21 * block / 33
    assert vae == pytest.approx(2.5e12, rel=0.3)


def test_flops_of_siglip(siglip: Path) -> None:
    config = SiglipConfig(model=str(siglip))
    # 26 layers of 729 tokens: 2 operations a weight and token, plus attention.
    weights = 26 * (4 * 1152**2 + 2 * 1152 * 4304)
    expected = 2 * 729 * weights + 26 * 4 * 729**2 * 1152
    found = flops(config, model_facts(config), (480, 640))
    assert found == pytest.approx(expected, rel=0.01)


def test_blocks_count_from_either_end() -> None:
    assert resolve_blocks((0, -1, 20), 30) == (0, 29, 20)
    with pytest.raises(
        ValueError, match=r"blocks must lie in -30..29 for this model, got \[30, -31\]"
    ):
        resolve_blocks((30, 2, -31), 30)


def test_another_class_is_named(wan: Path) -> None:
    path = wan / "transformer" / "config.json"
    path.write_text(json.dumps({**WAN_1_3B, "_class_name": "WanVACETransformer3DModel"}))
    with pytest.raises(CheckpointError, match="a WanTransformer3DModel, found 'WanVACETransformer"):
        model_facts(wan_config(wan))
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"transformer/config.json: no readable config.json"):
        model_facts(wan_config(wan))


def test_a_folder_without_the_parts_says_what_it_has(siglip: Path, wan: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no folder transformer/.*found \['config.json', 'mod"
    ):
        resolve_model(str(siglip), WanConfig.parts)
    with pytest.raises(CheckpointError, match="no folder text_encoder/"):
        resolve_model(str(wan), TEXT_PARTS)


def test_pickles_only_is_refused_with_the_remedy(siglip: Path) -> None:
    (siglip / "model.safetensors").rename(siglip / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"found only \['pytorch_model.bin'\].*convert them"):
        resolve_model(str(siglip), SiglipConfig.parts)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "a/b/c", "nothing"])
def test_a_path_that_is_not_there_never_asks_the_hub(model: str) -> None:
    with pytest.raises(CheckpointError, match="is neither a folder nor a hub id like 'owner/name'"):
        resolve_model(model, WanConfig.parts)


def test_an_unknown_hub_id_without_network_says_what_was_tried(tmp_path: Path) -> None:
    code = (
        "from vega3d.pipeline.backbones.checkpoints import *\n"
        "try: resolve_model('vega3d-tests/no-such-model', ('transformer', 'vae'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("CheckpointError 'vega3d-tests/no-such-model' is no folder here")
    assert "transformer/*.safetensors" in done.stdout
    assert "give a folder that holds the model" in done.stdout


def test_facts_need_neither_torch_nor_diffusers_nor_transformers(wan: Path) -> None:
    code = (
        "import sys\n"
        "from vega3d.pipeline.backbones.checkpoints import model_facts\n"
        "from vega3d.pipeline.backbones.wan import WanConfig\n"
        f"config = WanConfig(model={str(wan)!r})\n"
        "config.flops_per_view(model_facts(config), (480, 640), 1)\n"
        "print({'torch', 'diffusers', 'transformers', 'numpy', 'jaxtyping'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_pipeline_of_two_experts_is_not_taken_for_one(wan: Path) -> None:
    one = {"transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": [None, None]}
    (wan / "model_index.json").write_text(json.dumps(one))
    assert model_facts(wan_config(wan)).num_blocks == 30
    two = {**one, "transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    (wan / "model_index.json").write_text(json.dumps(two))
    with pytest.raises(CheckpointError, match=r"pipeline of two transformers \(Wan2.2\)"):
        model_facts(wan_config(wan))


@pytest.mark.parametrize("field", ["num_layers", "patch_size", "in_channels", "ffn_dim"])
def test_a_config_without_a_field_names_it(wan: Path, field: str) -> None:
    path = wan / "transformer" / "config.json"
    path.write_text(json.dumps({k: v for k, v in WAN_1_3B.items() if k != field}))
    told = f"a config.json lacks the field '{field}'; is this a model of wan2.1-t2v"
    with pytest.raises(CheckpointError, match=told):
        model_facts(wan_config(wan))
