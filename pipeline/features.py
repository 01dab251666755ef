"""One scene: from its source to pixels, from pixels to the arrays that the store keeps.

Memory is bounded whatever a scene holds: its pixels are held up to a limit (`scenes/pixels.py`),
and go through the encoder some views at a time. Letters: V views, n those of a part, H W the
images, gh gw the common token grid.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vega3d.pipeline.backbones.backbone import check_view_ids
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.jpeg_sizes import jpeg_divisor
from vega3d.pipeline.limits import SCENE_HELD_BYTES
from vega3d.pipeline.scenes.checking import check_one_size, diagnose_views
from vega3d.pipeline.scenes.conventions import as_meant
from vega3d.pipeline.scenes.crew import begun
from vega3d.pipeline.scenes.decoding import DecodedView, SceneReport, decode_views
from vega3d.pipeline.scenes.diagnosis import Convention, Diagnosis
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.notes import SceneNote
from vega3d.pipeline.store.record import stack_matrices
from vega3d.pipeline.store.scene_arrays import SceneArrays
from vega3d.pipeline.taking import Encodes, Known, Part, Taking
from vega3d.pipeline.texts import safe

PART_BYTES = 1 << 28
"""Decoded pixels of the views that go to the encoder in one call; one view may have more."""

PART_VIEWS = 16
"""... and as many views: an encoder's own tokens are larger than what is kept of them."""

MAX_JOINT_BYTES = 4 << 30
"""Images of a scene, and their copies at the encoder's size, where all views go in together."""

Prefetch = Callable[[Iterator[Part]], Iterator[Part]]
"""Gives what an iterator gives; it may make the next part while this one is used."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What reading a scene showed; it holds none of its pixels, and some may be still worked out.

    Hashing a view and looking at its geometry take longer than decoding it on several cores: the
    next scene is decoded meanwhile.
    """

    report: SceneReport
    hashed: Future[str]
    diagnosed: Future[Diagnosis]

    def wait(self) -> None:
        """Wait for all of it; what went wrong is raised."""
        for one in (self.hashed, self.diagnosed):
            one.result()

    @property
    def content_sha256(self) -> str:
        """Hash of what the features come from."""
        return self.hashed.result()

    @property
    def geometry(self) -> Diagnosis:
        """Whether depth agrees between neighbouring chosen views."""
        return self.diagnosed.result()

    def note(self, source: Mapping[str, str]) -> SceneNote:
        """Return what reading it showed, for who comes later.

        Args:
            source: How its files looked just before.
        """
        misread = self.geometry.lines()
        return SceneNote(
            content_sha256=self.content_sha256,
            source=source,
            views_with_depth=self.report.with_depth,
            views_with_pose=self.report.with_pose,
            reprojection_m=self.geometry.error_m,
            misread=tuple(map(safe, misread)),
            remarks=tuple(map(safe, [*self.report.lines(), *misread])),
        )


