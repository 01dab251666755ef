"""Manifests and scripts: valid for the programs that read them, and one of them run for real."""

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml

from vega3d.cluster.config import SubmitConfig
from vega3d.cluster.submission import command, render, submit
from vega3d.pipeline import open_store
from vega3d.pipeline.config import RunConfig
from vega3d.pipeline.errors import UsageError

REPO = Path(__file__).parents[2]
SCHEMAS = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())["schemas"]
OPTIONS = ["/data/my scans", "--out", "s3://bucket/prior.zarr", "--noise-seed", "7"]
BIN = Path(sys.executable).parent
KINDS = [
    SubmitConfig(),
    SubmitConfig(gpu="", spot=False, partition="long", account="lab-7", gpus_per_node=2),
]


def rendered(to: str, config: SubmitConfig = KINDS[0], workers: int = 12) -> str:
    return render(to, OPTIONS, RunConfig(runner="ray", workers=workers), config)


def tool(name: str) -> str:
    """Return a linter of the test extra, wherever the environment keeps it."""
    found = shutil.which(name) or shutil.which(name, path=str(BIN))
    if found is None:
        import importlib.util

        spec = importlib.util.find_spec("kubernetes_validate")
        assert spec is not None
        found = str(Path(spec.origin).parents[4] / "bin" / name)
    return found


