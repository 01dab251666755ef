"""Procedural rooms with exact depth, pose and intrinsics: for the demo and the tests.

Colour and depth of a pixel come from one ray through its centre. trimesh and Embree say which
triangle it meets; the depth is that triangle's plane met by the ray in float64, so that Embree's
float32 decides nothing else. A camera walks round the middle, looking across the room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from vega3d.pipeline.errors import SceneError
from vega3d.pipeline.scenes.rooms.furniture import LAMP_DROP_M, Part, Room, furnished_room
from vega3d.pipeline.scenes.rooms.materials import surface_colors
from vega3d.pipeline.scenes.scene import Scene, SceneEntry, View

_LIGHTS = 6
"""Points on the lamp's rim; more give softer shadows at 8 ms each (76,800 pixels, one core)."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """`num_rooms` rooms; each is another one, and the same in every source with this seed."""

    num_rooms: int
    views: int = 16
    height: int = 240
    width: int = 320
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field once."""
        if min(self.num_rooms, self.views) < 1 or min(self.height, self.width) < 8:
            raise ValueError(f"rooms need one room, one view and 8x8 pixels at least, got {self}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def entries(self) -> Sequence[SceneEntry]:
        """List the rooms; they take no bytes anywhere."""
        return [
            SceneEntry(scene_id=f"room{index:04d}", num_views=self.views, size_bytes=0)
            for index in range(self.num_rooms)
        ]

    def read(self, scene_id: str) -> Scene:
        """Build a room; views are rendered when asked for.

        Raises:
            SceneError: No such room.
        """
        ids = [entry.scene_id for entry in self.entries()]
        if scene_id not in ids:
            raise SceneError(f"{scene_id}: there are rooms {ids[0]} to {ids[-1]} only")
        rng = np.random.default_rng([self.seed, ids.index(scene_id)])
        room = furnished_room(rng)
        tracer = _Tracer(room)
        f = 0.62 * self.width
        K = np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1]])
        views = []
        for index, pose in enumerate(camera_walk(room, self.views, rng.uniform(0, 2 * np.pi))):
            frame = _Frame(tracer, K, pose, self.height, self.width)
            views.append(
                View(
                    view_id=f"{index:04d}",
                    read_rgb=partial(render_rgb, frame),
                    read_depth_m=partial(render_depth_m, frame),
                    K_color=K,
                    K_depth=K,
                    world_from_camera=pose,
                )
            )
        return Scene(scene_id, tuple(views))


def parse_rooms(location: str) -> Rooms:
    """Parse `rooms:8` or `rooms:8?views=16&height=240&width=320&seed=0`; raises ValueError."""
    count, _, options = location.removeprefix("rooms:").partition("?")
    try:
        known = {"views", "height", "width", "seed"}
        given = dict(parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options)))
        if given.keys() - known:
            raise ValueError(f"options are {sorted(known)}")
        return Rooms(int(count), **{name: int(value) for name, value in given.items()})
    except ValueError as error:
        raise ValueError(
            f"{location!r}: {error}; write rooms:8 or rooms:8?views=16&height=240&width=320&seed=0"
        ) from error


def camera_walk(room: Room, num_views: int, start: float) -> list[Float64[np.ndarray, "4 4"]]:
    """Return poses on an ellipse about the room's middle, looking across it and a little down."""
    poses = []
    for angle in start + np.arange(num_views) * 2 * np.pi / num_views:
        radii = np.array([room.size[0] / 2 - 1.35, room.size[1] / 2 - 1.3])
        eye = np.array([*(radii * [np.cos(angle), np.sin(angle)]), 1.5 + 0.12 * np.sin(2 * angle)])
        heading = np.arctan2(-eye[1], -eye[0]) + 0.35 * np.sin(3 * angle)
        pitch = -0.2 + 0.06 * np.sin(angle + 1)
        forward = np.array(
            [np.cos(pitch) * np.cos(heading), np.cos(pitch) * np.sin(heading), np.sin(pitch)]
        )
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
        poses.append(pose)
    return poses


