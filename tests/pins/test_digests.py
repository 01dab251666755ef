"""What a store holds is pinned: no move of code may change a byte that a config stands for.

The pins are made by `python tests/pins/test_digests.py` and belong to one format version; with
`--keep-stores` it also keeps two of the stores for `test_old_stores.py`, once the format is final.
Weights and features depend on the instruction set, so all but the import are compared on machines
like the one that made them.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from captures import write_captures
from safetensors.numpy import save_file

from vega3d.pipeline import open_store
from vega3d.pipeline.backbones.tiny import write_tiny_siglip, write_tiny_wan
from vega3d.pipeline.cli import app

PINS = Path(__file__).with_name("digests.json")

SMALL = ("--threads", "1", "--device", "cpu", "--grid", "4x3")
WAN = ("--resolution", "128x96", *SMALL)
RUNS = {
    "frame": ("--blocks", "3,20", "--timesteps", "0,300", "--noise-samples", "2", *WAN),
    "clip": ("--context", "clip", "--fit", "crop", "--noise-seed", "7", *WAN),
    "stack": ("--context", "stack", "--fit", "stretch", "--store-dtype", "float32", *WAN),
    "auto": ("--resolution", "auto", "--views", "2", "--sampling", "coverage", *SMALL),
    "bfloat16": ("--dtype", "bfloat16", "--scenes-per-shard", "2", *WAN),
    "reference": ("--preset", "reference", "--resolution", "160x96", *SMALL),
    "siglip": ("--preset", "siglip", "--blocks", "-2,4", *SMALL),
    "tars": (*WAN,),
    "import": (),
}


def machine() -> dict[str, str]:
    import torch

    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def write_stores(folder: Path, wan: Path, siglip: Path) -> None:
    """Write one store a run, through the command line."""
    write_captures(folder / "captures")
    command(
        "pack", folder / "captures", "--out", folder / "packed", "--scenes-per-tar", "2", code=3
    )
    for name, options in RUNS.items():
        out = folder / "stores" / name
        if name == "import":
            import_features(folder, out)
            continue
        model = siglip if name == "siglip" else wan
        source = folder / ("packed" if name == "tars" else "captures")
        code = 0 if name == "tars" else 3  # a scene that cannot be read is not packed
        command("run", source, "--out", out, "--model", model, *options, code=code)


def command(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments])
    assert ended.value.code == code, arguments


def import_features(folder: Path, out: Path) -> None:
    files = []
    for index in range(2):
        rng = np.random.default_rng(index)
        path = folder / f"imported_{index}.safetensors"
        tensors = {
            "features.b3": rng.normal(size=(2 + index, 3, 4, 5)).astype(np.float32),
            "world_xyz": rng.normal(size=(2 + index, 3, 4, 3)).astype(np.float32),
            "world_from_camera": np.tile(np.eye(4), (2 + index, 1, 1)),
        }
        ids = [str(view) for view in range(2 + index)]
        save_file(tensors, path, metadata={"view_ids": json.dumps(ids)})
        files.append(path)
    command("import", *files, "--out", out, "--source", "somebody's encoder")


_ABOUT_THE_RUN = (
    "unit/runs",
    "unit/notes",
    "unit/summary.json",
    "unit/config.toml",
    "unit/copy.json",
    "unit/index.jsonl",
)


def digest(out: Path) -> str:
    """Return the hash of every object, without the model's path and the versions of packages.

    Nor what is a copy, or a hash over these: of the root, and of the commit records.
    """
    total = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or name.startswith(_ABOUT_THE_RUN):
            continue
        data = path.read_bytes()
        if name.startswith("unit/commits"):
            record = {**json.loads(data), "environment": {}, "digest": ""}
            data = json.dumps(record, sort_keys=True).encode()
        if name == "zarr.json":
            root = json.loads(data)
            ours = root["attributes"]["vega3d"]
            del ours["identity"]["config"]["model"], ours["attributes_sha256"]
            data = json.dumps(root, sort_keys=True).encode()
        total.update(f"{name}:{hashlib.sha256(data).hexdigest()};".encode())
    return total.hexdigest()


def all_digests(folder: Path) -> dict[str, dict[str, str]]:
    found = {}
    for name in RUNS:
        store = open_store(str(folder / "stores" / name))
        found[name] = {
            "config": store.config_digest,
            "objects": digest(folder / "stores" / name),
        }
    return found


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, tiny_wan: Path, tiny_siglip: Path
) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("pins")
    write_stores(folder, tiny_wan, tiny_siglip)
    return all_digests(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_store_is_what_it_was(name: str, request: pytest.FixtureRequest) -> None:
    pins = json.loads(PINS.read_text())
    if pins["machine"] != machine() and name != "import":
        pytest.skip(f"the pins were made on {pins['machine']}: other kernels, other last bits")
    found = request.getfixturevalue("found")  # after the skip: it writes all stores
    assert found[name] == pins["stores"][name]


if __name__ == "__main__":
    import os
    import tarfile
    import tempfile

    from vega3d.pipeline.store.identity import FORMAT_VERSION

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["VEGA3D_CACHE"] = f"{scratch}/cache"
        wan, siglip = Path(scratch, "wan"), Path(scratch, "siglip")
        write_tiny_wan(wan)
        write_tiny_siglip(siglip)
        write_stores(Path(scratch), wan, siglip)
        stores = all_digests(Path(scratch))
        if "--keep-stores" in sys.argv:
            kept = PINS.with_name(f"format_{FORMAT_VERSION}.tar.gz")
            with tarfile.open(kept, "w:gz") as tar:
                for name in ("tars", "siglip"):
                    tar.add(Path(scratch, "stores", name), arcname=name)
    pins = {"format": FORMAT_VERSION, "machine": machine(), "stores": stores}
    PINS.write_text(json.dumps(pins, indent=1) + "\n")
    sys.stderr.write(f"wrote {PINS}\n")
