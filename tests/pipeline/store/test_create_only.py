"""A store is made only where a second create is really refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import Fault, FaultProxy
from synthetic_unit import make_plan, make_store

from vega3d.pipeline import open_store, remote
from vega3d.pipeline.errors import StoreError


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT"]) as standing:
        monkeypatch.setenv("AWS_ENDPOINT", standing.url)
        remote._connected.cache_clear()
        yield standing
    remote._connected.cache_clear()


def test_a_server_that_ignores_if_none_match_is_refused(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    proxy.fault = lambda _request: Fault(ignore=("If-None-Match",))
    with pytest.raises(StoreError, match="ignores If-None-Match and two jobs would overwrite"):
        make_store(f"{bucket}/{tmp_path.name}", make_plan(2))


@pytest.mark.slow
def test_a_server_that_honours_it_is_taken_also_where_an_answer_is_lost(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    lost = iter([Fault(drop=True, carried_out=True)] * 2)
    proxy.fault = lambda request: next(lost, None) if request.method == "PUT" else None
    url = f"{bucket}/{tmp_path.name}"
    made = make_store(url, make_plan(2))
    assert next(lost, None) is None  # both answers were lost on the way
    assert make_store(url, make_plan(2)) == made  # resumed
    assert len(open_store(url).pending) == 2


def test_a_folder_is_taken(tmp_path: Path) -> None:
    made = make_store(str(tmp_path / "s"), make_plan(2))
    assert make_store(str(tmp_path / "s"), make_plan(2)) == made
    assert len(open_store(str(tmp_path / "s")).pending) == 2
