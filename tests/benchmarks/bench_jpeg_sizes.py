"""What `--jpeg scaled` changes: pixels on the canvas and features, on captures of your own.

    python tests/benchmarks/bench_jpeg_sizes.py CAPTURES [views a scene]

With the package's models, each at the sizes that divide 640x480 by 4 (their own) and by 2. Beside
it stands what saving the same photographs once more as a JPEG of quality 90 changes.
"""

import io
import sys
from dataclasses import replace

import numpy as np
from PIL import Image

from vega3d.pipeline import read_scenes
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.grid import place
from vega3d.pipeline.backbones.loading import load_from_config
from vega3d.pipeline.backbones.numerics import Numerics, apply_numerics
from vega3d.pipeline.backbones.registry import preset
from vega3d.pipeline.config import ExtractConfig
from vega3d.pipeline.features import decode_scene
from vega3d.pipeline.jpeg_sizes import jpeg_divisor
from vega3d.pipeline.prepared import prepare_model
from vega3d.pipeline.scenes.scene import SceneSource

NUMERICS = Numerics(threads=2)


def saved_again(image: np.ndarray) -> np.ndarray:
    """Return an image as a JPEG of quality 90 keeps it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def compare(source: SceneSource, backbone: BackboneConfig, views: int) -> str:
    """Return how far canvas and features of all scenes are apart, as a row of a table."""
    model = prepare_model(ExtractConfig(backbone=backbone, num_views=views))
    encoder = load_from_config(model.config.backbone, NUMERICS, model.prompt)
    pixels, features, divisors = [], [], set()
    for entry in source.entries():
        whole, scaled = (
            decode_scene(source, entry.scene_id, replace(model.config, jpeg=jpeg)).stack
            for jpeg in ("whole", "scaled")
        )
        assert whole is not None
        assert scaled is not None
        divisors.add(jpeg_divisor(replace(model.config, jpeg="scaled"), *whole.shape[1:3]))
        seen, told = [], []
        for images in (whole, scaled, np.stack([*map(saved_again, whole)])):
            size = images.shape[1:3]
            canvas = place(images, model.config.backbone.placement(model.facts, *size))
            seen.append(canvas.astype(np.float64))
            names = tuple(str(index) for index in range(len(images)))
            taps, _ = encoder.encode_pooled(images, (14, 14), scene_id="s", view_ids=names)
            told.append(next(iter(taps.values())).astype(np.float64))
        pixels.append([float(np.abs(other - seen[0]).mean()) for other in seen[1:]])
        features.append(
            [float(np.linalg.norm(o - told[0]) / np.linalg.norm(told[0])) for o in told[1:]]
        )
    moved, apart = np.mean(pixels, axis=0), np.mean(features, axis=0)
    size = encoder.canvas(480, 640)
    return (
        f"{backbone.name:<12} {size[1]}x{size[0]}, 1/{max(divisors)}: "
        f"pixels {moved[0]:.2f} of 255 (saved again {moved[1]:.2f}), "
        f"features {apart[0]:.2%} (saved again {apart[1]:.2%})"
    )


if __name__ == "__main__":
    apply_numerics(NUMERICS)
    captures = read_scenes(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    for name in ("desk", "desk-siglip"):
        made = preset(name)
        for resolution in (made.resolution, (240, 320)):
            try:
                print(compare(captures, replace(made, resolution=resolution), count), flush=True)
            except ValueError as error:
                print(f"{name} at {resolution}: {error}")
