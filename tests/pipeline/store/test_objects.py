import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vega3d.pipeline.errors import StoreError
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
