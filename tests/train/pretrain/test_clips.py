"""Views that runs share: the same whoever makes them."""

from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.train.pretrain import clips
from vega3d.train.pretrain.clips import cache_phrases, cache_views, fill_cache
from vega3d.train.pretrain.config import GeneratorConfig, PretrainRun

ROOMS = "rooms:3?views=1&height=16&width=32&seed=101"


@pytest.mark.slow
def test_several_processes_make_the_views_that_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SCENES_A_FILE", 2)
    config = GeneratorConfig(scenes=ROOMS, height=16, width=32)
    made = fill_cache(config, PretrainRun(cache=str(tmp_path), workers=2))
    assert (made["scenes"], made["views"]) == (3, 1)
    parts = cache_views(ROOMS, Path(made["folder"]), 16, 32)  # nothing is left to make
    assert [len(part) for part in parts] == [2, 1]
    last = read_scenes(ROOMS).read("room0002").views[0].read_rgb()
    np.testing.assert_array_equal(parts[1][0, 0], last)


def test_phrases_are_kept_in_a_file(tmp_path: Path) -> None:
    rooms = "rooms:2?views=2&height=16&width=32&seed=101"
    said = cache_phrases(rooms, tmp_path)
    assert said == [read_scenes(rooms).phrases(name) for name in ("room0000", "room0001")]
    (tmp_path / "phrases.json").write_text("[[[]]]")
    assert cache_phrases(rooms, tmp_path) == [[[]]]


def test_views_that_no_run_could_find_are_not_made() -> None:
    with pytest.raises(UsageError, match="give them a folder with --cache"):
        fill_cache(GeneratorConfig(), PretrainRun())
