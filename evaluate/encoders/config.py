"""Settings of a comparison of encoders. Standard library only, so that `--help` stays light."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersConfig:
    """Which encoders are compared, with which weights, on how much of each scene."""

    encoders: tuple[str, ...] = ()
    """Names, as `--backbone` takes them; none named is all there are."""

    weights: Literal["small", "published"] = "small"
    """Of encoders that nothing else is said of: `small` is the trained desk model where one comes
    with the package, else a small network of the real class with random weights, written here;
    `published` is the default checkpoint, from the hub."""

    models: tuple[str, ...] = field(default=(), metadata={"option": "--model", "repeat": True})
    """NAME=MODEL: the hub id or folder that an encoder is given, with its published settings; may
    be repeated."""

    tables: str = field(default="", metadata={"option": "--tables"})
    """TOML file with a table an encoder ([stores.NAME], as `vega3d-extract run --config` takes it):
    its `model` and any settings of its own."""

    grid: tuple[int, int] = (10, 14)
    """Cells of the token grid over the whole image that all are brought to, rows first in
    Python."""

    num_views: int = field(default=8, metadata={"option": "--views"})
    """Views kept of a scene at most, evenly spread; 0 keeps all."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.weights not in ("small", "published"):
            raise ValueError(f"weights must be small or published, got {self.weights!r}")
        if bad := [text for text in self.models if not all(text.partition("="))]:
            raise ValueError(f"models must be NAME=MODEL each, got {bad}")
        named = [text.partition("=")[0] for text in self.models]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"models must name an encoder once, got {', '.join(twice)} again")
        if min(self.grid) < 1 or self.num_views < 0:
            raise ValueError(
                "grid must have a column and a row at least and num_views be >= 0, "
                f"got {self.grid} and {self.num_views}"
            )
        if twice := sorted({name for name in self.encoders if self.encoders.count(name) > 1}):
            raise ValueError(f"encoders must be named once each, got {', '.join(twice)} again")
