from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import Stores, World, write_world


@pytest.fixture
def make_stores(tmp_path: Path) -> Callable[..., Stores]:
    count = iter(range(1000))

    def make(**options: object) -> Stores:
        return write_world(tmp_path / f"world{next(count)}", World(**options))

    return make


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Four small scenes, read by many tests and changed by none."""
    return write_world(tmp_path_factory.mktemp("stores"), World())
