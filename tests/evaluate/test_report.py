"""Reports over real stores: same numbers everywhere, resumed, refused with a reason."""

import csv
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numbered import numbered
from processes import run_program

from vega3d.evaluate import consistency
from vega3d.evaluate.cli import main
from vega3d.evaluate.config import ReportConfig, RunConfig, ScoreConfig
from vega3d.evaluate.partials import Partial, Partials, array_name
from vega3d.evaluate.report import Report, report, score_store
from vega3d.evaluate.sources import opened
from vega3d.evaluate.summary import remarks
from vega3d.evaluate.treatments import ChannelSums, channel_sums
from vega3d.evaluate.units import score_unit, sum_unit
from vega3d.pipeline import imports
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import import_arrays
from vega3d.pipeline.store import scene_arrays

GRID, VIEWS, CHANNELS = (4, 5), 5, 12
CONFIG = ReportConfig(bootstrap_samples=50)
HERE = RunConfig(scheduler="synchronous", scenes_shown=1, views_shown=3)


def scene(seed: int, *, views: int = VIEWS, grid: tuple[int, int] = GRID, **kwargs: object) -> dict:
    """Arrays of a scene in a small room; the feature is the voxel's own noise plus a little."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-0.25, 0.25, (views, *grid, 3)).astype(np.float32)
    voxel = np.floor(xyz.astype(np.float64) / 0.1).astype(np.int64) + 1000
    own = [np.random.default_rng(v).standard_normal(CHANNELS) for v in voxel.reshape(-1, 3)]
    features = np.reshape(own, (views, *grid, CHANNELS)) + 0.3 * rng.standard_normal(
        (views, *grid, CHANNELS)
    )
    poses = np.tile(np.eye(4), (views, 1, 1))
    preview = rng.integers(0, 255, (views, 8 * grid[0], 8 * grid[1], 3), dtype=np.uint8)
    arrays = {
        "scene_id": f"scene{seed}",
        "features": {"k300_b20": features.astype(np.float32)},
        "world_xyz": xyz,
        "world_from_camera": poses,
        "preview": preview,
        "image_size": np.tile([240, 320], (views, 1)),
    }
    return {**arrays, **kwargs}


def store(path: Path, scenes: list[dict], **kwargs: object) -> str:
    import_arrays(
        str(path),
        [numbered(**arrays) for arrays in scenes],
        **{"model": path.name, "store_dtype": "float32", **kwargs},
    )
    return str(path)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of three scenes in two units, one of two scenes."""
    folder = tmp_path_factory.mktemp("stores")
    return store(folder / "three", [scene(seed) for seed in (1, 2, 3)], scenes_per_shard=2)


def numbers(written: Report) -> dict[str, dict[str, float | None]]:
    lines = json.loads(written.json.read_text())["scenes"]
    return {f"{line['store']} {line['tap']} {line['scene']}": line["metrics"] for line in lines}


@pytest.mark.slow
def test_the_report_says_what_the_arrays_say(three: str, tmp_path: Path) -> None:
    written = report([three], str(tmp_path), CONFIG, HERE)
    arrays = [scene(seed) for seed in (1, 2, 3)]
    valid = np.ones((VIEWS, *GRID), dtype=bool)
    units = []
    for one in arrays:
        flat = one["features"]["k300_b20"].reshape(-1, CHANNELS)
        units.append(channel_sums(flat / np.linalg.norm(flat, axis=1, keepdims=True)))
    found = numbers(written)
    for k, one in enumerate(arrays):
        others = units[(k + 1) % 3] + units[(k + 2) % 3]
        expected = consistency(
            one["features"]["k300_b20"],
            one["world_xyz"],
            valid,
            world_from_camera=one["world_from_camera"],
            others=others,
        )
        got = found[f"three k300_b20 scene{k + 1}"]
        assert got["consistency"] == pytest.approx(expected.consistency, abs=1e-12)
        assert got["random"] == pytest.approx(expected.random, abs=1e-12)
        centred = expected.treatments["centred"].consistency
        # statistics are sums of float32 unit tokens made in another order
        assert got["centred_consistency"] == pytest.approx(centred, abs=1e-6)
        assert got["auroc"] == expected.separation["raw"].auroc
    row = json.loads(written.json.read_text())["rows"][0]
    mean = np.mean([found[f"three k300_b20 scene{k}"]["consistency"] for k in (1, 2, 3)])
    assert row["estimates"]["consistency"]["mean"] == pytest.approx(mean, abs=1e-14)
    assert row["estimates"]["consistency"]["num_scenes"] == 3


