"""Where isal is not, zlib inflates: the same bytes, and the same refusal of what is damaged."""

import importlib
import sys
import zlib
from collections.abc import Iterator

import pytest

from vega3d.pipeline.scenes import inflating


@pytest.fixture(params=["isal", "zlib"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    importlib.reload(inflating)
    yield request.param
    monkeypatch.undo()
    importlib.reload(inflating)


def test_the_same_bytes_come_of_both(by: str) -> None:
    data = bytes(range(256)) * 400
    inflate = inflating.inflater()
    assert by in type(inflate).__module__
    assert inflate.decompress(zlib.compress(data), len(data) + 1) == data
    assert inflate.eof


@pytest.mark.usefixtures("by")
def test_damage_is_refused() -> None:
    damaged = bytearray(zlib.compress(bytes(range(256)) * 400))
    damaged[-1] ^= 1
    with pytest.raises(inflating.InflateError):
        inflating.inflater().decompress(bytes(damaged))
