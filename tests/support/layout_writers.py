"""The analytic scene written in each layout, from the layouts' own documents: one writer each.

Nothing here knows the package under test. A writer makes a location below an empty folder and says
what reading it must give.
"""

import csv
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from planes import PlaneScene, pixel_rays

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Written:
    """A location, and what is true of it."""

    location: Path
    scene_id: str
    view_ids: list[str]
    has_depth: bool = True
    world: np.ndarray = None  # type: ignore[assignment] # the file's world from the scene's
    turns: int = 0
    size_is_stated: bool = True
    edges_m: float = 0.001
    """Largest error where surfaces meet; elsewhere a millimetre holds."""


WRITERS: dict[str, Callable[[Path, PlaneScene], Written]] = {}
"""By the name of the layout."""


def writer(function: Callable[[Path, PlaneScene], Written]) -> Callable:
    WRITERS[function.__name__] = function
    return function


def jpeg(rgb: np.ndarray) -> bytes:
    return encoded(Image.fromarray(rgb), "JPEG", quality=98, subsampling=0)


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def units(depth: np.ndarray, per_metre: float) -> np.ndarray:
    return np.rint(depth * per_metre).astype(np.uint16)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """x y z w, from the eigenvector of largest eigenvalue (Bar-Itzhack, 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    return np.linalg.eigh(k)[1][:, -1]


@writer
def scannet_export(root: Path, scene: PlaneScene) -> Written:
    folder = root / "scene0000_00"
    for i in range(scene.num_views):
        put(folder / f"color/{i}.jpg", jpeg(scene.rgb(i)))
        put(folder / f"depth/{i}.png", png(units(scene.depth(i), 1000)))
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / f"pose/{i}.txt", scene.pose(i), fmt="%.9f")
    (folder / "intrinsic").mkdir()
    np.savetxt(folder / "intrinsic/intrinsic_color.txt", padded(scene.K))
    np.savetxt(folder / "intrinsic/intrinsic_depth.txt", padded(depth_camera(scene)))
    ids = [str(i) for i in range(scene.num_views)]
    return Written(root, "scene0000_00", ids, size_is_stated=False)


@writer
def posed_images(root: Path, scene: PlaneScene) -> Written:
    folder = root / "posed_images/scene0000_00"
    for i in range(scene.num_views):
        put(folder / f"{i:05d}.jpg", jpeg(scene.rgb(i)))
        put(folder / f"{i:05d}.png", png(units(scene.depth(i), 1000)))
        np.savetxt(folder / f"{i:05d}.txt", scene.pose(i), fmt="%.9f")
    np.savetxt(folder / "intrinsic.txt", padded(scene.K))
    np.savetxt(folder / "depth_intrinsic.txt", padded(depth_camera(scene)))
    ids = [f"{i:05d}" for i in range(scene.num_views)]
    return Written(root / "posed_images", "scene0000_00", ids, size_is_stated=False)


@writer
def scannet_sens(root: Path, scene: PlaneScene) -> Written:
    path = root / "scans/scene0000_00/scene0000_00.sens"
    name = b"StructureSensor"
    out = [struct.pack("<IQ", 4, len(name)), name]
    for matrix in (padded(scene.K), np.eye(4), padded(depth_camera(scene)), np.eye(4)):
        out.append(matrix.astype("<f4").tobytes())
    (height, width), (rows, cols) = scene.color_size, scene.depth_size
    out.append(struct.pack("<iiIIIIf", 2, 1, width, height, cols, rows, 1000.0))
    out.append(struct.pack("<Q", scene.num_views))
    for i in range(scene.num_views):
        color = jpeg(scene.rgb(i))
        depth = zlib.compress(units(scene.depth(i), 1000).astype("<u2").tobytes())
        out.append(scene.pose(i).astype("<f4").tobytes())
        out += [struct.pack("<4Q", i, i, len(color), len(depth)), color, depth]
    out.append(struct.pack("<Q", 0))  # no inertial frames
    put(path, b"".join(out))
    return Written(root / "scans", "scene0000_00", [str(i) for i in range(scene.num_views)])


@writer
def tum_rgbd(root: Path, scene: PlaneScene) -> Written:
    folder = root / "rgbd_dataset_freiburg9_planes"
    lists = {"rgb": ["# color images"], "depth": ["# depth maps"], "groundtruth": ["# poses"]}
    start = 1341836537.787367
    for i in range(scene.num_views):
        rgb_s, depth_s = start + i / 15, start + i / 15 + 0.004
        put(folder / f"rgb/{rgb_s:.6f}.png", png(scene.rgb(i)))
        put(folder / f"depth/{depth_s:.6f}.png", png(units(scene.depth(i), 5000)))
        lists["rgb"].append(f"{rgb_s:.6f} rgb/{rgb_s:.6f}.png")
        lists["depth"].append(f"{depth_s:.6f} depth/{depth_s:.6f}.png")
        pose = scene.pose(i)
        numbers = [rgb_s - 0.003, *pose[:3, 3], *quaternion(pose[:3, :3])]
        lists["groundtruth"].append(" ".join(f"{x:.9f}" for x in numbers))
        # Motion capture is faster than the camera: a pose in between that nobody may take.
        lists["groundtruth"].append(f"{rgb_s + 0.03:.4f} 9 9 9 0 0 0 1")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    fx, fy, cx, cy = scene.K[0, 0], scene.K[1, 1], scene.K[0, 2], scene.K[1, 2]
    (folder / "calibration.txt").write_text(f"{fx} {fy} {cx} {cy}\n")
    ids = [f"{start + i / 15:.6f}" for i in range(scene.num_views)]
    return Written(root, folder.name, ids, size_is_stated=False)


@writer
def replica(root: Path, scene: PlaneScene) -> Written:
    folder = root / "Replica/office0"
    for i in range(scene.num_views):
        put(folder / f"results/frame{i:06d}.jpg", jpeg(scene.rgb(i)))
        put(folder / f"results/depth{i:06d}.png", png(units(scene.depth(i), 6553.5)))
    lines = [" ".join(f"{x:.18e}" for x in scene.pose(i).ravel()) for i in range(scene.num_views)]
    (folder / "traj.txt").write_text("\n".join(lines))
    camera = {**flat(scene), "scale": 6553.5}
    (root / "Replica/cam_params.json").write_text(json.dumps({"camera": camera}))
    ids = [f"frame{i:06d}" for i in range(scene.num_views)]
    return Written(root / "Replica", "office0", ids)


@writer
def arkitscenes(root: Path, scene: PlaneScene) -> Written:
    """The sky is to the left of the stored images; time stamps differ by a millisecond."""
    folder = root / "raw/Training/41048143"
    lines = []
    fx, fy, cx, cy = scene.K[0, 0], scene.K[1, 1], scene.K[0, 2], scene.K[1, 2]
    height, width = scene.color_size
    for i in range(scene.num_views):
        time = 1627.681 + i / 10
        put(folder / f"lowres_wide/41048143_{time:.3f}.png", png(scene.rgb(i)))
        put(folder / f"lowres_depth/41048143_{time:.3f}.png", png(units(scene.depth(i), 1000)))
        put(
            folder / f"lowres_wide_intrinsics/41048143_{time + 0.001:.3f}.pincam",
            f"{width} {height} {fx} {fy} {cx} {cy}".encode(),
        )
        inverse = np.linalg.inv(scene.pose(i))
        numbers = [*axis_angle(inverse[:3, :3]), *inverse[:3, 3]]
        lines.append(f"{time + 0.0004:.8f} " + " ".join(repr(float(x)) for x in numbers))
        put(folder / f"lowres_wide/41048143_{time + 0.05:.3f}.png", png(scene.rgb(i)))
    (folder / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    with (root / "raw/metadata.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "visit_id", "fold", "sky_direction"])
        rows.writerows([["1", "2", "Training", "Up"], ["41048143", "2", "Training", "Left"]])
    ids = [f"41048143_{1627.681 + i / 10:.3f}" for i in range(scene.num_views)]
    return Written(root / "raw", "Training/41048143", ids, turns=1)


@writer
def scannetpp_iphone(root: Path, scene: PlaneScene) -> Written:
    """Its intrinsics are of 1920x1440 whatever the size of the extracted frames."""
    folder = root / "data/0a5c013435/iphone"
    cameras = {}
    height, width = scene.color_size
    for i in range(scene.num_views):
        put(folder / f"rgb/frame_{10 * i:06d}.jpg", jpeg(scene.rgb(i)))
        put(folder / f"depth/frame_{10 * i:06d}.png", png(units(scene.depth(i), 1000)))
        cameras[f"frame_{10 * i:06d}"] = {
            "timestamp": i / 6,
            "pose": (np.eye(4) * 50).tolist(),
            "intrinsic": (np.diag([1920 / width, 1440 / height, 1]) @ scene.K).tolist(),
            "aligned_pose": scene.pose(i).tolist(),
            "imu": [],
        }
    (folder / "pose_intrinsic_imu.json").write_text(json.dumps(cameras))
    ids = [f"frame_{10 * i:06d}" for i in range(scene.num_views)]
    return Written(root / "data", "0a5c013435/iphone", ids)


@writer
def scannetpp_dslr(root: Path, scene: PlaneScene) -> Written:
    """Fisheye images, as the data set has them; its poses are in nerfstudio's world."""
    folder = root / "data/0a5c013435/dslr"
    fisheye = (0.04, -0.01, 0.002, -0.0005)
    rays = fisheye_rays(scene, fisheye)
    turned = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1.0]])
    frames = []
    for i in range(scene.num_views):
        put(folder / f"resized_images/DSC{i:05d}.JPG", jpeg(scene.rgb(i, rays)))
        matrix = turned @ scene.pose(i) @ OPENGL
        frames.append({"file_path": f"DSC{i:05d}.JPG", "transform_matrix": matrix.tolist(),
                       "is_bad": False})  # fmt: skip
    frames.insert(1, {**frames[0], "file_path": "DSC99999.JPG", "is_bad": True})
    meta = {
        **ns_camera(scene), "camera_model": "OPENCV_FISHEYE",
        **dict(zip(("k1", "k2", "k3", "k4"), fisheye, strict=True)),
        "frames": frames[:-1], "test_frames": frames[-1:],
    }  # fmt: skip
    put(folder / "nerfstudio/transforms.json", json.dumps(meta).encode())
    put(folder / "colmap/cameras.txt", b"# not needed\n")
    ids = [f"DSC{i:05d}" for i in range(scene.num_views)]
    return Written(root / "data", "0a5c013435/dslr", ids, has_depth=False)


