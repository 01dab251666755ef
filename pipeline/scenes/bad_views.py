"""What becomes of a scene some of whose views cannot be used."""

from collections.abc import Sequence

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.scene import BadView
from vega3d.pipeline.scenes.settings import BadViews

BAD_SHARE = 0.5
"""A scene fails where more than this share of the views that were looked at is bad."""

_NAMED = 3


def check_bad_views(
    scene_id: str, bad: Sequence[BadView], num_views: int, policy: BadViews = "drop"
) -> None:
    """Raise SceneError where a scene has too many bad views for it to be used.

    Args:
        scene_id: The scene's.
        bad: Views that cannot be used.
        num_views: How many were looked at, these included.
        policy: `drop` leaves up to BAD_SHARE of them out; `fail` takes none.
    """
    if len(bad) > BAD_SHARE * num_views:
        why = f"more than {BAD_SHARE:.0%} of its views cannot be used"
    elif bad and policy == "fail":
        why = "it has bad views (--bad-views fail)"
    else:
        return
    reasons = "; ".join(view.reason for view in bad[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    raise SceneError(f"{scene_id}: {why}, {len(bad)} of {num_views}: {reasons}{more}")


def name_bad_views(bad: Sequence[BadView]) -> str:
    """Return one line that names a few of them, with the reason of the first."""
    names = ", ".join(view.view_id for view in bad[:_NAMED])
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"dropped {len(bad)} bad views: {names}{more} ({bad[0].reason})"
