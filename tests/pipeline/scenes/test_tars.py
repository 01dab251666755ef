"""Packing and reading WebDataset tars: the same pixels, locally, over http and from s3."""

import functools
import http.server
import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes import packing
from vega3d.pipeline.scenes.packing import pack
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View
from vega3d.pipeline.scenes.tar_members import decode_id, encode_id

K = np.array([[61.25, 0, 32.1], [0, 60.5, 24.3], [0, 0, 1]])
ODD_IDS = ["scene0000_00", "home/K\u00fcche.v2", "_A", "\u5bdd\u5ba4 1"]


@dataclass(frozen=True)
class Made:
    """A source in memory with ids, poses and depths that are hard on a format."""

    ids: tuple[str, ...] = tuple(ODD_IDS)

    def entries(self) -> list[SceneEntry]:
        return [SceneEntry(scene_id=i, num_views=3, size_bytes=1) for i in self.ids]

    def read(self, scene_id: str) -> Scene:
        if scene_id == "broken":
            raise SceneError("broken: on purpose")
        seed = self.ids.index(scene_id)
        return Scene(
            scene_id,
            tuple(made_view(name, seed * 10 + i) for i, name in enumerate(["v.1", "A", "10"])),
        )


def made_view(name: str, seed: int) -> View:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    depth_mm = rng.integers(0, 65536, (24, 32))
    pose = np.eye(4)
    pose[:3, 3] = rng.normal(size=3) * 1e3
    if name == "10":
        pose[:] = -np.inf
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, "JPEG")
    jpeg = encoded.getvalue()
    decoded = np.array(Image.open(io.BytesIO(jpeg)))
    is_file = name != "A"
    return View(
        view_id=name,
        read_rgb=lambda: decoded if is_file else rgb,
        read_depth_m=lambda: (depth_mm / 1000).astype(np.float32),
        K_color=K,
        K_depth=K * np.array([[0.5], [0.5], [1]]),
        world_from_camera=pose,
        read_color_bytes=(lambda: jpeg) if is_file else None,
    )


def assert_same(one: Scene, other: Scene) -> None:
    assert one.scene_id == other.scene_id
    assert [v.view_id for v in one.views] == [v.view_id for v in other.views]
    for a, b in zip(one.views, other.views, strict=True):
        np.testing.assert_array_equal(a.read_rgb(), b.read_rgb())
        assert (a.read_depth_m is None) == (b.read_depth_m is None)
        if a.read_depth_m is not None and b.read_depth_m is not None:
            np.testing.assert_allclose(a.read_depth_m(), b.read_depth_m(), atol=5.1e-4)
        for name in ("K_color", "K_depth", "world_from_camera"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))  # exact, inf too


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pack(Made(), str(tmp_path / "shards"), scenes_per_tar=2)
    return tmp_path / "shards"


# Packing and reading back


def test_packing_then_reading_gives_the_same(shards: Path) -> None:
    source = pickle.loads(pickle.dumps(read_scenes(str(shards))))
    entries = source.entries()
    assert [e.scene_id for e in entries] == ODD_IDS
    assert [e.num_views for e in entries] == [3] * 4
    assert [Path(e.group).name for e in entries] == ["scenes-00000.tar"] * 2 + [
        "scenes-00001.tar"
    ] * 2
    for scene_id in ODD_IDS:
        assert_same(Made().read(scene_id), source.read(scene_id))
    depth_mm = np.rint(Made().read("_A").views[0].read_depth_m() * 1000)
    np.testing.assert_array_equal(
        np.rint(source.read("_A").views[0].read_depth_m() * 1000), depth_mm
    )


def test_the_bytes_of_image_files_pass_through(shards: Path) -> None:
    view = read_scenes(str(shards)).read("_A").views[0]
    assert view.read_color_bytes() == Made().read("_A").views[0].read_color_bytes()


def test_the_same_scenes_give_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    summary = pack(Made(), str(tmp_path / "again"), scenes_per_tar=2)
    assert sorted(p.name for p in shards.iterdir()) == [
        "index.json",
        "scenes-00000.tar",
        "scenes-00001.tar",
    ]
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    sizes = sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert summary == {
        "out": str(tmp_path / "again"), "tars": 2, "scenes": 4, "views": 12,
        "size_bytes": sizes, "failed": [],
        "notes": {},
    }  # fmt: skip


