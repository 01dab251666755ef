"""Seeded runs that are killed, cut off, starved and damaged, then resumed and compared.

`python tests/faults/seeded.py [RUNS [FIRST_SEED [FILE]]]` (`make faults`) prints a table. One run
writes a small store through the real writer, with a torch-free compute stage; something happens to
it at a random point; it is resumed; and every object is compared with those of an undisturbed
store. Kinds of Ray share one Ray of several nodes. `test_seeded.py` does one run of each kind.

With FILE each outcome is kept there, a line each: a command that was stopped (SIGTERM, between two
runs) goes on with the seeds that are not in it, and the table is of all that are.
"""

import faulthandler
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import psutil
from fault_proxy import Fault, FaultProxy
from synthetic_unit import make_worker

from vega3d.pipeline import remote, transient
from vega3d.pipeline.commands import exit_on_sigterm
from vega3d.pipeline.errors import StoreError, TransientError
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.bucket import BucketObjects
from vega3d.pipeline.store.folder import FolderObjects
from vega3d.pipeline.store.merge import merge_commits
from vega3d.pipeline.store.store import open_store
from vega3d.pipeline.store.verify import verify
from vega3d.pipeline.store.writer import uncommitted

SCENES = 4
WRITES = 45
"""About so many objects are written by a run; a random point is one of them."""

GRACE_S = 20.0
LIMIT_S = 120.0
HANG_S = 300.0
"""A seed that takes so long hangs: every thread's stack is told, and the command ends."""

_PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Point:
    """Where something happens to a run: at its n-th write, before, in the middle or after it."""

    write: int
    phase: str
    act: str
    """kill, stop or term."""


@dataclass(slots=True)
class Outcome:
    """What became of one run."""

    delivered: int = 0
    """Kills, signals, faults or damages that it got."""

    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def write_store(url: str, delay_s: float = 0.0) -> None:
    """Write what is not there yet, in this process, to the end."""
    plan, worker = make_worker(url, SCENES, delay_s=delay_s)
    left = [one for one in run_inline(worker, uncommitted(worker.store, plan)) if one.postponed]
    merge_commits(worker.store)
    if left:
        raise TransientError(left[0].postponed)


def disturbed(url: str, environment: dict[str, str], point: Point | None, delay_s: float) -> None:
    """Be a run to which something happens: the whole of a process."""
    os.environ.update(environment)
    exit_on_sigterm()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    remote.SILENCE_S = 0.3
    transient.PATIENCE_S, transient.FIRST_PAUSE_S, transient.LONGEST_PAUSE_S = 1.0, 0.01, 0.05
    if point is not None:
        arm(point)
    try:
        write_store(url, delay_s)
    except (StoreError, TransientError, OSError):
        sys.exit(2)


