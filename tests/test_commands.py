"""Every option of every command is a field of a config, or one of a few of that command alone."""

import inspect
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from vega3d.evaluate.benchmarks.cli import app as benchmark
from vega3d.evaluate.cli import app as consistency
from vega3d.pipeline.cli import app as extract
from vega3d.pipeline.config_taker import ConfigTaker
from vega3d.train.cli import app as train

PROGRAMS = {
    "vega3d-benchmark": benchmark,
    "vega3d-consistency": consistency,
    "vega3d-extract": extract,
    "vega3d-train": train,
}

ALONE = {
    "vega3d-extract run": "scenes out prompt_embeds retry_failed refresh dry_run",
    "vega3d-extract plan": "scenes",
    "vega3d-extract backbones": "",
    "vega3d-extract bench": "full repeats",
    "vega3d-extract pack": "scenes out dry_run",
    "vega3d-extract check": "scenes out dry_run",
    "vega3d-extract status": "store watch every_s",
    "vega3d-extract verify": "store deep scenes_at model sample repair yes",
    "vega3d-extract import": "files out source captures view_ids dry_run",
    "vega3d-extract pictures": "stores out num_views num_scenes dry_run",
    "vega3d-extract submit": "scenes out to go",
    "vega3d-extract demo": "out rooms dry_run",
    "vega3d-consistency explore": "stores out scene dry_run",
    "vega3d-benchmark score": "name predictions annotations against out dry_run",
    "vega3d-benchmark desk": "out dry_run",
    "vega3d-benchmark encoders": "scenes out dry_run",
    "vega3d-benchmark make": "scenes out dry_run",
    "vega3d-benchmark libero": "policy out dry_run",
    "vega3d-consistency report": "stores out downstream scene dry_run",
    "vega3d-consistency probe": "stores out labels dry_run",
    "vega3d-train fit": "out dry_run",
    "vega3d-train ablate": "out dry_run",
    "vega3d-train eval": "run_dir weights force_gate",
    "vega3d-train export": "what out weights views_per_tar dry_run",
    "vega3d-train host fit": "out dry_run",
    "vega3d-train pretrain generator": "out dry_run",
    "vega3d-train pretrain semantic": "out dry_run",
    "vega3d-train pretrain views": "",
    "vega3d-train pretrain score": "scenes store compare",
}
"""What a command takes beside configs: what it reads and writes, and how it goes about it this
once. A setting that decides a result, or that two commands share, belongs into a config."""

EVERY = {"config_file", "show_config"}
ITS_OWN = {"scenes", "out", "dry_run"}
"""Parameters that each command may word in its own way."""


def commands() -> list[tuple[str, ConfigTaker, Any]]:
    """Return the name, the function and typer's command of each."""
    return [
        (name, command.taker, command)
        for program, app in PROGRAMS.items()
        for name, command in within(program, get_command(app))
    ]


def within(name: str, command: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - typer's click
    """Return the commands in a group, and in the groups in it."""
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [
        found for word, one in command.commands.items() for found in within(f"{name} {word}", one)
    ]


EACH = pytest.mark.parametrize(
    ("name", "taker", "command"), [pytest.param(*each, id=each[0]) for each in commands()]
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_says_its_version(program: str) -> None:
    done = CliRunner().invoke(PROGRAMS[program], ["--version"])
    assert (done.exit_code, done.stdout.strip()) == (0, version("vega3d"))


@EACH
def test_options_are_fields_or_listed(name: str, taker: ConfigTaker, command: Any) -> None:  # noqa: ANN401
    named = {parameter.name for parameter in command.params}
    assert named == taker.known.keys() | EVERY | set(ALONE[name].split())
    assert not taker.known.keys() & set(ALONE[name].split())


@EACH
def test_options_are_explained(name: str, taker: ConfigTaker, command: Any) -> None:  # noqa: ANN401
    assert [p.name for p in command.explained() if not (p.help or "").strip()] == []
    flags = [flag for p in command.params for flag in (*p.opts, *p.secondary_opts)]
    assert len(flags) == len(set(flags))


@EACH
def test_numbers_of_a_command_alone_have_a_least(
    name: str,
    taker: ConfigTaker,
    command: Any,  # noqa: ANN401
) -> None:
    alone = [one for one in command.params if one.name in ALONE[name].split()]
    numbers = [one for one in alone if one.type_descriptor.annotation in (int, float)]
    unbounded = {one.name for one in numbers if one.min is None}
    assert unbounded <= {"force_gate"}  # a weight: any number says something


@EACH
def test_what_writes_can_be_tried(name: str, taker: ConfigTaker, command: Any) -> None:  # noqa: ANN401
    named = {parameter.name for parameter in command.params}
    # What `submit` does is tried unless --go is given.
    assert "out" not in named or named & {"dry_run", "go"}


@EACH
def test_what_show_config_prints_is_taken_again(
    name: str,
    taker: ConfigTaker,
    command: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    program, *words = name.split()

    def shown(*more: str) -> str:
        told = CliRunner().invoke(PROGRAMS[program], [*words, *more, "--show-config"])
        assert (told.exit_code, told.stderr) == (0, ""), told.stderr
        return told.stdout

    file = tmp_path / "shown.toml"
    file.write_text(shown(), encoding="utf-8")
    assert tomllib.loads(shown("--config", str(file))) == tomllib.loads(file.read_text("utf-8"))


def test_the_two_long_stories_are_short() -> None:
    taken = {name: taker for name, taker, _ in commands()}
    for name in ("vega3d-extract run", "vega3d-extract demo", "vega3d-train fit"):
        assert len(inspect.getsource(taken[name].function).splitlines()) < 30


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_declared_twice(program: str) -> None:
    declared = defaultdict(set)
    for name, taker, _ in commands():
        for parameter in taker.parameters.values():
            if name.startswith(program) and parameter.name not in {*taker.configs, *ITS_OWN}:
                (info,) = get_args(parameter.annotation)[1:]
                assert isinstance(info, typer.models.ParameterInfo)
                declared[parameter.name].add(id(info))
    assert [name for name, infos in declared.items() if len(infos) > 1] == []
