"""Commands that read scenes one by one do not wait for ever for a mount that is dead."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_captures import write_captures

from vega3d.pipeline import in_time, read_scenes
from vega3d.pipeline.check import check
from vega3d.pipeline.cli_scenes import find_scenes
from vega3d.pipeline.config import CheckConfig
from vega3d.pipeline.errors import SceneError, TransientError
from vega3d.pipeline.in_time import InTime
from vega3d.pipeline.scenes.scene import Scene, SceneSource
from vega3d.pipeline.scenes.tars import pack


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> SceneSource:
    return read_scenes(str(write_captures(tmp_path_factory.mktemp("captures"))))


@pytest.fixture
def wake() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class Dead:
    """A source one of whose files, or whose listing, answers when it is woken."""

    def __init__(self, source: SceneSource, wake: threading.Event, *, listing: bool) -> None:
        self.source, self.wake, self.listing = source, wake, listing

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)

    def read(self, scene_id: str) -> Scene:
        if self.listing:
            self.wake.wait(60)
        scene = self.source.read(scene_id)
        last = replace(scene.views[-1], read_rgb=self.hang, read_color_bytes=self.hang)
        return replace(scene, views=(*scene.views[:-1], last))

    def hang(self) -> None:
        self.wake.wait(60)


COMMANDS: list[Callable[[SceneSource, Path], object]] = [
    lambda source, _folder: check(source, CheckConfig()),
    lambda source, folder: pack(source, str(folder / "tars")),
]


@pytest.mark.parametrize("listing", [True, False])
@pytest.mark.parametrize("command", COMMANDS, ids=["check", "pack"])
def test_a_dead_mount_is_told(
    captures: SceneSource, wake: threading.Event, tmp_path: Path, listing: bool,
    command: Callable[[SceneSource, Path], object],
) -> None:  # fmt: skip
    dead = InTime(Dead(captures, wake, listing=listing), limit_s=0.2)
    with pytest.raises(TransientError, match="gave no sign of life for 0 s; look at its files"):
        command(dead, tmp_path)


def test_a_folder_is_looked_at_in_time_before_it_is_listed(
    captures: SceneSource, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command, `run` and `plan` too."""
    root = str(captures.root)  # type: ignore[attr-defined]
    monkeypatch.setattr(in_time.check_answers, "__defaults__", (0.2,))
    for place in (root, f"{root}/none", "rooms:1", "s3://bucket/x"):
        in_time.check_answers(place)
    monkeypatch.setattr(os, "scandir", lambda _: wake.wait(60))  # as the kernel does, for ever
    with pytest.raises(TransientError, match=f"{root}: reading it gave no sign of life"):
        find_scenes(root)


def test_what_answers_is_what_it_was(captures: SceneSource) -> None:
    bounded = InTime(captures)
    for entry in captures.entries():
        ours, theirs = bounded.read(entry.scene_id), captures.read(entry.scene_id)
        for one, other in zip(ours.views, theirs.views, strict=True):
            assert (one.read_rgb() == other.read_rgb()).all()
            assert one.view_id == other.view_id
            assert (one.read_depth_m is None) == (other.read_depth_m is None)
    with pytest.raises(SceneError):
        bounded.read("no such scene")


def test_the_commands_scenes_are_bounded(captures: SceneSource) -> None:
    """As `check`, `pack` and `verify --deep` find them."""
    source = find_scenes(str(captures.root), bounded=True)  # type: ignore[attr-defined]
    assert isinstance(source, InTime)
    assert source.limit_s == in_time.SILENCE_S
    assert not isinstance(find_scenes(str(captures.root)), InTime)  # type: ignore[attr-defined]
