"""An episode as a video, both cameras side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def write_video(path: Path, frames: Sequence[UInt8[np.ndarray, "H W 3"]], fps: float) -> None:
    """Write frames of one size as H.264; odd sides lose their last row or column."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def side_by_side(images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """Return images in a row, the smaller ones with black below."""
    height = max(len(image) for image in images)
    return np.concatenate(
        [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0))) for image in images], axis=1
    )
