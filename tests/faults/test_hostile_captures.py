"""A folder of captures of which a fifth are hostile: the run ends by itself and lists those.

python tests/faults/test_hostile_captures.py    # 200 captures, 40 hostile, and a table
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hostile import HOSTILE, write_good


def extract_all(
    folder: Path, encoder: Sequence[str], good: int, a_kind: int, timeout_s: float
) -> dict:
    """Write the captures, extract them in a process of its own, and return its summary."""
    captures = folder / "captures"
    for number in range(good):
        write_good(captures / f"good{number:03d}")
    for number, (kind, spoil) in enumerate(list(HOSTILE.items()) * a_kind):
        scene = captures / f"bad{number:03d} {kind}"
        write_good(scene)
        spoil(scene)
    command = [sys.executable, "-c", "from vega3d.pipeline.cli import main; main()", "run",
               str(captures), "--out", str(folder / "store"), *encoder, "--device", "cpu",
               "--threads", "1", "--scenes-per-shard", "8"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 3, done.stderr[-3000:]
    assert "\x1b" not in done.stderr
    summary: dict = json.loads(done.stdout.splitlines()[-1])
    return summary


def check(summary: dict, good: int, a_kind: int) -> None:
    bad = len(HOSTILE) * a_kind
    assert summary["committed"] == good
    assert len(summary["failures"]) == bad, sorted(summary["failures"])
    assert summary["pending"] == 0
    for reason in summary["failures"].values():
        assert reason
        assert "/captures" not in reason
        assert "Traceback" not in reason
        assert "Errno" not in reason


@pytest.mark.slow
def test_hostile_captures_are_listed_and_the_others_extracted(
    tmp_path: Path,
) -> None:
    encoder = ["--backbone", "rgb", "--resolution", "32x32"]
    check(extract_all(tmp_path, encoder, good=10, a_kind=1, timeout_s=120), 10, 1)


if __name__ == "__main__":
    from vega3d.pipeline.backbones.tiny import write_tiny_siglip

    with tempfile.TemporaryDirectory() as place:
        write_tiny_siglip(Path(place, "model"))
        encoder = ["--preset", "siglip", "--model", f"{place}/model"]
        found = extract_all(Path(place), encoder, good=160, a_kind=2, timeout_s=900)
        for scene_id, told in sorted(found["failures"].items())[: len(HOSTILE)]:
            print(f"{scene_id[7:]:16s} {told}")
        print({name: found[name] for name in ("scenes", "committed", "pending", "wall_s")})
        check(found, 160, 2)
