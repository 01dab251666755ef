"""What a run asks of a bucket and of its driver: objects, requests a second, and what is allowed.

Standard library and numpy only, as all of planning. The requests of a unit are counted by a test
against an S3 server.
"""

from typing import Any

from vega3d.pipeline.store.layout import Layout

S3_PUTS_PER_S, S3_GETS_PER_S = 3_500, 5_500
"""Of one prefix; a bucket splits prefixes under load, within minutes. Source: AWS, Best practices
design patterns: optimizing Amazon S3 performance."""

RECORD_AND_NOTES = 2
"""Objects of a unit beside its shards."""

GETS_A_UNIT = 3
"""Is it committed (before and after computing: HEAD); the record, read back. Of a new unit."""

LISTED_AT_ONCE = 1_000

DRIVER_S = 0.0035
"""CPU time of the driver a unit: 2.4 to 4.7 ms were measured, the most with the signs of life of 64
workers in it (tests/benchmarks/README.md, many workers)."""

_BUSY = 0.5


def bucket_load(layout: Layout, wall_s: float) -> dict[str, Any]:
    """Return what the store of a run takes, were it on S3, as plain JSON; pure.

    Args:
        layout: Of the store.
        wall_s: Of the run.
    """
    units, arrays = len(layout.plan.units), len(layout.unit_arrays)
    puts_a_unit = arrays + RECORD_AND_NOTES
    units_per_s = units / max(wall_s, 1e-9)
    puts_per_s, gets_per_s = units_per_s * puts_a_unit, units_per_s * GETS_A_UNIT
    share = max(puts_per_s / S3_PUTS_PER_S, gets_per_s / S3_GETS_PER_S)
    return {
        "objects": layout.num_files(),
        "prefixes": puts_a_unit,
        "objects_of_a_prefix": units,
        "puts_per_s": puts_per_s,
        "gets_per_s": gets_per_s,
        "puts_per_s_of_a_prefix": units_per_s,
        "share_of_one_prefix": share,
        "resume_lists": -(-units // LISTED_AT_ONCE),
        "driver_share": units_per_s * DRIVER_S,
        "verdict": _verdict(share, units_per_s),
    }


def _verdict(share: float, units_per_s: float) -> str:
    if units_per_s * DRIVER_S > _BUSY:
        return (
            f"the driver would hand out {units_per_s:.0f} units a second, which keeps "
            f"{units_per_s * DRIVER_S:.1f} cores busy: use more --scenes-per-shard"
        )
    if share > 1:
        return (
            "more than S3 takes of a prefix before it splits it: runs slow down and try again "
            "meanwhile; use more --scenes-per-shard"
        )
    return "within what S3 takes of one prefix, before it splits any"


def told(load: dict[str, Any]) -> str:
    """Say it to a person, in a line."""
    return (
        f"on S3: {load['objects']:,} objects, {load['objects_of_a_prefix']:,} in each of "
        f"{load['prefixes']} prefixes; {load['puts_per_s']:,.0f} PUT and {load['gets_per_s']:,.0f} "
        f"GET a second, of {S3_PUTS_PER_S:,} and {S3_GETS_PER_S:,} that one prefix takes "
        f"(reading the scenes not counted); {load['verdict']}"
    )
