"""Captures as people have them: damaged files, odd text, missing parts; nothing in silence."""

import io
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.features import decode_scene
from vega3d.pipeline.scenes.bad_views import check_bad_views
from vega3d.pipeline.scenes.cameras import is_lost, parse_intrinsics, parse_matrix
from vega3d.pipeline.scenes.decoding import DecodedView, SceneReport, decode_views, turn
from vega3d.pipeline.scenes.depth_images import decode_depth_m
from vega3d.pipeline.scenes.files import read_file
from vega3d.pipeline.scenes.images import decode_rgb
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.pixels import Pixels, digest_of
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import BadView, View, skipped

K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


def depth_png(seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    return encoded(Image.fromarray(rng.integers(500, 6000, (48, 64)).astype(np.uint16)))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels: np.ndarray, extra: bytes = b"", rows: int | None = None) -> bytes:
    """A PNG by hand: 16 bits, grey or RGB; `rows` writes only so many of them."""
    height, width, channels = pixels.shape
    color = {1: 0, 3: 2, 4: 6}[channels]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels[:rows])
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def scannet(folder: Path, num_views: int = 5) -> Path:
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for name in ("color", "depth"):
        np.savetxt(folder / f"intrinsic/intrinsic_{name}.txt", K)
    for i in range(num_views):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"color/{i}.jpg")
        (folder / f"depth/{i}.png").write_bytes(depth_png(i))
        np.savetxt(folder / f"pose/{i}.txt", np.eye(4))
    return folder


def decode(folder: Path, **options: object) -> tuple[list[str], SceneReport]:
    source = read_scenes(str(folder))
    (entry,) = source.entries()
    decoded, report = decode_views(
        source.read(entry.scene_id), num_views=0, sampling="uniform", **options
    )
    return [one.view.view_id for one in decoded], report


# Images that decode and are wrong (row 4)


def test_no_flipped_bit_of_a_depth_png_gives_other_pixels() -> None:
    data = depth_png()
    truth = decode_depth_m(data, "v")
    rng = np.random.default_rng(4)
    refused = 0
    for bit in rng.choice(len(data) * 8, 300, replace=False):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            np.testing.assert_array_equal(decode_depth_m(bytes(damaged), "v"), truth)
        except SceneError:
            refused += 1
    assert refused == 300


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_png_whose_rest_is_zero_is_refused(share: float) -> None:
    for data, read in ((depth_png(), decode_depth_m), (png(np.full((9, 9, 3), 9)), decode_rgb)):
        at = int(len(data) * share)
        with pytest.raises(SceneError, match="damaged PNG|truncated PNG|no readable"):
            read(data[:at] + bytes(len(data) - at), "v")


def test_a_png_that_was_never_finished_is_refused_though_its_checksums_are_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 1))
    np.testing.assert_array_equal(
        decode_depth_m(png(pixels), "v"), (pixels[..., 0] / 1000).astype(np.float32)
    )
    with pytest.raises(SceneError, match="incomplete PNG: its data holds 610 of 1220 bytes"):
        decode_depth_m(png(pixels, rows=10), "v")


def test_interlaced_pngs_are_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 7), dtype=np.uint8)
    rows = []
    for row, col, down, right in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):  # fmt: skip
        rows += [b"\0" + line.tobytes() for line in pixels[row::down, col::right] if line.size]
    header = struct.pack(">IIBBBBB", 7, 13, 8, 0, 0, 0, 1)
    data = zlib.compress(b"".join(rows))
    whole = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(decode_rgb(whole, "v")[..., 0], pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95}])
def test_a_jpeg_without_its_end_is_refused(options: dict) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG", **options)
    decode_rgb(data, "v")
    decode_rgb(data + b"a note after the end", "v")
    for kept in (0.3, 0.7, 0.99):
        at = int(len(data) * kept)
        for rest in (b"", bytes(len(data) - at)):
            with pytest.raises(SceneError, match="v: colour image"):
                decode_rgb(data[:at] + rest, "v")
    with pytest.raises(SceneError, match="its end is missing"):
        decode_rgb(data[:-2], "v")


