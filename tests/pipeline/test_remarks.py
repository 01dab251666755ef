"""Context `clip` gives the views of one latent one feature map: whoever uses them is told."""

from pathlib import Path

import pytest

from vega3d.evaluate.sources import open_sources, plan_comparison
from vega3d.pipeline import open_store, read_scenes
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.wan import WanConfig
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.extract import extract
from vega3d.pipeline.pictures import write_pictures
from vega3d.pipeline.runners import run_inline
from vega3d.train.pairing import pair_stores

TOLD = "in clip context the four views of one latent share one feature map"


@pytest.mark.one_quick
@pytest.mark.parametrize("context", ["clip", "stack"])
def test_run_pictures_fit_and_report_say_it(
    context: str, tiny_wan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = str(tmp_path / "s")
    backbone = WanConfig(model=str(tiny_wan), resolution=(64, 64), context=context)
    source = read_scenes("rooms:1?views=5&height=64&width=64")
    extract(source, out, ExtractConfig(backbone=backbone, grid=(4, 4)), numerics=Numerics(),
            run=run_inline)  # fmt: skip
    times = 1 if context == "clip" else 0
    assert caplog.text.count(TOLD) == times
    caplog.clear()
    write_pictures([open_store(out)], str(tmp_path / "p"))
    assert caplog.text.count(TOLD) == times
    pairing = pair_stores(out, out)
    assert sum(TOLD in note for note in pairing.notes) == 2 * times
    comparison = plan_comparison(open_sources([out]))
    assert sum(TOLD in note for note in comparison.notes) == times