@writer
def nerfstudio_polycam(root: Path, scene: PlaneScene) -> Written:
    """Own intrinsics a frame, depth in millimetres at a lower size."""
    frames = []
    for i in range(scene.num_views):
        put(root / f"kitchen/images/frame_{i:05d}.png", png(scene.rgb(i)))
        put(root / f"kitchen/depth/frame_{i:05d}.png", png(units(scene.depth(i), 1000)))
        frames.append({
            **ns_camera(scene), "file_path": f"./images/frame_{i:05d}.png",
            "depth_file_path": f"./depth/frame_{i:05d}.png",
            "transform_matrix": (scene.pose(i) @ OPENGL).tolist(),
        })  # fmt: skip
    meta = {"camera_model": "OPENCV", "orientation_override": "none", "frames": frames}
    put(root / "kitchen/transforms.json", json.dumps(meta).encode())
    return Written(root, "kitchen", [f"frame_{i:05d}" for i in range(scene.num_views)])


@writer
def nerfstudio_scaled(root: Path, scene: PlaneScene) -> Written:
    """Poses with a scale, a distorting lens, float depth in .npy, a unit of its own, no endings."""
    coefficients = (0.08, -0.03, 0.002, -0.001, 0.005)  # k1 k2 p1 p2 k3
    rays = opencv_rays(scene, coefficients)
    depth_rays = opencv_rays(scene, coefficients, scene.depth_size)
    frames = []
    for i in range(scene.num_views):
        put(root / f"lab/images/r_{i}.jpg", jpeg(scene.rgb(i, rays)))
        put(root / f"lab/depths/r_{i}.npy", b"")
        bent = scene._hits(i, scene.depth_size, depth_rays)[0]
        np.save(root / f"lab/depths/r_{i}.npy", (bent * 10).astype(np.float32))
        pose = scene.pose(i) @ OPENGL
        pose[:3, 3] *= 0.2
        frames.append({"file_path": f"images/r_{i}", "depth_file_path": f"depths/r_{i}.npy",
                       "transform_matrix": pose[:3].tolist()})  # fmt: skip
    meta = {
        **ns_camera(scene), "camera_model": "OPENCV", "applied_scale": 0.2,
        **dict(zip(("k1", "k2", "p1", "p2", "k3"), coefficients, strict=True)),
        "depth_unit_scale_factor": 0.1, "frames": frames,
    }  # fmt: skip
    put(root / "lab/transforms.json", json.dumps(meta).encode())
    # Undistorting mixes readings: beside the planes' edges the nearest of 48 x 64 is taken.
    ids = [f"r_{i}" for i in range(scene.num_views)]
    return Written(root / "lab", "lab", ids, edges_m=0.15)


