"""Errors of a GPU, raised here by hand: tried again, told, or left to another worker."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_backbones import SmallModels

from vega3d.pipeline.backbones import wan_networks
from vega3d.pipeline.backbones.backbone import Pooled
from vega3d.pipeline.backbones.controls import RandomConfig
from vega3d.pipeline.backbones.gpu_errors import compiler_told, is_lost, tried_with_room
from vega3d.pipeline.backbones.numerics import Numerics, gpu_kernels
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError, UsageError
from vega3d.pipeline.extract import open_for
from vega3d.pipeline.feeding import Waiting
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.worker import UnitWriter


def full(times: int) -> Callable[[], str]:
    left = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")] * times

    def step() -> str:
        if left:
            raise left.pop()
        return "done"

    return step


def test_a_full_memory_is_emptied_and_the_scene_tried_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    assert tried_with_room(full(0), "room") == "done"
    assert not emptied
    assert tried_with_room(full(1), "room") == "done"
    assert emptied == [True]
    with pytest.raises(SceneError, match="room: its views do not fit the GPU's memory"):
        tried_with_room(full(2), "room")


class Full(Waiting):
    """An encoder whose memory is full at one scene, so often, until the scene before is done."""

    def __init__(self, room: str, times: int) -> None:
        super().__init__(0.0, taps=("noise",), channels=RandomConfig().channels)
        self.left, self.room, self.done = times, room, []

    def begin_pooled(
        self, rgb: np.ndarray, grid: tuple[int, int], *, scene_id: str, view_ids: Sequence[str]
    ) -> Callable[[], Pooled]:
        if scene_id == self.room and self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        values = np.full((len(rgb), *grid, self.channels), 1.0, dtype=np.float32)

        def take() -> Pooled:
            self.done.append(scene_id)
            return {self.taps[0]: values}, np.ones(grid, dtype=np.float32)

        return take


@pytest.mark.parametrize(("times", "failed"), [(1, []), (2, ["room0001"])])
def test_a_run_goes_on_after_a_scene_that_filled_the_memory(
    times: int, failed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[list[str]] = []
    encoder = Full("room0001", times)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: finished.append([*encoder.done]))
    source = read_scenes("rooms:3?views=2&height=48&width=64")
    config = ExtractConfig(backbone=RandomConfig(), num_views=2, scenes_per_shard=3)
    plan, model, store = open_for(source, str(tmp_path / "s"), config, Numerics(threads=1), "")
    encoder.taps = tuple(model.facts.taps)
    (result,) = run_inline(UnitWriter(source, model, store, encoder), plan.units)
    assert list(result.failures) == failed
    assert finished == [["room0000"]]  # what was still in flight has been taken first


def test_what_cannot_be_compiled_says_what_it_takes() -> None:
    def broken(_graph: object, _inputs: object) -> Callable[[], None]:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    compiled = torch.compile(lambda x: x + 1, backend=broken)
    with (
        pytest.raises(UsageError, match=r"C compiler[\s\S]*gcc and python3-dev.*--no-compile"),
        compiler_told(),
    ):
        compiled(torch.ones(2))
    with pytest.raises(ValueError, match="ours"), compiler_told():
        raise ValueError("ours")

    def full_backend(_graph: object, _inputs: object) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    crowded = torch.compile(lambda x: x + 2, backend=full_backend)
    with pytest.raises(torch.OutOfMemoryError), compiler_told():
        crowded(torch.ones(2))


def test_a_backbone_tells_what_its_encoder_lacks(models: SmallModels) -> None:
    backbone = models.load("rgb")

    def broken(_graph: object, _inputs: object) -> Callable[[], None]:
        raise RuntimeError("Failed to find C compiler")

    step = torch.compile(lambda x: x + 1, backend=broken)
    backbone.encoder.tokens = lambda views: [("rgb", step(torch.ones(2)))]  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="cannot be compiled for this GPU"):
        backbone.encode(np.zeros((1, 48, 64, 3), np.uint8), scene_id="s", view_ids=["a"])


def test_a_gpu_that_fails_is_no_scenes_fault() -> None:
    assert is_lost(torch.AcceleratorError("CUDA error: an illegal memory access"))
    assert not is_lost(RuntimeError("CUDA error"))
    assert not is_lost(torch.OutOfMemoryError("full"))


def test_each_size_has_code_of_its_own_and_batches_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[list[int | torch.SymInt]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(list(inputs[-1].shape))
        return graph.forward

    plainly = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: plainly(self, backend=backend, **how)
    )

    class Weights(torch.nn.Module):
        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            return scores.softmax(dim=-1)

    layer = Weights()
    wan_networks.compile_sizes(layer)

    def run(sizes: Sequence[tuple[int, int]]) -> None:
        with gpu_kernels("float32", "cuda"):
            for batch, tokens in sizes:
                rows = torch.randn(batch, tokens)
                torch._dynamo.maybe_mark_dynamic(rows, 0)  # as `any_batch` does on CUDA
                layer(rows)

    run([(4, 6), (3, 6), (4, 10), (2, 10), (5, 12), (4, 12)])
    assert [shape[1] for shape in compiled] == [6, 10, 12]
    # A model is loaded in one thread and runs in another, which has torch's usual limit of 8.
    other = threading.Thread(target=run, args=([(3, tokens) for tokens in range(20, 32)],))
    other.start()
    other.join()
    assert [shape[1] for shape in compiled[3:]] == list(range(20, 32))
