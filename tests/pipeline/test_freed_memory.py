"""Freed pages stay with a process that reads scenes, unless its environment says how memory is."""

import ctypes

import pytest

from vega3d.pipeline import freed_memory


class Libc:
    """Notes what glibc would be told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.told.append((name, value))
        return 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    found = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: found)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    freed_memory.keep_freed_memory.cache_clear()
    return found


def test_glibc_is_told_once(libc: Libc) -> None:
    freed_memory.keep_freed_memory()
    freed_memory.keep_freed_memory()
    assert dict(libc.told) == {-4: 0, -1: 512 << 20, -8: 1}
    assert len(libc.told) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=0")],
)
def test_who_tunes_it_has_the_last_word(
    libc: Libc, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    freed_memory.keep_freed_memory()
    assert libc.told == []
