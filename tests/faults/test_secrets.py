"""Nothing secret and nothing that a terminal acts upon leaves a command, whatever it is fed.

A URL with a password and a token, and names with escape sequences, go through every command, where
it works and where it fails; stdout, stderr and every file that is written are searched.
"""

import ast
import http.server
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from layout_writers import jpeg
from safetensors.numpy import save_file
from sources import nodes_of
from worlds import World, write_world

from vega3d.evaluate.cli import main as consistency
from vega3d.pipeline import remote, transient
from vega3d.pipeline.cli import main as extract
from vega3d.pipeline.scenes.reading import read_scenes
from vega3d.pipeline.scenes.tars import pack
from vega3d.train.cli import main as train

REPO = Path(__file__).parents[2]
USER, PASSWORD, TOKEN, ESCAPE = "nobody17", "p4ssw0rd", "t0k3n", "\x1b[2J"
pytestmark = pytest.mark.slow
SPOKEN = [REPO / "pipeline" / name for name in ("texts.py", "commands.py")]
"""The modules that may write to a stream."""


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's file server with byte ranges."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, span = path.read_bytes(), self.headers.get("Range")
        first, last = (span or f"bytes=0-{len(data) - 1}").removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve packed rooms, one of them damaged since; the URL holds a password and a token."""
    folder = tmp_path_factory.mktemp("served")
    pack(read_scenes("rooms:2?views=3&height=48&width=64"), str(folder), scenes_per_tar=1)
    tar = bytearray((folder / "scenes-00001.tar").read_bytes())
    for at in range(2048, len(tar) - 2048, 64):
        tar[at] ^= 255
    (folder / "scenes-00001.tar").write_bytes(tar)
    handler = partial(Ranges, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://{USER}:{PASSWORD}@127.0.0.1:{running.server_port}/QUERYtoken={TOKEN}"
        running.shutdown()


@pytest.fixture
def command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run a program in this process, and search what it says and what it leaves."""
    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest, which keep ours away
    monkeypatch.setattr(transient, "PATIENCE_S", 0.0)
    monkeypatch.setattr(transient, "MIN_ATTEMPTS", 1)
    remote._connected.cache_clear()
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[], None], *args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vega3d", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = "".join(capfd.readouterr())
        search(told, f"{args}: what it says")
        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            search(path.read_bytes().decode("latin-1"), str(path))
            search(path.name, str(path))
        return int(ended.value.code or 0), told

    return run


def search(text: str, where: str) -> None:
    for secret in (USER, PASSWORD, TOKEN, ESCAPE):
        assert secret not in text, f"{secret!r} in {where}: {text[:3000]!r}"


RUN = ("--backbone", "rgb", "--device", "cpu", "--threads", "1", "--resolution", "64x48")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "args",
    [("run", *RUN, "--out", "s"), ("plan", *RUN), ("check", "--out", "c"), ("pack", "--out", "p")],
)
def test_a_password_and_a_token_in_a_source(
    command: Callable[..., tuple[int, str]], served: str, args: Sequence[str], there: bool
) -> None:
    name, *options = args
    url = served.replace("QUERY", "none-{00000..00001}.tar?")
    if there:  # queries are not taken
        url = served.partition("QUERY")[0] + "index.json"
    code, told = command(extract, name, url, *options)
    assert code == (2 if not there else 0 if name == "plan" else 3), told
    if there and name == "run":
        assert "failed room0001" in told
        command(extract, "run", url, *options, "--retry-failed")
        command(extract, "status", "s")
        command(extract, "verify", "s", "--deep", "--scenes", url)
        command(extract, "run", url, *options, "--show-config")


@pytest.mark.parametrize(
    "args",
    [
        (extract, "status", "URL"),
        (extract, "verify", "URL"),
        (extract, "pictures", "URL", "--out", "x"),
        (extract, "run", "rooms:1?views=2&height=48&width=64", *RUN, "--out", "URL"),
        (extract, "submit", "URL", "--to", "ray", "--out", "s3://b/x"),
        (extract, "backbones", "URL"),
        (consistency, "report", "URL", "--out", "x"),
        (consistency, "report", "a\x1b[2J=URL", "--out", "x"),
        (train, "fit", "--prior", "URL", "--semantic", "URL", "--task", "depth", "--out", "r"),
        (train, "fit", "--prior", "URL\x1b[2J", "--semantic", "URL", "--task", "\x1b[2J",
         "--out", "r"),
    ],
)  # fmt: skip
def test_a_password_and_a_token_in_the_place_of_a_store(
    command: Callable[..., tuple[int, str]], served: str, args: Sequence[object]
) -> None:
    main, *words = args
    code, told = command(
        main, *[str(word).replace("URL", served.replace("QUERY", "none?")) for word in words]
    )
    assert code == 2, told
    assert "Traceback" not in told


def write_capture(folder: Path, name: str) -> None:
    for part in ("color", "pose", "intrinsic"):
        (folder / name / part).mkdir(parents=True)
    np.savetxt(
        folder / name / "intrinsic/intrinsic_color.txt", [[50, 0, 32], [0, 50, 24], [0, 0, 1]]
    )
    for view in range(2):
        (folder / name / f"color/{view}.jpg").write_bytes(
            jpeg(np.full((48, 64, 3), 90 + view, np.uint8))
        )
        np.savetxt(folder / name / f"pose/{view}.txt", np.eye(4))


