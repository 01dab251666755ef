"""A prior attached to a vision-language model: the story of `attach_prior`.

The host computes its visual tokens as it always does; on the way to the language model each view's
grid is fused with the prior of the same view, and nothing else changes. What is added is one
`GatedFusion` whose semantic projector is the identity, for the host's own projector has done its
work (the paper's P_sem is that pretrained projector).

Letters: N tokens of a view, D channels of the language model, C channels of the prior.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.store.store import JoinedStore, Store
from vega3d.train.fusion import GatedFusion
from vega3d.train.hosts.layouts import Layout, ViewTokens, inner_model, layout_of
from vega3d.train.hosts.sources import PriorSource, StoredPrior, Views
from vega3d.train.model import Standardize

WEIGHTS = "prior.safetensors"


class AttachedPrior(nn.Module):
    """What was added to a host: the fusion, and the hooks that put it in its way."""

    def __init__(
        self, host: nn.Module, source: PriorSource, layout: Layout, variant: str, hidden: int
    ) -> None:
        """Build the fusion on the host's device; `attach_prior` hooks it in."""
        super().__init__()
        self.standardize = Standardize(source.num_channels)
        self.fusion = GatedFusion(source.num_channels, hidden, hidden, variant)
        self.fusion.project_sem = None  # the host's own projector has done it
        self.source, self.layout = source, layout
        self.force_gate: float | None = None
        self.gates: list[Tensor] = []
        """The gates of the last call, a tensor [N, 1] a view."""
        self._host = [host]  # in a list: the host is no part of this module
        self._views: list[tuple[str, int]] | None = None
        self._inside = False
        self._undo: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def views(self, samples: Sequence[Views]) -> Iterator[None]:
        """Say which views the host sees inside the `with`: of each sample its scene and views."""
        before = self._views
        self._views = [(scene_id, view) for scene_id, views in samples for view in views]
        try:
            yield
        finally:
            self._views = before

    def fuse(
        self, tokens: Float[Tensor, "N D"], scene_id: str, view: int, rows: int, cols: int
    ) -> Float[Tensor, "N D"]:
        """Return one view's tokens, a grid over the whole image, fused with the prior.

        The small protocol for any model that takes `inputs_embeds`, OpenVLA's prefix too: fuse its
        visual tokens here, and go on with them.
        """
        prior = self.source.tokens(scene_id, [view]).to(tokens.device)
        known = prior.isfinite().all(dim=-1)
        standard = self.standardize(prior, known)
        resized = interpolate(
            standard.permute(0, 3, 1, 2), (rows, cols), mode="bilinear", align_corners=False
        )
        gen = resized[0].permute(1, 2, 0).flatten(0, 1)
        own = next(self.fusion.parameters()).dtype
        fused, gate = self.fusion(gen.to(own), tokens.to(own), force_gate=self.force_gate)
        if gate is not None:
            self.gates.append(gate.detach())
        out: Tensor = fused.to(tokens.dtype)
        return out

    def save(self, folder: str | Path) -> Path:
        """Write what was added, and nothing of the host."""
        path = Path(folder) / WEIGHTS
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous() for name, t in self.state_dict().items()}, path)
        return path

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote; raises UsageError where it belongs to another host or prior."""
        path = Path(folder) / WEIGHTS
        try:
            self.load_state_dict(load_file(path), strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"{path}: does not fit this host and prior: {error}") from error

    def detach(self) -> None:
        """Take the prior out of the host, which is then as it was."""
        while self._undo:
            self._undo.pop()()

    def _hook(self, inner: Any, name: str, modality: str) -> None:  # noqa: ANN401 - a host
        original = getattr(inner, name)

        @functools.wraps(original)
        def fused(*args: Any, **given: Any) -> Any:  # noqa: ANN401 - as the host's own
            if self._inside:  # Qwen3-VL's videos go by way of its images
                return original(*args, **given)
            self.gates, self._inside = [], True
            try:
                found = original(*args, **given)
            finally:
                self._inside = False
            known = {**_by_name(original, args), **given}
            if isinstance(found, tuple):
                raise UsageError(f"{name} must be called with return_dict, as the host does")
            found.pooler_output = self._fused(inner, modality, found.pooler_output, known)
            return found

        setattr(inner, name, fused)
        self._undo.append(lambda: delattr(inner, name))

    def _fused(
        self,
        inner: Any,  # noqa: ANN401 - a host
        modality: str,
        features: Tensor | Sequence[Tensor],
        given: Mapping[str, Any],
    ) -> Tensor | tuple[Tensor, ...]:
        views = self.layout(inner, modality, list(features), dict(given))
        if self._views is None or len(views) != len(self._views):
            told = "none" if self._views is None else str(len(self._views))
            raise UsageError(
                f"the host sees {len(views)} views and was told of {told}: call it inside "
                "`with prior.views([(scene_id, views), ...])`"
            )
        parts = [self._in_place(features[i], i, views) for i in range(len(features))]
        return torch.stack(parts) if isinstance(features, Tensor) else tuple(parts)

    def _in_place(self, tokens: Tensor, index: int, views: Sequence[ViewTokens]) -> Tensor:
        """Return one of the host's features with the grids of its views fused."""
        assert self._views is not None
        parts, done = [], 0
        for place, (scene_id, view) in zip(views, self._views, strict=True):
            if place.index != index:
                continue
            end = place.start + place.rows * place.cols
            grid = tokens[place.start : end]
            if len(grid) != end - place.start:
                raise UsageError(
                    f"the host has {len(tokens)} tokens where the layout expects {end}: is it "
                    "another version of the host?"
                )
            parts += [
                tokens[done : place.start],
                self.fuse(grid, scene_id, view, place.rows, place.cols),
            ]
            done = end
        return torch.cat([*parts, tokens[done:]])


def attach_prior(
    model: nn.Module,
    prior: Store | JoinedStore | PriorSource,
    *,
    tap: str | None = None,
    variant: str = "adaptive",
    train_host: bool = False,
    layout: Layout | None = None,
) -> AttachedPrior:
    """Put fused tokens in the place of a host's visual tokens, without touching its code.

    Args:
        model: LLaVA-OneVision (LLaVA-Video's class in transformers), Qwen2.5-VL, Qwen3-VL, or any
            model with `get_image_features` and a `layout`.
        prior: A store, or an `OnlinePrior`.
        tap: Which features of the store.
        variant: A gate of `GatedFusion`, or `add` or `weighted`.
        train_host: False freezes the host; adapters of peft that are added later still train.
        layout: Where each view's tokens are, for hosts that are not known here.

    Raises:
        UsageError: The host is not known and no layout is given.
    """
    source = StoredPrior(prior, tap) if isinstance(prior, Store | JoinedStore) else prior
    inner = inner_model(model)
    hidden = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    found = layout_of(model) if layout is None else layout
    attached = AttachedPrior(model, source, found, variant, hidden)
    if isinstance(source, StoredPrior):
        mean, deviation = (torch.from_numpy(each).float() for each in source.statistics())
        attached.standardize.set_stats(mean, deviation)
    weight = next(model.parameters())
    attached.to(weight.device)
    if not train_host:
        model.requires_grad_(False)
    attached._hook(inner, "get_image_features", "image")
    if hasattr(inner, "get_video_features"):
        attached._hook(inner, "get_video_features", "video")
    return attached


def _by_name(function: Callable[..., Any], args: Sequence[Any]) -> dict[str, Any]:
    """Return positional arguments by the names that the host's method has for them."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return dict(zip(names, args, strict=False))
