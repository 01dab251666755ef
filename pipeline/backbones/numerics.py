"""What changes the last bits of a result, applied and named.

Equal bytes are promised for one fingerprint: batch size, threads and device (kept in the store's
root), and this environment (kept in each commit record).
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.places import cache_dir

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""One of these is there where a GPU is: of NVIDIA's driver, in WSL, of AMD's."""

_CODES = 128
"""That one function may be compiled to: one for batches of a size, one for a lone view of it."""

_PACKAGES = ("torch", "numpy", "pillow", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """What changes the last bits of a result; fixed when a store is created."""

    batch_size: int = field(default=4, metadata={"usual": "searched on a GPU, 4 on a CPU"})
    """Views a forward pass; a batch never crosses a scene. 0 searches the best of the device when
    a store is made, and the store keeps it."""

    threads: int = 2
    """CPU threads of the numeric kernels, in every worker alike."""

    device: Literal["cpu", "cuda"] = field(
        default="cpu", metadata={"also": ("auto",), "usual": "auto"}
    )
    """Where the model runs; `auto` takes a GPU where there is one."""

    compiled: bool = field(default=True, metadata={"option": "--compile"})
    """On a GPU, compile what runs for every view where the encoder allows it (Wan): twice as fast
    after half a minute, once for all workers that share VEGA3D_CACHE."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if self.batch_size < 0:
            raise ValueError(f"batch_size must be >= 0 (0 searches one), got {self.batch_size}")
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")

    def stored(self) -> dict[str, Any]:
        """Return the settings as a store keeps them; what came later is left out where usual."""
        kept = asdict(self)
        if self.compiled:
            del kept["compiled"]
        return kept


def apply_numerics(numerics: Numerics) -> None:
    """Set this process's threads and switch off what would make results vary.

    Raises:
        UsageError: A CUDA device is asked for and there is none.
    """
    import torch

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
        _share_compiled_code(torch.__version__)


def _share_compiled_code(version: str) -> None:
    """Have every worker find what one has compiled, the next run too; Triton's place follows."""
    folder = cache_dir() / "compiled" / version
    with suppress(OSError):  # read-only: torch's own place does
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def autocast(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which torch picks bfloat16 for matrix products; none in float32."""
    import torch

    if dtype in ("float32", "tf32"):
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


@contextmanager
def gpu_kernels(dtype: str, device: str) -> Iterator[None]:
    """Choose a GPU's kernels while a scene runs, and put back what was chosen before.

    Float32 products are rounded to TF32 (10 bits, cuDNN's default for convolutions) where the
    precision is `tf32` and nowhere else. Attention prefers cuDNN's kernel, then FlashAttention.
    """
    if device == "cpu":
        yield
        return
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    before, wanted = torch.backends.cuda.matmul.allow_tf32, dtype == "tf32"
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=wanted)
    with flags, sdpa_kernel(order, set_priority=True), _many_sizes():
        torch.backends.cuda.matmul.allow_tf32 = wanted
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


def _many_sizes() -> AbstractContextManager[Any]:
    """Let this thread have code for many sizes of input: torch runs the 9th without compiling it.

    Its settings are a thread's own, and a model may be loaded in one and run in others.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled: it is seconds of import
        return nullcontext()
    import torch

    patched: AbstractContextManager[Any] = torch._dynamo.config.patch(recompile_limit=_CODES)
    return patched


def gpu_is_here() -> bool:
    """Return whether torch sees a GPU in this process; loads torch where there may be one."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def environment(device: str) -> dict[str, Any]:
    """Return versions, instruction set and GPU: the rest of the numerics fingerprint."""
    import torch

    found: dict[str, Any] = dict(_versions())
    found["machine"] = platform.machine()
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


@cache  # each unit's record names them, and a package's file is parsed as a mail
def _versions() -> dict[str, str]:
    from importlib.metadata import metadata  # a part of `--help`'s time

    return {name: str(metadata(name)["Version"]) for name in _PACKAGES}
