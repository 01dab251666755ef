"""Commands on stores: `status`, `verify`, `import`, `pictures`.

Standard library and typer only, until one runs.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vega3d.pipeline.cli_scenes import find_scenes
from vega3d.pipeline.commands import SOME_FAILED, USAGE, check_out, print_result
from vega3d.pipeline.config import CacheConfig, ExtractConfig
from vega3d.pipeline.errors import NoStoreError
from vega3d.pipeline.options import DryRun, Program
from vega3d.pipeline.texts import tell, tell_some

if TYPE_CHECKING:
    from vega3d.pipeline.watching import Watch

app = Program()

StorePlace = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")]


@app.command()
def status(
    store: StorePlace,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Look again until it is done; wait for a store that is not there yet."
        ),
    ] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 5.0,
) -> None:
    """Say how far a store is, and which scenes failed for what reason."""
    from vega3d.pipeline.store.verify import status as read_status
    from vega3d.pipeline.watching import Watch, live

    watching = Watch()

    def look() -> dict[str, Any]:
        found = read_status(store)
        watching.look(found)
        return {**found, **(live(store) if watch else {})}

    found = _awaited(look, every_s) if watch else look()
    if watch and sys.stderr.isatty():
        _watch_table(watching, found, look, every_s)
        found = look()
    while True:
        tell_some([f"failed {name}: {reason}" for name, reason in found["failures"].items()])
        tell(
            f"{found['committed']} committed, {len(found['failures'])} failed, "
            f"{found['pending']} pending of {found['scenes']} scenes, "
            f"{found['stored_bytes'] / 1e6:.1f} MB"
        )
        if not watch or found["complete"]:
            break
        shown = ("rate", "time left", "run")
        tell(", ".join(f"{name}: {told}" for name, told in watching.rows(found) if name in shown))
        time.sleep(every_s)
        found = look()
    print_result(found)


def _awaited(look: Callable[[], dict[str, Any]], every_s: float) -> dict[str, Any]:
    """Return the first look at a store that a run may still have to make."""
    is_told = False
    while True:
        try:
            return look()
        except NoStoreError as error:
            if not is_told:
                tell(f"{error}; waiting for it (Ctrl-C ends this)")
            is_told = True
            time.sleep(every_s)


def _watch_table(
    watching: "Watch",
    found: dict[str, Any],
    look: Callable[[], dict[str, Any]],
    every_s: float,
) -> None:
    """Show a live table until the store is complete."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        while True:
            live.update(watching.table(found), refresh=True)
            if found["complete"]:
                return
            time.sleep(every_s)
            found = look()


@app.command()
def verify(
    store: StorePlace,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compute some scenes anew; needs --scenes.")
    ] = False,
    scenes_at: Annotated[
        str, typer.Option("--scenes", help="Where the scenes are, for --deep.")
    ] = "",
    model: Annotated[
        str | None, typer.Option(help="Where the model is now, for --deep, if it moved.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Scenes that --deep computes anew.")] = 2,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Restore what has a copy, and mark units whose data is lost as not done: the same "
            "`run` computes them again.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before repairing.")] = False,
) -> None:
    """Read every object again and compare it with its checksum."""
    from vega3d.pipeline.store.verify import verify as verify_store

    if deep and not scenes_at:
        raise typer.BadParameter("--deep needs --scenes, where the store's scenes are")
    if repair and not yes:
        _ask_before_repair()
    verified = verify_store(store, repair=repair)
    found = asdict(verified)
    if deep:
        found["deep"] = _recomputed(store, scenes_at, model, sample)
    for line in verified.told():
        tell(line)
    print_result(found)
    if verified.faults or not all(check["passed"] for check in found.get("deep", [])):
        raise typer.Exit(SOME_FAILED)


@app.command(
    "import",
    only=("store_dtype", "scenes_per_shard", "tap", "cached_fit", "cond_half"),
    defaults={"scenes_per_shard": 1},
)
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            exists=True,
            help="One file a scene: safetensors with features.<tap>, ..., or released caches "
            "[V, C, h, w] in .pt, .npy or .safetensors, or a folder of them.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder or URL (s3://...) of the store.")],
    source: Annotated[str, typer.Option(help="Name of what made them; part of the config.")],
    config: ExtractConfig,
    cache: CacheConfig,
    captures: Annotated[
        str,
        typer.Option(
            "--scenes", help="Captures that released caches are of: positions, cameras, previews."
        ),
    ] = "",
    view_ids: Annotated[
        str,
        typer.Option(
            help="JSON file, scene -> names of a released cache's views, or `uniform`: evenly "
            "sampled of those in --scenes."
        ),
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Bring features that were computed elsewhere into a store of the same contract."""
    check_out(out)
    from vega3d.pipeline.imports import holds_named_arrays, import_arrays, read_scene_arrays
    from vega3d.pipeline.released_caches import import_caches
    from vega3d.pipeline.released_files import find_caches
    from vega3d.pipeline.store.verify import status as read_status

    size, dtype = config.scenes_per_shard, config.store_dtype
    if all(holds_named_arrays(path) for path in files):
        if dry_run:
            print_result({"scenes": len(files), "out": out})
            return
        scenes = [read_scene_arrays(str(path)) for path in files]
        import_arrays(out, scenes, model=source, scenes_per_shard=size, store_dtype=dtype)
    else:
        found_at = find_scenes(captures) if captures else None
        caches = find_caches(files, view_ids, found_at, cond_half=cache.cond_half)
        if dry_run:
            print_result({"scenes": len(caches), "out": out})
            return
        import_caches(
            out, caches, cache, source=source, captures=found_at, scenes_per_shard=size,
            store_dtype=dtype,
        )  # fmt: skip
    found = read_status(out)
    print_result(found)
    if found["failures"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def pictures(
    stores: Annotated[
        list[str], typer.Argument(metavar="STORES", help="Stores of the same scenes.")
    ],
    out: Annotated[str, typer.Option(help="Folder for the PNGs.")],
    num_views: Annotated[
        int, typer.Option("--views", "--num-views", min=1, help="Views of a picture at most.")
    ] = 6,
    num_scenes: Annotated[int, typer.Option(min=0, help="Scenes at most; 0: all.")] = 16,
    dry_run: DryRun = False,
) -> None:
    """Draw, for each scene, its views beside the joint PCA of their features."""
    check_out(out)
    from vega3d.pipeline.pictures import write_pictures
    from vega3d.pipeline.store.store import open_store

    opened = [open_store(store) for store in stores]
    if dry_run:
        print_result({"scenes": list(opened[0].scene_ids[: num_scenes or None])})
        return
    written = write_pictures(opened, out, num_views=num_views, num_scenes=num_scenes)
    print_result({"pictures": [str(path) for path in written]})


def _ask_before_repair() -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("--repair asks first; say --yes where nobody can answer")
    if not typer.confirm("Mark damaged units as not done, and delete files that no commit names?"):
        raise typer.Exit(USAGE)


def _recomputed(store: str, scenes: str, model: str | None, sample: int) -> list[dict[str, Any]]:
    from vega3d.pipeline.recompute import verify_deep

    checks = verify_deep(store, find_scenes(scenes, bounded=True), model=model, sample=sample)
    return [asdict(check) for check in checks]