@pytest.mark.parametrize("config", KINDS, ids=["gpu", "cpu"])
def test_kuberay_documents_fit_kubernetes_and_kuberay(config: SubmitConfig) -> None:
    budget, job = yaml.safe_load_all(rendered("kuberay", config))
    kubernetes_validate.validate(budget, "1.30", strict=True)
    jsonschema.validate(job, SCHEMAS["RayJob"])
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        pod["metadata"] = {**pod["metadata"], "name": "x"}
        kubernetes_validate.validate(pod, "1.30", strict=True)
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    head, workers = groups
    assert cluster["authOptions"] == {"mode": "token"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["maxReplicas"] == 12
    matched = budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
    assert head["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == matched
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == bool(config.gpu)
    assert ("tolerations" in workers["template"]["spec"]) == (config.spot or bool(config.gpu))


def test_a_wrong_field_would_be_found() -> None:
    _, job = yaml.safe_load_all(rendered("kuberay"))
    job["spec"]["rayClusterSpec"]["authOption"] = {}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(job, SCHEMAS["RayJob"])


@pytest.mark.parametrize("config", KINDS, ids=["gpu", "cpu"])
@pytest.mark.parametrize("to", ["slurm", "ray"])
def test_scripts_pass_shellcheck(to: str, config: SubmitConfig, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(rendered(to, config))
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_inside_skypilots_file_passes_shellcheck(tmp_path: Path) -> None:
    document = yaml.safe_load(rendered("sky"))
    assert document["num_nodes"] == 2
    assert document["resources"]["accelerators"] == "H100:8"
    script = tmp_path / "run.sh"
    script.write_text("#!/usr/bin/env bash\n" + document["run"])
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_passes_hadolint() -> None:
    file = REPO / "cluster" / "docker" / "Dockerfile"
    done = subprocess.run([tool("hadolint"), file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    assert "USER 1000" in text
    final = text.rpartition("FROM ")[2]
    assert {"gcc", "python3-dev"} <= set(final.split())  # Triton builds its launcher where it runs


@pytest.mark.parametrize("to", ["kuberay", "slurm", "sky", "ray"])
def test_every_file_sets_the_authentication_and_holds_no_secret(to: str) -> None:
    text = rendered(to)
    assert "RAY_AUTH_MODE" in text or "authOptions" in text
    assert "'/data/my scans'" in text  # quoted for the shell that runs it
    assert "disabled" not in text


def test_the_command_is_the_same_run_on_the_ray_around_it() -> None:
    words = command(OPTIONS, RunConfig(runner="ray", workers=3), SubmitConfig(gpu=""))
    assert words[: 2 + len(OPTIONS)] == ["vega3d-extract", "run", *OPTIONS]
    assert words[2 + len(OPTIONS) :] == (
        [
            "--runner",
            "ray",
            "--address",
            "auto",
            "--workers",
            "3",
            "--device",
            "cpu",
            "--gpus-per-worker",
            "0",
        ]
    )


@pytest.mark.parametrize("to", ["kuberay", "sky"])
def test_a_store_on_a_disk_that_goes_with_its_machine_is_refused(to: str) -> None:
    options = ["rooms:2", "--out", "/tmp/prior.zarr"]
    with pytest.raises(UsageError, match="/tmp/prior.zarr: .* share no folder.*give a URL"):
        render(to, options, RunConfig(runner="ray", workers=1), SubmitConfig())


def test_a_ray_that_is_not_there_is_told_in_one_sentence() -> None:
    config = SubmitConfig(dashboard=f"http://127.0.0.1:{free_port()}")
    text = render("ray", OPTIONS, RunConfig(runner="ray", workers=1), config)
    with pytest.raises(UsageError, match="no Ray answers there .*; start one with `ray start") as e:
        submit("ray", text)
    assert "Traceback" not in str(e.value)


@pytest.mark.slow
def test_the_readme_shows_what_is_printed() -> None:
    """Of the manifest for KubeRay, line by line."""
    text = (REPO / "README.md").read_text()
    shown = text.partition("```text\nkind: RayJob\n")[2].partition("```")[0].splitlines()
    asked = next(line for line in text.splitlines() if "--to kuberay" in line)
    words = shlex.split(asked.partition(" > ")[0])
    done = subprocess.run([BIN / words[0], *words[1:]], capture_output=True, text=True, check=True)
    assert len(shown) > 6
    assert set(shown) <= set(done.stdout.splitlines())


@pytest.mark.slow
def test_the_readmes_transcripts_are_of_the_commands_above_them() -> None:
    text = (REPO / "README.md").read_text()
    printed = []
    for line in re.findall(r"^\$ (vega3d-extract submit .*) > \w+\.sh$", text, re.MULTILINE):
        words = shlex.split(line)
        done = subprocess.run([BIN / words[0], *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert len(printed) == 2
    slurm, ray = printed
    assert "#SBATCH --nodes=2" in slurm
    (ran,) = re.findall(r"^Running entrypoint for job \S+: (.*)$", text, re.MULTILINE)
    assert ran in ray


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "My Job"), ("time_limit", "1 day"), ("partition", "a\nb"), ("gpus_per_node", 0)],
)
def test_values_that_would_break_a_file_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SubmitConfig(**{field: value})


def test_a_submitter_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="kubectl is not here"):
        submit("kuberay", "text")
    with pytest.raises(UsageError, match="--to must be one of kuberay"):
        rendered("pbs")


def test_what_a_submitter_says_is_told() -> None:
    assert submit("ray", "echo job 7 succeeded") == "job 7 succeeded"
    with pytest.raises(UsageError, match="bash -s refuses: no such cluster"):
        submit("ray", "echo no such cluster >&2; exit 3")


STUBS = {
    "srun": """while [[ "${1:-}" == --* ]]; do shift; done
[ "$1" = hostname ] && { echo 127.0.0.1; exit; }
[ "$1" = ray ] && set -- "$@" --num-cpus=2 --object-store-memory=80000000
exec "$@"
""",
    "scontrol": """[ "$1" = show ] && { echo node0; echo node1; exit; }
echo "$@" >> "$VEGA3D_SLURM_STATE/scontrol.log"
""",
}


SMALL_RUN = ["rooms:2?views=2&height=48&width=64", "--backbone", "rgb", "--resolution", "64x48",
             "--threads", "1", "--cpus-per-worker", "1", "--scenes-per-shard", "1"]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Return one in which `ray` and our commands are found, and nothing is said of Ray."""
    path = f"{BIN}:{Path(tool('shellcheck')).parent}:{os.environ['PATH']}"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**plain, "PATH": path, "RAY_TMPDIR": "/tmp", **more}


def stubbed(folder: Path, **bodies: str) -> str:
    """Return a PATH on which these programs stand before the real ones."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name, body in bodies.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (stubs / name).chmod(0o755)
    return f"{stubs}:{environment()['PATH']}"


def slurm_job(folder: Path, options: Sequence[str], workers: int) -> list[str]:
    """Write the script of a run on CPU nodes, and return the command that runs it."""
    script = folder / "job.sh"
    config = SubmitConfig(gpu="", gpus_per_node=1)
    script.write_text(render("slurm", options, RunConfig(runner="ray", workers=workers), config))
    return ["bash", str(script)]


def test_a_head_that_does_not_start_is_tried_again(tmp_path: Path) -> None:
    """Ray gives a start 30 s, which is too little on a busy node."""
    ray = 'echo "$@" >> "$VEGA3D_SLURM_STATE/ray.log"; exit 1'
    job = environment(
        SLURM_JOB_ID="7", SLURM_JOB_NODELIST="node[0-1]", SLURM_JOB_NUM_NODES="2",
        VEGA3D_SLURM_STATE=str(tmp_path), PATH=stubbed(tmp_path, **STUBS, ray=ray, sleep=""),
    )  # fmt: skip
    done = subprocess.run(
        slurm_job(tmp_path, OPTIONS, 2), capture_output=True, text=True, env=job, timeout=60
    )
    assert done.returncode == 1
    assert "the head of Ray did not start, 3 times" in done.stderr
    started = (tmp_path / "ray.log").read_text().count("start --head --block")
    assert started == 3
    assert not (tmp_path / "7").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_the_slurm_script_brings_up_two_nodes_and_runs(tmp_path: Path) -> None:
    """With a stub srun, both `nodes` are Ray nodes of this machine; the run is the real one."""
    out, job = tmp_path / "prior.zarr", str(os.getpid())
    slurm = environment(
        SLURM_JOB_ID=job, SLURM_JOB_NODELIST="node[0-1]", SLURM_JOB_NUM_NODES="2",
        VEGA3D_SLURM_STATE=str(tmp_path), PATH=stubbed(tmp_path, **STUBS),
    )  # fmt: skip
    done = subprocess.run(
        slurm_job(tmp_path, [*SMALL_RUN, "--out", str(out)], 2), capture_output=True, text=True,
        check=False, env=slurm, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(open_store(str(out)).scene_ids) == 2
    assert not (tmp_path / job).exists()  # the token is gone
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(one["units"] for one in summary["figures"]["by_worker"].values()) == 2


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def cluster_with_a_token(token: str) -> Iterator[str]:
    """Start a head that asks for a token, and return its dashboard's address."""
    port, agent = free_port(), free_port()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as place:
        command = [
            "ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0",
            f"--port={free_port()}", "--include-dashboard=true", f"--dashboard-port={port}",
            f"--dashboard-agent-listen-port={agent}", "--node-ip-address=127.0.0.1",
            f"--ray-client-server-port={free_port()}", f"--temp-dir={place}",
        ]  # fmt: skip
        asked = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        head = subprocess.Popen(command, env=asked, **quiet)
        health = f"http://127.0.0.1:{agent}/api/local_raylet_healthz"
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                if head.poll() is not None:  # a busy machine takes longer than Ray grants
                    head = subprocess.Popen(command, env=asked, **quiet)
                with suppress(OSError):
                    urllib.request.urlopen(health, timeout=5).close()
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            for one in [*psutil.Process(head.pid).children(recursive=True), head]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            head.wait(30)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_is_submitted_to_a_ray_that_asks_for_a_token(tmp_path: Path) -> None:
    """`submit --to ray --go` follows the run to its end; another token is refused."""
    out = tmp_path / "prior.zarr"
    with cluster_with_a_token(token := secrets.token_hex(32)) as dashboard:
        submitted = [
            BIN / "vega3d-extract", "submit", *SMALL_RUN, "--out", out, "--to", "ray", "--gpu", "",
            "--workers", "1", "--dashboard", dashboard, "--go",
        ]  # fmt: skip
        asked = environment(RAY_AUTH_TOKEN=token)
        try:
            done = subprocess.run(
                submitted, capture_output=True, text=True, env=asked, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            if os.getloadavg()[0] < 2 * (os.cpu_count() or 1):
                raise
            pytest.skip("this machine is too busy: Ray's job had not ended after 300 s")
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["submitted"] == "ray"
        assert "succeeded" in told["told"]
        assert token not in done.stdout + done.stderr
        assert len(open_store(str(out)).scene_ids) == 2
        job = json.dumps({"entrypoint": f"touch {tmp_path}/ran"}).encode()
        for header in ({}, {"Authorization": f"Bearer {'0' * 64}"}):
            posted = urllib.request.Request(f"{dashboard}/api/jobs/", job, header)
            with pytest.raises(urllib.error.HTTPError, match="40[13]"):
                urllib.request.urlopen(posted, timeout=30)
        assert not (tmp_path / "ran").exists()