def test_rooms_survive_packing(tmp_path: Path) -> None:
    rooms = read_scenes("rooms:2?views=2&height=48&width=64")
    pack(rooms, str(tmp_path / "out"))
    packed = read_scenes(str(tmp_path / "out"))
    for entry in packed.entries():
        assert_same(rooms.read(entry.scene_id), packed.read(entry.scene_id))


@pytest.mark.slow
def test_a_real_capture_survives_packing(data: Path, tmp_path: Path) -> None:
    capture = read_scenes(str(data / "chair_lidar"))
    summary = pack(capture, str(tmp_path / "out"))
    assert (summary["scenes"], summary["views"], summary["failed"]) == (1, 24, [])
    packed = read_scenes(str(tmp_path / "out")).read("chair_lidar")
    assert_same(capture.read("chair_lidar"), packed)


def test_every_way_to_name_tars_reads_the_same(shards: Path) -> None:
    expected = read_scenes(str(shards)).entries()
    for location in ("index.json", "*.tar", "scenes-0000[01].tar", "scenes-{00000..00001}.tar"):
        assert read_scenes(f"{shards}/{location}").entries() == expected
    assert read_scenes(str(shards / "scenes-00001.tar")).entries() == expected[2:]
    with_index = read_scenes(str(shards))
    (shards / "index.json").unlink()
    assert read_scenes(str(shards)) == with_index  # headers say what the index said


