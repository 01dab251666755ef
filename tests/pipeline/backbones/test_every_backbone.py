"""What every encoder must hold, whatever its family; `small_backbones.py` says how each is made."""

import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import diffusers
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_backbones import SMALL, SmallModels

from vega3d.pipeline.backbones import tensors as own_tensors
from vega3d.pipeline.backbones.backbone import Backbone
from vega3d.pipeline.backbones.checkpoints import model_facts, model_name, planned_facts
from vega3d.pipeline.backbones.family import BackboneConfig
from vega3d.pipeline.backbones.grid import grid_cells, pool_to_grid
from vega3d.pipeline.backbones.numerics import Numerics
from vega3d.pipeline.backbones.registry import backbone_names, family
from vega3d.pipeline.errors import CheckpointError

NAMES = backbone_names()
WITH_WEIGHTS = [name for name in NAMES if family(name).parts]
GENERATORS = [name for name in NAMES if family(name).draws_noise]
QUICK = {"wan2.1-t2v", "siglip", "rgb", "position", "random", "dinov3"}
"""Families whose every case is in the quick suite; of the others one is."""

VIEWS = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
IDS = ["a", "b", "c"]


def encode(
    backbone: Backbone, rgb: np.ndarray = VIEWS, ids: list[str] = IDS, scene_id: str = "room"
) -> torch.Tensor:
    return backbone.encode(rgb, scene_id=scene_id, view_ids=ids)[backbone.taps[0]]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def each(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for name in names
    ]


def has(name: str, setting: str) -> bool:
    return setting in {item.name for item in fields(family(name))}


def keeps_aspect(name: str) -> bool:
    """Say whether `resolution="auto"` is one of its settings."""
    hint = get_type_hints(family(name)).get("resolution")
    return "auto" in [word for part in get_args(hint) for word in get_args(part)]


def test_every_encoder_is_in_the_suite() -> None:
    assert set(SMALL) == set(NAMES)


@pytest.mark.parametrize("name", each(NAMES))
def test_what_planning_knows_is_what_comes(models: SmallModels, name: str) -> None:
    check_what_comes(models, name, (96, 128))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_it_comes_for_every_fit_and_aspect(models: SmallModels, name: str, fit: str) -> None:
    check_what_comes(models, name, (150, 70), fit=fit)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*filter(keeps_aspect, NAMES)])
def test_it_keeps_an_images_own_aspect(models: SmallModels, name: str) -> None:
    check_what_comes(models, name, (70, 150), resolution="auto")


