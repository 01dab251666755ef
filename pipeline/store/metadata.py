"""The documents and small chunks of a store, as bytes: Zarr v3, every chunk with its crc32c.

Laid out directly, so that a store's bytes depend on no version of zarr; a test compares with what
zarr writes and reads. Source: https://zarr-specs.readthedocs.io, Zarr core 3.1; the codec
`vlen-utf8` of zarr-extensions.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vega3d.pipeline.store.identity import canonical_json
from vega3d.pipeline.store.layout import PACKED, ArraySpec
from vega3d.pipeline.store.shard import crc32c, shard_parts

ROOT = "zarr.json"

Chunks = Mapping[tuple[int, ...], np.ndarray | bytes]
"""Values, or their bytes, by their place in the grid of chunks; object arrays hold strings."""


def metadata_objects(specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return every zarr.json, by its name; the root's holds those of all arrays as well."""
    arrays = {spec.name: _array_document(spec) for spec in sorted(specs, key=lambda s: s.name)}
    root = {
        "attributes": json.loads(canonical_json(attributes)),  # one order, wherever they came from
        "zarr_format": 3,
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": arrays,
        },
        "node_type": "group",
    }
    documents = {f"{name}/{ROOT}": _text(document) for name, document in arrays.items()}
    return {ROOT: _text(root), **documents}


def chunk_files(spec: ArraySpec, chunks: Chunks) -> Iterator[tuple[str, list[bytes | memoryview]]]:
    """Yield the name and the parts of each file of a small array; chunks left out are absent.

    Where chunks lie in shards, these are cut along the first axis alone, and each is there.
    """
    if spec.shard is None:
        for place, values in chunks.items():
            yield spec.file_key(*place), [encoded := encode(spec, values), crc32c(encoded)]
        return
    height = spec.grid[0]
    shards: list[dict[tuple[int, ...], bytes]] = [{} for _ in range(-(-spec.shape[0] // height))]
    for (first, *rest), values in chunks.items():
        shards[first // height][(first % height, *rest)] = encode(spec, values)
    for file, inside in enumerate(shards):
        yield spec.file_key(file), list(shard_parts(inside, spec.grid))


def fixed_chunk_files(spec: ArraySpec, values: Sequence[str] | np.ndarray) -> dict[str, bytes]:
    """Return the files of an array with one axis, in pieces of its chunk's length."""
    length = spec.chunk[0]
    whole = filled(spec, -(-len(values) // length) * length)
    whole[: len(values)] = values
    pieces: Chunks = {(i,): piece for i, piece in enumerate(whole.reshape(-1, length))}
    return {key: b"".join(parts) for key, parts in chunk_files(spec, pieces)}


def filled(spec: ArraySpec, *shape: int) -> np.ndarray:
    """Return an array of this one's type that holds nothing but its fill value."""
    kind = object if spec.dtype == "string" else np.dtype(spec.dtype).newbyteorder("<")
    return np.full(shape, _fill_value(spec.dtype), dtype=kind)


def encode(spec: ArraySpec, values: np.ndarray | bytes) -> bytes:
    """Return a chunk's bytes without its checksum."""
    if isinstance(values, bytes):
        return values
    if spec.dtype != "string":
        return np.ascontiguousarray(values, dtype=np.dtype(spec.dtype).newbyteorder("<")).tobytes()
    return encode_texts([str(value) for value in values.ravel()], values.size)


def encode_texts(texts: Sequence[str], count: int) -> bytes:
    """Return the bytes of so many texts; those that are not given are empty."""
    parts = [struct.pack("<I", count)]
    for text in texts:
        item = text.encode()
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts) + bytes(4 * (count - len(texts)))


def _array_document(spec: ArraySpec) -> dict[str, Any]:
    first = "vlen-utf8" if spec.dtype == "string" else "bytes"
    little = {"endian": "little"} if np.dtype(_numeric(spec.dtype)).itemsize > 1 else {}
    settings = {} if spec.dtype == "string" else {"configuration": little} if little else {}
    codecs: list[dict[str, Any]] = [{"name": first, **settings}, {"name": "crc32c"}]
    if spec.shard is not None:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": spec.chunk, "codecs": codecs, "index_codecs": index,
                    "index_location": "end"}  # fmt: skip
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    fill = _fill_value(spec.dtype)
    return {
        "shape": spec.shape,
        "data_type": spec.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": spec.shard or spec.chunk},
        },
        "chunk_key_encoding": {
            "name": "default",
            "configuration": {"separator": spec.separator},
        },
        "fill_value": "NaN" if isinstance(fill, float) else fill,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": spec.dims,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _fill_value(dtype: str) -> float | str | bool | int:
    if dtype.startswith("float"):
        return float("nan")
    fills: dict[str, str | bool | int] = {"string": "", "bool": False, PACKED: -1}
    return fills.get(dtype, 0)


def _numeric(dtype: str) -> str:
    return "uint8" if dtype == "string" else dtype


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()
