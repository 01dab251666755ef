"""Who may import whom (CONTRIBUTING.md), what a command loads, and one name for each module."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from sources import nodes_of
from typer.main import get_command

from vega3d.pipeline.backbones.registry import backbone_names, preset_names

REPO = Path(__file__).parents[1]
MAY_IMPORT = {
    "pipeline": {"pipeline", "pipeline/scenes", "pipeline/backbones", "pipeline/store"},
    "pipeline/scenes": {"pipeline/scenes", "pipeline/scenes/rooms"},
    "pipeline/scenes/rooms": {"pipeline/scenes", "pipeline/scenes/rooms"},
    "pipeline/backbones": {"pipeline/backbones"},
    "pipeline/backbones/small": {"pipeline/backbones", "pipeline/backbones/small"},
    "pipeline/store": {"pipeline/store"},
    "evaluate": {"evaluate", "pipeline", "pipeline/store"},
    "evaluate/benchmarks": {"evaluate", "evaluate/benchmarks", "pipeline"},
    "evaluate/benchmarks/made": {
        "evaluate/benchmarks",
        "evaluate/benchmarks/made",
        "pipeline/scenes/rooms",
    },
    "evaluate/encoders": {  # the one room of evaluate that runs encoders
        "evaluate",
        "evaluate/encoders",
        "evaluate/probes",
        "pipeline",
        "pipeline/backbones",
        "pipeline/backbones/small",
        "pipeline/scenes",
    },
    "evaluate/probes": {
        "evaluate",
        "evaluate/probes",
        "pipeline/scenes",
        "pipeline/scenes/rooms",
        "pipeline/store",
    },
    "train": {
        "train",
        "train/tasks",
        "train/annotations",
        "train/demonstrations",
        "evaluate/benchmarks",
        "pipeline",
        "pipeline/backbones/text.py",
        "pipeline/scenes",
        "pipeline/store",
    },
    "train/hosts": {
        "train",
        "train/annotations",
        "train/hosts",
        "pipeline",
        "pipeline/backbones/backbone.py",
        "pipeline/backbones/grid.py",
        "pipeline/backbones/text.py",
        "pipeline/scenes",
        "pipeline/store",
    },
    "train/demonstrations": {"train/demonstrations", "pipeline/scenes"},
    "train/annotations": {"train/annotations", "evaluate/benchmarks"},
    "train/pretrain": {
        "train",
        "train/pretrain",
        "evaluate/probes/readout.py",  # the ridge and the MLP: one of each
        "pipeline",
        "pipeline/scenes",
        "pipeline/scenes/rooms",
        "pipeline/backbones",
        "pipeline/store",
    },
    "train/robots": {
        "train",
        "train/demonstrations",
        "train/robots",
        "evaluate/benchmarks",
        "pipeline",
        "pipeline/backbones",
        "pipeline/scenes",
        "pipeline/store",
    },
    "train/paper": {  # the one room that sees all stages
        "evaluate",
        "evaluate/probes",
        "pipeline",
        "pipeline/scenes",
        "pipeline/backbones",
        "pipeline/store",
        "train",
        "train/paper",
        "train/pretrain",
    },
    "train/tasks": {
        "train/tasks",
        "train/acted.py",
        "train/asked.py",
        "train/attention.py",
        "train/batch.py",
        "train/config.py",
        "train/phrases.py",
        "train/randomness.py",
        "evaluate/benchmarks",
    },
    "cluster": {"cluster", "pipeline", "pipeline/backbones", "pipeline/store"},
}
"""Rooms and modules that those of a room may import; of a room that is not named, its outer one."""

SHARED = {
    f"vega3d.pipeline.{name}"
    for name in (
        "compiled",
        "cores",
        "errors",
        "files",
        "lazy",
        "limits",
        "plugins",
        "texts",
        "transient",
        "local_files",
        "pages",
        "places",
        "shapes",
        "remote",
    )
}
"""What every room may import."""

ONLY_IN = {
    "ray": {"cluster/"},
    "diffusers": {"pipeline/backbones/", "train/pretrain/"},
    "transformers": {"pipeline/backbones/", "train/hosts/", "train/pretrain/"},
}
FOLDERS = ("pipeline", "evaluate", "train", "cluster")
MODULES = sorted(path for folder in FOLDERS for path in (REPO / folder).rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Return every module that a file names in an import, wherever the import stands."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if _file(inner) else node.module)
    return found


def _file(module: str) -> Path | None:
    if not module.startswith("vega3d."):
        return None
    place = REPO.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return file if file.is_file() else None


def _room(file: Path) -> str:
    return file.parent.relative_to(REPO).as_posix()


def _may(room: str) -> set[str]:
    return next(MAY_IMPORT[at] for at in _outwards(room) if at in MAY_IMPORT)


def _outwards(room: str) -> list[str]:
    parts = room.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]


@pytest.mark.parametrize("room", sorted({path.parent for path in MODULES}), ids=lambda at: at.name)
def test_imports_go_one_way(room: Path) -> None:
    for path in room.glob("*.py"):
        _check_imports(path)


def _check_imports(path: Path) -> None:
    name = _name(path)
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in FOLDERS, f"{name} imports {module} by its bare name"
        if top in ONLY_IN:
            assert any(name.startswith(place) for place in ONLY_IN[top]), f"{name} imports {module}"
        if top != "vega3d" or module in SHARED or path.name.startswith("cli"):
            continue
        file = _file(module)
        assert file, f"{name} imports {module}, which is not there"
        may = _may(_room(path)) | {_room(path)}
        assert {_room(file), _name(file)} & may, f"{name} imports {module}"


def test_there_is_no_import_circle() -> None:
    """Not even one that only a type checker or a late import would walk."""
    edges = {path: {file for m in imports(path) if (file := _file(m))} for path in MODULES}
    circles = [sorted(_name(path) for path in group) for group in strongly_connected(edges)]
    assert circles == []


def test_a_file_gets_its_name_in_one_place() -> None:
    """Writing a file whole by renaming it is `pipeline/files.py`, and the store's own objects."""
    renaming = re.compile(r"\bos\.replace\(|\.rename\(")
    found = {_name(path) for path in MODULES if renaming.search(path.read_text())}
    assert found == {"pipeline/files.py", "pipeline/store/folder.py"}


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert [sorted(group) for group in strongly_connected(edges)] == [["a", "b", "c"]]


