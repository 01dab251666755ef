"""Stage 3: cached priors and semantic tokens -> gated fusion -> spatial tasks (`vega3d-train`).

Open `fitting.py` first: it tells the whole story in one function. `fusion.py` has Eq. 6-8 and every
variant of Table 5, `tasks/` one file a task, `loader.py` how a batch is read. No diffusion model,
no Ray and no video decoding in this process. Names load on first use.
"""

from typing import TYPE_CHECKING

from vega3d.pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from vega3d.train.ablation import ablate as ablate
    from vega3d.train.config import RunConfig as RunConfig
    from vega3d.train.config import TrainConfig as TrainConfig
    from vega3d.train.fitting import fit as fit
    from vega3d.train.fusion import GatedFusion as GatedFusion
    from vega3d.train.released import from_released as from_released

__all__ = ["GatedFusion", "RunConfig", "TrainConfig", "ablate", "fit", "from_released"]
__getattr__ = lazy_names(
    __name__,
    {
        "GatedFusion": "fusion",
        "RunConfig": "config",
        "TrainConfig": "config",
        "ablate": "ablation",
        "fit": "fitting",
        "from_released": "released",
    },
)
