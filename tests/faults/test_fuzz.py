"""Readers and the store fed with anything: an error of ours or a result, soon, in little memory.

Each example starts from bytes that are right and changes them, or is made of nothing at all.
"""

import io
import json
import os
import tarfile
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_unit import TAPS, make_worker

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import SceneError, StoreError, UsageError
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.cameras import parse_matrix
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.files import read_text
from vega3d.pipeline.scenes.images import decode_rgb
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.verify import verify

EXAMPLES = int(os.environ.get("VEGA3D_FUZZ", "30"))
"""Of each test; `VEGA3D_FUZZ=1000 pytest tests/faults/test_fuzz.py` looks longer."""

HELD_BYTES = 96 << 20
"""What Python may hold at most while one example is read."""

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=10_000,  # ms: no hang
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OURS = (SceneError, StoreError, UsageError)


def image(form: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) + 500).save(out, form)
    else:
        Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return strategies of bytes near some that are right, and of any bytes behind their start."""
    places = st.integers(0, max(0, len(whole) - 1))

    def change(edits: list[tuple[int, bytes]], cut: int) -> bytes:
        data = bytearray(whole)
        for at, new in edits:
            data[at : at + len(new)] = new
        return bytes(data[:cut])

    edits = st.lists(st.tuples(places, st.binary(min_size=1, max_size=8)), max_size=4)
    near = st.builds(change, edits, st.one_of(st.just(len(whole) + 64), places))
    return st.one_of(near, st.binary(max_size=256), st.binary(max_size=64).map(whole[:8].__add__))


def bounded(work: Callable[[], object]) -> None:
    """Do it: one of our errors or none, and no more memory than is stated."""
    tracemalloc.start()
    try:
        with suppress(*OURS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's, of odd tags
            work()
        assert tracemalloc.get_traced_memory()[1] < HELD_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_images(form: str) -> None:
    @FUZZ
    @given(changed(image(form)))
    def fuzz(data: bytes) -> None:
        bounded(lambda: decode_rgb(data, "v"))

    fuzz()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["PNG", "TIFF", "npy"])
def test_depth_images(form: str) -> None:
    whole = io.BytesIO()
    np.save(whole, np.ones((12, 16), np.float32))
    right = whole.getvalue() if form == "npy" else image(form, "I;16")

    @FUZZ
    @given(changed(right))
    def fuzz(data: bytes) -> None:
        bounded(lambda: decode_depth_m(data, "v"))

    fuzz()


@pytest.mark.slow
def test_pose_texts(tmp_path: Path) -> None:
    path = tmp_path / "pose.txt"
    numbers = st.one_of(st.floats().map(str), st.integers().map(str), st.text(max_size=6))
    texts = st.lists(numbers, max_size=20).map(" ".join).map(str.encode)

    @FUZZ
    @given(st.one_of(texts, changed(b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")))
    def fuzz(data: bytes) -> None:
        path.write_bytes(data)
        bounded(lambda: parse_matrix(read_text(str(path)), 4, 4, "v"))

    fuzz()


def tar() -> bytes:
    out = io.BytesIO()
    K = [[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]
    cameras = json.dumps({"K_color": K, "views": [{"view_id": "0", "world_from_camera": None}]})
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in (("s.0.color.jpg", image("JPEG")), ("s.cameras.json", cameras.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.slow
def test_tars(tmp_path: Path) -> None:
    path = tmp_path / "scenes-00000.tar"

    def read() -> None:
        try:
            source = read_scenes(str(path))
        except ValueError as error:
            if str(path) not in str(error):  # ours name the file
                raise
            return
        for entry in source.entries():
            for view in source.read(entry.scene_id).views:
                view.read_rgb()

    @FUZZ
    @given(changed(tar()))
    def fuzz(data: bytes) -> None:
        path.write_bytes(data)
        bounded(read)

    fuzz()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("fuzz") / "s"
    plan, worker = make_worker(str(url), 2)
    list(run_inline(worker, plan.units))
    merge_commits(worker.store)
    return url


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    ["zarr.json", "unit/rows.json", "unit/commits/000000.0.json", "unit/index.jsonl",
     f"{TAPS[0]}/zarr.json", f"{TAPS[0]}/c.0.0.0.0.0"],
)  # fmt: skip
def test_objects_of_a_store(store: Path, key: str) -> None:
    whole = (store / key).read_bytes()

    def read() -> None:
        opened = open_store(str(store))
        for scene_id in opened.scene_ids:
            opened.features(scene_id, TAPS[0])

    @FUZZ
    @given(changed(whole))
    def fuzz(data: bytes) -> None:
        (store / key).write_bytes(data)
        bounded(read)
        found = verify(str(store)).faults
        assert (key in found) == (data != whole)

    try:
        fuzz()
    finally:
        (store / key).write_bytes(whole)
