"""What changes the last bits of a result, applied and named.

Equal bytes are promised for one fingerprint: batch size, threads and device (kept in the store's
root), and this environment (kept in each commit record).
"""

import platform
from importlib.metadata import metadata
from typing import Any

import torch

from vega3d.pipeline.config import Numerics
from vega3d.pipeline.errors import UsageError

_PACKAGES = ("torch", "numpy", "pillow", "diffusers", "transformers")


def apply_numerics(numerics: Numerics) -> None:
    """Set this process's threads and switch off what would make results vary.

    Raises:
        UsageError: A CUDA device is asked for and there is none.
    """
    torch.set_num_threads(numerics.threads)
    if numerics.device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(
                "device cuda is asked for, but torch sees no GPU here; "
                "use --device cpu, or --gpus-per-worker 1 on Ray"
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def environment(device: str) -> dict[str, Any]:
    """Return versions, instruction set and GPU: the rest of the numerics fingerprint."""
    found: dict[str, Any] = {name: str(metadata(name)["Version"]) for name in _PACKAGES}
    found["machine"] = platform.machine()
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found
