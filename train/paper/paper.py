"""The paper's questions on the desk models: rooms in, one page and its numbers out."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import torch

from vega3d.evaluate.config import digest_of
from vega3d.pipeline.files import write_whole
from vega3d.pipeline.store.store import open_store
from vega3d.pipeline.texts import safe_values
from vega3d.train.paper.compared import compare_streams
from vega3d.train.paper.config import VERSION, PaperConfig
from vega3d.train.paper.findings import find
from vega3d.train.paper.fusions import compare_fusions
from vega3d.train.paper.maps import map_blocks
from vega3d.train.paper.page import write_page
from vega3d.train.paper.relating import relate_scores
from vega3d.train.paper.streams import make_stores, stream_backbones

_MAPS = ("map_rooms", "map_timesteps", "map_blocks", "choose_seed")
_FUSIONS = ("variants", "fusion_steps", "fusion_dim")
_PROBES = ("epochs", "rooms", "fitted", "test_seed", "seeds", "contexts")
"""Settings that parts need not depend on."""

_log = logging.getLogger(__name__)


def write_paper(out: str, config: PaperConfig | None = None) -> dict[str, Any]:
    """Answer every question, and leave paper.html and paper.json in `out`.

    Repeat the call to go on: stores, fusions and parts that are whole are not made again.

    Args:
        out: Folder for all of it: models/ (twins), stores/, scores/, fusions/, maps/ and so on.
        config: Sizes and seeds.

    Returns:
        Where the page is, and the findings.
    """
    config = (config or PaperConfig()).sized()
    folder = Path(out)
    begun, cpu_s = time.monotonic(), time.process_time()
    scenes = config.scenes()
    _log.info("features of %s", scenes)
    stores = make_stores(scenes, stream_backbones(config, folder / "models"), folder / "stores")
    _log.info("stores: CPU %.0f s", time.process_time() - cpu_s)
    kept = _Parts(folder / "parts", config, stores)
    parts: dict[str, Any] = {}
    with _fusions_beside(folder, config, stores):
        parts["streams"] = kept(
            "streams",
            lambda: compare_streams(scenes, stores, folder / "scores", config),
            apart=(*_MAPS, *_FUSIONS),
        )
        parts["maps"] = kept(
            "maps",
            lambda: map_blocks(folder / "maps", config),
            apart=(*_FUSIONS, *_PROBES, "bootstrap_samples", "semantic"),
            of=("prior",),
        )
        parts["relations"] = kept(
            "relations",
            lambda: relate_scores(stores, parts["streams"], folder / "relations", config),
            apart=(*_MAPS, *_FUSIONS),
        )
    parts["fusions"] = _make_fusions(folder, config, stores)  # as they were left, if they were
    paper = {
        "version": VERSION,
        "config": asdict(config),
        "stores": kept.digests,
        "findings": find(parts),
        **parts,
    }
    plain, html = folder / "paper.json", folder / "paper.html"
    write_whole(plain, (json.dumps(safe_values(paper), indent=1) + "\n").encode())
    write_whole(html, write_page(paper).encode())
    _log.info("%s, %.0f s", html, time.monotonic() - begun)
    return {
        "paper": str(html),
        "json": str(plain),
        "wall_s": round(time.monotonic() - begun, 1),
        "findings": {one["claim"]: one["verdict"] for one in paper["findings"]},
    }


def _make_fusions(folder: Path, config: PaperConfig, stores: Mapping[str, str]) -> dict[str, Any]:
    kept = _Parts(folder / "parts", config, stores)
    return kept("fusions", lambda: compare_fusions(stores, folder / "fusions", config), apart=_MAPS)


@contextmanager
def _fusions_beside(folder: Path, config: PaperConfig, stores: Mapping[str, str]) -> Iterator[None]:
    """Make the fusions, half of the work, in a process of its own that leaves them on disk.

    Where there is one core, or the process fails, nothing is lost: whoever asks for the part then
    makes it, and meets what was wrong.
    """
    if len(os.sched_getaffinity(0)) < 2:
        yield
        return
    threads = torch.get_num_threads()
    half = max(1, threads // 2)
    # Not multiprocessing's: that runs a script anew which has no guard around its main part.
    command = [sys.executable, "-P", "-c", f"from {__name__} import _answer; _answer()"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(half)}
    asked = json.dumps({"folder": str(folder), "config": asdict(config), "stores": dict(stores)})
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True
    ) as process:
        try:
            torch.set_num_threads(half)
            with suppress(BrokenPipeError), cast(IO[str], process.stdin) as pipe:
                pipe.write(asked)
            yield
            if process.wait():
                _log.warning("the fusions' process ended with %d: made here", process.returncode)
        finally:
            torch.set_num_threads(threads)
            if process.poll() is None:
                process.terminate()


def _answer() -> None:
    """Make what comes on stdin, from `_fusions_beside`."""
    asked = json.load(sys.stdin)
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in asked["config"].items()
    }
    try:
        _make_fusions(Path(asked["folder"]), PaperConfig(**settings), asked["stores"])
    except KeyboardInterrupt:  # what was trained is kept
        sys.exit(130)


class _Parts:
    """Parts of a paper on disk, each with the digest of what it follows from."""

    def __init__(self, folder: Path, config: PaperConfig, stores: Mapping[str, str]) -> None:
        self._folder = folder
        self.digests = {name: open_store(url).digest() for name, url in stores.items()}
        self._config = asdict(config)

    def __call__(
        self,
        name: str,
        make: Callable[[], dict[str, Any]],
        apart: Sequence[str],
        of: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return a part: as it was kept, or made and kept.

        Args:
            name: Of its file.
            make: Makes it.
            apart: Settings that it does not follow from.
            of: Stores that it follows from, if not all.
        """
        path = self._folder / f"{name}.json"
        stores = {store: self.digests[store] for store in of or self.digests}
        config = {field: value for field, value in self._config.items() if field not in apart}
        key = digest_of({"version": VERSION, "config": config, "stores": stores})
        if path.exists():
            held = json.loads(path.read_text())
            if held["key"] == key:
                part: dict[str, Any] = held["part"]
                return part
        begun, cpu_s = time.monotonic(), time.process_time()
        made = json.loads(json.dumps(make()))  # as it will be read again
        write_whole(path, json.dumps({"key": key, "part": made}).encode())
        spent_s = time.monotonic() - begun, time.process_time() - cpu_s
        _log.info("%s: %.0f s, CPU %.0f s", name, *spent_s)
        return made  # type: ignore[no-any-return]
