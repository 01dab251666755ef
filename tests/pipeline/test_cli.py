"""The command line as a user meets it: exit codes, messages, the last line on stdout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray
from PIL import Image
from processes import run_program, started_program

from vega3d.pipeline import cli, open_store
from vega3d.pipeline.errors import CheckpointError

ROOMS = "rooms:2?views=3&height=96&width=128"
SMALL = ("--resolution", "128x96", "--threads", "1")
RGB = ("--backbone", "rgb", "--device", "cpu", *SMALL)
"""An encoder that takes no time, where what is looked at is not the encoder."""


def command(*args: object, code: int = 0) -> tuple[dict, str]:
    """Run a command; return the JSON of its last line and what it told on stderr."""
    done = run_program("vega3d-extract", *args)
    assert done.returncode == code, done.stderr
    told = " ".join(done.stderr.replace("\u2502", " ").split())
    assert "Traceback" not in told
    lines = done.stdout.strip().splitlines()
    return (json.loads(lines[-1]) if lines and code in (0, 3) else {}), told


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory, tiny_wan: Path) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("rooms") / "prior.zarr"
    summary, _ = command("run", ROOMS, "--out", out, "--model", tiny_wan, *SMALL)
    return out, summary


@pytest.mark.slow
def test_run_writes_a_store_and_a_summary(rooms: tuple[Path, dict]) -> None:
    out, summary = rooms
    assert (summary["committed"], summary["pending"], summary["failures"]) == (2, 0, {})
    assert summary["views"] == 6
    assert json.loads((out / "unit" / "summary.json").read_text()) == summary
    store = open_store(str(out))
    assert store.digest() == summary["digest"]
    assert store.features(store.scene_ids[0]).shape == (3, 14, 14, 48)
    labelled = xarray.open_zarr(out)
    assert np.isfinite(labelled["k300_b20"].values).all()
    assert labelled["geometry"].sel(quantity="depth_share").values.min() == 1
    assert np.isfinite(labelled["geometry"].values).all()
    (log,) = (out / "unit" / "runs").iterdir()
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == ["start", "unit", "unit", "end"]


@pytest.mark.slow
def test_running_again_does_nothing(rooms: tuple[Path, dict], tiny_wan: Path) -> None:
    out, before = rooms
    summary, _ = command("run", ROOMS, "--out", out, "--config", out / "unit" / "config.toml")
    assert summary["units_this_run"] == 0
    assert summary["digest"] == before["digest"]


@pytest.mark.slow
def test_several_taps_come_from_one_pass_and_agree_with_one_tap(
    rooms: tuple[Path, dict], tiny_wan: Path, tmp_path: Path
) -> None:
    taps = ("--blocks", "5,20", "--timesteps", "100,300", "--store-dtype", "float32")
    command("run", ROOMS, "--out", tmp_path / "s", "--model", tiny_wan, *SMALL, *taps)
    store = open_store(str(tmp_path / "s"))
    assert store.taps == ("k100_b5", "k100_b20", "k300_b5", "k300_b20")
    name = store.scene_ids[0]
    alone = open_store(str(rooms[0])).features(name)
    np.testing.assert_array_equal(store.features(name, "k300_b20").astype(np.float16), alone)


@pytest.mark.slow
def test_status_verify_and_pictures(
    rooms: tuple[Path, dict], tmp_path: Path, tiny_wan: Path
) -> None:
    out, summary = rooms
    found, told = command("status", out)
    assert found["complete"]
    assert found["digest"] == summary["digest"]
    assert "2 committed, 0 failed, 0 pending of 2 scenes" in told
    found, told = command("verify", out, "--deep", "--scenes", ROOMS, "--sample", 1)
    assert "every object is as it was written" in told
    assert found["damaged"] == {}
    assert [check["passed"] for check in found["deep"]] == [True]
    assert found["deep"][0]["same_bytes"]
    tried, _ = command("pictures", out, "--out", tmp_path / "no", "--dry-run")
    assert len(tried["scenes"]) == 2
    assert not (tmp_path / "no").exists()
    few, _ = command("pictures", out, "--out", tmp_path / "few", "--views", 1)
    with Image.open(few["pictures"][0]) as image:
        width = image.width
    drawn, _ = command("pictures", out, "--out", tmp_path)
    assert len(drawn["pictures"]) == 2
    for picture in drawn["pictures"]:
        with Image.open(picture) as image:
            assert image.width > max(600, width)


@pytest.mark.slow
def test_verify_reports_damage_with_exit_code_3(
    rooms: tuple[Path, dict], tmp_path: Path, tiny_wan: Path
) -> None:
    copy = shutil.copytree(rooms[0], tmp_path / "s")
    shard = copy / "k300_b20" / "c.1.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-9])
    _, told = command("verify", copy, code=3)
    assert "'k300_b20/c.1.0.0.0.0': has " in told
    assert "`verify --repair` writes again" in told
    command("verify", copy, "--repair", "--yes", code=3)
    summary, _ = command("run", ROOMS, "--out", copy, "--model", tiny_wan, *SMALL)
    assert summary["units_this_run"] == 1
    assert summary["digest"] == rooms[1]["digest"]


@pytest.mark.slow
def test_plan_touches_nothing(tmp_path: Path, tiny_wan: Path) -> None:
    found, _ = command("plan", ROOMS, "--model", tiny_wan, *SMALL, "--tflops", 0.05)
    assert (found["scenes"], found["views"], found["units"]) == (2, 6, 2)
    assert found["tflop"] > 0
    assert found["worker_hours"] == pytest.approx(found["tflop"] / 0.05 / 3600)
    assert "caching" in found["break_even"]["verdict"]
    same, _ = command(
        "run", ROOMS, "--out", tmp_path / "s", "--model", tiny_wan, *SMALL, "--dry-run"
    )
    assert same["stored_bytes"] == found["stored_bytes"]
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_plan_foretells_the_stored_bytes(rooms: tuple[Path, dict], tiny_wan: Path) -> None:
    found, _ = command("plan", ROOMS, "--model", tiny_wan, *SMALL)
    assert found["stored_bytes"] == rooms[1]["stored_bytes"]
    files = [path for path in rooms[0].rglob("*") if path.is_file()]
    assert found["files"] == len(files) - sum(path.parent.name == "runs" for path in files) + 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("run", "nowhere", "--out", "s"), "nowhere: there is no such file or folder"),
        (("run", ROOMS), "Missing option '--out'"),
        (("run", ROOMS, "--out", "s", "--timesteps", "1300"), "--timesteps must lie in 0..1000"),
        (
            ("run", ROOMS, "--out", "s", "--blocks", "twenty"),
            "--blocks takes numbers such as 10,20",
        ),
        (("run", ROOMS, "--out", "s", "--resolution", "640x481"), "nearest is 640x480"),
        (("run", ROOMS, "--out", "s", "--model", "/no/model"), "neither a folder nor a hub id"),
        (
            ("run", ROOMS, "--out", "s", "--preset", "siglip", "--timesteps", "3"),
            "--timesteps goes with --backbone wan2.1-t2v or ",
        ),
        (("run", ROOMS, "--out", "s", "--device", "cuda"), "no GPU here"),
        (("run", ROOMS, "--out", "s", "--blocks", "99"), "--blocks must lie in -30..29"),
        (
            ("run", ROOMS, "--out", "s", "--dtype", "flat16"),
            "--dtype takes auto, float32, tf32, bfloat16 or float8, got",
        ),
        (
            ("run", ROOMS, "--out", "s", "--store-dtype", "int4"),
            "--store-dtype takes float16, float32 or int8",
        ),
        (
            ("run", ROOMS, "--out", "s", "--scenes-per-shard", "0"),
            "--scenes-per-shard must be >= 1",
        ),
        (("run", ROOMS, "--out", "s", "--views", "-1"), "--views must be >= 0"),
        (
            ("run", ROOMS, "--out", "s", "--preset", "reference", "--fit", "pad"),
            "--fit must be crop",
        ),
        (("run", ROOMS, "--out", "s", "--runner", "ray", "--address", "auto"), "say --device cuda"),
        (("run", ROOMS, "more", "--out", "s"), "run takes one SCENES, but got more too; quote"),
        (("run", ROOMS, "--out", "s", "--workers", "0"), "--workers and --attempts must be >= 1"),
        (("run", ROOMS, "--out", "s", "--prompt-embeds", "no.safetensors"), "no.safetensors"),
        (("plan", ROOMS, "--tflops", "0"), "--tflops, --workers and --read-gb-per-s must be"),
        (("import", "none.safetensors", "--out", "s", "--source", "x"), "none.safetensors"),
        (("status", "nowhere"), "nowhere: there is no vega3d store here"),
        (("verify", "nowhere"), "there is no vega3d store here"),
        (("verify", __file__), "there is no vega3d store here"),
        (("run", ROOMS, "--out", "o", "--backbone", "siglop"), "did you mean 'siglip'?"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_remedy(
    args: tuple[str, ...],
    told: str,
    tmp_path: Path,
    tiny_wan: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: starting one costs more than all that these commands do."""
    model = (
        () if "--model" in args or "run" not in args or "siglip" in args else ("--model", tiny_wan)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vega3d-extract", *map(str, [*args, *model])])
    monkeypatch.setattr(cli, "exit_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())
    assert not (tmp_path / "s").exists()


def shown(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    with pytest.raises(SystemExit) as ended:
        cli.app([*map(str, args), "--show-config"])
    assert not ended.value.code
    return tomllib.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_scenes_of_a_shard_follow_the_device_unless_a_store_is_there(
    rooms: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    found = shown(capsys, "run", "--device", "cuda")
    assert (found["scenes_per_shard"], found["gpus_per_worker"]) == (8, 1.0)
    found = shown(capsys, "run", "--device", "cpu")
    assert (found["scenes_per_shard"], found["gpus_per_worker"]) == (1, 0.0)
    asked = ("run", "--out", rooms[0], "--device", "cuda")
    assert shown(capsys, *asked)["scenes_per_shard"] == 1
    assert shown(capsys, *asked, "--scenes-per-shard", "3")["scenes_per_shard"] == 3


def test_a_model_of_another_encoder_is_told_its_name(
    tiny_wan: Path, tiny_siglip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, asked, right in (
        (tiny_siglip, "wan2.1-t2v", "siglip or siglip2"),
        (tiny_wan, "siglip", "wan2.1-t2v or .*"),
    ):
        args = ["plan", ROOMS, "--backbone", asked, "--model", str(model)]
        with pytest.raises(CheckpointError, match=f"for --backbone {right}, not for {asked}"):
            cli.app(args)


def test_backbones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.app(["backbones"])
    told = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(told.out)["backbones"]}
    assert "--timesteps" in rows["wan2.1-t2v"]["options"]
    assert "--timesteps" not in rows["siglip"]["options"]
    assert "| google/siglip-so400m-patch14-384 | Apache-2.0 |" in told.err
    assert rows["siglip"]["tokens"] == [27, 27]
    assert rows["siglip"]["bytes_per_view"] == 14 * 14 * 1152 * 2  # float16 on the common grid
    assert "| `k300_b20` | 30 x 40 | 1536 |" in told.err


def test_what_draws_and_demonstrates_can_be_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app(["demo", "--out", str(tmp_path / "demo"), "--dry-run"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "demo")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_config_for_a_store_ends_with_2(rooms: tuple[Path, dict], tiny_wan: Path) -> None:
    _, told = command(
        "run", ROOMS, "--out", rooms[0], "--model", tiny_wan, *SMALL, "--blocks", "7", code=2
    )
    assert "was made with another config" in told
    assert "config.blocks: [20] -> [7]" in told


@pytest.mark.slow
def test_bad_scenes_are_listed_and_the_others_stored(data: Path, tmp_path: Path) -> None:
    """Truncated JPEG, NaN and singular poses, missing intrinsics, odd names, an empty scene."""
    source = data / "chair_lidar"
    scenes = tmp_path / "scenes"

    def capture(name: str, views: int = 2) -> Path:
        folder = scenes / name
        for part in ("color", "depth", "pose", "intrinsic"):
            (folder / part).mkdir(parents=True)
        for file in (source / "intrinsic").iterdir():
            shutil.copyfile(file, folder / "intrinsic" / file.name)
        for i in range(views):
            for part, end in (("color", "jpg"), ("depth", "png"), ("pose", "txt")):
                shutil.copyfile(source / part / f"{i}.{end}", folder / part / f"{i}.{end}")
        return folder

    capture("good")
    capture("floor 2/k\u00fcche")
    truncated = capture("truncated", 1) / "color" / "0.jpg"
    truncated.write_bytes(truncated.read_bytes()[:2000])
    shutil.copyfile(truncated, capture("one of three", 3) / "color" / "1.jpg")
    (capture("lost pose", 3) / "pose" / "1.txt").write_text("nan " * 16)
    (capture("singular", 1) / "pose" / "0.txt").write_text("1 0 0 0\n" * 3 + "0 0 0 1")
    (capture("no intrinsics") / "intrinsic" / "intrinsic_color.txt").unlink()
    capture("empty", views=0)
    depth = capture("odd depth", 1) / "depth" / "0.png"
    Image.fromarray(np.full((48, 64), 1000, np.uint16)).save(depth)
    summary, told = command("run", scenes, "--out", tmp_path / "s", *RGB, code=3)
    assert set(open_store(str(tmp_path / "s")).scene_ids) == {
        "good", "floor 2/k\u00fcche", "lost pose", "one of three",
    }  # fmt: skip
    assert summary["dropped_views"] == 2
    assert set(summary["failures"]) == {
        "truncated", "singular", "no intrinsics", "empty", "odd depth",
    }  # fmt: skip
    for scene_id, words in {
        "truncated": "truncated/view 0: .*truncated",
        "singular": "singular/view 0: ",
        "no intrinsics": "intrinsic_color.txt",
        "empty": "empty: holds no colour images",
        "odd depth": "48x64",
    }.items():
        assert re.search(words, summary["failures"][scene_id]), summary["failures"][scene_id]
    assert "failed truncated: " in told
    for record in (tmp_path / "s" / "unit" / "commits").rglob("*.json"):
        assert str(tmp_path) not in record.read_text()
    mended = source / "color" / "1.jpg"
    shutil.copyfile(mended, truncated)
    retry = ("run", scenes, "--out", tmp_path / "s", *RGB, "--retry-failed")
    again, _ = command(*retry, code=3)
    assert "truncated" not in again["failures"]
    assert again["units_this_run"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "runner"),
    [
        (signal.SIGINT, 130, "inline"),
        pytest.param(signal.SIGTERM, 143, "ray", marks=pytest.mark.ray),
    ],
)
def test_interrupted_runs_end_cleanly_and_go_on(
    tmp_path: Path, sent: signal.Signals, code: int, runner: str
) -> None:
    """With an encoder that takes no time: a room takes 25 to 250 ms to make."""
    args = ["run", "rooms:20?views=1&height=48&width=64", "--out", tmp_path / "s", *RGB]
    if runner == "ray":
        script = Path(sys.executable).with_name("vega3d-extract")
        words = [script, *map(str, args), "--runner", "ray", "--workers", "1"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        send_when_committed(process.pid, sent, tmp_path / "s")
        _, told = process.communicate(timeout=60)
        ended = process.returncode
    else:
        with started_program("vega3d-extract", *args) as running:
            send_when_committed(running.process.pid, sent, tmp_path / "s")
            done = running.ended(60)
        ended, told = done.returncode, done.stderr
    assert ended == code, told
    assert "run the same command again to go on" in told
    assert "Traceback" not in told
    assert not list((tmp_path / "s").rglob("*.partial"))
    assert 1 <= len(list((tmp_path / "s" / "unit" / "commits").iterdir())) < 20
    assert command(*args)[0]["committed"] == 20


def send_when_committed(pid: int | None, sent: signal.Signals, out: Path) -> None:
    assert pid is not None
    commits, until = out / "unit" / "commits", time.monotonic() + 60
    while not (commits.is_dir() and any(commits.iterdir())) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, sent)


@pytest.mark.slow
def test_interrupted_before_there_is_a_store(
    tiny_wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing and fetching take minutes with real weights; Ctrl-C there must spoil nothing."""
    from typer.testing import CliRunner

    from vega3d.pipeline import cli, extract

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    args = ["run", ROOMS, "--out", str(tmp_path / "s"), "--model", str(tiny_wan), *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(extract, "prepare_model", interrupt)
        stopped = CliRunner().invoke(cli.app, args)
    assert stopped.exit_code == 130
    assert not list(tmp_path.rglob("*.jsonl"))
    summary, _ = command(*args)
    assert summary["committed"] == 2


@pytest.mark.slow
def test_tars_may_move(tmp_path: Path) -> None:
    command("pack", ROOMS, "--out", tmp_path / "tars")
    args = ("--out", tmp_path / "s", *RGB)
    first, _ = command("run", tmp_path / "tars", *args)
    (tmp_path / "tars").rename(tmp_path / "moved")
    again, _ = command("run", tmp_path / "moved", *args)
    assert again["digest"] == first["digest"]
    assert again["units_this_run"] == 0


@pytest.mark.slow
def test_a_full_disk_stops_with_the_remedy_and_the_run_goes_on_later(
    rooms: tuple[Path, dict], tiny_wan: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=350k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        args = ("run", ROOMS, "--out", disk / "s", "--model", tiny_wan, *SMALL)
        _, told = command(*args, code=2)
        assert "No space left on device; nothing committed is lost; free some space" in told
        subprocess.run(["mount", "-o", "remount,size=8M", str(disk)], check=True)
        summary, _ = command(*args)
        assert summary["digest"] == rooms[1]["digest"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_import_brings_foreign_features_in(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for name in ("a", "b"):
        save_file(
            {"features.b0": values, "world_xyz": values[..., :3].copy()},
            tmp_path / f"{name}.safetensors",
            metadata={"view_ids": '["00000", "00010"]'},
        )
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    found, _ = command("import", *files, "--out", tmp_path / "s", "--source", "probe3d")
    assert found["committed"] == 2
    np.testing.assert_array_equal(
        open_store(str(tmp_path / "s")).features("b"), values.astype(np.float16)
    )
    save_file({"features.b0": values, "labels": values}, tmp_path / "c.safetensors")
    _, told = command(
        "import", tmp_path / "c.safetensors", "--out", tmp_path / "t", "--source", "x", code=2
    )
    assert "unknown tensor 'labels'" in told
