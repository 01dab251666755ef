"""Videos: frames against a plain decoding loop, and files that are none."""

import pickle
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene


def write_video(
    path: Path, num_frames: int = 12, codec: str = "mpeg4", size: tuple[int, int] = (64, 48)
) -> Path:
    """Frames whose brightness says their number; the upper left quarter is white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 10 + index * 15, dtype=np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def read_one(location: Path) -> Scene:
    source = read_scenes(str(location))
    (entry,) = source.entries()
    scene = source.read(entry.scene_id)
    assert entry.num_views == len(scene.views)
    return scene


def numbers(scene: Scene, indices: list[int]) -> list[int]:
    grey = [scene.views[i].read_rgb()[-8:, -8:].mean() for i in indices]
    return [round((value - 10) / 15) for value in grey]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov", "a.webm"])
def test_frames_come_in_order_and_in_any_order(tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name.endswith("webm") else "mpeg4"
    scene = read_one(write_video(tmp_path / name, codec=codec))
    assert scene.scene_id == "a"
    assert [v.view_id for v in scene.views][:2] == ["000000", "000001"]
    assert len(scene.views) == 12
    assert numbers(scene, list(range(12))) == list(range(12))
    assert numbers(scene, [7, 3, 3, 11, 0]) == [7, 3, 3, 11, 0]
    view = scene.views[0]
    assert view.read_depth_m is None
    assert view.world_from_camera is None
    assert view.read_rgb().shape == (48, 64, 3)


def test_a_folder_of_videos_has_ids_from_paths(tmp_path: Path) -> None:
    (tmp_path / "robot.v1").mkdir()
    for name in ("10.mp4", "9.mp4", "robot.v1/episode.0.MP4"):
        write_video(tmp_path / name, 3)
    source = pickle.loads(pickle.dumps(read_scenes(str(tmp_path))))
    assert [e.scene_id for e in source.entries()] == ["9", "10", "robot.v1/episode.0"]
    assert [e.num_views for e in source.entries()] == [3, 3, 3]
    assert source.entries()[0].size_bytes == (tmp_path / "9.mp4").stat().st_size
    assert numbers(source.read("robot.v1/episode.0"), [2]) == [2]
    with pytest.raises(SceneError, match="nine: there is no such video"):
        source.read("nine")


def test_sequential_reading_opens_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = read_one(write_video(tmp_path / "a.mp4"))
    opened, real = [], av.open
    monkeypatch.setattr(av, "open", lambda path: (opened.append(path), real(path))[1])
    assert numbers(scene, [1, 4, 9]) == [1, 4, 9]
    assert len(opened) == 1
    assert numbers(scene, [2]) == [2]
    assert len(opened) == 2


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 2)
    write_video(tmp_path / "a.mkv", 2)
    with pytest.raises(
        ValueError, match=r"scene id 'a' occurs twice: .*/a.mkv and .*/a.mp4; rename one"
    ):
        read_scenes(str(tmp_path)).entries()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_display_matrix_of_a_phone_is_applied(tmp_path: Path, turns: int) -> None:
    path = write_video(tmp_path / "phone.mp4", 2)
    data = bytearray(path.read_bytes())
    # The matrix lies 40 bytes after the track header's version; 16.16 fixed point, row by row.
    at = data.index(b"tkhd") + 4 + 40
    a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]  # clockwise turns by 90 degrees
    for offset, value in ((0, a), (4, b), (12, -b), (16, a)):
        data[at + offset : at + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    rgb = read_one(path).views[0].read_rgb()
    corners = [rgb[4, 4], rgb[4, -4], rgb[-4, -4], rgb[-4, 4]]  # clockwise from the upper left
    assert rgb.shape == ((48, 64, 3) if turns % 2 == 0 else (64, 48, 3))
    assert [corner.mean() > 200 for corner in corners].index(True) == turns


# Files that are no videos


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_files_without_frames_are_listed_and_fail_when_read(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", 2)
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 40)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:400])
    headed = write_video(tmp_path / "none.avi", 2)
    data = bytearray(headed.read_bytes())
    length = data.index(b"strh") + 8 + 32  # the stream header's count of frames
    data[length : length + 4] = bytes(4)
    headed.write_bytes(data[: data.index(b"movi") + 4])
    source = read_scenes(str(tmp_path))
    listed = {entry.scene_id: entry.num_views for entry in source.entries()}
    assert listed == {"cut": 0, "empty": 0, "good": 2, "none": 0, "sound": 0, "text": 0}
    for name, message in {
        "sound": "sound: .* has no video stream; it may be audio only",
        "empty": "empty: .* is no readable video",
        "text": "text: .* is no readable video",
        "cut": "cut: .* (is no readable video|has no video stream)",
        "none": "none: .* has no frames",
    }.items():
        with pytest.raises(SceneError, match=message):
            source.read(name)
    assert len(source.read("good").views) == 2


def test_a_wave_file_named_as_video_has_no_video_stream(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.mkv"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0" * 1600)
    with pytest.raises(SceneError, match="audio only"):
        read_scenes(str(tmp_path / "a.mkv")).read("a")


def test_a_container_that_promises_more_frames_than_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 12)
    data = path.read_bytes()
    start, end = data.index(b"movi"), data.index(b"idx1")
    path.write_bytes(data[: start + (end - start) * 2 // 3])
    source = read_scenes(str(path))
    scene = source.read("a")
    assert len(scene.views) == 12
    with pytest.raises(SceneError, match=r"a/view 11: .* ends after \d+ of 12 frames"):
        scene.views[11].read_rgb()
    scene.views[0].read_rgb()  # and the rest can still be had


@pytest.mark.slow
def test_the_real_walk_equals_a_plain_decoding_loop(data: Path) -> None:
    path = data / "video" / "icsl_corridor_walk.mp4"
    scene = read_one(path)
    assert len(scene.views) == 220
    wanted = [0, 57, 219]
    with av.open(str(path)) as container:
        plain = [
            f.to_ndarray(format="rgb24")
            for i, f in enumerate(container.decode(video=0))
            if i in wanted
        ]
    for index, expected in zip(wanted, plain, strict=True):
        np.testing.assert_array_equal(scene.views[index].read_rgb(), expected)
