"""Probes of stores whose answers are known: planted, shuffled, hidden and labelled."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vega3d.evaluate.config import TapsConfig
from vega3d.evaluate.partials import Partials
from vega3d.evaluate.probes import probe as probing
from vega3d.evaluate.probes.config import ProbeConfig
from vega3d.evaluate.probes.crossfit import principal, split_scenes
from vega3d.evaluate.probes.page import write_probe
from vega3d.evaluate.probes.probe import probe
from vega3d.evaluate.probes.questions import (
    relative_poses,
    rotation_vectors,
    scene_questions,
    surface_normals,
)
from vega3d.evaluate.probes.summary import ProbeRow
from vega3d.pipeline import read_scenes
from vega3d.pipeline.backbones.controls import RgbConfig
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.extract import extract
from vega3d.pipeline.imports import SceneArrays, import_arrays
from vega3d.pipeline.runners import run_inline

GRID, VIEWS, SCENES = (6, 6), 6, 6
CONFIG = ProbeConfig(
    folds=3, mlp_hidden=0, bootstrap_samples=200, strengths=(1e-8, 1e-4), pose_components=40
)


def turned(rng: np.random.Generator, most_rad: float) -> np.ndarray:
    """A rotation about a random axis, by Rodrigues' formula."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = rng.uniform(0.05, most_rad)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def geometry(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """World points of every token on planes of random tilt and depth, and poses."""
    rng = np.random.default_rng(seed)
    h, w = GRID
    v, u = np.meshgrid(
        (np.arange(h) + 0.5) / h - 0.5, (np.arange(w) + 0.5) / w - 0.5, indexing="ij"
    )
    rays = np.stack([u, v, np.ones_like(u)], axis=-1)
    xyz, poses = [], []
    for _ in range(VIEWS):
        tilt = np.array([*rng.uniform(-0.5, 0.5, 2), 1.0])
        camera = rays * (rng.uniform(1, 4) / (rays @ tilt))[..., None]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turned(rng, 1.0), rng.uniform(-1, 1, 3)
        xyz.append(camera @ pose[:3, :3].T + pose[:3, 3])
        poses.append(pose)
    return np.array(xyz), np.array(poses)