def check_what_comes(
    models: SmallModels, name: str, size: tuple[int, int], **settings: object
) -> None:
    config = family(name)(**{**models.model(name), **SMALL[name].early, **settings})
    facts = model_facts(config)
    assert model_facts(config.resolved(facts)) == facts  # as a store keeps it
    backbone = models.load(name, **settings)
    assert (backbone.taps, backbone.channels) == (facts.taps, facts.channels)
    rgb = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    features = backbone.encode(rgb, scene_id="room", view_ids=["a", "b"])
    assert tuple(features) == facts.taps
    canvas = config.canvas(facts, *size)
    assert backbone.canvas(*size) == canvas
    token_map = backbone.token_map(*size)
    assert (token_map.rows, token_map.cols) == tuple(side // facts.token_px for side in canvas)
    for values in features.values():
        assert values.shape == (2, token_map.rows, token_map.cols, facts.channels)
        assert (values.dtype, values.device.type) == (torch.float32, "cpu")
        assert not values.requires_grad
        pooled, coverage = pool_to_grid(values.numpy(), token_map, *size, (14, 14))
        assert np.isfinite(pooled[:, coverage > 0]).all()
    rows, cols = grid_cells(token_map, *size, (14, 14))
    assert (rows[0, 0], rows[-1, 1], cols[0, 0], cols[-1, 1]) == (0, size[0], 0, size[1])
    assert config.flops_per_view(facts, canvas, 32) > 0


@pytest.mark.parametrize("name", each(NAMES))
def test_a_view_has_the_same_features_whatever_its_batch(models: SmallModels, name: str) -> None:
    together = encode(models.load(name, batch_size=3))
    apart = encode(models.load(name, batch_size=1), VIEWS[[2, 0]], ["c", "a"])
    # Float32 sums in another order.
    assert relative(apart, together[[2, 0]]) < 1e-5


@pytest.mark.parametrize("name", each(NAMES))
def test_the_same_call_gives_the_same_bits(models: SmallModels, name: str) -> None:
    backbone = models.load(name)
    torch.testing.assert_close(encode(backbone), encode(backbone), rtol=0, atol=0)
    torch.testing.assert_close(encode(models.load(name)), encode(backbone), rtol=0, atol=0)


@pytest.mark.parametrize("name", each(NAMES))
def test_noise_follows_its_key_and_nothing_else(models: SmallModels, name: str) -> None:
    backbone = models.load(name)
    twice = np.stack([VIEWS[0], VIEWS[0]])
    here = encode(backbone, twice, ["a", "b"])
    there = encode(backbone, twice, ["a", "b"], scene_id="hall")
    alone = encode(backbone, twice[:1], ["b"])
    assert relative(alone, here[1:]) < 1e-5
    if name in GENERATORS:
        assert relative(here[1], here[0]) > 1e-3
        assert relative(there, here) > 1e-3
        assert relative(encode(models.load(name, noise_seed=7), twice, ["a", "b"]), here) > 1e-3
    else:
        assert relative(here[1], here[0]) < 1e-5
        torch.testing.assert_close(there, here, rtol=0, atol=0)
        with pytest.raises(ValueError, match=f"{name} is no diffusion model: it takes no noise"):
            backbone.encode(VIEWS, scene_id="s", view_ids=IDS, noise=torch.zeros(3, 16, 1, 2, 2))


@pytest.mark.parametrize("name", each(n for n in NAMES if has(n, "dtype")))
def test_bfloat16_stays_near_float32(models: SmallModels, name: str) -> None:
    exact = encode(models.load(name), VIEWS[:1], ["a"])
    rounded = encode(models.load(name, dtype="bfloat16"), VIEWS[:1], ["a"])
    assert rounded.dtype == torch.float32
    assert 1e-5 < relative(rounded, exact) < 0.05


@contextmanager
def counting_parameters() -> Iterator[Callable[[], int]]:
    """Yield what counts the numbers of all parameters that were made since and are held."""

    def held() -> int:
        gc.collect()
        alive = {
            found.data_ptr() or id(found): found.numel()  # on the meta device all lie at 0
            for found in gc.get_objects()
            if type(found) is torch.nn.Parameter
        }
        return sum(alive.values())

    gc.freeze()  # whatever was there is not looked at: a look at all takes a second
    try:
        yield held
    finally:
        gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("name", each(n for n in WITH_WEIGHTS if has(n, "blocks")))
def test_layers_after_the_last_tap_are_not_in_memory(models: SmallModels, name: str) -> None:
    config = family(name)(**{**models.model(name), **SMALL[name].early, "blocks": (2,)})
    facts = model_facts(config)
    models.load(name)  # whatever a first load leaves behind is there before
    with counting_parameters() as parameters:
        backbone = models.load(name, blocks=(2,))
        held = parameters()
    assert backbone.taps == facts.taps
    if SMALL[name].folds:
        assert 0 < held <= facts.parameters
    else:
        assert held == facts.parameters


def weight_files(config: BackboneConfig) -> list[Path]:
    return [
        path
        for part in config.parts
        for path in sorted((Path(model_name(config)) / part).glob("*.safetensors"))
    ]


@pytest.mark.parametrize("name", each(WITH_WEIGHTS))
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_weights_are_loaded_strictly(
    models: SmallModels, name: str, fault: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(models.model(name)["model"], tmp_path / "model")
    for path in weight_files(family(name)(model=str(copy))):
        whole = load_file(path)
        # Halves that the encoder does not read (SigLIP's text) are nobody's loss.
        key = next(k for k in sorted(whole) if not re.fullmatch(SMALL[name].unread, k))
        if fault == "missing":
            held = {k: v for k, v in whole.items() if k != key}
        elif fault == "unexpected":
            key = "left_over.weight"
            held = {**whole, key: torch.zeros(2)}
        else:
            held = {**whole, key: torch.zeros(7, 7, 7)}
        save_file(held, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match=".".join(key.split(".")[-2:])):
            models.load(name, model=str(copy))
        save_file(whole, path, {"format": "pt"})


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_published_default_is_planned_without_a_network(name: str) -> None:
    config = family(name)()
    assert model_name(config) in config.published
    facts = planned_facts(config)
    canvas = config.canvas(facts, 480, 640)
    assert facts.parameters > 1e6
    assert config.flops_per_view(facts, canvas, 32) > facts.parameters
    assert config.licence
    assert config.classes


def test_listing_and_planning_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from vega3d.pipeline.backbones.checkpoints import planned_facts\n"
        "from vega3d.pipeline.backbones.registry import backbone_names, family, preset\n"
        "configs = [family(name)() for name in backbone_names()] + [preset('reference')]\n"
        "for config in configs:\n"
        "    facts = planned_facts(config)\n"
        "    config.flops_per_view(facts, config.canvas(facts, 480, 640), 32)\n"
        "heavy = {'numpy', 'torch', 'jaxtyping', 'transformers', 'diffusers', 'PIL'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", NAMES)
def test_a_stores_config_gives_the_settings_back(name: str) -> None:
    config = family(name)()
    assert family(name).from_stored({"grid": [14, 14], **config.stored()}) == config


def every_published() -> list[Any]:
    """Each model whose sizes are known; the defaults of some families are quick."""
    return [
        pytest.param(
            name,
            model,
            id=f"{name}-{model}",
            marks=() if name in QUICK and model == model_name(family(name)()) else pytest.mark.slow,
        )
        for name in WITH_WEIGHTS
        for model in family(name).published
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), every_published())
def test_the_published_sizes_are_the_real_classes(
    name: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load the published config on the meta device: our own way in, at full size, no numbers."""
    config = family(name)(model=model)
    configs = config.published[model]
    for part, held in configs.items():
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "config.json").write_text(json.dumps(held))
    monkeypatch.setattr(diffusers.ModelMixin, "from_pretrained", classmethod(_on_meta))
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(_on_meta))
    monkeypatch.setattr(own_tensors, "read_into", lambda module, *_, **__: module)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_, **__: tensor)  # slow on meta
    facts = planned_facts(config)
    numerics = Numerics()
    object.__setattr__(numerics, "device", "meta")
    text = {key: np.zeros(shape, np.float32) for key, shape in SMALL[name].prompt.items()}
    with counting_parameters() as parameters:
        encoder = config.load(tmp_path, facts, numerics, text if name in GENERATORS else {})
        held = parameters()
    assert held == facts.parameters if not SMALL[name].folds else held <= facts.parameters
    del encoder


def _on_meta(cls: Any, place: str, **_: object) -> tuple[Any, dict[str, list[str]]]:  # noqa: ANN401
    with torch.device("meta"):
        if issubclass(cls, diffusers.ModelMixin):
            model = cls.from_config(cls.load_config(place))
        else:
            model = cls(cls.config_class.from_pretrained(place))
    nothing: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
    return model, {**nothing, "mismatched_keys": []}
