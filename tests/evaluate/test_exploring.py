"""The page to explore: its cosines are those of the features, and its shares those of a loop."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered import numbered

from vega3d.evaluate.cells import Tokens, gather_tokens
from vega3d.evaluate.config import ExploreConfig, TapsConfig
from vega3d.evaluate.exploring import explore
from vega3d.evaluate.nearest import Found, coded, found, random_mean
from vega3d.pipeline import open_store
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.imports import import_arrays

VIEWS, GRID, CHANNELS = 4, (4, 5), 24
RNG = np.random.default_rng(0)


def tokens_of(views: int = 3, channels: int = 6, *, hidden: bool = False) -> Tokens:
    features = RNG.standard_normal((views, *GRID, channels)).astype(np.float32) + 0.5
    xyz = RNG.uniform(-0.3, 0.3, (views, *GRID, 3)).astype(np.float32)
    valid = np.ones((views, *GRID), bool)
    if hidden:
        valid[1] = False
        valid[0, 0] = False
    return gather_tokens(features, xyz, valid)


def write_store(path: Path, names: str = "ab", grid: tuple[int, int] = GRID, **more: object) -> str:
    scenes = []
    for name in names:
        xyz = RNG.uniform(-0.4, 0.4, (VIEWS, *grid, 3)).astype(np.float32)
        features = RNG.standard_normal((VIEWS, *grid, CHANNELS)).astype(np.float32)
        preview = RNG.integers(0, 255, (VIEWS, 8 * grid[0], 8 * grid[1], 3), dtype=np.uint8)
        arrays = {
            "scene_id": name,
            "features": {"b1": features, "b2": 2 + features[..., ::-1].copy()},
            "world_xyz": xyz,
            "world_from_camera": np.tile(np.eye(4), (VIEWS, 1, 1)),
            "preview": preview,
            "image_size": np.tile([240, 320], (VIEWS, 1)),
        }
        scenes.append(numbered(**{**arrays, **more}))
    import_arrays(str(path), scenes, model=path.name, store_dtype="float32")
    return str(path)


def data_of(html: Path) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html.read_text())
    assert text
    return json.loads(text[1])


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.mark.parametrize(("count", "channels"), [(30, 12), (12, 30)])
def test_codes_multiply_to_cosines(count: int, channels: int) -> None:
    unit = RNG.standard_normal((count, channels)) + 1.0
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    whole = coded(unit, 64)
    cosines = (whole.codes.astype(float) @ whole.codes.T.astype(float)) * whole.step**2
    np.testing.assert_allclose(cosines, unit @ unit.T, atol=2e-4)
    assert whole.error == pytest.approx(np.abs(cosines - unit @ unit.T).max(), rel=1e-6)
    fewer = coded(unit, 3)
    assert fewer.codes.shape == (count, 3)
    assert whole.error < 2e-4 < fewer.error


@pytest.mark.parametrize("hidden", [False, True])
def test_shares_are_those_of_a_loop(hidden: bool) -> None:
    tokens = tokens_of(hidden=hidden)
    unit, asked, right, place, chance, cosines = tokens.unit, 0, 0, 0, 0.0, []
    for n in range(len(unit)):
        for view in range(tokens.num_views):
            others = np.flatnonzero(tokens.view == view)
            if view == tokens.view[n] or not len(others):
                continue
            cosines += [float(unit[n] @ unit[m]) for m in others]
            near = [np.linalg.norm(tokens.xyz[n] - tokens.xyz[m]) <= 0.15 for m in others]
            if any(near):
                asked += 1
                right += near[int(np.argmax([unit[n] @ unit[m] for m in others]))]
                chance += np.mean(near)
                place += any(
                    close and tokens.position[m] == tokens.position[n]
                    for close, m in zip(near, others, strict=True)
                )
    told = found({"unit": unit}, tokens, 0.15)
    assert told.asked == asked > 10
    shares = (told.right["unit"], told.chance, told.same_place)
    assert shares == pytest.approx((right / asked, chance / asked, place / asked))
    assert random_mean(unit, tokens) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found({"unit": unit}, tokens, 1e-9) == Found(
        asked=0, right={"unit": None}, chance=None, same_place=None
    )


def test_the_page_holds_what_the_stores_do(tmp_path: Path) -> None:
    stores = [write_store(tmp_path / "one"), write_store(tmp_path / "two", grid=(3, 4))]
    config = ExploreConfig(views_shown=3, dims=64)
    done = explore(stores, tmp_path / "out", config, TapsConfig(taps=("b1",)))
    assert [one["scene"] for one in done.scenes] == ["a", "b"]
    page = done.html.read_text()
    assert "token grids differ" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)  # nothing is fetched
    data = data_of(done.html)
    scene, _ = data["scenes"]
    assert scene["views"] == ["0", "1", "2"]
    assert len(scene["pictures"]) == 3
    assert [(row["label"], row["tap"]) for row in scene["rows"]] == [("one", "b1"), ("two", "b1")]
    for row, store in zip(scene["rows"], map(open_store, stores), strict=True):
        unit = store.features("a", "b1")[:3].reshape(-1, CHANNELS).astype(float)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        told = row["treatments"]["raw"]
        codes = array(told["codes"], "<i2").reshape(len(unit), -1).astype(float)
        np.testing.assert_allclose(codes @ codes.T * told["step"] ** 2, unit @ unit.T, atol=1e-3)
        np.testing.assert_array_equal(array(row["at"], "<i4"), np.arange(len(unit)))
        np.testing.assert_array_equal(
            array(row["xyz"], "<f4").reshape(-1, 3), store.world_xyz("a")[:3].reshape(-1, 3)
        )
        assert row["centred_on"] == "other scenes"
    assert json.loads((tmp_path / "out" / "explore.json").read_text()) == list(done.scenes)


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    blind = np.full((VIEWS, *GRID, 3), np.nan, np.float32)
    store = write_store(tmp_path / "s")
    dark = write_store(tmp_path / "dark", world_xyz=blind)
    with pytest.raises(UsageError, match="--scene c: no store holds it; the stores share a, b"):
        explore([store], tmp_path / "out", scenes=["c"])
    with pytest.raises(
        UsageError,
        match="no scene can be shown: a: no token of dark has a position: it has no depth",
    ):
        explore([dark], tmp_path / "out")
    lone = explore([store], tmp_path / "out", scenes=["b"])
    (row, _) = lone.scenes[0]["rows"]
    assert row["centred_on"] == "this scene"
    few = explore([store], tmp_path / "out", ExploreConfig(reach_m=0.02))
    assert any("questions have an answer within 0.02 m" in note for note in few.notes)
    coarse = explore([store], tmp_path / "out", ExploreConfig(dims=1))
    assert any("b1: 1 components" in note and "--dims" in note for note in coarse.notes)
    assert not any("components" in note for note in few.notes)
    other = write_store(tmp_path / "other", "bc")
    both = explore([store, other], tmp_path / "out", scenes=["b", "b"])
    assert [one["scene"] for one in both.scenes] == ["b"]
    assert set(both.left_out) == {"a", "c"}
    for wrong in ({"views_shown": 1}, {"reach_m": 0.0}, {"dims": 0}):
        with pytest.raises(ValueError, match="must be"):
            ExploreConfig(**wrong)


def test_the_script_computes_the_same(tmp_path: Path) -> None:
    """In an engine without a browser: pictures are not drawn, numbers are."""
    quickjs = pytest.importorskip("quickjs")
    done = explore([write_store(tmp_path / "s")], tmp_path / "out", ExploreConfig(views_shown=2))
    script = re.findall(r"<script>(.*?)</script>", done.html.read_text(), re.DOTALL)[-1]
    text = json.dumps(data_of(done.html))
    here = quickjs.Context()
    here.eval(_BROWSER % json.dumps(text))
    here.eval(script.replace("show(0);", "scene = data.scenes[0]; scene.rows.forEach(unpack);"))
    store = open_store(str(tmp_path / "s"))
    unit = store.features("a", "b2")[1:3].reshape(-1, CHANNELS).astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def ask(code: str) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(here.eval(f"JSON.stringify({code})"))

    token = ask("tokenAt(scene.rows[1], 1, 0.5, 0.3)")
    assert token == GRID[0] * GRID[1] + 1 * GRID[1] + 2
    like = np.array(ask(f"Array.from(cosines(scene.rows[1], {token}, 'raw'))"))
    np.testing.assert_allclose(like, unit @ unit[token], atol=1e-3)
    xyz = store.world_xyz("a")[1:3].reshape(-1, 3)
    same = ask(f"[...Array({len(unit)}).keys()].map((n) => isSame(scene.rows[1], {token}, n))")
    assert same == (np.linalg.norm(xyz - xyz[token], axis=1) <= 0.2).tolist()
    asked = ask("mostSeen(scene.rows[1])")
    assert asked["view"] == 1
    assert ask("[percent(null), percent(0.034), percent(0.5)]") == ["\N{EN DASH}", "3.4 %", "50 %"]
    assert ask("color(scene.rows[1], 'raw', 1)") == "rgb(253,231,37)"  # viridis ends so


def test_a_folder_that_is_there_is_written_again(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s")
    first = explore([store], tmp_path / "out").html.read_bytes()
    shutil.rmtree(tmp_path / "out")
    assert explore([store], tmp_path / "out").html.read_bytes() == first


_BROWSER = """
const kept = %s;
const nothing = () => {};
const element = { textContent: kept, style: {}, addEventListener: nothing };
var document = { getElementById: () => element, querySelectorAll: () => [] };
var devicePixelRatio = 1;
var atob = (text) => {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  let out = "", bits = 0, count = 0;
  for (const letter of text) {
    if (letter === "=") break;
    bits = (bits << 6) | letters.indexOf(letter);
    count += 6;
    if (count >= 8) { count -= 8; out += String.fromCharCode((bits >> count) & 255); }
  }
  return out;
};
"""
