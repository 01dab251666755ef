"""Errors of a GPU, raised here by hand: tried again, told, or left to another worker."""

from collections.abc import Callable

import pytest
import torch

from vega3d.pipeline.backbones import wan_networks
from vega3d.pipeline.backbones.gpu_errors import compiler_told, is_lost, tried_with_room
from vega3d.pipeline.errors import SceneError, UsageError


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


def test_what_cannot_be_compiled_says_what_it_takes() -> None:
    def broken(_graph: object, _inputs: object) -> Callable[[], None]:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    compiled = torch.compile(lambda x: x + 1, backend=broken)
    with (
        pytest.raises(UsageError, match=r"C compiler[\s\S]*gcc, python3-dev.*--no-compile"),
        compiler_told(),
    ):
        compiled(torch.ones(2))
    with pytest.raises(ValueError, match="ours"), compiler_told():
        raise ValueError("ours")


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
    for batch, tokens in ((4, 6), (3, 6), (4, 10), (2, 10), (5, 12), (4, 12)):
        rows = torch.randn(batch, tokens)
        torch._dynamo.maybe_mark_dynamic(rows, 0)  # as `any_batch` does on CUDA
        layer(rows)
    assert [shape[1] for shape in compiled] == [6, 10, 12]