def arm(point: Point) -> None:
    """Let it happen at the n-th write of this process, whichever thread does it."""
    lock, count = threading.Lock(), 0
    sent = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}[point.act]

    def here() -> bool:
        nonlocal count
        with lock:
            count += 1
            return count == point.write

    def wrapped(write: Callable[..., Any]) -> Callable[..., Any]:
        def at_the_point(*args: object) -> object:
            now = here()
            if now and point.phase == "before":
                os.kill(os.getpid(), sent)
            done = write(*args)
            if now and point.phase == "after":
                os.kill(os.getpid(), sent)
            return done

        return at_the_point

    def in_the_middle(objects: FolderObjects, temporary: Path, parts: Sequence[bytes]) -> None:
        if here():
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(bytes(parts[0])[: len(parts[0]) // 2])
            os.kill(os.getpid(), sent)
            temporary.unlink(missing_ok=True)  # where the signal lets us go on
        whole(objects, temporary, parts)

    if point.phase == "middle":
        whole = FolderObjects._write_temporary
        FolderObjects._write_temporary = in_the_middle  # type: ignore[method-assign]
        return
    for kind in (FolderObjects, BucketObjects):
        for name in ("create", "replace"):
            setattr(kind, name, wrapped(getattr(kind, name)))


def objects(url: str) -> dict[str, bytes]:
    """Return every object of a store but the logs of runs and what a dead writer left."""
    if url.startswith("s3://"):
        import boto3

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        held = boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=f"{prefix}/")
        found = {one.key.removeprefix(f"{prefix}/"): one.get()["Body"].read() for one in held}
    else:
        found = {
            path.relative_to(url).as_posix(): path.read_bytes()
            for path in Path(url).rglob("*")
            if path.is_file()
        }
    return {
        key: data
        for key, data in found.items()
        if not key.startswith("unit/runs/") and not key.endswith(".partial")
    }


@dataclass
class Bench:
    """What all runs share: an undisturbed store, an S3 server with a proxy, and one Ray."""

    root: Path
    bucket: str = ""
    proxy: FaultProxy | None = None
    ray: "Any" = None
    whole: dict[str, bytes] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        url = str(self.root / "whole")
        write_store(url)
        self.whole, self.digest = objects(url), open_store(url).digest()

    def url(self, place: str, seed: int) -> str:
        return f"{self.bucket}/seeded{seed}" if place == "s3" else str(self.root / f"run{seed}")

    def environment(self) -> dict[str, str]:
        if self.proxy is None:
            return {}
        return {"AWS_ENDPOINT": self.proxy.url, "AWS_ENDPOINT_URL": self.proxy.url}

    def start(
        self, url: str, point: Point | None, *, delay_s: float = 0.0, cut: bool = False
    ) -> BaseProcess:
        # The server that forks may be older than the place of the bucket in the environment.
        environment = {**os.environ, **(self.environment() if cut else {})}
        run = _PROCESSES.Process(target=disturbed, args=(url, environment, point, delay_s))
        with no_main():
            run.start()
        return run

    def compare(self, url: str, outcome: Outcome, *, names_may_differ: bool = False) -> None:
        """Count what differs from the undisturbed store, byte for byte."""
        store, found = open_store(url), objects(url)
        outcome.lost += SCENES - len(store.scene_ids)
        wanted = self.whole
        if names_may_differ:  # a repair's commits are newer than those it took back
            wanted = {key: data for key, data in wanted.items() if _is_content(key)}
            found = {key: data for key, data in found.items() if _is_content(key)}
            outcome.corrupt += store.digest() != self.digest
        outcome.duplicated += len(found.keys() - wanted.keys())
        outcome.lost += len(wanted.keys() - found.keys())
        odd = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
        faults = verify(url).faults
        outcome.corrupt += len(odd) + len(faults)
        outcome.notes += [*odd, *faults, *sorted(found.keys() ^ wanted.keys())]


@contextmanager
def no_main() -> Iterator[None]:
    """Start processes without the main module, which under pytest is no module to import."""
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.pop(name, None) for name in ("__file__", "__spec__")}
    main.__spec__ = None
    yield
    main.__dict__.update({name: value for name, value in kept.items() if value is not None})


def _is_content(key: str) -> bool:
    return key.endswith("zarr.json") or "/c." in key


def ended(process: BaseProcess, limit_s: float = LIMIT_S) -> int:
    process.join(limit_s)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("a run does not end")
    return int(process.exitcode)


def point_of(chance: random.Random, place: str, act: str) -> Point:
    phases = ("before", "after") if place == "s3" else ("before", "middle", "after")
    return Point(chance.randint(1, WRITES), chance.choice(phases), act)


# Each kind: what happens to a run at this URL, up to the end of the resumed one.