@writer
def colmap_text(root: Path, scene: PlaneScene) -> Written:
    fx, fy, cx, cy = scene.K[0, 0], scene.K[1, 1], scene.K[0, 2], scene.K[1, 2]
    height, width = scene.color_size
    model = root / "garden/sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(
        f"# Camera list\n1 PINHOLE {width} {height} {fx} {fy} {cx} {cy}\n"
    )
    lines = ["# Image list", f"# Number of images: {scene.num_views}, mean observations: 0"]
    for i in reversed(range(scene.num_views)):
        put(root / f"garden/images/a b/{i}.png", png(scene.rgb(i)))
        numbers = colmap_pose(scene, i)
        lines.append(f"{i + 1} " + " ".join(f"{x:.12f}" for x in numbers) + f" 1 a b/{i}.png")
        lines.append("" if i == 1 else "10.5 20.5 -1 30.0 40.0 7")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    ids = [f"a b/{i}" for i in range(scene.num_views)]
    return Written(root, "garden", ids, has_depth=False)


@writer
def colmap_binary(root: Path, scene: PlaneScene) -> Written:
    """A distorting lens (OPENCV), and a second camera that no image has."""
    coefficients = (0.1, -0.05, 0.003, 0.001)
    fx, fy, cx, cy = scene.K[0, 0], scene.K[1, 1], scene.K[0, 2], scene.K[1, 2]
    height, width = scene.color_size
    cameras = struct.pack("<Q", 2)
    cameras += struct.pack("<iiQQ8d", 3, 4, width, height, fx, fy, cx, cy, *coefficients)
    cameras += struct.pack("<iiQQ5d", 9, 7, width, height, fx, fy, cx, cy, 0.9)
    put(root / "hall/sparse/cameras.bin", cameras)
    images = struct.pack("<Q", scene.num_views)
    rays = opencv_rays(scene, coefficients)
    for i in range(scene.num_views):
        put(root / f"hall/images/{i:03d}.jpg", jpeg(scene.rgb(i, rays)))
        images += struct.pack("<i7di", i + 1, *colmap_pose(scene, i), 3)
        images += f"{i:03d}.jpg".encode() + b"\0" + struct.pack("<Q", i)
        images += struct.pack("<ddq", 1.5, 2.5, -1) * i
    put(root / "hall/sparse/images.bin", images)
    return Written(root, "hall", [f"{i:03d}" for i in range(scene.num_views)], has_depth=False)


