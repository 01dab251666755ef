"""Small files that unpack to much: refused within a stated memory, whatever their headers say."""

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import lzfse
import numpy as np
import pyarrow
import pytest
from layout_writers import WRITERS, jpeg
from planes import PlaneScene
from pyarrow import parquet

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.lzfse_blocks import sizes_bytes
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene

HELD_BYTES = 64 << 20
"""What reading a bomb may add to this process; each unpacks to twice that or more."""

ZEROS = bytes(128 << 20)


def added_bytes(work: Callable[[], object]) -> int:
    """Return what work added to the peak of this process; Linux counts KiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def refused(data: bytes, told: str) -> Callable[[], None]:
    def work() -> None:
        with pytest.raises(SceneError, match=told):
            decode_depth_m(data, "v")

    return work


def huge_tiff() -> bytes:
    """Claim 20,000 x 20,000 pixels of 16 bits in one strip."""
    packed = zlib.compress(bytes(1 << 20))
    tags = [(256, 4, 20_000), (257, 4, 20_000), (258, 3, 16), (259, 3, 8), (262, 3, 1),
            (273, 4, 8), (277, 3, 1), (278, 4, 20_000), (279, 4, len(packed))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    at = 8 + len(packed)
    return (
        struct.pack("<2sHI", b"II", 42, at) + packed + struct.pack("<H", len(tags)) + entries
        + bytes(4)
    )  # fmt: skip


def huge_exr(tmp_path: Path) -> bytes:
    import OpenEXR

    path = tmp_path / "z.exr"
    OpenEXR.File({}, {"Z": np.zeros((50, 60), np.float32)}).write(str(path))
    box = struct.pack("<4i", 0, 0, 59, 49)
    return path.read_bytes().replace(box, struct.pack("<4i", 0, 0, 59_999, 59_999))


def test_depth_images_that_unpack_to_much(tmp_path: Path) -> None:
    exr, tiff = huge_exr(tmp_path), huge_tiff()
    assert max(len(exr), len(tiff)) < 2 << 20
    assert added_bytes(refused(exr, "60000x60000 pixels in 1 channels is over")) < HELD_BYTES
    assert added_bytes(refused(tiff, "over the limit")) < HELD_BYTES
    claims = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        claims, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    assert added_bytes(refused(claims.getvalue(), "damaged")) < HELD_BYTES


def written(layout: str, root: Path) -> Path:
    return Path(WRITERS[layout](root, PlaneScene()).location)


def first_scene(location: Path) -> Scene:
    source = read_scenes(str(location))
    return source.read(source.entries()[0].scene_id)


def depth_of_view_0(location: Path) -> Callable[[], None]:
    def work() -> None:
        with pytest.raises(SceneError, match="depth has .* bytes, must have"):
            first_scene(location).views[0].read_depth_m()

    return work


def test_depth_of_a_sens_file_that_unpacks_to_much(tmp_path: Path) -> None:
    location = written("scannet_sens", tmp_path)
    (path,) = location.rglob("*.sens")
    head = path.read_bytes()[: 12 + 15 + 4 * 64 + 28]
    color, depth = jpeg(PlaneScene().rgb(0)), zlib.compress(ZEROS, 1)
    frame = np.eye(4, dtype="<f4").tobytes() + struct.pack("<4Q", 0, 0, len(color), len(depth))
    path.write_bytes(head + struct.pack("<Q", 1) + frame + color + depth)
    del depth
    assert added_bytes(depth_of_view_0(location)) < HELD_BYTES


def test_depth_of_an_r3d_file_that_unpacks_to_much(tmp_path: Path) -> None:
    one = lzfse.compress(bytes(1 << 20))
    bomb = one[:-4] * 200 + b"bvx$"
    assert sizes_bytes(bomb)[0] == 200 << 20
    written("record3d", tmp_path)
    (path,) = tmp_path.glob("*.r3d")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, bomb if name == "rgbd/0.depth" else data)
    assert added_bytes(depth_of_view_0(tmp_path)) < HELD_BYTES


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_sizes_of_lzfse_blocks_are_what_the_library_unpacks(size: int) -> None:
    rng = np.random.default_rng(size)
    for data in (bytes(size), rng.bytes(size), np.cumsum(rng.integers(0, 2, size)).tobytes()):
        packed = lzfse.compress(data)
        stated, most = sizes_bytes(packed)
        assert stated == len(lzfse.decompress(packed)) <= most
        with pytest.raises(ValueError, match="LZFSE"):
            sizes_bytes(packed[: len(packed) - 5])


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\nset\n(cbuiltins\nrange\n(L10000000000L\ntRtR.",  # would run for ever
        b"cbuiltins\nbytearray\n(L10000000000L\ntR.",
        b"cnumpy\nndarray\n((L10000000000L\ntS'f8'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L10000000000L\ntS'b'\ntR.",
        b"ccodecs\nencode\n(S'a'\nS'bz2'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'bz2'\ntR.",
    ],
)
def test_pickles_that_make_much_of_few_bytes(tmp_path: Path, code: bytes) -> None:
    path = tmp_path / "embodiedscan_infos_val.pkl"
    path.write_bytes(code)

    def work() -> None:
        with pytest.raises(SceneError, match="is no EmbodiedScan info file"):
            first_scene(path)

    assert added_bytes(work) < HELD_BYTES


def test_arrays_and_scalars_of_every_protocol_still_come_through(tmp_path: Path) -> None:
    path = tmp_path / "embodiedscan_infos_val.pkl"
    for protocol in range(2, 6):
        scene = {"sample_idx": "a", "images": [], "axis_align_matrix": np.eye(4) * np.float64(2)}
        plain = {
            "data_list": [scene],
            "extra": [np.float32(3), np.array(["x", None], object), b"\xff"],
        }
        path.write_bytes(pickle.dumps(plain, protocol=protocol))
        os.utime(path, ns=(protocol, protocol))
        assert [entry.scene_id for entry in read_scenes(str(path)).entries()] == ["a"]


def test_a_table_of_episodes_that_unpacks_to_much(tmp_path: Path) -> None:
    location = written("lerobot", tmp_path) if "lerobot" in WRITERS else tmp_path / "d"
    (location / "meta/episodes").mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"episode_index": pyarrow.array(np.zeros(11_000_000, np.int64))})
    path = location / "meta/episodes/bomb.parquet"
    parquet.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    (location / "meta/info.json").write_text(
        '{"codebase_version": "v3.0", "fps": 1, "video_path": "v", "features":'
        ' {"c": {"dtype": "video", "shape": [1, 1, 3]}}}'
    )
    with pytest.raises(SceneError, match="11000000 rows and .* over the limit"):
        first_scene(location)


def test_a_file_of_parts_larger_than_memory_is_not_begun(tmp_path: Path) -> None:
    """A sparse file of a terabyte in place of a store's root and of a checkpoint's config."""
    code = (
        "import sys; from vega3d.pipeline import open_store\n"
        "from vega3d.pipeline.errors import StoreError\n"
        "try:\n    open_store(sys.argv[1])\n"
        "except StoreError as error:\n    print('REFUSED', error)\n"
    )
    store = tmp_path / "s"
    store.mkdir()
    (store / "zarr.json").touch()
    os.truncate(store / "zarr.json", 1 << 40)
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], capture_output=True, text=True, timeout=60
    )
    assert "REFUSED" in done.stdout, done.stderr[-1000:]