def _name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def strongly_connected(edges: dict) -> list[set]:
    """Return the groups of two or more nodes of which each reaches all (Tarjan, 1972)."""
    index: dict = {}
    low: dict = {}
    stack: list = []
    groups: list[set] = []

    def visit(node: object) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(group)

    for node in edges:
        if node not in index:
            visit(node)
    return groups


def test_every_package_is_installed() -> None:
    read = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = read["packages"]
    there = {
        "vega3d." + _room(path).replace("/", ".") for path in MODULES if path.name == "__init__.py"
    }
    assert there <= set(listed)
    mapped = read["package-dir"]
    assert mapped == {name: name.removeprefix("vega3d.").replace(".", "/") for name in listed}


PROGRAMS = ("pipeline", "evaluate", "evaluate.benchmarks", "train", "train.hosts", "train.pretrain")
COMMANDS = {
    package: list(get_command(import_module(f"vega3d.{package}.cli").app).commands)
    for package in PROGRAMS
}
HEAVY = [
    "numpy",
    "torch",
    "ray",
    "zarr",
    "jaxtyping",
    "dask",
    "diffusers",
    "transformers",
    "PIL",
    "av",
    "matplotlib",
    "numba",
    "pydantic",  # typer's way to convert, which takes a third of `--help`'s time
]


ASKED = {package: ["", *names] for package, names in COMMANDS.items()}
ASKED["pipeline"] += [f"run --backbone {name}" for name in (*backbone_names(), *preset_names())]


@pytest.mark.parametrize("package", PROGRAMS)
def test_help_imports_nothing_heavy(package: str) -> None:
    """One process is asked for all of a program's pages: what one loads, the next would show."""
    code = (
        f"import sys; from vega3d.{package}.cli import main\n"
        f"for command in {ASKED[package]}:\n"
        "    sys.argv = ['command', *command.split(), '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit as ended:\n        assert ended.code in (0, None), command\n"
        f"    loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "    print('LOADED', command, loaded, file=sys.stderr)\n"
        "    assert not loaded, (command, loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage") == done.stderr.count("LOADED") == len(ASKED[package])


@pytest.mark.slow
def test_no_module_is_loaded_under_two_names() -> None:
    """From the repository's root, `evaluate` and `train` can be imported bare: nobody does."""
    code = (
        "import sys, vega3d.pipeline.cli, vega3d.pipeline.extract, vega3d.cluster.ray_runner\n"
        "files = {}\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None) or ''\n"
        f"    if name.split('.')[0] in {['vega3d', *FOLDERS]}:\n"
        "        files.setdefault(file, []).append(name)\n"
        "print({file: names for file, names in files.items() if len(names) > 1 or not "
        "names[0].startswith('vega3d')} or 'ONE NAME EACH')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.strip().endswith("ONE NAME EACH")


def test_importing_the_packages_loads_nothing_heavy() -> None:
    code = (
        "import sys, vega3d.pipeline, vega3d.evaluate, vega3d.train, vega3d.cluster\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
