"""The README's commands run, its Python runs, and the options it names exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vega3d.pipeline import cli
from vega3d.pipeline.backbone_table import backbone_rows, backbone_table

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL)
BIN = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.ray
def test_blocks_run_in_order(tmp_path: Path) -> None:
    """The first line is `make demo` with a third of its rooms.

    Blocks marked `text` need a cluster, weights or a clone.
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    script = [
        "PS4='+ ${SECONDS} s: '",
        "set -ex",
        "vega3d-extract demo --rooms 8 --out demo-output",
    ]
    for number, (language, text) in enumerate(BLOCKS):
        if language == "bash":
            script.append(text)
        elif language == "python":
            file = tmp_path / f"block{number}.py"
            file.write_text(text)
            script.append(f"python {file.name}")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "('scene', 'view', 'row', 'col', 'channel')" in done.stdout
    assert "{'k300_b1': (2, 6, 8, 128), 'k300_b3': (2, 6, 8, 128)}" in done.stdout
    assert len(list((tmp_path / "demo-output" / "pictures").glob("*.png"))) == 3


def test_the_table_of_encoders_is_the_command_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vega3d-extract", "backbones"])
    monkeypatch.setattr(cli, "exit_on_sigterm", lambda: None)
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err.splitlines()
    first, last = table_lines()
    shown = README.read_text().splitlines()[first:last]
    assert shown == told, "python tests/test_readme.py writes the table anew"


def table_lines() -> tuple[int, int]:
    """Return the lines of the README between which the table of encoders stands."""
    text = README.read_text().splitlines()
    first = next(i for i, line in enumerate(text) if line.startswith("| `--backbone` |"))
    return first, text.index("", first)


@pytest.mark.slow
def test_options_exist() -> None:
    text = "\n".join(text for language, text in BLOCKS if language in ("bash", "text"))
    asked: dict[tuple[str, str], set[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"(vega3d-[a-z]+)\s+((?:host |pretrain )?[a-z]+)", line):
            asked.setdefault(found.groups(), set()).update(re.findall(r"--[a-z-]+", line))
    assert len(asked) >= 5
    for (script, command), options in asked.items():
        shown = subprocess.run(
            [BIN / script, *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "200"},
        ).stdout
        missing = {option for option in options if option not in shown}
        assert not missing, f"{script} {command}: {missing}"


if __name__ == "__main__":
    first, last = table_lines()
    text = README.read_text().splitlines()
    text[first:last] = backbone_table(backbone_rows())
    README.write_text("\n".join(text) + "\n")