def test_webdataset_itself_sees_one_sample_a_scene(shards: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    samples = []
    for path in sorted(shards.glob("*.tar")):
        with path.open("rb") as file:
            parts = ({**part, "__url__": path.name} for part in tar_file_iterator(file))
            samples += list(group_by_keys(parts))
    assert [decode_id(sample["__key__"]) for sample in samples] == ODD_IDS
    cameras = json.loads(samples[1]["cameras.json"])
    assert cameras["scene_id"] == ODD_IDS[1]
    for view in Made().read(ODD_IDS[1]).views:
        suffix = "jpg" if view.read_color_bytes else "png"
        image = Image.open(io.BytesIO(samples[1][f"{encode_id(view.view_id)}.color.{suffix}"]))
        np.testing.assert_array_equal(np.array(image), view.read_rgb())


@pytest.mark.parametrize(
    "text", ["a.b", "A", "_a_", "a/b", "%41", "\u00fc", "\u5bdd\u5ba4", " ", "a-0"]
)
def test_encoded_ids_are_plain_and_come_back(text: str) -> None:
    name = encode_id(text)
    assert decode_id(name) == text
    assert name == name.lower()
    assert not set(name) & set("./ ")
    assert not name.startswith("_")


def test_a_scene_that_fails_is_listed_and_the_rest_is_packed(tmp_path: Path) -> None:
    source = Made(("a", "broken", "b"))
    summary = pack(source, str(tmp_path / "out"))
    assert summary["failed"] == [{"scene_id": "broken", "reason": "broken: on purpose"}]
    packed = read_scenes(str(tmp_path / "out"))
    assert [e.scene_id for e in packed.entries()] == ["a", "b"]
    assert_same(source.read("b"), packed.read("b"))


def test_packing_refuses_a_folder_in_use_and_one_it_cannot_write(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"index.json exists; pack into an empty folder"):
        pack(Made(), str(shards))
    (store := shards / "store").mkdir()
    (store / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match=r"zarr.json exists; pack into an empty folder"):
        pack(Made(), str(store))
    assert [*store.iterdir()] == [store / "zarr.json"]
    with pytest.raises(ValueError, match="cannot be written"):
        pack(Made(), str(shards / "index.json" / "x"))
    with pytest.raises(ValueError, match="scenes_per_tar must be >= 1"):
        pack(Made(), str(shards / "x"), scenes_per_tar=0)


def test_a_tar_has_its_name_when_it_is_whole_and_leftovers_go(tmp_path: Path) -> None:
    leftover = tmp_path / ".scenes-00000.tar.1-ab.partial"
    leftover.write_bytes(b"left by a kill")
    packed = pack(Made(ids=("broken", "a", "b")), str(tmp_path), scenes_per_tar=1)
    assert packed["tars"] == 2
    named = {path.name for path in tmp_path.iterdir()}
    assert named == {"scenes-00001.tar", "scenes-00002.tar", "index.json"}


def test_depth_beyond_sixteen_bits_fails_that_scene(tmp_path: Path) -> None:
    far = View(view_id="0", read_rgb=lambda: np.zeros((2, 2, 3), np.uint8),
               read_depth_m=lambda: np.full((2, 2), 70, np.float32))  # fmt: skip

    class Far(Made):
        def read(self, scene_id: str) -> Scene:
            return Scene(scene_id, (far,))

    summary = pack(Far(("far",)), str(tmp_path / "out"))
    assert "far/view 0: depth reaches 70.000 m" in summary["failed"][0]["reason"]


# Foreign and damaged tars


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (5, 6, 7)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_tarring_again_with_a_dot_before_the_names_changes_nothing(
    shards: Path, tmp_path: Path
) -> None:
    """`tar -cf x.tar .` writes ./ before every name: the same scenes, and so the same noise."""
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [(f"./{info.name}", tar.extractfile(info).read()) for info in tar]
        write_tar(tmp_path / path.name, members)
    first, again = read_scenes(str(shards)), read_scenes(str(tmp_path))
    ids = [entry.scene_id for entry in first.entries()]
    assert [entry.scene_id for entry in again.entries()] == ids
    for scene_id in ids:
        assert_same(first.read(scene_id), again.read(scene_id))


def test_a_foreign_tar_without_cameras_is_read_by_its_names(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [
        ("./README", b"hello"),
        ("set/s%2e1.10.color.JPG", jpeg()), ("set/s%2e1.9.color.jpg", jpeg()),
        ("t.0.color.jpg", jpeg()), ("t.0.model.pkl", pickle.dumps("never loaded")),
    ])  # fmt: skip
    source = read_scenes(str(path))
    assert [(e.scene_id, e.num_views) for e in source.entries()] == [("set/s.1", 2), ("t", 1)]
    scene = source.read("set/s.1")
    assert [v.view_id for v in scene.views] == ["9", "10"]
    assert scene.views[0].world_from_camera is None
    assert scene.views[0].read_rgb().shape == (48, 64, 3)


@pytest.mark.parametrize(
    "name", ["../x.0.color.jpg", "/etc/x.0.color.jpg", "a/../../x.0.color.jpg"]
)
def test_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "x.tar", [("s.0.color.jpg", jpeg()), (name, b"")])
    with pytest.raises(ValueError, match=r"x.tar: member .* points outside of the archive"):
        read_scenes(str(path))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("s.1.color.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    path = write_tar(tmp_path / "x.tar", [("s.0.color.jpg", jpeg()), (info, b"")])
    with pytest.raises(ValueError, match=r"is a link, a device or another special file"):
        read_scenes(str(path))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.7])
def test_a_truncated_tar_without_an_index_is_refused(shards: Path, share: float) -> None:
    path, data = shards / "scenes-00001.tar", (shards / "scenes-00001.tar").read_bytes()
    (shards / "index.json").unlink()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"scenes-00001.tar: truncated .*at byte \d+"):
        read_scenes(str(shards))


