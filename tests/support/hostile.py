"""Small captures, and twenty ways to spoil one."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
VIEWS = 2


def write_good(folder: Path) -> None:
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for view in range(VIEWS):
        rng = np.random.default_rng(len(folder.name) + view)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(
            folder / f"color/{view}.jpg"
        )
        Image.fromarray(np.full(SIZE, 2000, np.uint16)).save(folder / f"depth/{view}.png")
        np.savetxt(folder / f"pose/{view}.txt", np.eye(4))
    K = np.array([[30.0, 0, SIZE[1] / 2], [0, 30, SIZE[0] / 2], [0, 0, 1]])
    for which in ("color", "depth"):
        np.savetxt(folder / f"intrinsic/intrinsic_{which}.txt", K)


def each(folder: Path, pattern: str, spoil: Callable[[Path], object]) -> None:
    for path in sorted(folder.glob(pattern)):
        spoil(path)


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def huge_png(path: Path) -> None:
    """Claim 60,000 x 60,000 pixels in a hundred bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data)


COLOR, POSE, K = "color/*.jpg", "pose/*.txt", "intrinsic/*.txt"
HOSTILE: dict[str, Callable[[Path], object]] = {
    "fifo": lambda f: each(f, COLOR, in_place_of(os.mkfifo)),
    "endless device": lambda f: each(f, COLOR, in_place_of(lambda p: p.symlink_to("/dev/zero"))),
    "link to nowhere": lambda f: each(f, COLOR, in_place_of(lambda p: p.symlink_to("gone"))),
    "link to itself": lambda f: each(f, COLOR, in_place_of(lambda p: p.symlink_to(p.name))),
    "folder as image": lambda f: each(f, COLOR, in_place_of(lambda p: p.mkdir())),
    "sparse terabyte": lambda f: each(f, COLOR, lambda p: os.truncate(p, 1 << 40)),
    "empty image": lambda f: each(f, COLOR, lambda p: p.write_bytes(b"")),
    "truncated image": lambda f: each(f, COLOR, lambda p: os.truncate(p, 300)),
    "text as image": lambda f: each(f, COLOR, lambda p: p.write_text("no image\x1b[2J")),
    "huge header": lambda f: each(f, COLOR, huge_png),
    "lfs pointer": lambda f: each(
        f, COLOR, lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    ),
    "overflowing K": lambda f: each(f, K, lambda p: p.write_text("1" + "0" * 400 + " 0" * 8)),
    "K of words": lambda f: each(f, K, lambda p: p.write_text("a b c d e f g h i")),
    "K missing": lambda f: each(f, K, lambda p: p.unlink()),
    "K mirrored": lambda f: each(f, K, lambda p: p.write_text("-30 0 16 0 30 12 0 0 1")),
    "poses nan": lambda f: each(f, POSE, lambda p: p.write_text("nan " * 16)),
    "poses scaled": lambda f: each(f, POSE, lambda p: np.savetxt(p, 3 * np.eye(4))),
    "poses short": lambda f: each(f, POSE, lambda p: p.write_text("1 0 0")),
    "pose fifo": lambda f: each(f, POSE, in_place_of(os.mkfifo)),
    "no images": lambda f: each(f, COLOR, lambda p: p.unlink()),
}