def answers(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a perfect encoder would say of every token: [V, h, w, 7], beside world and poses."""
    xyz, poses = geometry(seed)
    camera = np.einsum("vji,vhwj->vhwi", poses[:, :3, :3], xyz - poses[:, None, None, :3, 3])
    middle = np.median(xyz.reshape(-1, 3), axis=0)
    normal = surface_normals(camera)
    normal = np.where(np.isnan(normal), 0, normal)
    told = np.concatenate([np.log(camera[..., 2:]), normal, xyz - middle], axis=-1)
    return told, xyz, poses


def store(path: Path, features: dict[int, np.ndarray], **extra: object) -> str:
    scenes = []
    for seed, values in features.items():
        xyz, poses = geometry(seed)
        scenes.append(
            SceneArrays(
                scene_id=f"s{seed}",
                features={"b1": values.astype(np.float32)},
                world_xyz=xyz.astype(np.float32),
                world_from_camera=poses,
                view_ids=tuple(map(str, range(VIEWS))),
                **extra,
            )
        )
    import_arrays(str(path), scenes, model=path.name, store_dtype="float32")
    return str(path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Features that are a linear map of the answers, and noise in other channels."""
    mix = np.random.default_rng(9).standard_normal((7, 12))
    folder = tmp_path_factory.mktemp("planted")
    noise = np.random.default_rng(10)
    features = {
        seed: np.concatenate(
            [answers(seed)[0] @ mix, noise.standard_normal((VIEWS, *GRID, 4))], axis=-1
        )
        for seed in range(SCENES)
    }
    return store(folder / "planted", features)


def row(rows: tuple[ProbeRow, ...], label: str) -> ProbeRow:
    return next(row for row in rows if row.label == label)


@pytest.mark.slow
def test_what_is_planted_linearly_is_read_whole(planted: str) -> None:
    found = row(probe([planted], CONFIG).rows, "planted")
    for question in ("depth", "normal", "place"):
        assert found.scores["ridge", question].mean == pytest.approx(1, abs=1e-5)
    for question, unit in (("depth", 1e-3), ("normal", 0.2), ("place", 1e-2)):
        assert found.errors["ridge", question].mean < unit


@pytest.mark.slow
def test_shuffled_answers_are_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    features = {}
    for seed in range(12):
        told = answers(seed)[0].reshape(-1, 7)
        features[seed] = rng.permutation(told).reshape(VIEWS, *GRID, 7)
    found = row(probe([store(tmp_path / "shuffled", features)], CONFIG).rows, "shuffled")
    for question in ("depth", "normal", "place"):
        score = found.scores["ridge", question]
        assert score.low <= 0.01
        assert abs(score.mean) < 0.05


def test_features_add_to_position_what_they_know_beyond_it(planted: str) -> None:
    rows = probe([planted], CONFIG).rows
    found, alone = row(rows, "planted"), row(rows, "position in the grid")
    assert row(rows, "nothing").scores["ridge", "depth"].mean <= 0
    gain = found.scores["gain", "depth"]
    both = found.scores["both", "depth"]
    assert gain.mean == pytest.approx(both.mean - alone.scores["ridge", "depth"].mean, abs=1e-9)
    assert gain.low > 0.5


def test_position_alone_reads_what_follows_position(tmp_path: Path) -> None:
    here = np.arange(36).reshape(GRID) % 2
    same = np.broadcast_to(here[None, ..., None], (VIEWS, *GRID, 1)).astype(np.float32)
    labels = store(tmp_path / "labels", dict.fromkeys(range(4), same))
    noise = np.random.default_rng(0)
    features = {seed: noise.standard_normal((VIEWS, *GRID, 5)) for seed in range(4)}
    rows = probe([store(tmp_path / "noise", features)], CONFIG, labels=labels).rows
    assert row(rows, "position in the grid").scores["ridge", "class"].mean == 1
    assert row(rows, "noise").scores["both", "class"].mean == 1
    assert row(rows, "noise").scores["ridge", "class"].mean == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_noise_is_read_as_nothing_by_either_reader(tmp_path: Path) -> None:
    """Few pairs of views and many channels: a fit that were believed would be far below 0."""
    rng = np.random.default_rng(6)
    features = {seed: rng.standard_normal((VIEWS, *GRID, 24)) for seed in range(8)}
    config = ProbeConfig(folds=4, mlp_hidden=32, mlp_steps=40, bootstrap_samples=200)
    rows = probe([store(tmp_path / "random", features)], config).rows
    found, nothing = row(rows, "random"), row(rows, "nothing")
    for question in ("depth", "normal", "place", "turn", "step"):
        floor = nothing.scores["ridge", question].mean
        for reader in ("ridge", "mlp"):
            score = found.scores[reader, question]
            assert score.mean == pytest.approx(floor, abs=0.05), (reader, question)
            assert score.low <= 0.01, (reader, question)


def test_components_that_few_cells_do_not_have_are_not_read() -> None:
    """Ten cells about their mean span nine directions: a tenth is rounding, and grows if scaled."""
    rng = torch.Generator().manual_seed(0)
    known, others = torch.randn(10, 32, generator=rng), torch.randn(6, 32, generator=rng)
    assert principal(known, known, 64).shape == (10, 9)
    spread = principal(known, known, 64).std(dim=0)
    assert float((principal(others, known, 64) / spread).abs().max()) < 10
    assert principal(torch.ones(6, 32), torch.ones(10, 32), 64).shape == (6, 1)  # of a constant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folds", "share"),
    [
        (2, 0.5),  # none is left to choose on: fitted on all of the other fold
        (5, 0.7),  # fitted on three folds of five, the ridge on four
    ],
)
def test_the_mlp_reads_what_is_not_linear(tmp_path: Path, folds: int, share: float) -> None:
    """Depth as an angle that turns nearly once over its range: no linear map reads it whole."""
    features = {}
    for seed in range(10):
        depth = answers(seed)[0][..., 0]
        features[seed] = np.stack([np.sin(3 * depth), np.cos(3 * depth)], axis=-1)
    place = store(tmp_path / "coded", features)
    config = ProbeConfig(folds=folds, mlp_hidden=32, mlp_steps=200, bootstrap_samples=20)
    found = row(probe([place], config).rows, "coded")
    linear, small = (found.scores[reader, "depth"].mean for reader in ("ridge", "mlp"))
    assert 1 - small < share * (1 - linear)


def test_relative_pose_is_read_where_it_is_planted(tmp_path: Path) -> None:
    """Every view's quarters hold its world pose's translation along axes that all views share."""
    scenes, features = [], {}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        xyz, _ = geometry(seed)
        poses = np.tile(np.eye(4), (VIEWS, 1, 1))
        poses[:, :3, 3] = rng.uniform(-1, 1, (VIEWS, 3))
        features[seed] = np.broadcast_to(poses[:, None, None, :3, 3], (VIEWS, *GRID, 3))
        scenes.append(
            SceneArrays(
                scene_id=f"s{seed}",
                features={"b1": features[seed].astype(np.float32)},
                world_xyz=(xyz + 3).astype(np.float32),
                world_from_camera=poses,
                view_ids=tuple(map(str, range(VIEWS))),
            )
        )
    import_arrays(str(tmp_path / "posed"), scenes, model="posed", store_dtype="float32")
    found = row(probe([str(tmp_path / "posed")], CONFIG).rows, "posed")
    assert found.scores["ridge", "step"].mean == pytest.approx(1, abs=1e-4)
    assert found.errors["ridge", "step"].mean < 0.01
    assert found.scores["ridge", "turn"].mean is None  # no view is turned: nothing to read


