"""SECURITY.md names tests that are there, and no call of the sources runs what it reads."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import nodes_of
from synthetic_unit import make_worker

from vega3d.pipeline import open_store
from vega3d.pipeline.cli import main as extract
from vega3d.pipeline.runners import run_inline
from vega3d.pipeline.store.verify import status

REPO = Path(__file__).parents[1]
PAGE = REPO / "SECURITY.md"
LINES = [
    line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| threat")
]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
RUNS_DATA = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.load",
    "marshal.loads", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "shelve.open",
    "joblib.load", "numpy.load", "extractall",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_each_line_names_tests_that_are_there(line: str) -> None:
    named = TEST.findall(line)
    assert named, "a line without a test"
    for file, test in named:
        names = {node.name for node in nodes_of(REPO / file) if isinstance(node, ast.FunctionDef)}
        assert test in names, f"{file} has no {test}"


def test_no_name_of_a_test_is_written_otherwise() -> None:
    assert len(LINES) >= 30
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("tests/") - text.count("`tests/test_security.py`") == len(TEST.findall(text))


OWN = ("pipeline/batch_size.py: pickle.loads",)
"""What a process reads from its parent's pipe alone."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for folder in ("pipeline", "evaluate", "train", "cluster"):
        for path in sorted((REPO / folder).rglob("*.py")):
            for node in nodes_of(path):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(REPO)}:{node.lineno}", node


@pytest.mark.slow
def test_no_call_runs_data() -> None:
    found = [
        f"{where}: {ast.unparse(call.func)}"
        for where, call in calls()
        if (
            ast.unparse(call.func) in RUNS_DATA and "weights_only=True" not in ast.unparse(call)
        )  # torch's unpickler of plain tensors
        or (
            isinstance(call.func, ast.Attribute)
            and call.func.attr in ("extractall", "unpack_archive")
        )
    ]
    assert [one for one in found if re.sub(r":\d+", "", one) not in OWN] == []
    given = [
        (where, word.arg, ast.unparse(word.value))
        for where, call in calls()
        for word in call.keywords
        if word.arg in ("shell", "trust_remote_code", "allow_pickle", "weights_only")
    ]
    assert len(given) >= 4  # they are said where the library has them
    assert {value for _, name, value in given if name != "weights_only"} == {"False"}
    assert {value for _, name, value in given if name == "weights_only"} <= {"True"}


def test_status_shows_the_digest_to_compare(tmp_path: Path) -> None:
    plan, worker = make_worker(str(tmp_path / "s"), 1)
    list(run_inline(worker, plan.units))
    assert status(str(tmp_path / "s"))["digest"] == open_store(str(tmp_path / "s")).digest()


@pytest.mark.parametrize(
    ("place", "warned"),
    [("http://me:p4ss@127.0.0.1:1/x.tar", True), ("/data/a@b", False), ("s3://b/a@b", False)],
)
def test_a_password_among_the_arguments_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], place: str, warned: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["vega3d-extract", "plan", place, "--show-config"])
    with pytest.raises(SystemExit):
        extract()
    told = capfd.readouterr().err
    assert ("everybody on this machine sees the user and password" in told) == warned
    assert "p4ss" not in told
