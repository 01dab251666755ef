"""Damage to each object of a small store, in every way: found, repaired, and no reader hurt.

`python tests/faults/sweep.py [FLIPS [OBJECT...]]` does the full sweep (40 flipped bits an object)
and prints a table; `test_sweep.py` does a part of it.
"""

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from synthetic_unit import make_worker

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import StoreError
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.verify import verify
from vega3d.pipeline.store.writer import uncommitted

Damage = Callable[[Path], None]
SCENES = 3
FAILS = "hall/002 \u00fc"


def write(url: str) -> None:
    plan, worker = make_worker(url, SCENES, fail_on=(FAILS,))
    list(run_inline(worker, uncommitted(worker.store, plan)))
    merge_commits(worker.store)


def objects(store: Path) -> list[str]:
    return sorted(p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file())


def contents(store: Path, *, with_history: bool) -> dict[str, bytes]:
    """Return every object; or all but how often each unit was written, and the copy of that."""
    history = ("unit/commits/", "unit/index.jsonl")
    kept = [key for key in objects(store) if with_history or not key.startswith(history)]
    return {key: (store / key).read_bytes() for key in kept}


def flip(bit: int) -> Damage:
    def damage(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(other: Path) -> Damage:
    def damage(path: Path) -> None:
        here, there = path.read_bytes(), other.read_bytes()
        path.write_bytes(there)
        other.write_bytes(here)

    return damage


def damages(store: Path, key: str, flips: int) -> Iterator[tuple[str, Damage]]:
    chance = random.Random(key)
    bits = (store / key).stat().st_size * 8
    for bit in chance.sample(range(bits), min(flips, bits)):
        yield "flipped", flip(bit)
    yield "truncated", truncate
    yield "emptied", empty
    yield "removed", Path.unlink


def swaps(whole: Path, copy: Path, key: str) -> Iterator[tuple[str, Damage]]:
    """Yield a swap with another object of the copy that holds something else."""
    content = (whole / key).read_bytes()
    others = [other for other in objects(whole) if (whole / other).read_bytes() != content]
    yield "swapped", swap(copy / random.Random(key).choice(others))


def outcome(whole: Path, store: Path, key: str, damage: Damage) -> str:
    """Damage an object of a copy, and say what verify, repair and a rerun make of it."""
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(whole, store)
    damage(store / key)
    read_everything(str(store))
    try:
        found = verify(str(store))
        if key not in found.faults:
            return "NOT NAMED"
        done = verify(str(store), repair=True)
    except StoreError as error:
        return f"refused: {str(error)[:60]}"
    write(str(store))
    if verify(str(store)).faults:
        return "STILL FAULTS"
    if open_store(str(store)).digest() != open_store(str(whole)).digest():
        return "OTHER DIGEST"
    again = bool(done.taken_back)
    if contents(whole, with_history=not again) != contents(store, with_history=not again):
        return "OTHER BYTES"
    return "restored by a rerun" if again else "restored"


def read_everything(url: str) -> None:
    """Ask for everything; what is damaged is a StoreError, and nothing else."""
    try:
        store = open_store(url)
        for scene_id in store.scene_ids:
            for tap in store.taps:
                store.features(scene_id, tap)
            store.world_xyz(scene_id)
            store.preview(scene_id)
            store.world_from_camera(scene_id)
        store.channel_stats(store.taps[0])
    except StoreError:
        pass


def sweep(scratch: Path, flips: int, keys: Sequence[str] = ()) -> Counter[tuple[str, str]]:
    """Return how often each kind of damage had each outcome."""
    whole = scratch / "whole"
    write(str(whole))
    table: Counter[tuple[str, str]] = Counter()
    for key in keys or objects(whole):
        for kind, damage in (*damages(whole, key, flips), *swaps(whole, scratch / "copy", key)):
            told = outcome(whole, scratch / "copy", key, damage)
            table[kind, told] += 1
            if told.isupper():
                sys.stderr.write(f"{key}: {kind}: {told}\n")
    return table


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as at:
        table = sweep(Path(at), int(sys.argv[1]) if len(sys.argv) > 1 else 40, sys.argv[2:])
    for (kind, told), count in sorted(table.items()):
        sys.stdout.write(f"{kind:10} {told:70} {count:6}\n")