@writer
def record3d(root: Path, scene: PlaneScene) -> Written:
    import lzfse

    height, width = scene.color_size
    rows, cols = scene.depth_size
    poses = []
    with zipfile.ZipFile(root / "2026-11-25--10-00-00.r3d", "w") as archive:
        for i in range(scene.num_views):
            depth = scene.depth(i).astype("<f4")
            depth[0, 0] = np.nan
            archive.writestr(f"rgbd/{i}.jpg", jpeg(scene.rgb(i)))
            archive.writestr(f"rgbd/{i}.depth", lzfse.compress(depth.tobytes()))
            archive.writestr(f"rgbd/{i}.conf", lzfse.compress(bytes(rows * cols)))
            pose = scene.pose(i) @ OPENGL
            poses.append([*quaternion(pose[:3, :3]), *pose[:3, 3]])
        metadata = {
            "w": width, "h": height, "dw": cols, "dh": rows, "fps": 30,
            "K": (scene.K * 1.01).T.ravel().tolist(), "poses": poses,
            "perFrameIntrinsicCoeffs": [[scene.K[0, 0], scene.K[1, 1], scene.K[0, 2],
                                         scene.K[1, 2], 0, 0]] * scene.num_views,
        }  # fmt: skip
        archive.writestr("metadata", json.dumps(metadata))
        archive.writestr("icon", b"")
    ids = [str(i) for i in range(scene.num_views)]
    return Written(root, "2026-11-25--10-00-00", ids)


