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


@pytest.mark.parametrize("kind", ["all faults of S3", "stopped, and on later (zombie)"])
def test_a_bucket_ends_as_an_undisturbed_one(
    bench: seeded.Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make faults` delivers the faults of S3 kind by kind; here they come in one run."""
    faults = [fault for some in seeded.S3_FAULTS.values() for fault in some]
    monkeypatch.setitem(seeded.KINDS, "all faults of S3", seeded.cut_off(*faults))
    check(seeded.one_run(bench, kind, "s3", seed=2))


def check(outcome: seeded.Outcome) -> None:
    assert outcome.notes == []
    assert (outcome.lost, outcome.duplicated, outcome.corrupt) == (0, 0, 0)
    assert outcome.delivered
