"""Files that others made: plain ones only, none waited for, and a sick disk is asked again."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vega3d.pipeline import local_files, read_scenes, transient
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.local_files import check_plain, open_plain, read_plain
from vega3d.pipeline.transient import Pauses, retried, retried_io


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transient, "PATIENCE_S", 0.3)
    monkeypatch.setattr(transient, "FIRST_PAUSE_S", 0.01)


def sick(times: int, code: int = errno.EIO) -> object:
    """Return what fails that many times, and then gives 7."""
    asked = iter(range(10_000))

    def ask() -> int:
        if next(asked) < times:
            raise OSError(code, os.strerror(code), "/mnt/x")
        return 7

    return ask


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_disk_that_recovers_costs_nothing_but_time(quick: None, code: int) -> None:
    assert retried_io("/mnt/x", sick(3, code)) == 7


def test_a_disk_that_stays_sick_is_no_damage(quick: None) -> None:
    with pytest.raises(TransientError, match=r"/mnt/x: Input/output error \(\d+ attempts in 0 s"):
        retried_io("/mnt/x", sick(10_000))
    assert not issubclass(TransientError, ValueError | OSError)  # readers turn those into damage


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EINVAL])
def test_what_does_not_pass_is_not_asked_again(code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)):
        retried_io("/mnt/x", sick(1, code))


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    waits = Pauses(1.0, 4.0)
    drawn = [waits.next_s() for _ in range(6)]
    for pause_s, longest_s in zip(drawn, [1, 2, 4, 4, 4, 4], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    assert len(set(drawn)) == 6


def test_an_error_of_another_kind_ends_the_asking() -> None:
    with pytest.raises(KeyError):
        retried(lambda: {}["x"])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("fifo", "is a FIFO"),
        ("zero", "is a device"),
        ("socket", "is a socket"),
        ("folder", "is a folder"),
        ("nowhere", "No such file"),
        ("loop", "Too many levels"),
        ("nul", "null byte"),
        ("sparse", "holds 1099511627776 bytes, more than the limit"),
    ],
)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, kind: str, told: str) -> None:
    path = make_odd(tmp_path / "x", kind)
    with pytest.raises(OSError, match=told):
        read_plain(path)
    if kind != "sparse":
        with pytest.raises(OSError, match=told):
            check_plain(path)


def make_odd(path: Path, kind: str) -> str:
    """Put something in a file's place that is none."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nowhere":
        path.symlink_to(path.with_name("gone"))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    return f"{path}\0y" if kind == "nul" else str(path)


def test_plain_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert read_plain(str(tmp_path / "link")) == b"abc"
    with open_plain(str(tmp_path / "a")) as file:
        assert os.get_blocking(file.fileno())
        file.seek(1)
        assert file.read(1) == b"b"
    with pytest.raises(OSError, match="holds 3 bytes, more than the limit of 2"):
        read_plain(str(tmp_path / "a"), 2)


def test_a_file_that_grows_or_comes_in_pieces_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(5000)
    (tmp_path / "a").write_bytes(data)
    read = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: read(handle, min(size, 999)))
    assert read_plain(str(tmp_path / "a")) == data
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat("/proc/self/status"))  # 0 bytes
    assert read_plain(str(tmp_path / "a")) == data
    with pytest.raises(OSError, match="more than the limit of 1500"):
        read_plain(str(tmp_path / "a"), 1500)


LAYOUTS = {
    "color": "s/color/0.jpg",
    "depth": "s/depth/0.png",
    "pose": "s/pose/0.txt",
    "intrinsics": "s/intrinsic/intrinsic_color.txt",
    "video": "v.mp4",
}


@pytest.mark.one_quick
@pytest.mark.parametrize("odd", ["fifo", "zero"])
@pytest.mark.parametrize("place", LAYOUTS)
def test_no_reader_waits_for_what_is_no_file(tmp_path: Path, place: str, odd: str) -> None:
    """In a process of its own, so that a reader that waits is found, and ended."""
    write_capture(tmp_path)
    path = tmp_path / LAYOUTS[place]
    path.unlink(missing_ok=True)
    make_odd(path, odd)
    if place == "video":
        (tmp_path / "s").rename(tmp_path.parent / f"{tmp_path.name}-away")
    code = (
        "import sys; from vega3d.pipeline import read_scenes\n"
        "from vega3d.pipeline.errors import SceneError\n"
        "source = read_scenes(sys.argv[1])\n"
        "try:\n"
        "    for entry in source.entries():\n"
        "        for view in source.read(entry.scene_id).views:\n"
        "            view.read_rgb(), view.read_depth_m and view.read_depth_m()\n"
        "except SceneError as error:\n    print('REFUSED', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith("REFUSED")
    assert "is a FIFO" in done.stdout or "is a device" in done.stdout or "must exist" in done.stdout


def write_capture(root: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in ("color", "depth", "pose", "intrinsic"):
        (root / "s" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / "s/color/0.jpg")
    Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(root / "s/depth/0.png")
    np.savetxt(root / "s/pose/0.txt", np.eye(4))
    for which in ("color", "depth"):
        K = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]])
        np.savetxt(root / f"s/intrinsic/intrinsic_{which}.txt", K)


def test_a_mount_that_stays_away_is_not_the_scenes_failure(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_capture(tmp_path)
    scene = read_scenes(str(tmp_path)).read("s")

    def away(path: str, *_: object) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(local_files.os, "open", away)
    with pytest.raises(TransientError, match="Stale file handle"):
        scene.views[0].read_rgb()
    monkeypatch.undo()
    assert scene.views[0].read_rgb().shape == (12, 16, 3)
    (tmp_path / "s/color/0.jpg").unlink()
    with pytest.raises(SceneError, match="cannot be read"):
        scene.views[0].read_rgb()
