import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vega3d.pipeline.backbones.backbone import check_views
from vega3d.pipeline.backbones.loading import load_backbone
from vega3d.pipeline.backbones.tiny import write_tiny_siglip, write_tiny_wan
from vega3d.pipeline.errors import UsageError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_wan(folder / "wan")
    write_tiny_siglip(folder / "siglip")
    return {"wan2.1-t2v": str(folder / "wan"), "siglip": str(folder / "siglip")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_the_default_prompt_is_encoded_once_and_equals_a_given_one(models: dict[str, str]) -> None:
    from vega3d.pipeline.backbones.prompt import empty_prompt_embedding
    from vega3d.pipeline.places import cache_dir

    settings = {"model": models["wan2.1-t2v"], "resolution": (64, 64), "blocks": (2,)}
    rgb = np.zeros((1, 64, 64, 3), np.uint8)
    encoded = load_backbone(**settings).encode(rgb, scene_id="s", view_ids=["a"])
    (path,) = cache_dir().glob("*.safetensors")
    rows = empty_prompt_embedding(models["wan2.1-t2v"], cache_dir())
    for given in (path, str(path), rows):
        found = load_backbone(prompt_embeds=given, **settings)
        again = found.encode(rgb, scene_id="s", view_ids=["a"])
        torch.testing.assert_close(again, encoded, rtol=0, atol=0)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"must be one of wan2\.1-t2v, .*siglip"):
        load_backbone("wan")


def test_siglip_takes_no_prompt_and_no_timesteps(models: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="siglip takes no prompt"):
        load_backbone("siglip", model=models["siglip"], prompt_embeds=np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="siglip has no setting timesteps; it has model, blocks"):
        load_backbone("siglip", model=models["siglip"], timesteps=(300,))


@pytest.mark.parametrize(
    ("rgb", "came"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), r"got float32 \[1, 8, 8, 3\]"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"got uint8 \[1, 8, 8, 4\]"),
        (np.zeros((8, 8, 3), np.uint8), r"got uint8 \[8, 8, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"got uint8 \[0, 8, 8, 3\]"),
    ],
)
def test_views_of_another_type_are_refused(rgb: np.ndarray, came: str) -> None:
    with pytest.raises(ValueError, match=came + "; convert to 8-bit RGB"):
        check_views(rgb, ["a"])


@pytest.mark.parametrize("ids", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_ids_must_name_each_view_once(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="must name each of the 2 views once"):
        check_views(np.zeros((2, 8, 8, 3), np.uint8), ids)


@pytest.mark.slow
def test_importing_backbones_imports_no_model_library() -> None:
    code = (
        "import sys, vega3d.pipeline.backbones.backbone, vega3d.pipeline.backbones.prompt\n"
        "print({'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
