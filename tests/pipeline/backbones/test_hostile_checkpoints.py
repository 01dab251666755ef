"""Checkpoints are data: none of their code runs, and their numbers are bounded before building."""

import json
import shutil
import time
from pathlib import Path

import pytest

from vega3d.pipeline.backbones.checkpoints import read_config, resolve_model
from vega3d.pipeline.errors import CheckpointError


@pytest.fixture
def checkpoint(tiny_wan: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_wan, tmp_path / "wan"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", ["tokenizer/tokenizer_config.json", "text_encoder/config.json"])
def test_a_part_with_code_of_its_own_is_refused_and_not_run(checkpoint: Path, name: str) -> None:
    mark = checkpoint / "ran"
    (checkpoint / name).parent.joinpath("evil.py").write_text(f"open({str(mark)!r}, 'w')")
    change(checkpoint / name, auto_map={"AutoTokenizer": ["evil.Evil", None]})
    with pytest.raises(CheckpointError, match="names code of its own .auto_map., which is never"):
        resolve_model(str(checkpoint), ["text_encoder", "tokenizer"])
    assert not mark.exists()


@pytest.mark.parametrize(
    "fields",
    [{"num_layers": 10**7}, {"ffn_dim": 10**12}, {"patch_size": [1, 2, 10**9]},
     {"inner": {"num_hidden_layers": 5000}}],
)  # fmt: skip
def test_sizes_that_no_checkpoint_has_are_refused_at_once(
    checkpoint: Path, fields: dict[str, object]
) -> None:
    change(checkpoint / "transformer/config.json", **fields)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"config\.json: \w+ is .*, and at most \d+ is taken"):
        read_config(checkpoint, "transformer")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"num_layers": 1', "\x00", "3"])
def test_a_config_that_is_none_is_told(checkpoint: Path, text: str) -> None:
    (checkpoint / "transformer/config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        read_config(checkpoint, "transformer")
