"""Stage 3: cached priors and semantic tokens -> gated fusion -> spatial tasks (`vega3d-train`).

Open `fitting.py` first: it tells the whole story in one function. `fusion.py` has Eq. 6-8 and every
variant of Table 5, `tasks.py` what a task is, `loader.py` how a batch is read. No diffusion model,
no Ray and no video decoding in this process. Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.train.ablation import ablate as ablate
    from vega3d.train.config import RunConfig as RunConfig
    from vega3d.train.config import TrainConfig as TrainConfig
    from vega3d.train.fitting import fit as fit
    from vega3d.train.fusion import GatedFusion as GatedFusion
    from vega3d.train.released import from_released as from_released

_HOMES = {
    "GatedFusion": "vega3d.train.fusion",
    "RunConfig": "vega3d.train.config",
    "TrainConfig": "vega3d.train.config",
    "ablate": "vega3d.train.ablation",
    "fit": "vega3d.train.fitting",
    "from_released": "vega3d.train.released",
}
__all__ = ["GatedFusion", "RunConfig", "TrainConfig", "ablate", "fit", "from_released"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