def test_damage_is_found_when_packing(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    data = bytearray((folder / "depth/2.png").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "depth/2.png").write_bytes(data)
    summary = pack(read_scenes(str(folder)), str(tmp_path / "out"))
    assert summary["views"] == 4
    assert (
        "dropped 1 bad views: 2 (s/view 2: depth image is a damaged PNG"
        in (summary["notes"]["s"][0])
    )


# Numbers in images (part of row 3: 16-bit colour)


def test_sixteen_bit_colour_is_scaled() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 3))
    expected = np.rint(pixels * (255 / 65535))
    np.testing.assert_array_equal(decode_rgb(png(pixels), "v"), expected)
    alpha = np.concatenate([pixels, pixels[..., :1]], axis=2)
    np.testing.assert_array_equal(decode_rgb(png(alpha), "v"), expected)
    np.testing.assert_array_equal(
        decode_rgb(png(pixels[..., :1]), "v"), np.repeat(expected[..., :1], 3, axis=2)
    )


def test_eight_bit_numbers_in_sixteen_bits_are_not_black() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    np.testing.assert_array_equal(decode_rgb(png(pixels), "v"), pixels)
    with pytest.raises(SceneError, match=r"its numbers end at 1020: scale them"):
        decode_rgb(png(pixels * 4), "v")
    dark = decode_rgb(png(pixels * 4, extra=chunk(b"sBIT", b"\x0c\x0c\x0c")), "v")
    assert dark.max() == 4


# Text as people have it (row 16)


