"""Large checkpoints of which little is read: only the shards that hold it are asked for."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from small_backbones import SmallModels
from transformers import Qwen2_5_VLForConditionalGeneration

from vega3d.pipeline.backbones.checkpoints import resolve_model
from vega3d.pipeline.backbones.hashing import model_sha256
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.qwen_vision import QwenVisionConfig
from vega3d.pipeline.errors import CheckpointError

VIEWS = np.random.default_rng(0).integers(0, 256, (2, 84, 112, 3), dtype=np.uint8)
HUB_ID, COMMIT = "someone/qwen", "0" * 40
SHARDS = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(models: SmallModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL in small shards, as the published one is cut."""
    folder = Path(models.model("qwen2.5-vl-vision")["model"])
    place = tmp_path_factory.mktemp("whole") / "qwen"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.save_pretrained(place, max_shard_size="25KB")
    shutil.copy(folder / "preprocessor_config.json", place)
    return place


def hub_cache(whole: Path, cache: Path, kept: list[str]) -> None:
    """Lay out the hub's local cache with some of a model's files; there is no network."""
    repo = cache / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for name in kept:
        shutil.copy(whole / name, snapshot)


def test_only_the_shards_with_the_tower_are_asked_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = json.loads((whole / SHARDS).read_text())["weight_map"]
    needed = sorted({file for name, file in files.items() if "visual." in name})
    spared = sorted(set(files.values()) - set(needed))
    assert needed
    assert spared
    others = [path.name for path in whole.iterdir() if path.suffix == ".json"]
    hub_cache(whole, tmp_path, [*others, *needed])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked: list[str] = []
    ours = huggingface_hub.snapshot_download

    def noted(model: str, *, allow_patterns: list[str], **rest: object) -> str:
        asked.extend(allow_patterns)
        return ours(model, allow_patterns=allow_patterns, **rest)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", noted)
    settings = {"blocks": (1,), "resolution": (84, 112)}
    fetched = load_backbone("qwen2.5-vl-vision", model=HUB_ID, **settings)
    assert set(needed) < set(asked)
    assert not {"*.safetensors", *spared} & set(asked)
    here = load_backbone("qwen2.5-vl-vision", model=str(whole), **settings)
    found, expected = (b.encode(VIEWS, scene_id="s", view_ids=["a", "b"]) for b in (fetched, here))
    torch.testing.assert_close(found["b1"], expected["b1"], rtol=0, atol=0)
    hashes = {model_sha256(QwenVisionConfig(model=model)) for model in (HUB_ID, str(whole))}
    assert len(hashes) == 1  # a store does not know how the tower came


def test_a_list_without_the_tower_is_named(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / SHARDS).write_text(json.dumps(listed))
    hub_cache(tmp_path, tmp_path / "hub", [SHARDS])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match="lists no tensor that this encoder reads"):
        resolve_model(HUB_ID, (".",), reads=QwenVisionConfig.reads)
