"""The identity of weights: their tensors, however they lie on the disk."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vega3d.pipeline.backbones.hashing import model_sha256, weights_sha256
from vega3d.pipeline.backbones.readers import naming_the_encoder
from vega3d.pipeline.backbones.siglip import SiglipConfig
from vega3d.pipeline.backbones.tiny import write_tiny_siglip
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.errors import CheckpointError

PARTS = ("transformer", "vae")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for part in PARTS:
        folder = tmp_path / "model" / part
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"_class_name": part, "dim": 4}))
        tensors = {
            f"layer{i}": torch.randn(4, 3, generator=generator).to(torch.bfloat16) for i in range(4)
        }
        save_file(tensors, folder / "model.safetensors")
    return tmp_path / "model"


def test_other_weights_under_a_restored_time_are_other_weights(model: Path) -> None:
    """Both in place and renamed into place, of the same size."""
    path = model / "vae" / "model.safetensors"
    first, stat = weights_sha256(model, PARTS), path.stat()
    assert weights_sha256(model, PARTS) == first
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = weights_sha256(model, PARTS)
    assert second != first
    raw[-1] ^= 2
    other = path.with_name("other")
    other.write_bytes(raw)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(path)
    assert weights_sha256(model, PARTS) not in (first, second)


def test_the_same_weights_in_other_files_are_the_same(model: Path) -> None:
    first = weights_sha256(model, PARTS)
    path = model / "transformer" / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    for half, name in enumerate(names):
        save_file(
            {k: tensors[k] for k in sorted(tensors)[half::2]}, path.with_name(name), {"a": "b"}
        )
    index = {"weight_map": {k: names[i % 2] for i, k in enumerate(sorted(tensors))}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    config = {"dim": 4, "_class_name": "transformer", "_diffusers_version": "9.9"}
    path.with_name("config.json").write_text(json.dumps(config, indent=4))
    assert weights_sha256(model, PARTS) == first
    path.with_name("config.json").write_text(json.dumps({**config, "dim": 5}))
    assert weights_sha256(model, PARTS) != first


@pytest.mark.parametrize(
    "change",
    [
        lambda found: {**found, "layer0": -found["layer0"]},
        lambda found: {**found, "layer0": found["layer0"].view(torch.float16)},
        lambda found: {**found, "layer0": found["layer0"].reshape(3, 4)},
        lambda found: {
            **found,
            "layer0": found["layer1"].clone(),
            "layer1": found["layer0"].clone(),
        },
        lambda found: {f"x{name}": value for name, value in found.items()},
        lambda found: {**found, "more": torch.zeros(1)},
    ],
    ids=["values", "type", "shape", "swapped", "names", "more"],
)
def test_other_tensors_are_other_weights(model: Path, change: object) -> None:
    first = weights_sha256(model, PARTS)
    path = model / "vae" / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)
    assert weights_sha256(model, PARTS) != first


def test_a_second_file_of_the_same_names_hides_no_change(model: Path) -> None:
    path = model / "vae" / "model.safetensors"
    save_file(load_file(path), path.with_name("z.fp16.safetensors"))
    first = weights_sha256(model, PARTS)
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    assert weights_sha256(model, PARTS) != first


def test_the_hash_covers_names_and_bytes_of_the_parts(model: Path) -> None:
    first = weights_sha256(model, PARTS)
    assert len(first) == 64
    (model / "README.md").write_text("not part of the model")
    assert weights_sha256(model, PARTS) == first
    assert weights_sha256(model, ("vae",)) != first
    (model / "vae" / "model.safetensors").write_bytes(b"no safetensors")
    assert weights_sha256(model, PARTS) != first


def test_the_hash_does_not_depend_on_where_the_folder_is(model: Path, tmp_path: Path) -> None:
    first = weights_sha256(model, PARTS)
    model.rename(tmp_path / "elsewhere")
    assert weights_sha256(tmp_path / "elsewhere", PARTS) == first


def test_a_damaged_memory_of_hashes_is_ignored(model: Path, cache: Path) -> None:
    first = weights_sha256(model, PARTS)
    for note in (cache / "hashes").iterdir():
        note.write_bytes(b"{half")
    assert weights_sha256(model, PARTS) == first


def test_many_writers_agree(model: Path, cache: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(weights_sha256(model, PARTS)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert not list((cache / "hashes").glob(".tmp-*"))


def unfetched(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "blobs" / "none")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (unfetched, "is a Git LFS pointer; fetch the file with git lfs pull"),
        (dangling, "is a link to a file that is not there; fetch the file, as with hf download"),
    ],
)
def test_weights_that_were_never_fetched_say_how(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    """And nobody is told to try another encoder, which reads the same config.json."""
    write_tiny_siglip(tmp_path / "model")
    damage(tmp_path / "model" / "model.safetensors")
    config = SiglipConfig(model=str(tmp_path / "model"))
    with pytest.raises(CheckpointError) as caught, naming_the_encoder(config):
        model_sha256(config)
    assert str(caught.value) == f"{tmp_path}/model/model.safetensors: {told}"


def test_an_encoder_s_own_model_is_not_said_to_be_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two families read the default Wan: without a network neither is to blame."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught, naming_the_encoder(WanConfig()):
        model_sha256(WanConfig())
    told = str(caught.value)
    assert "Check the id and the network" in told
    assert "not for" not in told
    assert "\n" not in told
    assert ".." not in told