@pytest.mark.parametrize(
    "text",
    [
        "1 0 0 0.5\n0 1 0 -2\n0 0 1 3\n0 0 0 1\n",
        "1 0 0 0.5\r\n0 1 0 -2\r\n0 0 1 3\r\n0 0 0 1",
        "1\t0\t0\t0.5\n0\t1\t0\t-2\n0\t0\t1\t3\n0\t0\t0\t1\t\n\n",
        "1,0,0,0.5\n0,1,0,-2\n0,0,1,3\n0,0,0,1\n",
        "1, 0, 0, 0.5,\n0, 1, 0, -2,\n0, 0, 1, 3,\n0, 0, 0, 1\n",
        "1,0 0,0 0,0 0,5\n0,0 1,0 0,0 -2,0\n0 0 1 3,0\n0 0 0 1  ",
        "1;0;0;0,5\n0;1;0;-2\n0;0;1;3\n0;0;0;1",
        "# camera to world\n1 0 0 0.5 0 1 0 -2 0 0 1 3 0 0 0 1",
        "1.0e0 0 0 5e-1 0 1 0 -2 0 0 1 3 0 0 0 1",
    ],
)
def test_a_pose_is_read_however_its_text_looks(tmp_path: Path, text: str) -> None:
    expected = np.array([[1, 0, 0, 0.5], [0, 1, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        folder = tmp_path / encoding
        scannet(folder, 1)
        (folder / "pose/0.txt").write_bytes(text.encode(encoding))
        (view,) = read_scenes(str(folder)).read(encoding).views
        np.testing.assert_array_equal(view.world_from_camera, expected)


def test_intrinsics_may_be_3x3_3x4_or_4x4_with_blanks_or_commas() -> None:
    for rows, cols in ((3, 3), (3, 4), (4, 4)):
        matrix = np.eye(4)
        matrix[:3, :3] = K
        lines = [[str(x) for x in row] for row in matrix[:rows, :cols]]
        for mark in (" ", ",", ", ", "\t", ";"):
            text = "\n".join(mark.join(line) for line in lines)
            np.testing.assert_array_equal(parse_intrinsics(text, "f"), K)
    with pytest.raises(SceneError, match="f: holds 5 numbers, must be 3x3"):
        parse_intrinsics("60,0,32,0,60", "f")


@pytest.mark.parametrize(
    "text",
    [
        "-inf " * 16,
        "nan " * 16,
        "-1.#IND " * 16,
        "1.#QNAN " * 16,
        "-1.#INF00 " * 16,
        "0 " * 16,
        "0 " * 15 + "1",
    ],
)
def test_a_lost_pose_drops_its_view_however_it_is_written(tmp_path: Path, text: str) -> None:
    folder = scannet(tmp_path / "s")
    (folder / "pose/1.txt").write_text(text)
    assert is_lost(parse_matrix(text, 4, 4, "f"))
    kept, report = decode(folder)
    assert kept == ["0", "2", "3", "4"]
    assert (report.lost_poses, report.bad_views, report.dropped_views) == (1, (), 1)
    assert report.lines() == ["dropped 1 views without a pose: tracking was lost"]


# One bad view of many (row 17)


def spoil(folder: Path, what: str, view: int) -> None:
    if what == "jpeg":
        path = folder / f"color/{view}.jpg"
        path.write_bytes(path.read_bytes()[:-300])
    elif what == "empty":
        (folder / f"color/{view}.jpg").write_bytes(b"")
    elif what == "depth":
        (folder / f"depth/{view}.png").unlink()
    elif what == "pose":
        (folder / f"pose/{view}.txt").unlink()
    elif what == "text":
        (folder / f"pose/{view}.txt").write_bytes(b"1 0 0\0")
    elif what == "lfs":
        (folder / f"depth/{view}.png").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        )
    elif what == "link":
        (folder / f"color/{view}.jpg").unlink()
        (folder / f"color/{view}.jpg").symlink_to("../blobs/0123")


SPOILT = {
    "jpeg": "s/view 2: colour image",
    "empty": "s/view 2: colour image of 0 bytes is no readable JPEG or PNG",
    "depth": "s/view 2: the file .*depth/2.png must exist",
    "pose": "s/view 2: the file .*pose/2.txt must exist",
    "text": "must hold 4x4 numbers",
    "lfs": "s/view 2: depth image cannot be read .*Git LFS pointer; fetch the file with git lfs",
    "link": "s/view 2: colour image cannot be read .*is a link to a file that is not there",
}


@pytest.mark.parametrize("what", SPOILT)
def test_one_bad_view_is_dropped_counted_and_named(tmp_path: Path, what: str) -> None:
    folder = scannet(tmp_path / "s")
    spoil(folder, what, 2)
    kept, report = decode(folder)
    assert kept == ["0", "1", "3", "4"]
    assert report.dropped_views == 1
    (line,) = report.lines()
    assert line.startswith("dropped 1 bad views: 2 (")
    with pytest.raises(AssertionError, match=SPOILT[what]):
        raise AssertionError(report.bad_views[0].reason)
    with pytest.raises(SceneError, match=r"it has bad views \(--bad-views fail\), 1 of 5: "):
        decode(folder, policy="fail")


@pytest.mark.parametrize("what", SPOILT)
def test_more_than_half_bad_fails_the_scene(tmp_path: Path, what: str) -> None:
    folder = scannet(tmp_path / "s", 6)
    for view in (0, 2, 5):
        spoil(folder, what, view)
    assert decode(folder)[0] == ["1", "3", "4"]
    spoil(folder, what, 3)
    with pytest.raises(
        SceneError, match=r"s: more than 50% of its views cannot be used, 4 of 6: .*; and 1 more"
    ):
        decode(folder)


@pytest.mark.slow
def test_the_configs_policy_decides_and_the_hash_is_of_the_kept_views(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    spoil(folder, "pose", 2)
    config = ExtractConfig(num_views=0)
    assert "bad_views" not in config.stored()  # the digest is that of older stores
    strict = replace(config, bad_views="fail")
    assert ExtractConfig.from_stored(strict.stored()) == strict
    assert ExtractConfig.from_stored(config.stored()) == config
    source = read_scenes(str(folder))
    decoded = decode_scene(source, "s", config)
    assert decoded.seen.report.dropped_views == 1
    with pytest.raises(SceneError, match="it has bad views"):
        decode_scene(source, "s", strict)
    for part, ending in (("color", "jpg"), ("depth", "png")):
        (folder / f"{part}/2.{ending}").unlink()
    again = decode_scene(source, "s", strict)
    assert again.seen.report.dropped_views == 0
    assert again.seen.content_sha256 == decoded.seen.content_sha256


def test_coverage_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s")
    spoil(folder, "lfs", 2)
    source = read_scenes(str(folder))
    decoded, report = decode_views(source.read("s"), num_views=3, sampling="coverage")
    assert len(decoded) == 3
    assert [view.view_id for view in report.bad_views] == ["2"]


def test_the_share_is_of_the_views_that_were_looked_at() -> None:
    bad = [BadView(str(i), f"reason {i}") for i in range(5)]
    check_bad_views("s", bad, 10)
    with pytest.raises(SceneError, match="5 of 9: reason 0; reason 1; reason 2; and 2 more"):
        check_bad_views("s", bad, 9)


# Parts that are not read (rows 6 and 11)


def posed_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("intrinsic.txt", "depth_intrinsic.txt"):
        np.savetxt(folder / name, K)
    for i in range(3):
        Image.new("RGB", (64, 48), (90 * i, 0, 0)).save(folder / f"{i:05d}.jpg")
        np.savetxt(folder / f"{i:05d}.txt", np.eye(4))
    return folder


@pytest.mark.parametrize("name", ["{}.png", "{}.PNG", "depth/{}.png", "depth/{}.PNG"])
def test_depth_of_posed_images_is_found(tmp_path: Path, name: str) -> None:
    folder = posed_images(tmp_path / "s")
    (folder / "depth").mkdir()
    for i in range(3):
        (folder / name.format(f"{i:05d}")).write_bytes(depth_png(i))
    kept, report = decode(folder)
    assert (kept, report.with_depth, report.with_pose) == (["00000", "00001", "00002"], 3, 3)
    assert report.lines() == []


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("depths/{}.png", r"depths/ looks like depth \(3 files\) and was not read"),
        ("depth/x{}.png", "3 files in depth/ belong to no colour image, x00000.png among them"),
        ("{}_depth.png", "3 files that look like depth, 00000_depth.png among them"),
    ],
)
def test_what_looks_like_depth_and_is_not_read_is_named(
    tmp_path: Path, name: str, note: str
) -> None:
    folder = posed_images(tmp_path / "s")
    (folder / name).parent.mkdir(exist_ok=True)
    for i in range(3):
        (folder / name.format(f"{i:05d}")).write_bytes(depth_png(i))
    _, report = decode(folder)
    assert (report.with_depth, report.with_pose) == (0, 3)
    assert report.lines()[0] == "has no depth: its tokens get no positions"
    with pytest.raises(AssertionError, match=note):
        raise AssertionError(report.lines()[1])


@pytest.mark.parametrize(("name", "what"), [("depth", "depth"), ("pose", "poses")])
def test_a_missing_folder_is_one_line(tmp_path: Path, name: str, what: str) -> None:
    folder = scannet(tmp_path / "s")
    shutil.rmtree(folder / name)
    _, report = decode(folder)
    assert report.lines() == [f"has no {what}: its tokens get no positions"]


def test_every_folder_that_is_not_read_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        scannet(tmp_path / name, 1)
    (tmp_path / "c" / "color").rename(tmp_path / "c" / "rgb")
    (tmp_path / "d").symlink_to(tmp_path / "a")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "back").symlink_to(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "x.mp4").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.md").write_text("hello")
    (tmp_path / "e.zip").write_bytes(b"")
    source = read_scenes(str(tmp_path))
    assert [entry.scene_id for entry in source.entries()] == ["a", "b"]
    named = {Path(one.place).name: one.reason for one in skipped(source)}
    assert named == {
        "c": "is no layout that is known: it has rgb/, and a ScanNet export has color/",
        "d": f"is the same folder as {tmp_path}/a, by a link",
        "back": f"is the same folder as {tmp_path}, by a link",
        "films": "is no layout that is known: it holds videos (1): give that folder by itself",
        "notes": "holds no capture (files: 1, folders: 0)",
        "e.zip": "is a video or an archive beside captures",
    }
    assert skipped(read_scenes("rooms:1")) == ()


