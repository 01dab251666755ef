"""Committed scenes whose source has changed since: found, told, and computed anew when asked for.

How a scene's files look is compared with the note that was made when it was read; where they look
different, or there is no note, the scene is read again and its content compared with what was
committed. A file that was merely touched changes nothing.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.features import DecodedScene
from vega3d.pipeline.reading_ahead import ReadScene, read_ahead
from vega3d.pipeline.scenes.fingerprints import Fingerprint, differing, fingerprint
from vega3d.pipeline.scenes.scene import SceneSource
from vega3d.pipeline.store.notes import SceneNote, read_all_notes, read_notes, write_notes
from vega3d.pipeline.store.objects import open_objects
from vega3d.pipeline.store.record import stack_matrices
from vega3d.pipeline.store.scene_arrays import SceneFailure
from vega3d.pipeline.store.store import Store
from vega3d.pipeline.taking import preview_of

_LOOKERS = 16
_MOST_TOLD = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceChanges:
    """What became of the source of committed scenes."""

    changed: Mapping[str, str] = field(default_factory=dict)
    """What is different now, by scene."""

    lost: Mapping[str, str] = field(default_factory=dict)
    """Why a scene whose files look different cannot be read any more; its features are kept."""

    unwatched: tuple[str, ...] = ()
    """Scenes of which there is nothing to compare with."""

    committed: Mapping[str, str] = field(default_factory=dict)
    """Content hash of each changed scene, as it was committed."""

    def tell(self, out: str) -> None:
        """Say what a person should know."""
        for scene_id, what in [*self.changed.items()][:_MOST_TOLD]:
            _log.warning("%s: its source has changed since it was computed: %s", scene_id, what)
        if len(self.changed) > _MOST_TOLD:
            _log.warning("and %d scenes more", len(self.changed) - _MOST_TOLD)
        for scene_id, why in [*self.lost.items()][:_MOST_TOLD]:
            _log.warning("%s: cannot be read any more (%s); its features are kept", scene_id, why)
        if self.unwatched:
            _log.warning(
                "%s: of %d committed scenes nothing says how their source looked (an older vega3d "
                "wrote them, or the source cannot say), so a change would not show; --refresh "
                "compares their content once",
                out, len(self.unwatched),
            )  # fmt: skip

    def left(self, store: Store) -> dict[str, str]:
        """Return what is still to be done: changed scenes that were not computed anew, and lost."""
        still = {
            scene_id: what
            for scene_id, what in self.changed.items()
            if scene_id in store.records.scenes
            and store.content_sha256(scene_id) == self.committed[scene_id]
        }
        return {**still, **{name: f"cannot be read: {why}" for name, why in self.lost.items()}}


def find_changes(
    source: SceneSource, url: str, config: ExtractConfig, *, thorough: bool = False
) -> SourceChanges:
    """Compare the source of every committed scene with what it was.

    Notes of scenes whose content is the same are written anew, so that nothing is read twice.

    Args:
        source: Where the scenes are now.
        url: The store.
        config: What it is made with.
        thorough: Also read the scenes of which there is nothing to compare with.

    Raises:
        TransientError: A disk or a server does not answer.
    """
    store = Store.open(url)
    if not store.scene_ids:
        return SourceChanges()
    notes = read_all_notes(open_objects(url), store.records)
    with ThreadPoolExecutor(_LOOKERS) as pool:
        looks = pool.map(lambda scene_id: fingerprint(source, scene_id), store.scene_ids)
        now = dict(zip(store.scene_ids, looks, strict=True))
    doubted, unwatched = [], []
    for scene_id, looked in now.items():
        note = notes.get(scene_id, SceneNote())
        known = looked and note.source and note.content_sha256 == store.content_sha256(scene_id)
        if not known and not (looked and note.source):
            unwatched.append(scene_id)
        elif not known or differing(note.source, looked):
            doubted.append(scene_id)
    if thorough:
        doubted, unwatched = [*doubted, *unwatched], []
    if doubted:
        _log.info("%s: reading %d scenes again, to compare their content", url, len(doubted))
    found = _compared(source, store, config, doubted, notes)
    return SourceChanges(**found, unwatched=tuple(unwatched))


def _compared(
    source: SceneSource,
    store: Store,
    config: ExtractConfig,
    scene_ids: Sequence[str],
    notes: Mapping[str, SceneNote],
) -> dict[str, dict[str, str]]:
    """Read scenes again; returns the members of `SourceChanges` that follow."""
    changed: dict[str, str] = {}
    lost: dict[str, str] = {}
    same: dict[int, dict[str, SceneNote]] = {}
    for read in read_ahead(source, scene_ids, config):
        scene = read.scene
        if isinstance(scene, SceneFailure):
            lost[scene.scene_id] = scene.reason
        elif scene.seen.content_sha256 == store.content_sha256(scene.scene_id):
            unit = store.scene(scene.scene_id).unit
            same.setdefault(unit, {})[scene.scene_id] = scene.seen.note(read.source)
        else:
            before = notes.get(scene.scene_id, SceneNote()).source
            changed[scene.scene_id] = "; ".join(_what(store, scene, read, before))
    objects = open_objects(store.url)
    for unit, more in same.items():
        write_notes(objects, unit, {**read_notes(objects, unit), **more})
    committed = {scene_id: store.content_sha256(scene_id) for scene_id in changed}
    return {"changed": changed, "lost": lost, "committed": committed}


def _what(store: Store, scene: DecodedScene, read: ReadScene, before: Fingerprint) -> Iterator[str]:
    """Yield what is different, as far as what is stored can tell."""
    told = list(_told_by_content(store, scene))
    yield from told or ["depth, its intrinsics, or details of the images"]
    if before and (kinds := differing(before, read.source)):
        yield f"files that look different: {', '.join(kinds[:5])}"


def _told_by_content(store: Store, scene: DecodedScene) -> Iterator[str]:
    ids = store.view_ids(scene.scene_id)
    if other := len({*ids} ^ {*scene.view_ids}):
        yield f"other views ({other} are in one alone)"
        return
    if ids != scene.view_ids:
        yield "the order of views"
        return
    count = len(ids)
    poses = stack_matrices([one.view.world_from_camera for one in scene.decoded], 4)
    stored = store.world_from_camera(scene.scene_id)
    if not np.array_equal(poses, stored, equal_nan=True):
        moved = np.linalg.norm(poses[:, :3, 3] - stored[:, :3, 3], axis=1)
        known = moved[np.isfinite(moved)]
        yield f"poses (by up to {known.max():.2f} m)" if known.size else "poses"
    Ks = stack_matrices([one.view.K_color for one in scene.decoded], 3)
    if not np.array_equal(Ks, store.intrinsics(scene.scene_id), equal_nan=True):
        yield "intrinsics"
    if (store.image_size(scene.scene_id) != [scene.image_size] * count).any():
        yield "the size of the images"
        return
    previews = store.preview(scene.scene_id)
    pairs = zip(scene.decoded, previews, strict=True)
    if any(not np.array_equal(preview_of(one.rgb, store.grid), stored) for one, stored in pairs):
        yield "images"