@pytest.mark.slow
def test_every_scheduler_and_number_of_workers_gives_the_same_numbers(
    three: str, tmp_path: Path
) -> None:
    expected = numbers(report([three], str(tmp_path / "one"), CONFIG, HERE))
    for workers in (1, 3):
        run = replace(HERE, scheduler="threads", workers=workers)
        found = numbers(report([three], str(tmp_path / f"threads{workers}"), CONFIG, run))
        assert_same(found, expected)


@pytest.mark.slow
def test_processes_and_a_cluster_give_the_same_numbers(three: str, tmp_path: Path) -> None:
    from distributed import LocalCluster

    expected = numbers(report([three], str(tmp_path / "one"), CONFIG, HERE))
    processes = replace(HERE, scheduler="processes", workers=2)
    assert_same(numbers(report([three], str(tmp_path / "p"), CONFIG, processes)), expected)
    threads = {"n_workers": 2, "threads_per_worker": 1, "processes": False}  # sent all the same
    with LocalCluster(
        **threads, protocol="tcp", dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        run = replace(HERE, dask_address=cluster.scheduler_address)
        assert_same(numbers(report([three], str(tmp_path / "c"), CONFIG, run)), expected)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, metrics in expected.items():
        for metric, value in metrics.items():
            assert (found[name][metric] is None) == (value is None)
            assert value is None or abs(found[name][metric] - value) <= 1e-12, (name, metric)


@pytest.mark.slow
def test_an_interrupted_report_goes_on_from_its_units(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = report([three], str(tmp_path / "whole"), CONFIG, HERE)
    scored: list[str] = []

    def stops_at_the_second(task, totals):  # noqa: ANN001, ANN202
        if scored:
            raise KeyboardInterrupt
        scored.append(task.scenes[0][0])
        return score_unit(task, totals)

    out = tmp_path / "resumed"
    monkeypatch.setattr("vega3d.evaluate.report.score_unit", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        report([three], str(out), CONFIG, HERE)
    assert not (out / "report.json").exists()
    summed, rest = [], []
    monkeypatch.setattr(
        "vega3d.evaluate.report.sum_unit", lambda task: summed.append(task) or sum_unit(task)
    )
    monkeypatch.setattr(
        "vega3d.evaluate.report.score_unit",
        lambda task, totals: rest.append(task.scenes[0][0]) or score_unit(task, totals),
    )
    resumed = report([three], str(out), CONFIG, HERE)
    assert not summed
    assert len(rest) == 1
    assert {*scored, *rest} == {"scene1", "scene3"}
    assert resumed.json.read_bytes() == whole.json.read_bytes()
    assert resumed.csv.read_bytes() == whole.csv.read_bytes()


@pytest.mark.slow
def test_a_damaged_partial_result_is_made_again(three: str, tmp_path: Path) -> None:
    first = report([three], str(tmp_path), CONFIG, HERE).json.read_bytes()
    for k, path in enumerate(sorted((tmp_path / "partials").iterdir())):
        whole = path.read_bytes()
        cut = len(whole) // 2
        path.write_bytes(whole[:cut] if k % 2 else whole[:cut] + b"?" * 9 + whole[cut + 9 :])
    assert report([three], str(tmp_path), CONFIG, HERE).json.read_bytes() == first


def test_a_partial_result_with_any_byte_damaged_is_not_done(tmp_path: Path) -> None:
    partials = Partials(tmp_path)
    partials.write("key", Partial({"a": 1}, {"b": np.arange(50)}))
    assert partials.has("key")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert not partials.has("key")
    path.write_bytes(whole[:-1])
    assert not partials.has("key")


@pytest.mark.slow
def test_other_settings_take_no_old_partial_result(three: str, tmp_path: Path) -> None:
    small = numbers(report([three], str(tmp_path), CONFIG, HERE))
    large = numbers(report([three], str(tmp_path), replace(CONFIG, voxel_m=0.2), HERE))
    assert small["three k300_b20 scene1"] != large["three k300_b20 scene1"]


@pytest.mark.slow
def test_stores_are_compared_on_common_scenes_and_views(three: str, tmp_path: Path) -> None:
    fewer = scene(2, view_ids=["4", "1", "0", "7", "9"])
    other = store(tmp_path / "other", [fewer, scene(3), scene(8)])
    written = report([three, other], str(tmp_path / "out"), CONFIG, HERE)
    plain = json.loads(written.json.read_text())
    assert plain["common_scenes"] == ["scene2", "scene3"]
    assert plain["left_out_scenes"] == {
        "scene1": "not in all stores",
        "scene8": "not in all stores",
    }
    assert "scored on the views that all stores hold" in plain["notes"][0]
    views = {line["counts"]["num_views"] for line in plain["scenes"] if line["scene"] == "scene2"}
    assert views == {3}  # "0", "1" and "4"
    for row in plain["rows"]:
        assert row["estimates"]["consistency"]["num_scenes"] == 2


@pytest.mark.slow
def test_stores_that_cannot_be_compared_are_refused_with_the_reason(
    three: str, tmp_path: Path
) -> None:
    blind = store(tmp_path / "blind", [scene(k, world_xyz=None) for k in (1, 2, 3)])
    apart = store(tmp_path / "apart", [scene(40)])
    written = report([three, blind, apart], str(tmp_path / "out"), CONFIG, HERE)
    plain = json.loads(written.json.read_text())
    assert [row["store"] for row in plain["rows"]] == ["three"]
    assert "shares no scene with three" in plain["refused"]["apart"]
    assert "no token has a world position" in plain["refused"]["blind"]
    page = written.html.read_text()
    assert "blind is not compared" in page
    assert "apart is not compared" in page


@pytest.mark.slow
def test_different_grids_are_compared_with_a_warning(three: str, tmp_path: Path) -> None:
    fine = store(tmp_path / "fine", [scene(k, grid=(6, 7)) for k in (1, 2, 3)])
    written = report([three, fine], str(tmp_path / "out"), CONFIG, HERE)
    assert {row.source.label for row in written.summary.rows} == {"three", "fine"}
    assert any("token grids differ" in note for note in written.summary.notes)


def test_no_overlap_anywhere_is_a_clear_result(tmp_path: Path) -> None:
    apart = np.arange(VIEWS * GRID[0] * GRID[1], dtype=np.float32)
    xyz = np.stack([apart, 0 * apart, 0 * apart], axis=-1).reshape(VIEWS, *GRID, 3)
    path = store(tmp_path / "apart", [scene(1, world_xyz=xyz), scene(2, world_xyz=xyz)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE, downstream="paper")
    page = written.html.read_text()
    assert "No scene has a score: apart: no overlapping voxels." in page
    assert_no_nan(written)
    assert json.loads(written.json.read_text())["left_out_scenes"] == {
        "scene1": "apart: no overlapping voxels",
        "scene2": "apart: no overlapping voxels",
    }


def record_of(written: Report, scene_id: str, tap: str) -> dict[str, object]:
    (stored,) = written.summary.stores
    return {(scene, name): record for scene, name, record in stored.read()}[scene_id, tap]


def assert_no_nan(written: Report) -> None:
    for path in (written.html, written.json, written.csv):
        text = path.read_text()
        for line in text.splitlines():
            assert "base64" in line or "nan" not in line.lower().replace("finance", ""), line[:200]


@pytest.mark.slow
def test_a_scene_without_overlap_is_left_out_of_every_mean(tmp_path: Path) -> None:
    far = np.arange(VIEWS * 20, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] * [1, 1, 1]
    path = store(tmp_path / "s", [scene(1), scene(2, world_xyz=far.astype(np.float32)), scene(3)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE)
    assert written.summary.common == ("scene1", "scene3")
    with written.csv.open() as file:
        rows = {row["scene"]: row for row in csv.DictReader(file)}
    assert rows["scene2"]["reason"] == "no overlapping voxels"
    assert rows["scene2"]["consistency"] == ""
    assert rows["scene2"]["in_means"] == "False"
    assert 0.5 < float(rows["scene1"]["consistency"]) < 1.0
    assert_no_nan(written)


@pytest.mark.slow
def test_a_scene_with_one_shared_voxel_is_in_no_mean(tmp_path: Path) -> None:
    one = np.arange(VIEWS * 20, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] + [0.05] * 3
    one[:2, 0, 0] = 0.05  # S is known, R is not
    path = store(tmp_path / "s", [scene(1), scene(2, world_xyz=one.astype(np.float32))])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE)
    assert written.summary.common == ("scene1",)
    assert "one shared voxel" in written.summary.left_out["scene2"]
    row = written.summary.rows[0]
    assert row.estimates["consistency"].num_scenes == row.estimates["above_chance"].num_scenes == 1


def test_a_store_that_changes_while_it_is_scored_leaves_no_result(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers would be kept under the name of the store that was there before."""
    path = tmp_path / "s"
    shutil.copytree(three, path)
    other = store(tmp_path / "o", [scene(k) for k in (4, 5, 6)])

    def replaced(*arguments: object) -> list[str]:
        shutil.rmtree(path)
        shutil.copytree(other, path)
        opened.cache_clear()  # as in another process
        return score_store(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("vega3d.evaluate.report.score_store", replaced)
        with pytest.raises(UsageError, match="changed while the report was made; run the same"):
            report([str(path)], str(tmp_path / "out"), CONFIG, HERE)
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.slow
def test_a_store_whose_scenes_all_fail_is_refused_with_their_reason(
    three: str, tmp_path: Path
) -> None:
    wide = np.arange(1, VIEWS * 20 + 1, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] * (
        [1e12] * 3
    )
    path = store(tmp_path / "s", [scene(k, world_xyz=wide.astype("f4")) for k in (1, 2, 3)])
    written = report([three, path], str(tmp_path / "out"), CONFIG, HERE)
    (refused,) = written.summary.refused
    assert re.fullmatch(
        r"no scene of it could be scored: positions span 9.9e\+14 x .* are they in metres\?",
        refused[1],
    )


@pytest.mark.slow
def test_imported_features_of_two_models_are_no_other_pictures(three: str, tmp_path: Path) -> None:
    other = [
        {**scene(k), "features": {"b1": scene(k + 10)["features"]["k300_b20"]}} for k in (1, 2)
    ]
    path = store(tmp_path / "other", other, model="another")
    written = report([three, path], str(tmp_path / "out"), CONFIG, HERE)
    assert len(written.summary.rows) == 2
    assert not any("pictures" in note for note in written.summary.notes)


@pytest.mark.slow
def test_what_takes_no_part_is_said_on_stderr(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    apart = np.arange(VIEWS * 20, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] * [1, 1, 1]
    lone = store(tmp_path / "lone", [scene(1, world_xyz=apart.astype("f4"))])
    fewer = store(tmp_path / "fewer", [scene(k, views=3) for k in (1, 2, 3)])
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 1.0
    others = [scene(k, views=3, world_from_camera=poses) for k in (1, 2, 3)]
    moved = store(tmp_path / "moved", others)
    sizes = np.tile([480, 640], (3, 1))
    resized = store(tmp_path / "resized", [scene(k, views=3, image_size=sizes) for k in (1, 2, 3)])
    Ks = np.tile(np.diag([500.0, 500.0, 1.0]), (3, 1, 1))
    whole = store(tmp_path / "whole", [scene(k, intrinsics=Ks[[0] * VIEWS]) for k in (1, 2, 3)])
    zoomed = store(tmp_path / "zoomed", [scene(k, views=3, intrinsics=1.1 * Ks) for k in (1, 2, 3)])
    for stores, words in (
        ([lone], ["left out scene1: lone: no overlapping voxels", "no scene has a score: extract"]),
        ([three, lone], ["refused lone: no scene of it has a score: no overlapping voxels"]),
        ([three, fewer], ["different views of 3 of 3 scenes", "scene1 on 3 of 5 and 3"]),
        ([three, moved], ["different views of 3", "different pictures, depths or cameras of 3"]),
        ([three, resized], ["different pictures, depths or cameras of 3"]),
        ([whole, zoomed], ["different pictures, depths or cameras of 3"]),
    ):
        arguments = ["report", *stores, "--out", str(tmp_path / "out"), "--workers", "1"]
        monkeypatch.setattr(sys, "argv", ["vega3d-consistency", *arguments])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
        assert ("different pictures" in said) == (stores[-1] in (moved, resized, zoomed))


@pytest.mark.parametrize("command", ["report", "probe", "explore"])
def test_nothing_is_written_into_a_store(
    command: str, three: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(Path(three).iterdir())
    monkeypatch.setattr(sys, "argv", ["vega3d-consistency", command, three, "--out", three])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "is a store; choose another --out" in capsys.readouterr().err
    assert sorted(Path(three).iterdir()) == before


def test_one_store_of_single_views_is_told_so(tmp_path: Path) -> None:
    path = store(tmp_path / "s", [scene(k, views=1) for k in (1, 2)])
    with pytest.raises(UsageError, match=r"no scene has two views: scene1, scene2; extract more"):
        report([path], str(tmp_path / "out"), CONFIG, HERE)


@pytest.mark.slow
def test_larger_voxels_are_not_advised_where_there_is_no_geometry(tmp_path: Path) -> None:
    blind = scene(1)
    blind["world_xyz"] = np.full_like(blind["world_xyz"], np.nan)
    path = store(tmp_path / "blind", [blind])
    lines = remarks(report([path], str(tmp_path / "out"), CONFIG, HERE).summary)
    assert any("no depth or no poses" in line for line in lines)
    assert not any("--voxel-m" in line for line in lines)


def test_a_place_that_is_a_file_is_refused_before_anything_is_read(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "below"):
        arguments = ["vega3d-consistency", "report", three, "--out", str(out)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert f"{taken} is a file; choose another --out" in capsys.readouterr().err
    assert taken.read_text() == "mine"


@pytest.mark.slow
def test_a_scene_that_cannot_be_scored_is_named_and_not_drawn(tmp_path: Path) -> None:
    wide = np.arange(1, VIEWS * 20 + 1, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] * (
        [1e12] * 3
    )
    path = store(tmp_path / "s", [scene(1), scene(2, world_xyz=wide.astype(np.float32)), scene(3)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE, scenes=["scene2", "scene3"])
    assert written.summary.common == ("scene1", "scene3")
    assert "are they in metres" in written.summary.left_out["scene2"]
    page = written.html.read_text()
    assert "scene2 is not drawn: positions span" in page
    assert "<h3>scene3" in page
    assert "<h3>scene2" not in page


@pytest.mark.slow
def test_a_store_without_overlap_does_not_erase_the_others(three: str, tmp_path: Path) -> None:
    apart = np.arange(VIEWS * 20, dtype=np.float32).reshape(VIEWS, *GRID)[..., None] * [1, 1, 1]
    lone = store(tmp_path / "lone", [scene(k, world_xyz=apart.astype("f4")) for k in (1, 2, 3)])
    others = [str(v) for v in range(90, 90 + VIEWS)]
    views = store(tmp_path / "views", [scene(k, view_ids=others) for k in (1, 2, 3)])
    written = report([three, lone, views], str(tmp_path / "out"), CONFIG, HERE)
    refused = dict(written.summary.refused)
    assert refused["lone"] == "no scene of it has a score: no overlapping voxels"
    assert "no scene has two views that it shares with three" in refused["views"]
    assert [row.source.label for row in written.summary.rows] == ["three"]
    assert len(written.summary.common) == 3


def test_a_scene_id_may_hold_a_tab(tmp_path: Path) -> None:
    name = json.dumps(["a\tb", "x/y", "raw", "matched"])
    assert array_name("a\tb", "x/y", "raw", "matched") == name
    partials = Partials(tmp_path)
    partials.write("key", Partial({}, {name: np.arange(3)}))
    assert partials.arrays("key")[name].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_taps_noise_samples_and_depth_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = []
    for seed in (1, 2):
        one = scene(seed)
        base = one["features"]["k300_b20"]
        noisy = {
            f"k{k}_b{b}{n}": (base + (0.1 + k / 500) * rng.standard_normal(base.shape)).astype("f4")
            for k in (100, 600)
            for b in (3, 20)
            for n in ("", "_n1")
        }
        share = np.ones((VIEWS, *GRID), dtype=np.float32)
        share[0, 0, 0] = 0.09  # below the released threshold
        scenes.append({**one, "features": noisy, "depth_share": share})
    path = store(tmp_path / "taps", scenes)
    written = report([f"wan={path}"], str(tmp_path / "out"), CONFIG, HERE, downstream="paper")
    rows = {row.tap: row for row in written.summary.rows}
    assert sorted(rows) == ["k100_b20", "k100_b3", "k600_b20", "k600_b3"]
    assert rows["k100_b3"].mean("noise_floor") > rows["k600_b3"].mean("noise_floor")
    assert rows["k100_b3"].mean("above_chance") > rows["k600_b3"].mean("above_chance")
    assert rows["k100_b3"].counts["num_tokens"] == 2 * (VIEWS * 20 - 1)
    offset = record_of(written, "scene1", "k100_b3")["metrics"]
    floor, chance = offset["noise_floor"], offset["random"]
    assert offset["noise_floor_above_chance"] == pytest.approx((floor - chance) / (1 - chance))
    page = written.html.read_text()
    assert "wan: best of 4 taps), which favours stores with many taps" in page
    assert "Block and timestep" in page
    assert "noise floor" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page


@pytest.mark.slow
def test_hidden_tokens_are_not_valid(tmp_path: Path) -> None:
    one = scene(1)
    one["features"]["k300_b20"][:, 0] = np.nan
    coverage = np.ones((VIEWS, *GRID), dtype=np.float32)
    coverage[:, 0] = 0.0
    path = store(tmp_path / "crop", [{**one, "coverage": coverage}, scene(2)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE)
    record = record_of(written, "scene1", "k300_b20")
    assert record["counts"]["num_tokens"] == VIEWS * 15
    assert record["counts"]["num_cells_of_grid"] == VIEWS * 20


@pytest.mark.slow
@pytest.mark.parametrize("filler", [0.0, 1.0])
def test_what_is_not_covered_is_not_scored_even_where_a_number_stands(
    tmp_path: Path, filler: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores that an older version imported hold the filler."""
    monkeypatch.setattr(imports, "without_unseen", lambda given: given)
    everything = lambda _scene, features: np.ones(features.shape[:3], dtype=bool)  # noqa: E731
    monkeypatch.setattr(scene_arrays, "seen_tokens", everything)
    one = scene(1)
    one["features"]["k300_b20"][:, 0] = filler
    coverage = np.ones((VIEWS, *GRID), dtype=np.float32)
    coverage[:, 0] = 0.0
    path = store(tmp_path / "crop", [{**one, "coverage": coverage}, scene(2)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE)
    assert record_of(written, "scene1", "k300_b20")["counts"]["num_tokens"] == VIEWS * 15


@pytest.mark.slow
def test_a_refused_store_takes_no_view_and_no_scene_from_the_others(tmp_path: Path) -> None:
    ids = [str(view) for view in range(VIEWS)]
    whole = store(tmp_path / "whole", [scene(k, view_ids=ids) for k in (1, 2)])
    few = scene(1, views=2, view_ids=ids[1:3])
    few["world_xyz"] = np.full_like(few["world_xyz"], np.nan)
    blind = store(tmp_path / "blind", [few])
    alone = report([whole], str(tmp_path / "alone"), CONFIG, HERE)
    beside = report([whole, blind], str(tmp_path / "beside"), CONFIG, HERE)
    assert dict(beside.summary.refused) == {
        "blind": "no token has a world position: its scenes have no depth or no poses"
    }
    assert beside.csv.read_bytes() == alone.csv.read_bytes()
    assert beside.summary.left_out == {}
    assert not [note for note in beside.summary.notes if "different views" in note]


@pytest.mark.slow
def test_a_position_of_zeros_is_no_position(tmp_path: Path) -> None:
    """Others write (0, 0, 0) for none; as places these would be one voxel that all views see."""
    told, meant = scene(1), scene(1)
    unknown = np.random.default_rng(0).random((VIEWS, *GRID)) < 0.4
    told["world_xyz"][unknown] = 0
    meant["world_xyz"][unknown] = np.nan
    made = [store(tmp_path / n, [one, scene(2)]) for n, one in (("told", told), ("meant", meant))]
    written = report(made, str(tmp_path / "out"), CONFIG, HERE)
    lines = json.loads(written.json.read_text())["scenes"]
    found = {line["store"]: line for line in lines if line["scene"] == "scene1"}
    assert found["told"]["counts"]["num_tokens"] == int((~unknown).sum())
    assert found["told"]["metrics"] == found["meant"]["metrics"]


@pytest.mark.slow
def test_a_view_that_came_twice_is_in_no_pair(tmp_path: Path) -> None:
    once, twice = scene(1), scene(1)
    for name in ("world_xyz", "world_from_camera", "preview", "image_size"):
        twice[name] = np.concatenate([twice[name], twice[name][:3]])
    features = twice["features"]["k300_b20"]
    twice["features"] = {"k300_b20": np.concatenate([features, features[:3]])}
    stores = [store(tmp_path / n, [one, scene(2)]) for n, one in (("once", once), ("twice", twice))]
    scored = [
        report([one], str(tmp_path / f"out{k}"), CONFIG, HERE) for k, one in enumerate(stores)
    ]
    first, second = (record_of(one, "scene1", "k300_b20") for one in scored)
    found, expected = (
        {name: value for name, value in one["metrics"].items() if value is not None}
        for one in (second, first)
    )
    assert found == pytest.approx(expected, rel=1e-12)
    assert second["counts"]["num_repeated_views"] == 3
    (note,) = [line for line in remarks(scored[1].summary) if "came twice" in line]
    assert "twice holds 3 views whose tokens lie exactly where another view's do (3" in note
    assert remarks(scored[0].summary) == []


@pytest.mark.slow
def test_one_label_for_two_stores_reads_them_as_one(tmp_path: Path) -> None:
    for name, seeds in (("a", (1, 2)), ("b", (3,))):
        store(tmp_path / name, [scene(seed) for seed in seeds], model="same")
    written = report(
        [f"both={tmp_path}/a", f"both={tmp_path}/b"], str(tmp_path / "out"), CONFIG, HERE
    )
    assert written.summary.common == ("scene1", "scene2", "scene3")
    with pytest.raises(UsageError, match="two stores would be called 'a'; name them"):
        report([f"{tmp_path}/a", f"{tmp_path}/a"], str(tmp_path / "out"), CONFIG, HERE)


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_wrong_usage(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vega3d.evaluate.mapping.CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:1", "no://where"):
        with pytest.raises(UsageError, match=f"no dask scheduler answers at '{address}'"):
            report([three], str(tmp_path), CONFIG, replace(HERE, dask_address=address))


def test_a_bug_is_not_called_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr("vega3d.evaluate.report.report", broken)
    monkeypatch.setattr(sys, "argv", ["vega3d-consistency", "report", "store", "--out", "out"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "ValueError: operands could not be broadcast" in told


def test_the_ranking_is_by_above_chance_and_paired(three: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    loud = []
    for seed in (1, 2, 3):
        one = scene(seed)
        noise = rng.standard_normal(one["features"]["k300_b20"].shape) + 30.0
        loud.append({**one, "features": {"b0": noise.astype(np.float32)}})
    flat = store(tmp_path / "flat", loud)
    written = report([flat, three], str(tmp_path / "out"), CONFIG, HERE)
    first, second = written.summary.rows
    assert (first.source.label, second.source.label) == ("three", "flat")
    assert second.mean("consistency") > first.mean("consistency")  # raw says the opposite
    assert second.behind.high < 0
    page = written.html.read_text()
    assert "Raw cosine puts flat b0 first" in page
    assert "Above chance, three k300_b20 is first" in page


@pytest.mark.slow
def test_stores_named_after_models_of_the_table_are_related_to_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    paths = []
    # noise in the order of the paper's NOS: T2V best of the three, then VGGT, then DINOv3
    for label, noise in (("Wan2.1-T2V", 0.1), ("VGGT", 1.0), ("dinov3", 2.0)):
        scenes = []
        for seed in (1, 2):
            one = scene(seed)
            base = one["features"]["k300_b20"]
            noisy = base + noise * rng.standard_normal(base.shape)
            scenes.append({**one, "features": {"b0": noisy.astype(np.float32)}})
        paths.append(f"{label}={store(tmp_path / label, scenes)}")
    written = report(paths, str(tmp_path / "out"), CONFIG, HERE, downstream="paper")
    related = json.loads(written.json.read_text())["downstream"]
    assert set(related["matched"]) == {"Wan2.1-T2V", "VGGT", "DINOv3-Large"}
    relations = {one["score"]: one for one in related["relations"]}
    assert relations["above chance"]["spearman"]["value"] == pytest.approx(1.0)
    assert relations["above chance"]["spearman"]["p_value"] == pytest.approx(2 / 6)
    assert relations["published raw consistency"]["pearson"]["num_points"] == 5
    assert "Wan2.1-T2V is Wan2.1-T2V b0" in written.html.read_text()


def test_a_scene_to_draw_must_be_in_all_stores(three: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'scene9' \(in no store\); there are 3, such as"):
        report([three], str(tmp_path), CONFIG, HERE, scenes=["scene1", "scene9"])
    part = store(tmp_path / "part", [scene(1), scene(2)])
    with pytest.raises(UsageError, match=r"cannot be drawn: 'scene3' \(not in all stores\); there"):
        report([three, part], str(tmp_path / "x"), CONFIG, HERE, scenes=["scene3"])
    assert not (tmp_path / "x").exists()
    drawn = report([three], str(tmp_path), CONFIG, HERE, scenes=["scene3"]).html.read_text()
    assert "<h3>scene3</h3>" in drawn
    assert "<h3>scene1</h3>" not in drawn


@pytest.mark.slow
def test_a_pure_position_leaker_is_called_one(tmp_path: Path) -> None:
    pattern = np.random.default_rng(3).standard_normal((*GRID, CHANNELS)).astype(np.float32)
    leaky = np.broadcast_to(pattern, (VIEWS, *GRID, CHANNELS)).copy()
    path = store(tmp_path / "leaky", [scene(k, features={"b0": leaky}) for k in (1, 2)])
    written = report([path], str(tmp_path / "out"), CONFIG, HERE)
    assert written.summary.rows[0].mean("above_chance") <= 0.05
    assert "these features tell image position more than place" in written.html.read_text()


@pytest.mark.slow
def test_captions_say_how_many_stores_are_drawn(tmp_path: Path) -> None:
    paths = [store(tmp_path / f"s{k}", [scene(1)]) for k in range(4)]
    page = report(paths, str(tmp_path / "out"), CONFIG, HERE).html.read_text()
    assert page.count("Drawn: 3 of 4 stores, best first.") == 2  # recall, and the scenes
    assert "looks back" not in page


@pytest.mark.slow
def test_names_are_escaped(three: str, tmp_path: Path) -> None:
    page = report([f"<b>x={three}"], str(tmp_path), CONFIG, HERE).html.read_text()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_adjacent_pairs_and_the_scene_minimum_reach_the_report(three: str, tmp_path: Path) -> None:
    config = replace(CONFIG, score=ScoreConfig(pairs="adjacent", anchor="minimum"))
    written = report([three], str(tmp_path), config, HERE)
    arrays = scene(1)
    valid = np.ones((VIEWS, *GRID), dtype=bool)
    expected = consistency(
        arrays["features"]["k300_b20"], arrays["world_xyz"], valid, config=config.score
    )
    found = numbers(written)["three k300_b20 scene1"]
    assert found["consistency_macro"] == pytest.approx(expected.consistency_macro, abs=1e-12)
    assert config.digest in written.html.read_text()


def test_channel_sums_merge_and_take_out() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6))
    whole, part = channel_sums(rows), channel_sums(rows[:20])
    rest: ChannelSums = whole - part
    np.testing.assert_allclose(rest.mean, rows[20:].mean(axis=0))
    np.testing.assert_allclose(rest.std, rows[20:].std(axis=0))
    assert rest.count == 30


@pytest.mark.slow
def test_the_command(three: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_program(
        "vega3d-consistency", "report", three, "--out", str(out), "--bootstrap-samples", "20"
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["scenes"] == 3
    assert math.isfinite(line["above_chance"]["three k300_b20"])
    assert "pass 2 of 2: 2/2 units" in done.stderr
    left = out / "config.toml"
    again = run_program(
        "vega3d-consistency",
        "report",
        three,
        "--out",
        str(out),
        "--config",
        str(left),
        "--voxel-m",
        "0.1",
    )
    assert json.loads(again.stdout.splitlines()[-1]) == line
    assert "bootstrap_samples = 20\n" in left.read_text()
    plan = run_program(
        "vega3d-consistency", "report", three, "--out", str(tmp_path / "no"), "--dry-run"
    )
    assert json.loads(plan.stdout)["views"] == 3 * VIEWS
    assert not (tmp_path / "no").exists()
    wrong = run_program("vega3d-consistency", "report", three, "--out", str(out), "--voxel-m", "-1")
    assert wrong.returncode == 2
    assert "--voxel-m must be a positive number of metres, got -1.0" in wrong.stderr
    missing = run_program("vega3d-consistency", "report", str(tmp_path / "none"), "--out", str(out))
    assert missing.returncode == 2
    assert "no vega3d store" in missing.stderr