# Names and files that are none (row 15)


def test_names_that_are_no_text_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    scannet(tmp_path / "good", 2)
    shutil.copytree(tmp_path / "good", os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))
    scannet(tmp_path / "other", 4)
    os.rename(
        os.fsencode(tmp_path / "other/color/1.jpg"),
        os.fsencode(tmp_path) + b"/other/color/\xe9.jpg",
    )
    source = read_scenes(str(tmp_path))
    assert [entry.scene_id for entry in source.entries()] == ["good", "other"]
    (one,) = skipped(source)
    assert one.place == f"{tmp_path}/b\\xff"
    assert one.reason == "has a name that is no printable Unicode; rename it"
    (bad,) = source.read("other").bad_views
    assert (bad.view_id, bad.reason) == ("\\xe9", "other: an image's name is no UTF-8; rename it")


def test_a_nul_character_is_a_reason(tmp_path: Path) -> None:
    scannet(tmp_path / "s", 1)
    with pytest.raises(SceneError, match="is no path below"):
        read_scenes(str(tmp_path)).read("s\0")
    with pytest.raises(ValueError, match="has no NUL character"):
        read_scenes("s\0")
    with pytest.raises(OSError, match="null byte"):
        read_file("a\0b")


# Upright (EXIF)


def test_turning_a_view_moves_no_point_of_the_world() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 3, (6, 8)).astype(np.float32)
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose[:3, 3] = 1, 2, 3
    K_depth = np.array([[7.0, 0, 3.5], [0, 8, 2.5], [0, 0, 1]])
    view = View(view_id="0", read_rgb=lambda: None, K_color=K, K_depth=K_depth,
                world_from_camera=pose)  # fmt: skip
    rgb = np.zeros((48, 64, 3), np.uint8)
    color = Pixels.of(rgb, lambda: rgb, rgb.nbytes, digest_of(rgb))
    unheld = Pixels.of(depth, lambda: depth, 0, digest_of(depth))
    one = DecodedView(view=view, color=color, depth=unheld, glance=None)

    def points(seen: DecodedView) -> np.ndarray:
        rows, cols = np.indices(seen.depth_m.shape)
        rays = (
            np.stack([cols + 0.5, rows + 0.5, np.ones_like(rows)], axis=-1)
            @ np.linalg.inv(seen.view.K_depth).T
        )
        camera = rays * seen.depth_m[..., None]
        world = seen.view.world_from_camera
        return camera @ world[:3, :3].T + world[:3, 3]

    expected = points(one)
    for turns in range(4):
        turned = turn(one, turns)
        np.testing.assert_allclose(points(turned), np.rot90(expected, -turns), atol=1e-6)
        assert turned.rgb.shape[:2] == ((48, 64) if turns % 2 == 0 else (64, 48))
        assert turned.view.K_color[0, 2] == (32, 24, 32, 24)[turns]


