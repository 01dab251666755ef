"""What the trainer asks of a GPU, where there is none: calls of torch's are recorded, not made."""

from types import SimpleNamespace

import pytest
import torch

from vega3d.pipeline.errors import UsageError
from vega3d.train import kept
from vega3d.train.batch import Batch
from vega3d.train.loader import Loader
from vega3d.train.order import Sample
from vega3d.train.pairing import pair_stores
from vega3d.train.processes import join_processes, repeatable


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the devices that a process made its own, on a machine with GPUs."""
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    return found


def test_a_device_that_is_named_is_the_processs_own(chosen: list[str]) -> None:
    with join_processes("cuda:1") as processes:
        assert (processes.device, chosen) == (torch.device("cuda:1"), ["cuda:1"])
    with join_processes("cuda") as processes:
        assert (processes.device, chosen) == (torch.device("cuda"), ["cuda:1"])
    with join_processes("cpu:0") as processes:
        assert (processes.device, chosen) == (torch.device("cpu:0"), ["cuda:1"])
    with pytest.raises(UsageError, match="cuda:2, and torch sees 2 here"), join_processes("cuda:2"):
        pass


def test_auto_is_as_repeatable_as_cuda(chosen: list[str]) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with (
        join_processes("auto") as processes,
        repeatable(asked=True, device=processes.device.type),
    ):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_buffer_is_given_back_when_its_own_device_has_copied_it(
    stores: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[object] = []

    def stream(device: object = None) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: waited.append(device))

    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Batch, "to", lambda self, device: self)
    pairing = pair_stores(stores.prior, stores.semantic)
    loader = Loader(pairing, min_depth_share=0.5, workers=0, device="cuda:1")
    asked = [[Sample(name, (0,), 0)] for name in pairing.scene_ids[:2]]
    assert len(list(loader.batches(asked))) == 2
    assert set(waited) == {torch.device("cuda:1")}


def test_what_torch_holds_back_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 85)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    share = kept.SHARE_OF_FREE
    assert kept.keeps("auto", int(90 * share), gpu)
    assert not kept.keeps("auto", int(90 * share) + 1, gpu)
