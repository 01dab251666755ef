import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from vega3d.pipeline.backbones.fetching import announce
from vega3d.pipeline.backbones.prompt import (
    TEXT_PARTS,
    empty_prompt_embedding,
    prompt_sha256,
)
from vega3d.pipeline.backbones.prompt_given import given_prompt, read_prompt
from vega3d.pipeline.backbones.tiny import write_tiny_wan
from vega3d.pipeline.errors import CheckpointError, UsageError


def hashed(rows: np.ndarray) -> str:
    return prompt_sha256({"prompt_embeds": rows})


def rows_in(path: Path) -> np.ndarray:
    return read_prompt(path, kept="filled")["prompt_embeds"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_wan(folder)
    return folder


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def rewrite(model: Path, keep: str, drop: str) -> None:
    """Store the token embedding under one of its two names."""
    path = model / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    table = tensors.get(keep, tensors.get(drop))
    tensors.pop(drop, None)
    save_file({**tensors, keep: table}, path, {"format": "pt"})


NAMES = ("shared.weight", "encoder.embed_tokens.weight")


@pytest.mark.parametrize(("keep", "drop"), [NAMES, NAMES[::-1]])
def test_the_token_embedding_is_tied_whichever_name_the_file_has(
    model: Path, tmp_path: Path, keep: str, drop: str
) -> None:
    rewrite(model, keep, drop)
    rows = empty_prompt_embedding(str(model), tmp_path / "prompts")
    tensors = load_file(model / "text_encoder" / "model.safetensors")
    tensors = {**tensors, **dict.fromkeys(NAMES, tensors[keep])}
    plain = UMT5EncoderModel(UMT5Config.from_pretrained(model / "text_encoder")).eval()
    plain.load_state_dict(tensors, strict=True)
    plain.bfloat16()
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    padded = tokenizer("", padding="max_length", max_length=512, return_tensors="pt")
    with torch.no_grad():
        full = plain(padded.input_ids, padded.attention_mask).last_hidden_state
    length = int(padded.attention_mask.sum())
    assert rows.shape == (length, 32) == (1, 32)
    # bfloat16 has 8 bits; padding changes the order of its sums.
    np.testing.assert_allclose(rows, full[0, :length].float().numpy(), atol=0.05)


@pytest.mark.slow
def test_the_text_encoder_never_loads_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = empty_prompt_embedding(str(model), tmp_path / "prompts")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", refuse)
    again = empty_prompt_embedding(str(model), tmp_path / "prompts")
    np.testing.assert_array_equal(first, again)
    assert hashed(first) == hashed(again) != hashed(first + 1)
    assert [path.suffix for path in (tmp_path / "prompts").iterdir()] == [".safetensors"]


def test_other_weights_are_another_prompt(model: Path, tmp_path: Path) -> None:
    first = empty_prompt_embedding(str(model), tmp_path / "prompts")
    path = model / "text_encoder" / "model.safetensors"
    save_file({key: -value for key, value in load_file(path).items()}, path, {"format": "pt"})
    assert not np.array_equal(first, empty_prompt_embedding(str(model), tmp_path / "prompts"))
    assert len(list((tmp_path / "prompts").iterdir())) == 2


def test_a_missing_tensor_of_the_text_encoder_is_named(model: Path, tmp_path: Path) -> None:
    path = model / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: \['encoder.final_layer_norm.weight'\]"):
        empty_prompt_embedding(str(model), tmp_path / "prompts")


def test_a_text_encoder_without_embedding_is_refused(model: Path, tmp_path: Path) -> None:
    path = model / "text_encoder" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k not in NAMES}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"holds no token embedding, neither shared.weight"):
        empty_prompt_embedding(str(model), tmp_path / "prompts")


