"""Take results elsewhere: a run's fusion as a folder, or the aligned data as WebDataset shards."""

import copy
import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.files import remove_partial_files, whole_file
from vega3d.pipeline.scenes.tar_members import encode_id
from vega3d.train.checkpoint import load_weights, write_json
from vega3d.train.chunks import bytes_of, open_chunks
from vega3d.train.fusion import GatedFusion
from vega3d.train.model import Standardize
from vega3d.train.pairing import AnyStore, Pairing, parts
from vega3d.train.rundir import LAST, read_record, recorded_config, recorded_model


def export_fusion(run_dir: str | Path, out: str | Path, *, weights: str = LAST) -> GatedFusion:
    """Write a run's fusion to `out`, to be loaded with `GatedFusion.from_pretrained`.

    The standardisation of the inputs is folded into the projectors' first layers, so the result
    takes features as they are stored.

    Raises:
        UsageError: There is no run, or it has no such weights.
    """
    record = read_record(Path(run_dir))
    model = recorded_model(record)
    load_weights(Path(run_dir) / weights, model, record["identity"])
    fusion = copy.deepcopy(model.fusion).eval()
    _fold(model.standardize_gen, fusion.project_gen)
    _fold(model.standardize_sem, fusion.project_sem)
    config, dims = recorded_config(record), record["dims"]
    settings = (
        f"variant={config.variant!r}, gen_dim={dims['gen']}, sem_dim={dims['sem']}, "
        f"hidden_dim={config.hidden_dim}"
    )
    fusion.save_pretrained(Path(out), model_card_kwargs={"settings": settings})
    return fusion


def _fold(standardize: Standardize, projector: nn.Sequential | None) -> None:
    """Let W ((x - m) / s) + b become (W / s) x + (b - W m / s), in float64."""
    if projector is None:
        return
    first = projector[0]
    assert isinstance(first, nn.Linear)
    scaled = first.weight.double() / standardize.deviation.double()
    shifted = first.bias.double() - scaled @ standardize.mean.double()
    with torch.no_grad():
        first.weight.copy_(scaled)
        first.bias.copy_(shifted)


def export_webdataset(
    pairing: Pairing, out: str | Path, *, min_depth_share: float = 0.5, views_per_tar: int = 512
) -> dict[str, Any]:
    """Write every view of both stores, aligned, as one sample of a WebDataset shard.

    A sample `<scene>/<view>` has `gen.npy` and `sem.npy` [tokens, channels] as stored,
    `geometry.npz` (xyz_world, xyz_camera, has_depth, valid, world_from_camera, and labels where
    there are some) and `json` (ids and grid). Ids are percent-encoded as in the scene shards. An
    `index.json` beside the tars lists them.

    Args:
        pairing: The aligned stores.
        out: Folder for the tars.
        min_depth_share: Tokens with less of their pixels measured have no depth.
        views_per_tar: Samples of one tar.

    Raises:
        UsageError: `out` is not empty, or `views_per_tar` is less than 1.
    """
    folder = Path(out)
    if views_per_tar < 1:
        raise UsageError(f"--views-per-tar must be >= 1, got {views_per_tar}")
    remove_partial_files(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; old tars would mix with new ones: empty it")
    samples = _samples(pairing, min_depth_share)
    tars: list[dict[str, Any]] = []
    while True:
        name = f"tokens-{len(tars):06d}.tar"
        count = _write_tar(folder / name, samples, views_per_tar)
        if count == 0:
            break
        tars.append({"name": name, "samples": count})
    index = {
        "tars": tars,
        "scenes": len(pairing.scene_ids),
        "taps": {"gen": pairing.prior_tap, "sem": pairing.semantic_tap},
        "grid": list(pairing.grid),
    }
    write_json(folder / "index.json", index)
    return {"out": str(folder), "tars": len(tars), "samples": sum(t["samples"] for t in tars)}


def _write_tar(path: Path, samples: Iterator[dict[str, Any]], limit: int) -> int:
    import webdataset

    first = next(samples, None)
    if first is None:
        return 0
    count = 0
    with (
        whole_file(path) as temporary,
        webdataset.TarWriter(str(temporary), encoder=False, mtime=0) as tar,
    ):
        for sample in chain([first], islice(samples, limit - 1)):
            tar.write(sample)
            count += 1
    return count


def _samples(pairing: Pairing, min_depth_share: float) -> Iterator[dict[str, Any]]:
    for scene_id in pairing.scene_ids:
        geometry = pairing.geometry(scene_id, min_depth_share)
        arrays = {name: value for name, value in vars(geometry).items() if value is not None}
        streams = {
            "gen": _scene_features(pairing.prior, pairing.prior_tap, scene_id),
            "sem": _scene_features(pairing.semantic, pairing.semantic_tap, scene_id),
        }
        for view, view_id in enumerate(pairing.prior.view_ids(scene_id)):
            about = {"scene_id": scene_id, "view_id": view_id, "grid": list(pairing.grid)}
            yield {
                "__key__": f"{encode_id(scene_id)}/{view:05d}",
                **{f"{name}.npy": _npy(values[view]) for name, values in streams.items()},
                "geometry.npz": _npz({name: value[view] for name, value in arrays.items()}),
                "json": json.dumps(about).encode(),
            }


def _scene_features(store: AnyStore, tap: str, scene_id: str) -> np.ndarray:
    home = next(part for part in parts(store) if scene_id in part.scene_ids)
    reader = open_chunks(home, tap)
    shape = (home.num_views(scene_id), home.grid[0] * home.grid[1], home.num_channels(tap))
    features = np.empty(shape, dtype=reader.dtype)
    for view in range(shape[0]):
        reader.read_into(home.row(scene_id), view, bytes_of(features[view]))
    return features


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
