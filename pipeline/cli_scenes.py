"""Commands on captures: `pack`, `check`. Standard library and typer only, until one runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from vega3d.pipeline.commands import SOME_FAILED, check_out, checked, print_result
from vega3d.pipeline.config import CheckConfig, PackConfig
from vega3d.pipeline.options import DryRun, Program
from vega3d.pipeline.texts import tell

if TYPE_CHECKING:
    from vega3d.pipeline.scenes.scene import SceneSource

app = Program()

Scenes = Annotated[
    str,
    typer.Argument(
        metavar="SCENES",
        help="A capture or a folder of captures (ScanNet, ScanNet++, ARKitScenes, 7-Scenes, TUM, "
        "Replica, nerfstudio, COLMAP, Record3D, LeRobot and more: the README lists them), "
        "WebDataset shards (folder, index, http:// or s3:// URLs), videos, or rooms:N.",
    ),
]


@app.command()
def pack(
    scenes: Scenes,
    out: Annotated[str, typer.Option(help="Folder for the shards and their index.")],
    config: PackConfig,
    dry_run: DryRun = False,
) -> None:
    """Write scenes as WebDataset shards with an index, from any layout that can be read."""
    check_out(out)
    from vega3d.pipeline.scenes.tars import pack as pack_scenes

    source = find_scenes(scenes, bounded=True)
    if dry_run:
        entries = source.entries()
        print_result({"scenes": len(entries), "tars": -(-len(entries) // config.scenes_per_tar)})
        return
    packed = pack_scenes(source, out, scenes_per_tar=config.scenes_per_tar, reading=config)
    for scene_id, lines in packed["notes"].items():
        for line in lines:
            tell(f"{scene_id}: {line}")
    for scene in packed["failed"]:
        tell(f"failed {scene['scene_id']}: {scene['reason']}")
    print_result(packed)
    if packed["failed"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def check(
    scenes: Scenes,
    config: CheckConfig,
    out: Annotated[str, typer.Option(help="Folder for a picture a scene; none without.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Say whether scenes prove their own geometry; costs no GPU and needs no model."""
    if out:
        check_out(out)
    from vega3d.pipeline.check import check_and_tell

    source = find_scenes(scenes, bounded=True, tells=False)  # `check` tells what is not read
    if dry_run:
        print_result({"scenes": len(source.entries()), "out": out})
        return
    found = check_and_tell(source, config, out=out)
    print_result(found)
    if found["to_mend"]:
        raise typer.Exit(SOME_FAILED)


def find_scenes(scenes: str, *, bounded: bool = False, tells: bool = True) -> "SceneSource":
    """Find the scenes, and name what lies there and is not read.

    Args:
        scenes: Where they are.
        bounded: Whether a read that gives no sign of life ends; a run has a limit of its own.
        tells: Whether to name it here.
    """
    from vega3d.pipeline.in_time import InTime, check_answers
    from vega3d.pipeline.scenes.reading import read_scenes
    from vega3d.pipeline.scenes.scene import skipped

    check_answers(scenes)
    source = checked(read_scenes, scenes)
    for one in skipped(source) if tells else ():
        tell(f"not read: {one.place} {one.reason}")
    return InTime(source) if bounded else source
