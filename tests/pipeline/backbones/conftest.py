"""What the tests of encoders share: one thread, and small checkpoints."""

from collections.abc import Iterator

import pytest
import torch
from small_backbones import SmallModels


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small kernels on a busy machine spend their time waiting for one another's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SmallModels:
    """Return small checkpoints of every family, each written when first asked for."""
    return SmallModels(tmp_path_factory.mktemp("small"))
