"""How a scene's files look: every file that reading opens is in it, whatever the layout."""

import os
from pathlib import Path

import pytest
from layout_writers import WRITERS
from planes import PlaneScene

from vega3d.pipeline import local_files, read_scenes
from vega3d.pipeline.scenes.fingerprints import differing, fingerprint, of_files
from vega3d.pipeline.scenes.tars import pack

HIDDEN_FROM_THE_RECORDER = {"lerobot"}
"""pyarrow opens its parquet files itself; they lie in meta/, beside info.json."""


@pytest.mark.one_quick
@pytest.mark.parametrize("layout", WRITERS)
def test_a_change_of_any_file_that_is_read_shows(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = WRITERS[layout](tmp_path, PlaneScene(num_views=3))
    source = read_scenes(str(written.location))
    opened = set()
    plain_handle = local_files._plain_handle

    def recording(path: str) -> int:
        opened.add(os.path.abspath(path))
        return plain_handle(path)

    monkeypatch.setattr(local_files, "_plain_handle", recording)
    scene = source.read(written.scene_id)
    for view in scene.views:
        view.read_rgb()
        if view.read_depth_m:
            view.read_depth_m()
    assert opened
    if layout in HIDDEN_FROM_THE_RECORDER:
        opened |= {str(path) for path in tmp_path.rglob("*.parquet")
                   if "meta" in path.parts}  # fmt: skip
    before = fingerprint(source, written.scene_id)
    assert before == fingerprint(source, written.scene_id)
    for path in sorted(opened):
        seen = os.stat(path)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 10**9))
        now = fingerprint(source, written.scene_id)
        assert differing(before, now), path
        before = now


def test_the_time_of_the_inode_shows_what_a_restored_time_hides(tmp_path: Path) -> None:
    path = tmp_path / "pose" / "0.txt"
    path.parent.mkdir()
    path.write_text("1 2 3")
    seen = path.stat()
    before = of_files([str(path.parent)], str(tmp_path))
    assert list(before) == ["pose/*.txt"]
    path.write_text("9 2 3")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert path.stat().st_mtime_ns == seen.st_mtime_ns
    assert differing(before, of_files([str(path.parent)], str(tmp_path))) == ["pose/*.txt"]


def test_files_that_come_or_go_show_and_links_that_lead_back_end(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    (tmp_path / "color" / "0.jpg").write_bytes(b"x")
    (tmp_path / "color" / "again").symlink_to(tmp_path / "color")
    (tmp_path / "color" / "itself").symlink_to("itself")
    before = of_files([str(tmp_path / "color")], str(tmp_path))
    (tmp_path / "color" / "1.jpg").write_bytes(b"y")
    more = of_files([str(tmp_path / "color")], str(tmp_path))
    assert differing(before, more) == ["color/*.jpg"]
    (tmp_path / "color" / "1.jpg").unlink()
    assert of_files([str(tmp_path / "color")], str(tmp_path)) == before
    gone = of_files([str(tmp_path / "depth")], str(tmp_path))
    assert gone != of_files([], str(tmp_path))


def test_tars_videos_and_rooms_say_how_they_look(tmp_path: Path) -> None:
    rooms = read_scenes("rooms:2?views=2&height=24&width=32")
    pack(rooms, str(tmp_path))
    tars = read_scenes(str(tmp_path))
    before = fingerprint(tars, "room0001")
    (tar,) = tmp_path.glob("*.tar")
    os.utime(tar)
    assert differing(before, fingerprint(tars, "room0001")) == [tar.name]
    other = read_scenes("rooms:2?views=2&height=24&width=32&seed=1")
    assert fingerprint(rooms, "room0001") != fingerprint(other, "room0001")
    assert fingerprint(object(), "room0001") == {}