def test_a_tar_cut_between_two_members_is_refused(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    (shards / "index.json").unlink()
    start = index["tars"][1]["scenes"][1]["start"]
    path = shards / "scenes-00001.tar"
    path.write_bytes(path.read_bytes()[:start])
    with pytest.raises(ValueError, match=rf"truncated or damaged at byte {start}"):
        read_scenes(str(shards))


def test_with_an_index_a_truncated_tar_loses_only_the_scenes_it_lost(shards: Path) -> None:
    path = shards / "scenes-00001.tar"
    start = json.loads((shards / "index.json").read_text())["tars"][1]["scenes"][1]["start"]
    data = path.read_bytes()
    for size in (start, start + 100, start + 700, start + 5000):
        path.write_bytes(data[:size])
        source = read_scenes(str(shards))
        assert len(source.entries()) == 4
        assert_same(Made().read("_A"), source.read("_A"))
        with pytest.raises(SceneError, match=r"\u5bdd\u5ba4 1: .*scenes-00001.tar.* truncated"):
            source.read("\u5bdd\u5ba4 1")


def test_a_missing_tar_fails_its_scenes_only(shards: Path) -> None:
    (shards / "scenes-00000.tar").unlink()
    source = read_scenes(str(shards))
    with pytest.raises(SceneError, match=r"scene0000_00: .*No such file"):
        source.read("scene0000_00")
    source.read("_A")


def test_an_index_of_other_tars_is_found_out(shards: Path) -> None:
    a, b = shards / "scenes-00000.tar", shards / "scenes-00001.tar"
    b.write_bytes(a.read_bytes())
    with pytest.raises(SceneError, match=r"_A: .* (index.json is of other tars|truncated)"):
        read_scenes(str(shards)).read("_A")


def test_a_damaged_index_says_so(shards: Path) -> None:
    for text in (
        "{",
        "[]",
        '{"format": "x"}',
        '{"format": "vega3d-tars-1", "tars": [{"name": "../a"}]}',
    ):
        (shards / "index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index.json: is no index of tars"):
            read_scenes(str(shards))


def test_duplicate_scene_ids_name_both_tars(shards: Path, tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one.tar", [("s.0.color.jpg", jpeg())])
    two = write_tar(tmp_path / "two.tar", [("s.0.color.jpg", jpeg())])
    with pytest.raises(ValueError, match=rf"scene id 's' occurs twice: {one} and {two}"):
        read_scenes(f"{tmp_path}/*.tar")
    apart = write_tar(tmp_path / "apart.tar", [(f"{k}.0.color.jpg", jpeg()) for k in "sts"])
    with pytest.raises(ValueError, match=r"scene id 's' occurs twice: .*apart.tar at byte 0 and"):
        read_scenes(str(apart))


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (b"{", "cameras.json cannot be understood"),
        (b"[" * 200_000, "cameras.json cannot be understood"),
        (b'{"views": [{"view_id": "0", "K_color": [[1]]}]}', r"is \(1, 1\), must be \(3, 3\)"),
        (b'{"views": [{"view_id": "9"}]}', r"views \['0', '9'\] have either"),
        (b'{"views": [{"view_id": "0", "world_from_camera": '
         b"[[2,0,0,0],[0,2,0,0],[0,0,2,0],[0,0,0,1]]}]}",
         "s/view 0: world_from_camera: pose is not rigid"),
    ],
)  # fmt: skip
def test_cameras_that_cannot_be_fail_the_scene(
    tmp_path: Path, cameras: bytes, message: str
) -> None:
    path = write_tar(tmp_path / "x.tar", [("s.cameras.json", cameras), ("s.0.color.jpg", jpeg())])
    source = read_scenes(str(path))
    with pytest.raises(SceneError, match=message):
        source.read("s")


def test_a_truncated_image_inside_a_tar_names_its_view(tmp_path: Path) -> None:
    members = [("s.0.color.jpg", jpeg()), ("s.1.color.jpg", jpeg()[:300])]
    scene = read_scenes(str(write_tar(tmp_path / "x.tar", members))).read("s")
    scene.views[0].read_rgb()
    with pytest.raises(SceneError, match="s/view 1: colour image"):
        scene.views[1].read_rgb()


def test_no_scenes_there(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"")])
    for location in (str(path), f"{tmp_path}/y*.tar"):
        with pytest.raises(ValueError, match="no tar there, or none that holds scenes"):
            read_scenes(location)
    with pytest.raises(ValueError, match="cannot be read"):
        read_scenes(str(tmp_path / "absent.tar"))


