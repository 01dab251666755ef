"""What of a pairing the tasks of a config can use: scenes with labels, with depth and poses."""

from vega3d.pipeline.errors import UsageError
from vega3d.train.config import TrainConfig
from vega3d.train.order import Split
from vega3d.train.pairing import Pairing
from vega3d.train.tasks.registry import task_class


def check_labels(pairing: Pairing, config: TrainConfig) -> None:
    """Refuse the task classes without labels, and labels that are no class of the config."""
    if "classes" not in config.tasks:
        return
    if pairing.labels is None:
        raise UsageError("the task classes needs a label store: pass --labels STORE")
    table = pairing.table(config.min_depth_share)
    for scene_id in pairing.scene_ids:
        labels = table.scene(scene_id, len(pairing.prior.view_ids(scene_id)))["labels"]
        if labels.max() >= config.num_classes:
            raise UsageError(
                f"{scene_id} has a token of class {labels.max()} in the label store; with "
                f"--num-classes {config.num_classes} the classes are 0 to {config.num_classes - 1}"
            )


def usable_views(pairing: Pairing, config: TrainConfig) -> tuple[dict[str, int], str]:
    """Return the views of the scenes that the tasks can use, and a note on the others."""
    num_views = {name: len(pairing.prior.view_ids(name)) for name in pairing.scene_ids}
    spatial = [name for name in config.tasks if task_class(name).needs_depth]
    if not spatial:
        return num_views, ""
    table = pairing.table(config.min_depth_share)
    usable = {
        name: count
        for name, count in num_views.items()
        if table.scene(name, count)["has_depth"].any()
    }
    if not usable:
        raise UsageError(
            f"none of the {len(num_views)} scenes has depth with poses, which "
            f"{', '.join(spatial)} learn from; extract posed RGB-D captures, or lower "
            "--min-depth-share"
        )
    left_out = len(num_views) - len(usable)
    return usable, f"{left_out} scenes without depth are left out. " if left_out else ""


def check_geometry(pairing: Pairing, split: Split, config: TrainConfig) -> None:
    """Refuse spatial tasks where one side of a scene split by time has no depth."""
    spatial = [name for name in config.tasks if task_class(name).needs_depth]
    for side, scenes in (("to train", split.train), ("to score", split.val)):
        if spatial and not any(
            pairing.geometry(scene.scene_id, config.min_depth_share)
            .has_depth[list(scene.views)]
            .any()
            for scene in scenes
        ):
            raise UsageError(
                f"none of the {len(scenes)} scenes {side} has depth with poses, which "
                f"{', '.join(spatial)} learn from; extract posed RGB-D captures, or lower "
                "--min-depth-share"
            )
