"""What a family of encoders says of itself: its settings, and what planning must know.

A family is one file with a frozen dataclass that derives from `BackboneConfig`: its fields are the
settings, its class attributes and methods what every family tells. Standard library only, so that
a command line can list encoders and plan with them; whatever is heavy is imported by `load`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.settings import (
    Canvas,
    Configs,
    Fit,
    ModelFacts,
    Prompt,
    auto_canvas,
)
from vega3d.pipeline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from vega3d.pipeline.backbones.encoder import Encoder
    from vega3d.pipeline.backbones.grid import Placement, TokenMap


class BackboneConfig(ABC):
    """The settings of one encoder; a family derives a frozen dataclass with slots from it."""

    __slots__ = ()

    name: ClassVar[str]
    """What `--backbone` calls it."""

    classes: ClassVar[str] = ""
    """The published classes that compute it."""

    licence: ClassVar[str] = ""
    """Of the default checkpoint's weights."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Folders of a checkpoint that are read, "." for its root; none where there are no weights."""

    published: ClassVar[Mapping[str, Configs]] = {}
    """Hub id -> the sizes its config.json files give, so that planning needs no network."""

    reads: ClassVar[str] = ""
    """Pattern of the tensors that are read of a checkpoint, as they are named in its files, where
    most of it is something else: only files that hold them are fetched, only they are hashed."""

    ignores_code: ClassVar[bool] = False
    """Checkpoints may name code of their own; it is not run, and no library reads their config."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """What `encode` may be given in the place of what it would make of the pixels: `latents`, to
    compare with other implementations."""

    draws_noise: ClassVar[bool] = False
    """The noise of `noise.py` enters its features."""

    compiles: ClassVar[bool] = False
    """On a GPU, torch compiles it."""

    fit: Fit
    resolution: Canvas | str

    @abstractmethod
    def describe(self, configs: Configs) -> ModelFacts:
        """Return what planning must know; raises CheckpointError where another class wrote them."""

    @abstractmethod
    def flops_per_view(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> float:
        """Estimate the floating-point operations of one view, a multiply-add counted as two.

        Args:
            facts: Of the model.
            canvas: Size of the input.
            num_views: Views of a scene; counts where they attend to one another.
        """

    def refusal(self, facts: ModelFacts, canvas: Canvas, num_views: int) -> str:
        """Return why a scene of so many views cannot be computed; "" where it can."""
        del facts, canvas, num_views
        return ""

    @abstractmethod
    def load(
        self, folder: Path, facts: ModelFacts, numerics: Numerics, prompt: Prompt
    ) -> "Encoder":
        """Return the encoder, its weights read strictly and cut to what the taps need.

        Args:
            folder: Holds `parts`; of no meaning where there are none.
            facts: Of the model in that folder.
            numerics: Device and batch size.
            prompt: From `prompt`.
        """

    def prompt(self, given: "np.ndarray | str | Path | None") -> Prompt:
        """Return the arrays of the prompt, encoded once where a run starts; {} without a prompt.

        Args:
            given: Rows, or a safetensors file of them, that spare the text encoder.
        """
        if given is not None:
            raise UsageError(f"{self.name} takes no prompt; leave prompt_embeds out")
        return {}

    def canvas(self, facts: ModelFacts, image_height: int, image_width: int) -> Canvas:
        """Return rows and columns of the input that an image of that size is brought to, px."""
        if isinstance(self.resolution, tuple):
            return self.resolution
        if self.resolution == "native" and facts.native_px:
            return facts.native_px, facts.native_px
        return auto_canvas(image_height, image_width, facts.auto_tokens, facts.token_px)

    def placement(self, facts: ModelFacts, image_height: int, image_width: int) -> "Placement":
        """Plan how an image of that size gets onto the canvas."""
        from vega3d.pipeline.backbones.grid import plan_placement

        canvas = self.canvas(facts, image_height, image_width)
        return plan_placement(image_height, image_width, canvas, self.fit)

    def token_map(self, facts: ModelFacts, image_height: int, image_width: int) -> "TokenMap":
        """Say where the tokens of an image of that size look, and how they are pooled."""
        return self.placement(facts, image_height, image_width).token_map(facts.token_px)

    def resolved(self, facts: ModelFacts) -> Self:
        """Return the config with its blocks counted from 0, as a store's identity has them."""
        if "blocks" not in _names(type(self)):
            return self
        return replace(self, blocks=facts.blocks)  # type: ignore[type-var]

    def stored(self) -> dict[str, Any]:
        """Return the settings as a store's config keeps them."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @property
    def arithmetic(self) -> int:
        """Version of the numbers that these settings give; 0 for those that never changed.

        Raised where a rounding moves by more than a machine's own last bits, so that a store begun
        before is told from one begun after.
        """
        return 0

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild the settings from a store's config, whose other fields are of no concern here."""
        names = _names(cls)
        return cls(**{name: _tuples(value) for name, value in stored.items() if name in names})


def _names(cls: type[Any]) -> set[str]:
    return {field.name for field in fields(cls)}


def _tuples(value: Any) -> Any:  # noqa: ANN401 - plain JSON
    return tuple(value) if isinstance(value, list) else value