@dataclass(frozen=True, slots=True)
class _Frame:
    tracer: "_Tracer"
    K: Float64[np.ndarray, "3 3"]
    world_from_camera: Float64[np.ndarray, "4 4"]
    height: int
    width: int

    def cast(
        self,
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n 3"], Int64[np.ndarray, " n"]]:
        """Return z-depth (0 where nothing is met), world position and triangle of every pixel."""
        rows, cols = np.mgrid[: self.height, : self.width] + 0.5
        x = (cols - self.K[0, 2]) / self.K[0, 0]
        y = (rows - self.K[1, 2]) / self.K[1, 1]
        # z = 1 in the camera, so that the way along a ray is its z-depth.
        rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        rays = rays @ self.world_from_camera[:3, :3].T
        eye = self.world_from_camera[:3, 3]
        triangle = self.tracer.first_hit(eye, rays)
        normal, point = self.tracer.normals[triangle], self.tracer.points[triangle]
        ahead = np.einsum("nk,nk->n", normal, rays)
        ahead[ahead == 0] = np.nan  # a plane seen edge-on is never the first hit
        depth_m = np.einsum("nk,nk->n", normal, point - eye) / ahead
        depth_m = np.where(triangle >= 0, depth_m, 0.0)
        return depth_m, eye + rays * depth_m[:, None], triangle


def render_depth_m(frame: _Frame) -> Float32[np.ndarray, "h w"]:
    """Return the exact z-depth of every pixel's centre."""
    depth_m, _, _ = frame.cast()
    return depth_m.reshape(frame.height, frame.width).astype(np.float32)


def render_rgb(frame: _Frame) -> UInt8[np.ndarray, "h w 3"]:
    """Return the lit picture; light depends on the surface alone, so views agree."""
    depth_m, world, triangle = frame.cast()
    albedo, normal, is_emissive = frame.tracer.surface(world, triangle)
    light = frame.tracer.light(world, normal)
    linear = np.where(is_emissive[:, None], albedo, albedo * light)
    linear = np.where((depth_m > 0)[:, None], linear, 0.0)
    display = np.clip(linear, 0, 1) ** (1 / 2.2)
    return np.rint(display * 255).astype(np.uint8).reshape(frame.height, frame.width, 3)


class _Tracer:
    """A room as triangles, with what is known of each."""

    def __init__(self, room: Room) -> None:
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        self.room, self.parts = room, room.parts
        meshes = [_mesh(part) for part in room.parts]
        whole = trimesh.util.concatenate(meshes)
        self.part_of = np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes])
        self.normals = np.asarray(whole.face_normals)
        self.points = np.asarray(whole.triangles[:, 0])
        self._all = RayMeshIntersector(whole)
        things = [mesh for mesh, part in zip(meshes, room.parts, strict=True) if not part.is_shell]
        self._things = RayMeshIntersector(trimesh.util.concatenate(things))

    def first_hit(
        self, eye: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "n 3"]
    ) -> Int64[np.ndarray, " n"]:
        """Return the triangle that each ray meets first; -1 for none."""
        found = self._all.intersects_first(np.broadcast_to(eye, rays.shape), rays)
        return np.asarray(found, dtype=np.int64)

    def surface(
        self, world: Float[np.ndarray, "n 3"], triangle: Int64[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Any]:
        """Return colour, normal and whether it glows at each point."""
        albedo, normal = np.zeros_like(world), self.normals[triangle].copy()
        is_emissive = np.zeros(len(world), dtype=bool)
        part_of = np.where(triangle >= 0, self.part_of[triangle], -1)
        order = np.argsort(part_of, kind="stable")
        bounds = np.searchsorted(part_of[order], np.arange(len(self.parts) + 1))
        for index, part in enumerate(self.parts):
            where = order[bounds[index] : bounds[index + 1]]
            if where.size:
                uv, half_m, normal[where] = _on_face(part, world[where], normal[where])
                albedo[where] = surface_colors(part.material, uv, half_m)
                is_emissive[where] = part.material.is_emissive
        return albedo, normal, is_emissive

    def light(
        self, world: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n 3"]:
        """Return the light that arrives: the lamp with soft shadows, the window, and the rest."""
        raised = world + 2e-3 * normal
        lamp = np.zeros(len(world))
        for angle in np.arange(_LIGHTS) * 2 * np.pi / _LIGHTS:
            height = self.room.size[2] - LAMP_DROP_M
            to_lamp = np.array([0.3 * np.cos(angle), 0.3 * np.sin(angle), height]) - raised
            distance = np.linalg.norm(to_lamp, axis=1)
            cosine = np.clip(np.einsum("nk,nk->n", normal, to_lamp) / distance, 0, 1)
            is_free = np.ones(len(world), dtype=bool)
            # Up there nothing stands in the way, but rays would go on and meet the far furniture.
            facing = (cosine > 0) & (raised[:, 2] < height - 0.35)
            is_free[facing] = ~self._things.intersects_any(raised[facing], to_lamp[facing])
            lamp += cosine * is_free * 3.2 / (1 + 0.55 * distance**2) / _LIGHTS
        # The window is in the wall at -y; its light falls off into the room.
        window = np.clip(-normal[:, 1] * 0.6 + 0.25, 0, 1) * 0.35
        corner = self._corner_shade(world, normal)
        sky = (0.36 + 0.1 * normal[:, 2] + window) * corner
        warm, cold = np.array((1.0, 0.93, 0.82)), np.array((0.92, 0.97, 1.08))
        return np.asarray(lamp[:, None] * warm + sky[:, None] * cold)

    def _corner_shade(
        self, world: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, " n"]:
        """Darken what lies close to a wall, floor or ceiling that it does not belong to."""
        shade = np.ones(len(world))
        width, depth, height = self.room.size
        for axis, (low, high) in enumerate(
            ((-width / 2, width / 2), (-depth / 2, depth / 2), (0, height))
        ):
            gap = np.minimum(world[:, axis] - low, high - world[:, axis]).clip(0)
            shade *= 1 - 0.45 * np.exp(-gap / 0.25) * (1 - np.abs(normal[:, axis]))
        return shade


def _mesh(part: Part) -> Any:  # noqa: ANN401 - a trimesh.Trimesh
    import trimesh

    if part.shape == "box":
        mesh = trimesh.creation.box(part.size)
    elif part.shape == "cylinder":
        mesh = trimesh.creation.cylinder(radius=part.size[0] / 2, height=part.size[2], sections=40)
    else:
        mesh = trimesh.creation.icosphere(subdivisions=3, radius=part.size[0] / 2)
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = _rotation(part), part.center
    mesh.apply_transform(transform)
    return mesh


def _rotation(part: Part) -> Float64[np.ndarray, "3 3"]:
    cos, sin = np.cos(part.yaw), np.sin(part.yaw)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _on_face(
    part: Part, world: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"], Float[np.ndarray, "n 3"]]:
    """Return the position on the face, half the face's size, and a normal smooth on round parts."""
    rotation = _rotation(part)
    local, facing = (world - part.center) @ rotation, normal @ rotation
    half = np.asarray(part.size) / 2
    if part.shape == "box":
        axis = np.abs(facing).argmax(axis=1)
        # A face across x shows (y, z), across y (x, z), across z (x, y).
        u, v = np.array([1, 0, 0])[axis], np.array([2, 2, 1])[axis]
        rows = np.arange(len(local))
        uv = np.stack([local[rows, u], local[rows, v]], axis=1)
        return uv, np.stack([half[u], half[v]], axis=1), normal
    smooth = local * (1, 1, part.shape == "sphere")
    if part.shape == "cylinder":
        smooth = np.where(np.abs(facing[:, 2:]) > 0.9, facing, smooth)
    smooth = smooth / np.linalg.norm(smooth, axis=1, keepdims=True).clip(1e-9)
    around = np.arctan2(local[:, 1], local[:, 0]) * half[0]
    is_cap = (part.shape == "cylinder") & (np.abs(facing[:, 2]) > 0.9)
    uv = np.where(is_cap[:, None], local[:, :2], np.stack([around, local[:, 2]], axis=1))
    return uv, np.broadcast_to(half[[0, 2]], uv.shape), smooth @ rotation.T