def test_folds_are_even() -> None:
    fold = split_scenes(10, 3, 0)
    assert sorted(np.bincount(fold).tolist()) == [3, 3, 4]


def test_scenes_are_never_split(tmp_path: Path) -> None:
    """A code of the scene would tell its mean depth to a probe that had seen other views of it."""
    codes = np.eye(SCENES)
    features = {seed: np.tile(codes[seed], (VIEWS, *GRID, 1)) for seed in range(SCENES)}
    found = row(probe([store(tmp_path / "codes", features)], CONFIG).rows, "codes")
    assert found.scores["ridge", "depth"].mean < 0.01


def test_one_scene_cannot_be_split(tmp_path: Path) -> None:
    place = store(tmp_path / "one", {0: answers(0)[0]})
    with pytest.raises(UsageError, match="2 at least"):
        probe([place], CONFIG)


def test_taps_are_chosen_and_a_misspelt_one_is_named(planted: str) -> None:
    assert [r.tap for r in probe([planted], CONFIG, TapsConfig(taps=("b*",))).rows if not r.control]
    with pytest.raises(UsageError, match="--taps k9: no store has such a tap; the taps are b1"):
        probe([planted], CONFIG, TapsConfig(taps=("k9",)))


def test_readings_that_were_kept_are_not_read_again(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Partials(tmp_path / "partials")
    first = probe([planted], CONFIG, kept=kept)
    monkeypatch.setattr(probing, "probe_tap", None)  # whoever calls it fails
    assert probe([planted], CONFIG, kept=kept).rows == first.rows
    with pytest.raises(TypeError, match="not callable"):
        probe([planted], replace(CONFIG, seed=1), kept=kept)


def test_page_and_json_say_the_same(planted: str, tmp_path: Path) -> None:
    summary = probe([planted], CONFIG)
    html, plain = write_probe(tmp_path, summary)
    held = json.loads(plain.read_text())
    text = html.read_text()
    assert "http" not in text.replace("http://www.w3.org", "")
    for found in held["rows"]:
        for estimate in found["scores"]["ridge"].values():
            if estimate["mean"] is not None:
                assert f"{round(estimate['mean'], 3) + 0.0:.3f}" in text


@pytest.mark.parametrize("seed", range(20))
def test_rotation_vectors_give_the_rotation_back(seed: int) -> None:
    rotation = turned(np.random.default_rng(seed), 3.0)
    expected = Rotation.from_matrix(rotation).as_rotvec()
    np.testing.assert_allclose(rotation_vectors(rotation[None])[0], expected, atol=1e-7)


def test_a_pair_says_where_the_second_view_stands() -> None:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[0, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # the first camera's x is the world's y
    poses[1, :3, 3] = [0, 2, 0]
    pairs, turn, step = relative_poses(poses)
    np.testing.assert_array_equal(pairs, [[0, 1], [1, 0]])
    np.testing.assert_allclose(step, [[2, 0, 0], [0, -2, 0]], atol=1e-12)
    np.testing.assert_allclose(turn, [[0, 0, -np.pi / 2], [0, 0, np.pi / 2]], atol=1e-12)


def test_normals_of_a_plane_and_of_an_edge() -> None:
    u, v = np.meshgrid(np.linspace(-0.5, 0.5, 6), np.linspace(-0.5, 0.5, 6))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1)
    tilt = np.array([0.3, -0.2, 1.0])
    plane = rays * (2 / (rays @ tilt))[..., None]
    normal = surface_normals(plane[None])[0]
    np.testing.assert_allclose(normal[1:-1, 1:-1] @ tilt / np.linalg.norm(tilt), -1, atol=1e-9)
    assert np.isnan(normal[0]).all()
    step = plane.copy()
    step[:, 3:] *= 2  # a wall behind the plane
    assert np.isnan(surface_normals(step[None])[0, 1:-1, 2:4]).all()


def test_tokens_are_drawn_among_those_with_a_position() -> None:
    xyz, poses = geometry(1)
    deep = np.zeros((VIEWS, *GRID), dtype=bool)
    deep[2, 1, 3:] = True
    asked = scene_questions(xyz, deep, poses, None, 2, np.random.default_rng(0))
    assert len(asked.picked) == 2
    assert set(asked.picked) <= set(np.flatnonzero(deep))


def test_labels_of_other_rooms_are_refused(tmp_path: Path) -> None:
    rooms = "rooms:2?views=2&height=48&width=64"
    config = ExtractConfig(backbone=RgbConfig(resolution=(48, 64)), num_views=2, grid=(4, 4))
    out = str(tmp_path / "store")
    extract(read_scenes(rooms), out, config, numerics=Numerics(threads=1), run=run_inline)
    assert probe([out], CONFIG, labels=rooms).rows
    for other, told in ((f"{rooms}&seed=1", "poses"), ("rooms:2?views=2", "field of view")):
        with pytest.raises(UsageError, match=f"room0000 has other {told} than in"):
            probe([out], CONFIG, labels=other)
