"""Which views of a scene are kept: those with a usable pose, then a sample of them."""

import heapq
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.cameras import is_lost
from vega3d.pipeline.scenes.scene import BadView, Scene, View
from vega3d.pipeline.scenes.settings import Sampling

VOXEL_M = 0.1
"""Edge of the voxels that `coverage` counts. Source: arXiv 2603.19235v2, whose voxels they are."""

_MAX_POINTS = 20_000
"""Depth pixels of a view that are looked at, on a regular grid: a 0.1 m voxel at 3 m spans some 19
pixels of a 640-pixel image, so a finer grid finds no more of them."""


def drop_bad_poses(scene: Scene) -> tuple[Scene, int]:
    """Return the scene without views whose pose was lost, and how many there were.

    Lost is not finite or all zero. Views without any pose (videos) stay.
    """
    kept = tuple(
        view
        for view in scene.views
        if view.world_from_camera is None or not is_lost(view.world_from_camera)
    )
    return replace(scene, views=kept), len(scene.views) - len(kept)


def sample_views(scene: Scene, num_views: int, sampling: Sampling) -> Scene:
    """Keep at most `num_views` views, in their order; 0 keeps all.

    Args:
        scene: Its poses must be finite for `coverage`: see `drop_bad_poses`.
        num_views: Views to keep; a scene with fewer keeps what it has.
        sampling: `uniform` takes them evenly by index; `coverage` takes the view that adds most
            0.1 m voxels, again and again. Ties go to the lower index.

    Raises:
        SceneError: `coverage` of a view without depth, pose or intrinsics. Views whose depth cannot
            be read become bad views of the scene that is returned.

    Source: uniform is the reference's np.linspace(0, n - 1, num_views, dtype=int).
    """
    count = len(scene.views)
    if num_views == 0 or count <= num_views:
        return scene
    if sampling == "coverage":
        return _covering(scene, num_views)
    chosen = np.linspace(0, count - 1, num_views, dtype=int).tolist()
    return replace(scene, views=tuple(scene.views[index] for index in chosen))


def greedy_cover(sets: Sequence[Int64[np.ndarray, " _"]], count: int) -> list[int]:
    """Return `count` indices, each adding most elements not yet covered; ties to the lower index.

    A set's gain only shrinks as others are taken, so an old gain is an upper bound: recompute the
    largest one, and take it if it stays the largest.

    Source: Minoux, Accelerated greedy algorithms for maximizing submodular set functions, 1978.
    """
    elements, members = np.unique(np.concatenate(sets), return_inverse=True)
    bounds = np.cumsum([len(one) for one in sets])[:-1]
    parts = [np.unique(part) for part in np.split(members, bounds)]
    is_covered = np.zeros(len(elements), dtype=bool)
    heap = [(-len(part), index) for index, part in enumerate(parts)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, index = heap[0]
        fresh = (-int((~is_covered[parts[index]]).sum()), index)
        heapq.heapreplace(heap, fresh)
        if heap[0] == fresh:
            heapq.heappop(heap)
            chosen.append(index)
            is_covered[parts[index]] = True
    return chosen


def _covering(scene: Scene, num_views: int) -> Scene:
    for view in scene.views:
        if view.read_depth_m is None or view.world_from_camera is None or view.K_depth is None:
            raise SceneError(
                f"{scene.scene_id}/view {view.view_id}: coverage sampling needs depth, pose and "
                "intrinsics; use sampling 'uniform'"
            )
    readable, voxels = [], []
    bad = list(scene.bad_views)
    for view in scene.views:
        try:
            voxels.append(_voxels(view))
            readable.append(view)
        except SceneError as error:
            bad.append(BadView(view.view_id, str(error)))
    chosen = sorted(greedy_cover(voxels, num_views)) if voxels else []
    views = tuple(readable[index] for index in chosen)
    return replace(scene, views=views, bad_views=tuple(bad))


def _voxels(view: View) -> Int64[np.ndarray, " n"]:
    """Return one number for each voxel that the view's depth pixels fall into."""
    assert view.read_depth_m is not None  # checked by the caller
    assert view.world_from_camera is not None
    assert view.K_depth is not None
    depth_m = view.read_depth_m()
    stride = max(1, int(np.ceil(np.sqrt(depth_m.size / _MAX_POINTS))))
    rows, cols = (np.arange(stride // 2, side, stride) for side in depth_m.shape)
    z = depth_m[np.ix_(rows, cols)].astype(np.float64)
    K = view.K_depth
    x = z * ((cols + 0.5 - K[0, 2]) / K[0, 0])
    y = z * ((rows + 0.5 - K[1, 2]) / K[1, 1])[:, None]
    xyz = np.stack([x, y, z], axis=-1)[z > 0]
    world = xyz @ view.world_from_camera[:3, :3].T + view.world_from_camera[:3, 3]
    cells = np.floor(world / VOXEL_M).astype(np.int64)
    # 21 bits an axis hold +-104 km; beyond that two voxels could share a number, and no more.
    offset = cells + (1 << 20)
    return np.unique(
        (offset[:, 0] << 42) | ((offset[:, 1] & 0x1FFFFF) << 21) | (offset[:, 2] & 0x1FFFFF)
    )
