"""Scenes whose views are counted, for tests that compare nothing view by view."""

from typing import Any

from vega3d.pipeline.store.scene_arrays import SceneArrays


def numbered(**arrays: Any) -> SceneArrays:  # noqa: ANN401 - what SceneArrays takes
    """Return a scene whose views are called "0", "1", ... where nothing else is said."""
    views = len(next(iter(arrays["features"].values())))
    return SceneArrays(**{"view_ids": tuple(map(str, range(views))), **arrays})