@writer
def embodiedscan(root: Path, scene: PlaneScene) -> Written:
    """Images as posed_images has them; the world is turned to the axes of the room."""
    posed_images(root / "scannet", scene)
    align = np.eye(4)
    align[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    align[:3, 3] = 1, 2, 3
    images = [
        {
            "img_path": f"scannet/posed_images/scene0000_00/{i:05d}.jpg",
            "depth_path": f"scannet/posed_images/scene0000_00/{i:05d}.png",
            "cam2global": scene.pose(i),
            "visible_instance_ids": [np.int64(3)],
        }
        for i in range(scene.num_views)
    ]
    info = {
        "sample_idx": "scannet/scene0000_00", "images": images, "axis_align_matrix": align,
        "cam2img": padded(scene.K), "depth_cam2img": padded(depth_camera(scene)),
    }  # fmt: skip
    (root / "embodiedscan").mkdir()
    path = root / "embodiedscan/embodiedscan_infos_train.pkl"
    path.write_bytes(pickle.dumps({"metainfo": {"categories": {}}, "data_list": [info]}))
    ids = [f"{i:05d}" for i in range(scene.num_views)]
    return Written(path, "scannet/scene0000_00", ids, world=align, size_is_stated=False)


def padded(K: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = K
    return result


def depth_camera(scene: PlaneScene) -> np.ndarray:
    scale = [scene.depth_size[1] / scene.color_size[1], scene.depth_size[0] / scene.color_size[0]]
    return np.diag([*scale, 1.0]) @ scene.K


def flat(scene: PlaneScene) -> dict[str, float]:
    K, (height, width) = scene.K, scene.color_size
    return {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": width, "h": height}


def ns_camera(scene: PlaneScene) -> dict[str, float]:
    plain = flat(scene)
    return {"fl_x": plain.pop("fx"), "fl_y": plain.pop("fy"), **plain}


def colmap_pose(scene: PlaneScene, view: int) -> list[float]:
    """qw qx qy qz tx ty tz of camera from world."""
    inverse = np.linalg.inv(scene.pose(view))
    x, y, z, w = quaternion(inverse[:3, :3])
    return [w, x, y, z, *inverse[:3, 3]]


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion(rotation)
    vector = np.array([x, y, z])
    length = np.linalg.norm(vector)
    return vector / length * 2 * np.arctan2(length, w)


def opencv_rays(
    scene: PlaneScene, coefficients: tuple[float, ...], size: tuple[int, int] | None = None
) -> np.ndarray:
    """The ray of each pixel of a distorted image: the distortion inverted by iteration."""
    k1, k2, p1, p2, k3 = (*coefficients, 0.0)[:5]
    size = size or scene.color_size
    K = np.diag([size[1] / scene.color_size[1], size[0] / scene.color_size[0], 1.0]) @ scene.K
    bent = pixel_rays(K, size)[..., :2]
    x, y = bent[..., 0], bent[..., 1]
    for _ in range(100):
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        x = (bent[..., 0] - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / radial
        y = (bent[..., 1] - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) / radial
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def fisheye_rays(scene: PlaneScene, coefficients: tuple[float, ...]) -> np.ndarray:
    """The same of OpenCV's fisheye: its angle is found by Newton's method."""
    k1, k2, k3, k4 = coefficients
    bent = pixel_rays(scene.K, scene.color_size)[..., :2]
    radius = np.linalg.norm(bent, axis=-1)
    angle = radius.copy()
    for _ in range(50):
        a2 = angle**2
        value = angle * (1 + k1 * a2 + k2 * a2**2 + k3 * a2**3 + k4 * a2**4) - radius
        slope = 1 + 3 * k1 * a2 + 5 * k2 * a2**2 + 7 * k3 * a2**3 + 9 * k4 * a2**4
        angle = angle - value / slope
    scale = np.tan(angle) / np.maximum(radius, 1e-12)
    return np.concatenate([bent * scale[..., None], np.ones((*radius.shape, 1))], axis=-1)


def lerobot(root: Path, sizes: dict[str, tuple[int, int]], lengths: list[int]) -> None:
    """A LeRobot v3 dataset: each camera's episodes lie one after the other in one video.

    Frame f of episode e of camera c is grey, 20 + 7 f + 60 e + 5 c.
    """
    import av
    from pyarrow import Table, parquet

    fps, features, columns = 10, {}, {"episode_index": [], "length": lengths}
    columns["episode_index"] = list(range(len(lengths)))
    for number, (camera, (height, width)) in enumerate(sizes.items()):
        key = f"observation.images.{camera}"
        features[key] = {"dtype": "video", "shape": [height, width, 3],
                         "names": ["height", "width", "channels"], "info": {}}  # fmt: skip
        path = root / f"videos/{key}/chunk-000/file-000.mp4"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": "4"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for episode, length in enumerate(lengths):
                for frame in range(length):
                    grey = 20 + 7 * frame + 60 * episode + 5 * number
                    picture = np.full((height, width, 3), grey, dtype=np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode())
        starts = np.concatenate([[0], np.cumsum(lengths)])[:-1] / fps
        columns[f"videos/{key}/chunk_index"] = [0] * len(lengths)
        columns[f"videos/{key}/file_index"] = [0] * len(lengths)
        columns[f"videos/{key}/from_timestamp"] = starts.tolist()
    features["observation.state"] = {"dtype": "float32", "shape": [6]}
    info = {
        "codebase_version": "v3.0", "fps": fps, "total_episodes": len(lengths),
        "features": features,
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    put(root / "meta/info.json", json.dumps(info).encode())
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    parquet.write_table(
        Table.from_pydict(columns), root / "meta/episodes/chunk-000/file-000.parquet"
    )