def test_a_prompt_file_must_be_safetensors_with_the_rows(tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 4), tmp_path / "wan_prompt_embedding.pt")
    with pytest.raises(CheckpointError, match=r"must be a .safetensors file .pickles are never"):
        rows_in(tmp_path / "wan_prompt_embedding.pt")
    save_file({"context": torch.zeros(1, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"must hold prompt_embeds.*found \{'context'"):
        rows_in(tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"not a readable .safetensors file"):
        rows_in(tmp_path / "half.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("batch", [True, False])
def test_files_as_pipelines_save_them_are_read(
    tmp_path: Path, dtype: torch.dtype, batch: bool
) -> None:
    """[1, 512, D] with zero rows behind the prompt: the model pads with the same itself."""
    rows = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    padded = torch.cat([rows, torch.zeros(510, 4, dtype=dtype)])
    path = tmp_path / "p.safetensors"
    save_file({"prompt_embeds": padded[None] if batch else padded}, path)
    found = rows_in(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.float().numpy())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused_at_once(tmp_path: Path, wrong: float) -> None:
    rows = torch.ones(1, 3, 4)
    rows[0, 1, 2] = wrong
    save_file({"prompt_embeds": rows}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match=r"row 1 of prompt_embeds \(1 of 3\) holds NaN"):
        rows_in(tmp_path / "p.safetensors")


def test_two_prompts_in_one_file_are_refused(tmp_path: Path) -> None:
    save_file({"prompt_embeds": torch.ones(2, 3, 4)}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match=r"floats \[L, D\] or \[1, L, D\]; found"):
        rows_in(tmp_path / "p.safetensors")


def test_padding_is_left_out_by_the_mask_that_pipelines_return(tmp_path: Path) -> None:
    """T5's rows of padding are no zeros: only the mask tells them."""
    rows = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    held = {"prompt_embeds": rows, "prompt_attention_mask": torch.tensor([[1, 1, 0, 0, 0]])}
    save_file(held, tmp_path / "p.safetensors")
    found = given_prompt(tmp_path / "p.safetensors", kept="masked")
    np.testing.assert_array_equal(found["prompt_embeds"], rows[0, :2].numpy())
    every = given_prompt(tmp_path / "p.safetensors")
    assert len(every["prompt_embeds"]) == 5
    save_file({"prompt_embeds": rows}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"must hold prompt_attention_mask \[5\] too"):
        given_prompt(tmp_path / "bare.safetensors", kept="masked")


def test_a_pooled_row_is_asked_for_where_a_model_reads_one(tmp_path: Path) -> None:
    rows, pooled = torch.ones(1, 8, 4), torch.full((1, 6), 2.0, dtype=torch.bfloat16)
    save_file({"prompt_embeds": rows, "pooled_prompt_embeds": pooled}, tmp_path / "p.safetensors")
    found = given_prompt(tmp_path / "p.safetensors", pooled=True, num_rows=8)
    np.testing.assert_array_equal(found["pooled_prompt_embeds"], np.full(6, 2, np.float32))
    with pytest.raises(UsageError, match="must be 7 rows, padding too, got 8"):
        given_prompt(tmp_path / "p.safetensors", pooled=True, num_rows=7)
    with pytest.raises(UsageError, match="reads pooled_prompt_embeds too: give a file"):
        given_prompt(rows[0].numpy(), pooled=True)
    save_file({"prompt_embeds": rows}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"must hold pooled_prompt_embeds, floats \[D\] or"):
        given_prompt(tmp_path / "bare.safetensors", pooled=True)


def test_what_will_be_fetched_is_said_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub's own dry run gives the sizes; here with those of the published files."""

    def dry_run(model: str, *, dry_run: bool, **chosen: object) -> list[SimpleNamespace]:
        assert dry_run
        assert "text_encoder/*.safetensors" in chosen["allow_patterns"]
        sizes = (22.7e9, 5.7e9, 0.5e9)
        there = SimpleNamespace(file_size=9e9, will_download=False)
        return [SimpleNamespace(file_size=n, will_download=True) for n in sizes] + [there]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", dry_run)
    announce("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", (*TEXT_PARTS, "transformer", "vae"), "; so")
    assert "28.9 GB are fetched" in caplog.text
    assert "text_encoder, tokenizer, transformer, vae; so" in caplog.text
