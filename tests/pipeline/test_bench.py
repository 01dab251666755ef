"""`bench`: every stage has its seconds, the naive way runs beside, and `plan` goes by the table."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from vega3d.pipeline import bench as benching
from vega3d.pipeline import cli
from vega3d.pipeline.backbones.encoder import Views
from vega3d.pipeline.backbones.wan import WanEncoder
from vega3d.pipeline.backbones.wan_family import DIT_1_3B
from vega3d.pipeline.backbones.wan_flops import block_flops, vae_flops


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[dict, str]:
    with pytest.raises(SystemExit) as ended:
        cli.app([*map(str, args)])
    assert not ended.value.code
    found = capsys.readouterr()
    return json.loads(found.out.splitlines()[-1]), found.err


SMALL = ("--device", "cpu", "--threads", "1")


@pytest.mark.slow
def test_the_table_has_every_stage_and_the_naive_way_agrees(
    tiny_wan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path))
    asked = ("--model", tiny_wan, "--resolution", "96x64", *SMALL)
    found, told = command(capsys, "bench", *asked, "--repeats", 1)
    stages = ["read", "decode", "write", "vae", "dit", "pool", "model"]
    assert list(found["stages_s"]) == stages
    assert all(found["stages_s"][name] > 0 for name in ("read", "decode", "write", "vae", "dit"))
    assert found["relative_l2"] < 1e-5
    assert found["times_naive"] == pytest.approx(
        found["naive"]["model"] / found["stages_s"]["model"]
    )
    assert found["scaled"] == ""
    assert 0 < found["efficiency"] < 1.5
    for word in (*stages, "naive", "TFLOP/s", "relative L2"):
        assert word in told
    assert json.loads(Path(found["saved"]).read_text())["tflops"] == found["tflops"]
    plan, _ = command(capsys, "plan", "rooms:2", *asked)
    assert plan["assumed"]["tflops_per_worker"] == found["tflops"]
    other, _ = command(capsys, "plan", "rooms:2", *asked, "--gpu", "H100", "--device", "cuda")
    assert other["assumed"]["tflops_per_worker"] != found["tflops"]


@pytest.mark.slow
def test_views_go_in_as_many_at_a_time_as_in_a_run(
    tiny_wan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path))
    monkeypatch.setitem(benching._VIEWS, "cpu", 5)
    passes: list[int] = []
    tokens = WanEncoder.tokens

    def counted(self: WanEncoder, views: Views) -> Iterator[tuple[str, Tensor]]:
        passes.append(len(views))
        yield from tokens(self, views)

    monkeypatch.setattr(WanEncoder, "tokens", counted)
    asked = ("--model", tiny_wan, "--resolution", "96x64", "--batch-size", 2, *SMALL)
    found, _ = command(capsys, "bench", *asked, "--repeats", 1)
    assert set(passes) == {2, 1}  # 5 views: 2, 2, 1
    assert found["relative_l2"] < 1e-5
    assert found["stages_s"]["vae"] > 0


def test_two_blocks_stand_for_the_published_ones_and_the_table_says_so() -> None:
    depth = benching.Depth(2, 21, 30, Path("wan"))
    assert "2 blocks were run; ours is scaled to 21 and the naive way to 30" in depth.told
    assert benching.Depth(1, 1, 1, Path("wan")).told == ""


def test_the_flops_of_a_published_view_are_counted_by_hand() -> None:
    from vega3d.pipeline.backbones.checkpoints import planned_facts
    from vega3d.pipeline.backbones.wan import WanConfig

    config = WanConfig(resolution=(480, 832))
    block = block_flops(1560, 1536, 12, int(DIT_1_3B["ffn_dim"]))
    by_hand = 21 * block + vae_flops(480, 832, 96, 1)
    assert config.flops_per_view(planned_facts(config), (480, 832), 1) == by_hand


@pytest.mark.slow
def test_an_encoder_without_a_vae_is_measured_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VEGA3D_CACHE", str(tmp_path))
    found, _ = command(capsys, "bench", "--backbone", "rgb", *SMALL)
    assert list(found["stages_s"]) == ["read", "decode", "write", "pool", "model"]
    assert "naive" not in found
    assert Path(found["saved"]).parent == tmp_path / "bench"
