"""No file and no function too long to be read in one go."""

import ast
import statistics
from pathlib import Path

from sources import nodes_of

REPO = Path(__file__).parents[1]
FOLDERS = ("pipeline", "evaluate", "train", "cluster")
FILES = sorted(path for folder in FOLDERS for path in (REPO / folder).rglob("*.py"))


def test_no_file_is_over_350_lines_and_half_are_under_150() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    long = {f"{_name(path)}: {count}" for path, count in lines.items() if count > 350}
    assert long == set()
    assert statistics.median(lines.values()) < 150


def test_no_function_is_over_60_lines() -> None:
    long = set()
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > 60:
                    long.add(f"{_name(path)}: {node.name}")
    assert long == set()


def _name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()