def test_a_scene_larger_than_what_is_held_gives_the_same_tars(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SPOOLED_BYTES", 1)
    again = tmp_path / "again"
    pack(Made(), str(again), scenes_per_tar=2)
    names = sorted(path.name for path in shards.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (shards / name).read_bytes()


# Remote


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Python's file server with byte ranges, which remembers what was asked for."""

    asked: list[tuple[str, int, int]] = []  # noqa: RUF012 - emptied by the fixture
    ranges = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, span = path.read_bytes(), self.headers.get("Range")
        start, end = 0, len(data)
        if span and self.ranges:
            first, last = span.removeprefix("bytes=").split("-")
            start, end = int(first), min(len(data), int(last) + 1)
        self.asked.append((path.name, start, end))
        self.send_response(206 if span and self.ranges else 200)
        if span and self.ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(data[start:end])


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    RangeHandler.asked.clear()
    RangeHandler.ranges = True
    handler = functools.partial(RangeHandler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_http_fetches_the_index_and_then_one_range_a_scene(server: str, shards: Path) -> None:
    source = pickle.loads(pickle.dumps(read_scenes(f"{server}/index.json")))
    assert [e.scene_id for e in source.entries()] == ODD_IDS
    assert source.entries()[0].group == f"{server}/scenes-00000.tar"
    assert {name for name, _, _ in RangeHandler.asked} == {"index.json"}
    RangeHandler.asked.clear()
    assert_same(Made().read("_A"), source.read("_A"))
    place = json.loads((shards / "index.json").read_text())["tars"][1]["scenes"][0]
    end = place["start"] + place["size_bytes"]
    assert RangeHandler.asked == [("scenes-00001.tar", place["start"], end)]


def test_http_tars_without_an_index_get_one_scan(server: str, shards: Path) -> None:
    (shards / "index.json").unlink()
    source = read_scenes(f"{server}/scenes-{{00000..00001}}.tar")
    assert [e.scene_id for e in source.entries()] == ODD_IDS
    assert_same(Made().read("\u5bdd\u5ba4 1"), source.read("\u5bdd\u5ba4 1"))
    with pytest.raises(ValueError, match=r"has no index\.json, and http cannot list files"):
        read_scenes(server)
    with pytest.raises(ValueError, match="http cannot list files"):
        read_scenes(f"{server}/*.tar")
    with pytest.raises(ValueError, match=r"absent.tar: there is no such object"):
        read_scenes(f"{server}/absent.tar")


def test_http_tar_that_is_truncated_fails_its_scene(server: str, shards: Path) -> None:
    source = read_scenes(server)
    path = shards / "scenes-00001.tar"
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(SceneError, match=r"\u5bdd\u5ba4 1: .*scenes-00001.tar"):
        source.read("\u5bdd\u5ba4 1")
    source.read("_A")


def test_a_server_without_ranges_gets_a_remedy(server: str) -> None:
    source = read_scenes(server)
    RangeHandler.ranges = False
    with pytest.raises(SceneError, match=r"does not serve byte ranges; .* copy the tars"):
        source.read("_A")


@pytest.fixture
def bucket(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "dummy", "AWS_SECRET_ACCESS_KEY": "dummy", "AWS_ALLOW_HTTP": "true",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    running = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="scans")
    for path in shards.iterdir():
        client.upload_file(str(path), "scans", f"set/{path.name}")
    client.upload_file(str(shards / "scenes-00000.tar"), "scans", "bare/x.tar")
    for marker in ("set/", "set/old.tar/", "bare/"):  # how consoles make folders
        client.put_object(Bucket="scans", Key=marker, Body=b"")
    yield "s3://scans"
    running.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # botocore and moto, not ours
@pytest.mark.server
def test_s3_reads_folders_patterns_indices_and_bare_tars(bucket: str) -> None:
    for location in ("set", "set/", "set/*.tar", "set/index.json", "set/scenes-0000{0,1}.tar"):
        source = read_scenes(f"{bucket}/{location}")
        assert [e.scene_id for e in source.entries()] == ODD_IDS
    assert source.entries()[0].group == "s3://scans/set/scenes-00000.tar"
    assert_same(
        Made().read("\u5bdd\u5ba4 1"), pickle.loads(pickle.dumps(source)).read("\u5bdd\u5ba4 1")
    )
    bare = read_scenes(f"{bucket}/bare/x.tar")
    assert_same(Made().read("home/K\u00fcche.v2"), bare.read("home/K\u00fcche.v2"))
    assert read_scenes(f"{bucket}/bare").entries() == bare.entries()
    with pytest.raises(ValueError, match="no tar there"):
        read_scenes(f"{bucket}/nothing")