def killed(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """Kill -9 at one to three random points in a row."""
    place = "s3" if url.startswith("s3") else "folder"
    for _ in range(chance.randint(1, 3)):
        code = ended(bench.start(url, point_of(chance, place, "kill")))
        outcome.delivered += code == -signal.SIGKILL
    write_store(url)


def killed_by_the_clock(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """Kill -9 at a random time, wherever the run is then."""
    run = bench.start(url, None, delay_s=0.02)
    time.sleep(chance.uniform(0.0, 0.5))
    run.kill()
    outcome.delivered += ended(run) == -signal.SIGKILL
    write_store(url)


def terminated(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """SIGTERM: the run ends by itself within its grace, and says so by its exit code."""
    place = "s3" if url.startswith("s3") else "folder"
    code = ended(bench.start(url, point_of(chance, place, "term")), GRACE_S)
    assert code in (0, 143), code
    outcome.delivered += code == 143
    write_store(url)


def zombie(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """SIGSTOP; another run does it all; then the sleeper goes on as if nothing had been."""
    place = "s3" if url.startswith("s3") else "folder"
    sleeper = bench.start(url, point_of(chance, place, "stop"))
    process = psutil.Process(sleeper.pid)
    with suppress(psutil.NoSuchProcess):
        while sleeper.is_alive() and process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.005)
    asleep = sleeper.is_alive()
    outcome.delivered += asleep
    try:
        write_store(url)
    finally:  # who ends here, by Ray's SIGTERM too, would wait for the sleeper for ever
        if asleep:
            process.send_signal(signal.SIGCONT)
    assert ended(sleeper) in (0, 2)
    write_store(url)


def two_jobs(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """Two runs of one store at once, one of them killed."""
    place = "s3" if url.startswith("s3") else "folder"
    one = bench.start(url, point_of(chance, place, "kill"))
    other = bench.start(url, None)
    outcome.delivered += ended(one) == -signal.SIGKILL
    assert ended(other) == 0
    write_store(url)


def damaged(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """One to three objects flipped in one bit, cut short, removed or swapped, at rest."""
    write_store(url)
    held = objects(url)
    for _ in range(chance.randint(1, 3)):
        key, other = chance.sample(sorted(held), 2)
        data = bytearray(held[key])
        act = chance.choice(("flip", "cut", "remove", "swap"))
        if act == "swap" and held[key] != held[other]:
            put(url, key, held[other])
            put(url, other, held[key])
        elif act == "remove":
            put(url, key, None)
        elif act == "cut":
            put(url, key, bytes(data[: chance.randrange(len(data))]))
        else:
            bit = chance.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
            put(url, key, bytes(data))
        outcome.delivered += 1
    now = objects(url)
    hurt = {key for key in held if now.get(key) != held[key]}
    if unnamed := hurt - set(verify(url).faults):
        outcome.corrupt += len(unnamed)
        outcome.notes += [f"not named: {key}" for key in unnamed]
    verify(url, repair=True)
    write_store(url)


def put(url: str, key: str, data: bytes | None) -> None:
    """Change an object as somebody does who knows nothing of us."""
    if url.startswith("s3://"):
        import boto3

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        held = boto3.client("s3")
        if data is None:
            held.delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
        else:
            held.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)
        return
    path = Path(url, key)
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def disk_full(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
    """A file system of a few pages, which grows afterwards; needs the right to mount one."""
    Path(url).mkdir()
    room = f"size={4 * chance.randint(3, 60)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", url], check=True)
    try:
        outcome.delivered += ended(bench.start(url, None)) == 2
        subprocess.run(["mount", "-o", "remount,size=64m", url], check=True)
        write_store(url)
        bench.compare(url, outcome)
    finally:
        subprocess.run(["umount", url], check=True)


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "tmpfs", place]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            return False
        subprocess.run(["umount", place], check=True)
    return True


def cut_off(*faults: Fault) -> Callable[[Bench, str, random.Random, Outcome], None]:
    """Return the kind in which a fifth of the requests meet these faults, each as often."""

    def kind(bench: Bench, url: str, chance: random.Random, outcome: Outcome) -> None:
        assert bench.proxy is not None
        dice, lock = random.Random(chance.random()), threading.Lock()
        dealt = itertools.cycle(dice.sample(faults, len(faults)))

        def fault(_request: object) -> Fault | None:
            with lock:
                if dice.random() >= 0.2:
                    return None
                outcome.delivered += 1
                return next(dealt)

        bench.proxy.fault = fault
        try:
            assert ended(bench.start(url, None, cut=True)) in (0, 2)
        finally:
            bench.proxy.fault = lambda _request: None
        write_store(url)

    return kind


S3_FAULTS: dict[str, tuple[Fault, ...]] = {
    "503, 500, 429, 409": tuple(Fault(status=code) for code in (503, 500, 429, 409)),
    "time-outs and drops": (Fault(drop=True), Fault(wait_s=0.4)),
    "uploads and answers cut": (Fault(taken=0.5), Fault(cut=0.5)),
    "done, though told an error": (
        Fault(status=500, carried_out=True),
        Fault(drop=True, carried_out=True),
    ),
}
KINDS: dict[str, Callable[[Bench, str, random.Random, Outcome], None]] = {
    "worker killed -9, 1 to 3 times": killed,
    "worker killed -9 by the clock": killed_by_the_clock,
    "SIGTERM with grace": terminated,
    "stopped, and on later (zombie)": zombie,
    "two jobs, one killed -9": two_jobs,
    "damaged at rest": damaged,
    "disk full": disk_full,
    **{kind: cut_off(*faults) for kind, faults in S3_FAULTS.items()},
}
S3_ONLY = tuple(S3_FAULTS)
FOLDER_ONLY = ("disk full",)


def cells() -> dict[str, list[tuple[str, str]]]:
    """Return every kind with each place where it can happen, in three groups."""
    from seeded_ray import RAY_KINDS

    folder = [kind for kind in KINDS if kind not in S3_ONLY]
    return {
        "folder": [(kind, "folder") for kind in folder if kind != "disk full" or may_mount()],
        "s3": [(kind, "s3") for kind in KINDS if kind not in FOLDER_ONLY],
        "ray": [(kind, place) for place in ("folder", "s3") for kind in RAY_KINDS],
    }


def nth(groups: dict[str, list[tuple[str, str]]], seed: int) -> tuple[str, str]:
    """Return what a seed does: of 15 runs nine are in a folder, five on S3 and one on Ray."""
    turn, place = divmod(seed, 15)
    name, count, index = (
        ("folder", 9, place) if place < 9 else ("s3", 5, place - 9) if place < 14 else ("ray", 1, 0)
    )
    return groups[name][(turn * count + index) % len(groups[name])]


def one_run(bench: Bench, kind: str, place: str, seed: int) -> Outcome:
    """Do one run of a kind, resume it, and compare."""
    from seeded_ray import RAY_KINDS

    outcome, url, start = Outcome(), bench.url(place, seed), time.monotonic()
    (KINDS.get(kind) or RAY_KINDS[kind])(bench, url, random.Random(seed), outcome)
    if kind != "disk full":  # compared before its file system goes
        bench.compare(url, outcome, names_may_differ=kind == "damaged at rest")
    shutil.rmtree(url, ignore_errors=True)
    outcome.seconds = time.monotonic() - start
    return outcome


@contextmanager
def opened(bucket: str, root: Path, *, with_ray: bool) -> Iterator[Bench]:
    """Give what the runs share; the S3 server is there, its place in the environment."""
    with ExitStack() as held:
        proxy = held.enter_context(FaultProxy(os.environ["AWS_ENDPOINT"]))
        _PROCESSES.set_forkserver_preload(["synthetic_unit", "seeded"])
        bench = Bench(root, bucket, proxy)
        if with_ray:
            from seeded_ray import several_nodes

            bench.ray = held.enter_context(several_nodes())
        yield bench


@contextmanager
def s3_server() -> Iterator[str]:
    """Start an S3 server and return the URL of a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = f"http://{host}:{port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                   "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
                   "AWS_ENDPOINT": place, "AWS_ENDPOINT_URL": place,
                   "AWS_ALLOW_HTTP": "true"}  # fmt: skip
    boto3.client("s3").create_bucket(Bucket="stores")
    yield "s3://stores"
    server.stop()


@dataclass(frozen=True, slots=True)
class Kept:
    """The outcomes of many runs, by seed, in a file that a later command adds to."""

    file: Path | None
    outcomes: dict[int, tuple[str, str, Outcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            for line in self.file.read_text().splitlines():
                told = json.loads(line)
                found = told["kind"], told["place"], Outcome(**told["outcome"])
                self.outcomes[told["seed"]] = found

    def add(self, seed: int, kind: str, place: str, outcome: Outcome) -> None:
        self.outcomes[seed] = kind, place, outcome
        if self.file is not None:
            told = {"seed": seed, "kind": kind, "place": place, "outcome": asdict(outcome)}
            with self.file.open("a") as lines:
                lines.write(json.dumps(told) + "\n")


def table(outcomes: Mapping[int, tuple[str, str, Outcome]]) -> str:
    """Return runs, what was delivered, and what was lost, duplicated or corrupt, by kind."""
    lines = ["| what happens to a run | folder: runs, delivered, s each | "
             "S3: runs, delivered, s each | lost | duplicated | corrupt |",
             "|---|---|---|---|---|---|"]  # fmt: skip

    def sums(runs: Sequence[Outcome], *names: str) -> str:
        return " | ".join(str(sum(getattr(one, name) for one in runs)) for name in names)

    def at(place: str, named: str) -> str:
        runs = [one for kind, where, one in outcomes.values() if (kind, where) == (named, place)]
        if not runs:
            return "-"
        seconds = sum(one.seconds for one in runs) / len(runs)
        return f"{len(runs)}, {sums(runs, 'delivered')}, {seconds:.1f}"

    for named in sorted({kind for kind, _, _ in outcomes.values()}):
        runs = [one for kind, _, one in outcomes.values() if kind == named]
        wrong = sums(runs, "lost", "duplicated", "corrupt")
        lines.append(f"| {named} | {at('folder', named)} | {at('s3', named)} | {wrong} |")
    every = [one for _, _, one in outcomes.values()]
    there = Counter(place for _, place, _ in outcomes.values())
    wrong = sums(every, "lost", "duplicated", "corrupt")
    lines.append(
        f"| all {len(every)} runs, {sums(every, 'delivered')} delivered | {there['folder']} runs | "
        f"{there['s3']} runs | {wrong} |"
    )
    return "\n".join(lines)


def main(runs: int, first_seed: int, file: Path | None = None) -> int:
    """Do so many runs, every kind in turn; returns the exit code."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    kept, stopped = Kept(file), threading.Event()
    left = [seed for seed in range(first_seed, first_seed + runs) if seed not in kept.outcomes]
    with ExitStack() as held:
        root = held.enter_context(tempfile.TemporaryDirectory(dir=memory))
        bucket = held.enter_context(s3_server())
        bench = held.enter_context(opened(bucket, Path(root), with_ray=True))
        groups, start = cells(), time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        for count, seed in enumerate(left, 1):
            if stopped.is_set():
                break
            kind, place = nth(groups, seed)
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            outcome = one_run(bench, kind, place, seed)
            faulthandler.cancel_dump_traceback_later()
            kept.add(seed, kind, place, outcome)
            for note in outcome.notes:
                sys.stderr.write(f"seed {seed}, {kind}, {place}: {note}\n")
            sys.stderr.write(f"{count} of {len(left)}, {time.monotonic() - start:.0f} s\n")
    sys.stdout.write(f"{table(kept.outcomes)}\n")
    every = [one for _, _, one in kept.outcomes.values()]
    return int(any(one.lost or one.duplicated or one.corrupt for one in every))


if __name__ == "__main__":
    import seeded  # what other processes are given must not be of the main module

    numbers = [int(word) for word in sys.argv[1:3]]
    sys.exit(seeded.main(*numbers, *(300, 0)[len(numbers) :], *map(Path, sys.argv[3:4])))
