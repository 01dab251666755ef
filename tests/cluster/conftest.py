"""One local Ray for the modules here that need no other: starting one costs ten seconds."""

from collections.abc import Iterator

import pytest
from shared_ray import SharedRay


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    shared = SharedRay()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def local_ray(shared_ray: SharedRay) -> None:
    """Be connected to a local Ray."""
    shared_ray.open()
    shared_ray.worked = True


@pytest.fixture(scope="module")
def unused_ray(shared_ray: SharedRay) -> None:
    """Be connected to a local Ray on which no unit was done."""
    if shared_ray.worked:
        shared_ray.close()
    shared_ray.open()


@pytest.fixture(scope="module")
def no_ray(shared_ray: SharedRay) -> None:
    """Be connected to none."""
    shared_ray.close()
