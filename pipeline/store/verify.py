"""Verifying a store: every object against its hash, and what can be repaired."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vega3d.pipeline.store import verify_format_1
from vega3d.pipeline.store.checking import find_root, look
from vega3d.pipeline.store.creating import check_written_here
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.record import Record
from vega3d.pipeline.store.repair import Repaired
from vega3d.pipeline.store.repair import repair as repair_store
from vega3d.pipeline.store.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `verify` found; faults give a reason for each object."""

    store: str
    format: int
    objects: int
    bytes: int
    damaged: Mapping[str, str]
    """Metadata, records and shards that are not what they were."""

    unmerged: Mapping[str, str]
    """Copies of these that are damaged, or behind: the next run's end writes them again."""

    uncommitted_shards: Mapping[str, str]
    """Written, but no commit speaks of them: a run is going on or was cut short."""

    superseded: int
    """Shards of commits that count no more; removed by a repair once they are a day old."""

    unvouched: Sequence[str]
    """Logs, settings and summary of runs, and what is no part of the store: nothing vouches for
    them, and nothing that is read depends on them."""

    leftovers: int
    """Temporary files of writers that live or died."""

    environments: int
    """Different machines or versions that took part: equal bytes are promised only for one."""

    unprotected: str = ""
    """What a store of an older format cannot vouch for."""

    restored: Sequence[str] = ()
    """Objects that a repair wrote again as they were."""

    taken_back: Mapping[int, str] = field(default_factory=dict)
    """Units whose commit a repair took back, and why: the next run computes them anew."""

    @property
    def faults(self) -> dict[str, str]:
        """Everything that is not as it must be."""
        return {**self.damaged, **self.unmerged, **self.uncommitted_shards}

    def told(self) -> Iterator[str]:
        """Yield what a person should read, a line each."""
        restored = set(self.restored)
        if not self.faults:
            yield "every object is as it was written"
        for key, reason in self.faults.items():
            yield f"{key!r}: {reason}" + (" (restored)" if key in restored else "")
        for unit, reason in self.taken_back.items():
            yield f"unit {unit} is taken back: {reason}"
        if self.taken_back:
            yield (
                "now run the extraction again: it computes these units anew. Where its bytes are "
                "those of before, every array, shard name and digest is as it was; the history "
                "keeps two records more of each such unit, and the index copies the last"
            )
        elif self.damaged.keys() - restored:  # the others mend themselves as runs end
            yield "`verify --repair` writes again what has a copy, and takes back what has none"
        if self.unprotected:
            yield self.unprotected


def verify(url: str, *, repair: bool = False) -> Verification:
    """Read every object again and compare it with its hash, or with what it must be.

    Args:
        url: Folder or URL of the store.
        repair: Write damaged copies again, and take back the commits of units whose shards are
            lost, so that the next run computes them anew.

    Raises:
        StoreError: There is no store, or nothing says any more what it was made from, or repair is
            asked of one of an older format.
    """
    objects = open_objects(url)
    root = find_root(objects)
    if repair:
        check_written_here(url, root.ours)
    findings = verify_format_1.look(objects, root) if root.format == 1 else look(objects, root)
    done = repair_store(objects, root, findings) if repair else Repaired()
    return Verification(
        store=url,
        format=root.format,
        objects=findings.objects,
        bytes=findings.stored_bytes,
        damaged={**findings.fixed, **findings.records, **findings.shards},
        unmerged=findings.merged,
        uncommitted_shards=findings.uncommitted,
        superseded=len(findings.superseded),
        unvouched=findings.unvouched,
        leftovers=findings.leftovers,
        environments=len(_environments(findings.commits.values())),
        unprotected=verify_format_1.UNPROTECTED if root.format == 1 else "",
        restored=done.restored,
        taken_back=done.taken_back,
    )


def status(url: str) -> dict[str, Any]:
    """Return how far a store is, as plain JSON."""
    store = Store.open(url)
    return {
        "store": url,
        "scenes": len(store.planned),
        "committed": len(store.scene_ids),
        "failures": store.failures,
        "pending": len(store.pending),
        "units": len(store.units),
        "units_committed": len(store.records),
        "views": sum(store.num_views(scene_id) for scene_id in store.scene_ids),
        "stored_bytes": store.records.stored_bytes,
        "taps": store.taps,
        "config_digest": store.config_digest,
        "digest": store.digest(),
        "complete": not store.pending,
        "environments": store.records.environments(),
        "numerics": store.attributes["numerics"],
    }


def _environments(records: Iterable[Record]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for record in records:
        if record.environment and dict(record.environment) not in found:
            found.append(dict(record.environment))
    return found
