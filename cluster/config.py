"""Where a submitted run gets its machines from. Standard library only."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Target = Literal["kuberay", "slurm", "sky", "ray"]
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitConfig:
    """What a manifest or script asks for; changes no stored byte."""

    name: str = "vega3d-extract"
    """Name of the job: lower-case letters, digits and dashes."""

    image: str = "vega3d:0.1.0"
    """Container image with vega3d in it (cluster/docker); kuberay and sky."""

    gpu: str = "H100"
    """GPU model, as SkyPilot names it; "" runs on CPU nodes."""

    gpus_per_node: int = 8
    """GPUs of one Slurm node or SkyPilot machine; a KubeRay worker has one."""

    cpus_per_gpu: int = 8
    """CPU cores beside each GPU: decoding and storing keep up with it."""

    memory_gb_per_gpu: int = 32
    """Memory beside each GPU, GB."""

    spot: bool = True
    """Take preemptible machines: a run goes on where a lost one stopped."""

    time_limit: str = "24:00:00"
    """Slurm: hours:minutes:seconds of one job; it resubmits itself until the run is done."""

    grace_s: int = 120
    """Seconds between the warning and the end of a preempted machine or job."""

    partition: str = ""
    """Slurm partition; "" takes the site's default."""

    account: str = ""
    """Slurm account; "" takes the user's default."""

    namespace: str = "default"
    """Kubernetes namespace."""

    secret: str = "vega3d-storage"
    """Kubernetes secret whose entries become environment variables (AWS_...); by reference only."""

    dashboard: str = "http://127.0.0.1:8265"
    """Address of the Ray dashboard that `ray job submit` speaks to."""

    def __post_init__(self) -> None:
        """Check every field once."""
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?", self.name):
            raise ValueError(
                "name must be 1 to 48 lower-case letters, digits and dashes, and begin with a "
                f"letter, got {self.name!r}"
            )
        least = ("gpus_per_node", "cpus_per_gpu", "memory_gb_per_gpu", "grace_s")
        if bad := [name for name in least if getattr(self, name) < 1]:
            raise ValueError(f"{bad[0]} must be >= 1, got {getattr(self, bad[0])}")
        if not re.fullmatch(r"(\d+-)?\d{1,3}:\d\d:\d\d", self.time_limit):
            raise ValueError(f"time_limit must be hours:minutes:seconds, got {self.time_limit!r}")
        for name in ("partition", "account", "namespace", "secret", "gpu"):
            if not re.fullmatch(r"[-A-Za-z0-9_.:]*", getattr(self, name)):
                raise ValueError(
                    f"{name} must be letters, digits and - _ . :, got {getattr(self, name)!r}"
                )
