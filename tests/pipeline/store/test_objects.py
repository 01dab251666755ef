import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vega3d.pipeline import transient
from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.store.objects import Objects, open_objects


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return open_objects(str(tmp_path / "new" / "store"))
    return open_objects(request.getfixturevalue("bucket") + f"/{tmp_path.name}")


def test_create_is_durable_and_never_replaces(objects: Objects) -> None:
    assert objects.create("a/b/c", [b"one", memoryview(b"two")])
    assert not objects.create("a/b/c", [b"other"])
    assert objects.read("a/b/c") == b"onetwo"
    objects.replace("a/b/c", [b"three"])
    objects.create("a/d", [b""])
    assert objects.read("a/b/c") == b"three"
    assert list(objects.keys("a")) == ["a/b/c", "a/d"]
    assert list(objects.keys("a/b")) == ["a/b/c"]
    assert objects.exists("a/d")
    assert not objects.exists("a/e")
    with pytest.raises(FileNotFoundError):
        objects.read("a/e")


def test_of_many_creators_one_wins_and_its_bytes_stay(objects: Objects) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        if objects.create("k", [bytes([number]) * 1000]):
            won.append(number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.read("k") == bytes(won) * 1000
    assert list(objects.keys("")) == ["k"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there_and_no_litter(small_disk: Path) -> None:
    objects = open_objects(str(small_disk))
    assert objects.create("kept", [b"x" * 1000])
    with pytest.raises(StoreError, match="No space left.*nothing committed is lost.*free some"):
        objects.create("large", [b"x" * 100_000] * 4)
    assert list(objects.keys("")) == ["kept"]
    assert objects.create("small", [b"y"])


def test_a_read_only_place_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(StoreError, match="Read-only file system.*can be written"):
            open_objects(str(folder)).create("a", [b"1"])
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.server
def test_a_bucket_that_is_not_there_is_no_bug(bucket: str) -> None:
    objects = open_objects("s3://no-such-bucket/x")
    with pytest.raises(StoreError, match=r"cannot (list|write).*AWS_"):
        list(objects.keys("a"))
    with pytest.raises((StoreError, FileNotFoundError)):
        objects.create("a", [b"1"])


@pytest.mark.one_quick
@pytest.mark.parametrize("call", ["fsync", "link", "replace", "mkdir"])
def test_a_disk_that_is_not_well_is_told_with_key_and_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(transient, "PATIENCE_S", 0.1)
    objects = open_objects(str(tmp_path))
    ask = objects.replace if call == "replace" else objects.create

    def fail(code: int) -> None:
        def failing(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, call, failing)

    fail(errno.EIO)
    with pytest.raises(TransientError, match=r"a/k: cannot write: Input/output error"):
        ask("a/k", [b"1"])
    fail(errno.ENAMETOOLONG)
    with pytest.raises(StoreError, match=r"a/k: cannot write: File name too long; nothing comm"):
        ask("a/k", [b"1"])
    monkeypatch.undo()
    assert not [key for key in objects.keys("") if key.endswith(".partial")]
    assert objects.create("a/k", [b"1"])


def test_a_link_that_was_made_before_the_disk_failed_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_objects(str(tmp_path))
    link, fails = os.link, [errno.EIO, errno.ESTALE]

    def linked(*names: str) -> None:
        link(*names)
        if fails:
            raise OSError(fails.pop(), "sick")

    monkeypatch.setattr(os, "link", linked)
    assert objects.create("k", [b"1", b"2"])
    fails.append(errno.EIO)
    assert not objects.create("k", [b"3"])
    assert objects.read("k") == b"12"


def test_an_object_that_was_written_counts_though_its_temporary_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    objects = open_objects(str(tmp_path))
    monkeypatch.setattr(os, "unlink", stuck)
    monkeypatch.setattr(Path, "unlink", stuck)
    assert objects.create("k", [b"1"])
    monkeypatch.undo()
    assert objects.read("k") == b"1"
    assert not objects.create("k", [b"2"])


def test_a_folder_that_cannot_be_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits that nobody may list would be made again."""
    objects = open_objects(str(tmp_path))
    objects.create("a/k", [b"1"])
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match="cannot list: Permission denied"):
        list(objects.keys(""))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no place that refuses folders")
def test_a_place_where_no_folder_can_be_made_is_named() -> None:
    with pytest.raises(StoreError, match="/proc/x.zarr: a folder cannot be made there"):
        open_objects("/proc/x.zarr").create("a/b", [b"c"])