def photo(turned: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turned
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = 250  # the sky, as it is stored
    return encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(("orientation", "sky"), [(1, "top"), (3, "bottom"), (6, "right")])
def test_an_exif_orientation_turns_pixels_depth_and_cameras(
    tmp_path: Path, orientation: int, sky: str
) -> None:
    folder = scannet(tmp_path / "s", 3)
    for i in range(3):
        (folder / f"color/{i}.jpg").write_bytes(photo(orientation))
    packed = tmp_path / "packed"
    pack(read_scenes(str(folder)), str(packed))
    for source in (read_scenes(str(folder)), read_scenes(str(packed))):
        decoded, _ = decode_views(source.read("s"), num_views=0, sampling="uniform")
        rgb = decoded[0].rgb.mean(axis=2)
        half = {"top": rgb[: len(rgb) // 2], "bottom": rgb[len(rgb) // 2 :],
                "right": rgb[:, rgb.shape[1] // 2 :]}[sky]  # fmt: skip
        assert half.mean() > 240
        assert decoded[0].depth_m.shape == rgb.shape
        raw = source.read("s").views[0]
        assert raw.read_rgb().shape == (48, 64, 3)  # pixels and cameras together


def test_orientations_that_differ_in_a_scene_stay_as_they_are_stored(tmp_path: Path) -> None:
    folder = scannet(tmp_path / "s", 3)
    for i, orientation in enumerate((1, 6, 1)):
        (folder / f"color/{i}.jpg").write_bytes(photo(orientation))
    kept, report = decode(folder)
    assert kept == ["0", "1", "2"]
    assert "left as stored" in report.lines()[0]
    (folder / "color/1.jpg").write_bytes(photo(5))
    kept, report = decode(folder)
    assert kept == ["0", "2"]
    assert "EXIF orientation 5 is a mirrored image" in report.lines()[0]


@pytest.mark.parametrize("kind", [("V2000000000", (1, 1)), ("<f4", (2**32, 2**32)), ("|O", (1,))])
def test_an_npy_header_allocates_nothing_that_no_depth_has(kind: tuple[str, tuple]) -> None:
    dtype, shape = kind
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    with pytest.raises(SceneError, match=r"an \.npy file of"):
        decode_depth_m(file.getvalue() + bytes(64), "v")