@pytest.mark.parametrize("name", ["run", "plan", "check", "pack"])
def test_an_escape_sequence_in_a_scenes_name(
    command: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    captures = tmp_path_factory.mktemp("captures")
    write_capture(captures, "good")
    write_capture(captures, f"bad{ESCAPE}")
    options = {"run": (*RUN, "--out", "s"), "plan": RUN}.get(name, ("--out", "x"))
    code, told = command(extract, name, str(captures), *options)
    assert code == 0, told
    assert "bad\\x1b[2J has a name that is no printable Unicode; rename it" in told


def write_features(path: Path, views: Sequence[str], tap: str = "b0") -> str:
    features = np.random.default_rng(0).normal(size=(len(views), 4, 5, 6)).astype(np.float32)
    save_file({f"features.{tap}": features}, path, metadata={"view_ids": json.dumps(list(views))})
    return str(path)


def test_escape_sequences_and_secrets_in_what_is_imported(
    command: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = tmp_path_factory.mktemp("files")
    source = f"http://{USER}:{PASSWORD}@host/{ESCAPE}?token={TOKEN}"
    ways = {
        "scene": write_features(files / f"a{ESCAPE}.safetensors", ["0"]),
        "view": write_features(files / "b.safetensors", [f"0{ESCAPE}"]),
        "tap": write_features(files / "c.safetensors", ["0"], f"b{ESCAPE}"),
    }
    for way, path in ways.items():
        code, told = command(extract, "import", path, "--out", way, "--source", source)
        assert code == 2, told
        assert "\\x1b[2J" in told
    good = write_features(files / "d.safetensors", ["0", "1"])
    assert command(extract, "import", good, "--out", "s", "--source", source)[0] == 0
    (Path("s/unit/commits") / "hostile").mkdir()
    assert command(extract, "verify", "s")[0] == 0


def test_names_of_stray_files_in_a_store_are_told_escaped(
    command: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("stray")
    stores = write_world(place, World(num_scenes=2, num_views=3))
    (Path(stores.prior) / f"unit/commits/{ESCAPE}").write_text("x")
    code, told = command(extract, "verify", stores.prior)
    assert code == 3
    assert "is no record's name" in told


def test_pages_of_stores_whose_makers_name_holds_secrets(
    command: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("worlds")
    stores = write_world(place, World(num_views=6))
    for url in (stores.prior, stores.semantic):
        root = Path(url, "zarr.json")  # as an older version kept it, sealed anew
        reseal(root, f"http://{USER}:{PASSWORD}@host/{ESCAPE}?token={TOKEN}")
    code, told = command(consistency, "report", f"a={stores.prior}", "--out", "scores")
    assert code == 0, told
    assert list(Path("scores").glob("report.html"))
    fit = ("fit", "--prior", stores.prior, "--semantic", stores.semantic, "--task", "depth")
    small = ("--hidden-dim", "8", "--steps", "2", "--batch-size", "2", "--out", "run")
    code, told = command(train, *fit, *small)
    assert code == 0, told
    assert list(Path("run").glob("report.html"))


def reseal(root: Path, name: str) -> None:
    from vega3d.pipeline.store.identity import canonical_json, config_digest, sha256_of

    document = json.loads(root.read_text())
    ours = document["attributes"]["vega3d"]
    ours["identity"]["config"] |= {"model": name, "source": name}
    ours["config_digest"] = config_digest(ours["identity"])
    del ours["attributes_sha256"]
    ours["attributes_sha256"] = sha256_of([canonical_json(document["attributes"])])
    root.write_text(json.dumps(document))


def test_only_two_modules_write_to_a_stream() -> None:
    """`print`, `sys.stdout`, `sys.stderr` and `logging.basicConfig` stand nowhere else."""
    allowed = {"options.py": {"print"}, "config_taker.py": {"stdout"}, "cli_cluster.py": {"stdout"},
               "fusion.py": {"stderr"}, "batch_size.py": {"stdout"}}  # fmt: skip
    found = set()
    for folder in ("pipeline", "evaluate", "train", "cluster"):
        for path in set((REPO / folder).rglob("*.py")) - set(SPOKEN):
            for node in nodes_of(path):
                name = ""
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    name = node.func.id if node.func.id == "print" else ""
                if isinstance(node, ast.Attribute) and not _asks_for_a_terminal(path, node):
                    name = node.attr if node.attr in ("stdout", "stderr", "basicConfig") else name
                if name and name not in allowed.get(path.name, ()) and _of_sys(node):
                    found.add(f"{path.relative_to(REPO)}: {name}")
    assert found == set()


def test_every_page_is_made_of_safe_texts() -> None:
    """By `page_of` alone."""
    made = []
    for folder in ("pipeline", "evaluate", "train"):
        for path in (REPO / folder).rglob("*.py"):
            for node in nodes_of(path):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                    made.append((path.name, {word.arg for word in node.keywords}))
    ((name, words),) = made
    assert name == "pages.py"
    assert {"finalize", "autoescape", "undefined"} <= words


def _of_sys(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return True
    return isinstance(node.value, ast.Name) and node.value.id in ("sys", "logging")


def _asks_for_a_terminal(path: Path, node: ast.Attribute) -> bool:
    return f"sys.{node.attr}.isatty()" in path.read_text().splitlines()[node.lineno - 1]