@dataclass(frozen=True, slots=True)
class DecodedScene:
    """The chosen views of a scene, decoded."""

    scene_id: str
    decoded: tuple[DecodedView, ...]
    seen: Seen
    stack: np.ndarray | None = None
    """All colour images, uint8 [V, H, W, 3], where they are held as they are: parts are slices."""

    @property
    def is_held(self) -> bool:
        """Say whether all pixels are there: nothing is decoded again for any use of them."""
        depths = (one.depth for one in self.decoded)
        return self.stack is not None and all(one is None or one.held is not None for one in depths)

    @property
    def view_ids(self) -> tuple[str, ...]:
        """Names of the views."""
        return tuple(one.view.view_id for one in self.decoded)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of every colour image, px."""
        return self.decoded[0].size

    def parts(self, num_views: int) -> Iterator[Part]:
        """Yield the views in order, so many at a time."""
        for start in range(0, len(self.decoded), num_views):
            some = self.decoded[start : start + num_views]
            if self.stack is not None:
                rgb = self.stack[start : start + num_views]
            else:
                rgb = np.empty((len(some), *self.image_size, 3), dtype=np.uint8)
                for one, out in zip(some, rgb, strict=True):
                    out[:] = one.rgb
            yield Part(tuple(one.view for one in some), rgb, tuple(one.depth_m for one in some))


def decode_scene(source: SceneSource, scene_id: str, config: ExtractConfig) -> DecodedScene:
    """Read a scene, drop views without a pose and bad ones, choose views and decode them.

    Raises:
        SceneError: It cannot be read, no view is left, too many are bad, or images differ in size.
    """
    scene = as_meant(source.read(scene_id), poses=config.poses, depth_scale=config.depth_scale)
    decoded, report = decode_views(
        scene,
        num_views=config.num_views,
        sampling=config.sampling,
        policy=config.bad_views,
        held_bytes=SCENE_HELD_BYTES,
        divisor_of=partial(jpeg_divisor, config) if config.jpeg == "scaled" else None,
    )
    check_one_size(scene_id, decoded)
    asked = Convention(poses=config.poses, depth_scale=config.depth_scale)
    decoded, stack = _held_in_one_array(decoded)
    hashed = begun(lambda: _content_sha256(decoded))
    diagnosed = begun(lambda: diagnose_views(decoded, asked=asked))
    found = DecodedScene(scene_id, tuple(decoded), Seen(report, hashed, diagnosed), stack)
    if not found.is_held:  # what is decoded again for the hash is not while others decode
        found.seen.wait()
    return found


def _held_in_one_array(
    decoded: list[DecodedView],
) -> tuple[list[DecodedView], np.ndarray | None]:
    """Return the views with their images in one array, and that; None where one is not held as is.

    The list given is changed on the way, image by image, so that few are there twice. It is done
    where a scene is read: nobody who computes waits for it.
    """
    if any(one.turns or one.color.held is None for one in decoded):
        return decoded, None
    stack = np.empty((len(decoded), *decoded[0].size, 3), dtype=np.uint8)
    for index, one in enumerate(decoded):
        stack[index] = one.color.get()
        decoded[index] = replace(one, color=replace(one.color, held=stack[index]))
    return decoded, stack


def encode_scene(
    scene: DecodedScene,
    backbone: Encodes,
    config: ExtractConfig,
    prefetch: Prefetch = iter,
    known: Known | None = None,
) -> SceneArrays:
    """Run the backbone on a decoded scene and bring everything to the common grid.

    Args:
        scene: From `decode_scene`.
        backbone: Sees the same views together, whatever the parts are.
        config: Says which grid.
        prefetch: See `Prefetch`.
        known: Where the scene's tokens lie, from other encoders; what is new is added.

    Raises:
        SceneError: The backbone sees all views at once, and they are more than memory is given.
    """
    return begin_scene(scene, backbone, config, prefetch, known)()


def begin_scene(
    scene: DecodedScene,
    backbone: Encodes,
    config: ExtractConfig,
    prefetch: Prefetch = iter,
    known: Known | None = None,
) -> Callable[[], SceneArrays]:
    """Give a scene's views to the backbone, and return what hands over the result.

    The last views may still be on their way through it. What is returned holds no decoded pixels
    but theirs. See `encode_scene`.
    """
    check_view_ids(scene.view_ids, len(scene.decoded))
    known = {} if known is None else known
    taking = Taking(_without_features(scene), scene.image_size, backbone, config.grid, known)
    for part in prefetch(scene.parts(_views_of_a_part(scene, backbone))):
        taking.begin(part)
    hashed = scene.seen.hashed
    return lambda: replace(taking.finish(), content_sha256=hashed.result())


def _views_of_a_part(scene: DecodedScene, backbone: Encodes) -> int:
    """Return how many views to hand over at a time: whole batches, so that no result changes."""
    count = len(scene.decoded)
    if backbone.views_at_once is None:
        _check_joint(scene, backbone)
        return count
    fitting = PART_BYTES // max(one.num_bytes for one in scene.decoded)
    batch = backbone.views_at_once
    return max(1, min(PART_VIEWS, fitting) // batch) * batch


def _check_joint(scene: DecodedScene, backbone: Encodes) -> None:
    height, width = scene.image_size
    rows, cols = backbone.canvas(height, width)
    # On the canvas twice as bytes, and twice as float32 while they are normalised.
    needed = len(scene.decoded) * 3 * (height * width + rows * cols * 10)
    if needed > MAX_JOINT_BYTES:
        raise SceneError(
            f"{scene.scene_id}: all {len(scene.decoded)} views of {width}x{height} go into this "
            f"encoder together and take {needed / 2**30:.1f} GiB, more than the "
            f"{MAX_JOINT_BYTES >> 30} that they may; take fewer --views, a --context that sees "
            "each view alone where the encoder has one, or smaller images"
        )


def _without_features(scene: DecodedScene) -> SceneArrays:
    return SceneArrays(
        scene_id=scene.scene_id,
        features={},
        view_ids=scene.view_ids,
        world_from_camera=stack_matrices([one.view.world_from_camera for one in scene.decoded], 4),
        intrinsics=stack_matrices([one.view.K_color for one in scene.decoded], 3),
        image_size=np.tile(scene.image_size, (len(scene.decoded), 1)),
        dropped_views=scene.seen.report.dropped_views,
        repeated_views=len(scene.seen.report.repeated_views),
    )


def _content_sha256(decoded: Sequence[DecodedView]) -> str:
    """Hash what the features come from: ids, decoded pixels, depths and cameras."""
    digest = hashlib.sha256()

    def update(name: str, values: np.ndarray | None) -> None:
        shape = None if values is None else (values.dtype.str, values.shape)
        digest.update(f"{name}{shape}".encode())
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)

    for one in decoded:
        view = one.view
        update(f"view {len(view.view_id)} {view.view_id}", one.rgb)
        update("depth", one.depth_m)
        for name in ("K_color", "K_depth", "world_from_camera"):
            camera = getattr(view, name)
            update(name, None if camera is None else np.asarray(camera, dtype=np.float64))
    return digest.hexdigest()
