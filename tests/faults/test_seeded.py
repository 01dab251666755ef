"""One run of each kind of `seeded.py` that needs no Ray; those are in tests/cluster."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import seeded

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.fixture(scope="module")
def bench(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[seeded.Bench]:
    with seeded.opened(bucket, tmp_path_factory.mktemp("seeded"), with_ray=False) as opened:
        yield opened


@pytest.mark.parametrize("kind", [kind for kind in seeded.KINDS if kind not in seeded.S3_ONLY])
def test_a_folder_ends_as_an_undisturbed_one(bench: seeded.Bench, kind: str) -> None:
    if kind == "disk full" and not seeded.may_mount():
        pytest.skip("no right to mount a small file system here")
    check(seeded.one_run(bench, kind, "folder", seed=1))


def test_a_sleeper_finds_a_bucket_done_by_others(bench: seeded.Bench) -> None:
    check(seeded.one_run(bench, "stopped, and on later (zombie)", "s3", seed=2))


def test_a_bucket_that_fails_in_every_way_ends_as_an_undisturbed_one(
    bench: seeded.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make faults` delivers the faults of S3 kind by kind; here they come in one run."""
    faults = [fault for some in seeded.S3_FAULTS.values() for fault in some]
    monkeypatch.setitem(seeded.KINDS, "all faults of S3", seeded.cut_off(*faults))
    outcome = seeded.one_run(bench, "all faults of S3", "s3", seed=3)
    check(outcome)
    assert outcome.delivered >= len(faults)  # dealt one after the other: each of them came


def test_a_command_that_was_stopped_goes_on_and_tells_of_all(tmp_path: Path) -> None:
    kept = seeded.Kept(tmp_path / "outcomes")
    kept.add(0, "killed", "folder", seeded.Outcome(delivered=3, seconds=1.0))
    kept.add(4, "killed", "s3", seeded.Outcome(delivered=1, lost=1, seconds=2.0, notes=["x"]))
    again = seeded.Kept(tmp_path / "outcomes")
    assert again.outcomes == kept.outcomes
    assert seeded.table(again.outcomes).splitlines()[2:] == [
        "| killed | 1, 3, 1.0 | 1, 1, 2.0 | 1 | 0 | 0 |",
        "| all 2 runs, 4 delivered | 1 runs | 1 runs | 1 | 0 | 0 |",
    ]


def check(outcome: seeded.Outcome) -> None:
    assert outcome.notes == []
    assert (outcome.lost, outcome.duplicated, outcome.corrupt) == (0, 0, 0)
    assert outcome.delivered
