"""Who may import whom (DESIGN, section 3), what a command loads, and one name for each module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
MAY_IMPORT = {
    "pipeline": set(),
    "evaluate": {"pipeline"},
    "train": {"pipeline"},
    "cluster": {"pipeline"},
}
ONLY_IN = {
    "ray": {"cluster/ray_runner.py"},
    "diffusers": {"pipeline/wan_weights.py", "pipeline/tiny.py", "pipeline/weights.py"},
    "transformers": {
        "pipeline/siglip.py", "pipeline/prompt.py", "pipeline/tiny.py", "pipeline/weights.py",
    },
}  # fmt: skip
MODULES = sorted(path for folder in MAY_IMPORT for path in (REPO / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    name = path.relative_to(REPO).as_posix()
    folder = name.split("/")[0]
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "vega3d" and rest[0] != folder and path.name != "cli.py":
            assert rest[0] in MAY_IMPORT[folder], f"{name} imports {module}"
        if top in ONLY_IN:
            assert name in ONLY_IN[top], f"{name} imports {module}"
        assert top not in MAY_IMPORT, f"{name} imports {module} by its bare name"


COMMANDS = {
    "pipeline": "run plan status verify pack import pictures bench demo",
    "evaluate": "report",
    "train": "fit ablate eval export",
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
]


@pytest.mark.parametrize(
    ("package", "command"),
    [(package, name) for package, names in COMMANDS.items() for name in ("", *names.split())],
)
def test_help_imports_nothing_heavy(package: str, command: str) -> None:
    code = (
        f"import sys; from vega3d.{package}.cli import main\n"
        f"sys.argv = {['command', *([command] if command else []), '--help']}\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code in (0, None)\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip().endswith("LOADED []")
    assert "Usage" in done.stdout


def test_no_module_is_loaded_under_two_names() -> None:
    """From the repository's root, `evaluate` and `train` can be imported bare: nobody does."""
    code = (
        "import sys, vega3d.pipeline.cli, vega3d.pipeline.extract, vega3d.cluster.ray_runner\n"
        "files = {}\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None) or ''\n"
        f"    if name.split('.')[0] in {['vega3d', *MAY_IMPORT]}:\n"
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
