"""`run` asked for with several encoders, in this process: which store gets which settings."""

import json
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from vega3d.pipeline import cli, open_store

ROOMS = "rooms:2?views=3&height=48&width=64"


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vega3d-extract", *map(str, args)])
    monkeypatch.setattr(cli, "exit_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, " ".join(told.err.replace("\u2502", " ").split())


def kept(store: Path) -> dict[str, object]:
    return tomllib.loads((store / "unit" / "config.toml").read_text())


def test_each_backbone_has_its_store_and_the_options_that_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--backbone", "rgb", "--backbone=random", "--resolution", "64x48", "--noise-seed", "3")
    code, out, _ = command(capsys, monkeypatch, "run", ROOMS, *args, "--out", tmp_path)
    assert code == 0
    summaries = json.loads(out.splitlines()[-1])["stores"]
    assert list(summaries) == ["rgb", "random"]
    for name, summary in summaries.items():
        place = tmp_path / f"{name}.zarr"
        assert open_store(str(place)).digest() == summary["digest"]
        assert (kept(place)["backbone"], kept(place)["resolution"]) == (name, "64x48")
        (log,) = (place / "unit" / "runs").iterdir()
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert events == ["start", "unit", "unit", "end"]
        assert json.loads((place / "unit" / "summary.json").read_text()) == summary
    assert kept(tmp_path / "random.zarr")["noise_seed"] == 3
    assert "noise_seed" not in kept(tmp_path / "rgb.zarr")


@pytest.mark.slow
def test_a_file_lists_stores_and_what_it_says_of_one_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stores.toml"
    file.write_text(
        'views = 2\nfit = "crop"\nnoise_seed = 3\n[stores.colour]\nbackbone = "rgb"\n'
        'resolution = "96x48"\n[stores.random]\nfit = "stretch"\n'
    )
    args = ("--config", file, "--resolution", "64x48", "--out", f"{tmp_path}/")
    code, _, told = command(capsys, monkeypatch, "run", ROOMS, *args)
    assert code == 0
    assert "has no use" not in told
    colour, random = (kept(tmp_path / f"{name}.zarr") for name in ("colour", "random"))
    assert [colour[name] for name in ("backbone", "resolution", "fit", "views")] == [
        "rgb", "96x48", "crop", 2]  # fmt: skip
    assert [random[name] for name in ("backbone", "resolution", "fit", "noise_seed")] == [
        "random", "64x48", "stretch", 3]  # fmt: skip


@pytest.mark.parametrize("name", [("plan",), ("run", "--dry-run", "--out", "o")])
def test_scaled_jpegs_of_several_are_refused_before_anything_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: tuple[str, ...]
) -> None:
    args = ("--backbone", "rgb", "--backbone", "random", "--jpeg", "scaled")
    code, out, told = command(capsys, monkeypatch, name[0], ROOMS, *name[1:], *args)
    assert (code, out) == (2, "")
    assert "one after the other" in told


def test_a_plan_of_several_counts_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--backbone", "dinov3", "--backbone", "rgb", "--views", "2")
    code, out, told = command(capsys, monkeypatch, "plan", ROOMS, *args)
    assert code == 0
    found = json.loads(out.splitlines()[-1])["stores"]
    assert {name: one["views"] for name, one in found.items()} == {"dinov3": 4, "rgb": 4}
    assert found["dinov3"]["tflop"] > 1000 * found["rgb"]["tflop"]
    assert told.index("dinov3:") < told.index("rgb:")


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["options", "tables"])
def test_several_are_submitted_as_they_would_run(
    asked: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command that is printed, run here, writes the stores that the options ask for."""
    file = tmp_path / "stores.toml"
    file.write_text(
        'views = 2\n[stores.colour]\nbackbone = "rgb"\nresolution = "96x48"\nfit = "crop"\n'
        "[stores.random]\nnoise_seed = 3\n"
    )
    args = {
        "options": ("--backbone", "rgb", "--backbone", "random", "--noise-seed", "3"),
        "tables": ("--config", file),
    }[asked]
    args = (*args, "--batch-size", "3", "--out")
    submit = ("submit", ROOMS, "--to", "ray", "--gpu", "", *args, tmp_path / "submitted")
    code, text, _ = command(capsys, monkeypatch, *submit)
    assert code == 0
    words = shlex.split(text.partition(" -- \\\n")[2])
    words[words.index("ray")] = "inline"
    assert words[0] == "vega3d-extract"
    for run in (words[1:], ("run", ROOMS, *args, tmp_path / "direct")):
        code, _, _ = command(capsys, monkeypatch, *run)
        assert code == 0
    direct = sorted((tmp_path / "direct").iterdir())
    assert len(direct) == 2
    for store in direct:
        other = open_store(str(tmp_path / "submitted" / store.name))
        assert other.digest() == open_store(str(store)).digest()


@pytest.mark.parametrize(
    ("args", "table", "told"),
    [
        (("run", "--backbone", "rgb", "--backbone", "rgb"), "", "rgb is asked for twice"),
        (("run", "--backbone", "rgb", "--backbone", "nil"), "", "must be one of wan2.1-t2v"),
        (
            ("run", "--backbone", "dinov2", "--backbone", "clip", "--model", "m"),
            "",
            "--model is one encoder's: say it in [stores.dinov2]",
        ),
        (
            ("run", "--backbone", "rgb", "--backbone", "random", "--merger", "after"),
            "",
            "--merger goes with --backbone qwen2.5-vl-vision, not with rgb",
        ),
        (("run", "--backbone", "rgb", "--backbone", "random", "--show-config"), "", "takes one"),
        (("bench", "--backbone", "rgb", "--backbone", "random"), "", "bench takes one --backbone"),
        (
            ("submit",),
            "[stores.a]\nbackbone='dinov2'\nmodel='https://me:pw@host/m'",
            "a manifest is no place for a user, a password",
        ),
        (("run",), "[stores.a]\nbackbone='rgb'\nblocks=[1]", "rgb has no setting 'blocks'"),
        (("run", "--backbone", "rgb"), "[stores.rgb]", "leave --backbone out"),
        (("run",), "[other.rgb]", "[other] is a table"),
        (("check",), "[stores.rgb]", "check takes no [stores.NAME]"),
        (("run",), "[stores.'a/b']\nbackbone='rgb'", "store names are letters"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    args: tuple[str, ...],
    table: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if table:
        (tmp_path / "f.toml").write_text(table)
        args = (*args, "--config", str(tmp_path / "f.toml"))
    if args[0] == "submit":
        args = (*args, "--to", "ray")
    if args[0] in ("run", "submit"):
        args = (*args, "--out", str(tmp_path / "out"))
    code, _, found = command(capsys, monkeypatch, args[0], ROOMS, *args[1:])
    assert code == 2
    assert told in found
    assert not (tmp_path / "out").exists()
