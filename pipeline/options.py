"""Commands that take configs: a config's fields are the options, their docs the help.

    app = Program("vega3d-train", "Train a small gated fusion.")

    @app.command()
    def fit(out: Out, config: TrainConfig, run: RunConfig) -> None:

A parameter whose type is a dataclass gives way to an option for each of its fields, and the
function is handed the config that they make; the others are typer's, each for this command alone.
Every command also takes `--config FILE`, over which options win, and `--show-config`. What a value
looks like, in both, is told in `settings`.

Standard library and typer only: a command line's `--help` loads nothing else.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.settings import (
    Setting,
    as_toml,
    build,
    name_flags,
    read_toml,
    settings,
    toml_value,
)

Fill = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""What was asked for -> settings that follow from it, such as a default that depends on a GPU."""

_WIDE = 60
"""Columns of help that the words a setting takes may fill; more are told below it."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]

_ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file of settings, `name = value`; options win over it."),
]
_ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print the settings as such a file, and stop.")
]


class Program(typer.Typer):
    """A command line whose commands take configs."""

    def __init__(self, name: str, about: str) -> None:
        """Make a command line without commands."""
        super().__init__(
            name=name,
            help=about,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,  # square brackets are defaults here
        )

    def command(  # type: ignore[override]  # fewer settings than typer's
        self,
        name: str | None = None,
        *,
        only: Collection[str] = (),
        without: Collection[str] = (),
        fill: Fill = lambda _: {},
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Make a function a command.

        Args:
            name: The command's, where it is not the function's.
            only: Keys of the settings that are options here; all where left out.
            without: Keys of the settings that are none here.
            fill: Returns settings that follow from what was asked for, which they win over.
        """

        def register(function: Callable[..., None]) -> Callable[..., None]:
            def offers(key: str) -> bool:
                return key not in without and (not only or key in only)

            taker = ConfigTaker(function, offers, fill)
            super(Program, self).command(name, cls=_Command)(taker)
            return function

        return register


class ConfigTaker:
    """A function as typer sees it: an option in the place of each setting of its configs."""

    def __init__(
        self, function: Callable[..., None], offers: Callable[[str], bool], fill: Fill
    ) -> None:
        """Take note; the docs are read from source when typer asks for the signature."""
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__annotations__: dict[str, Any] = {}  # the signature has them
        self.function, self._offers, self._fill = function, offers, fill

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The function's own parameters."""
        return inspect.signature(self.function).parameters

    @cached_property
    def configs(self) -> dict[str, Any]:
        """Those of them that are configs, by name."""
        kinds = {name: parameter.annotation for name, parameter in self.parameters.items()}
        return {name: kind for name, kind in kinds.items() if is_dataclass(kind)}

    @cached_property
    def settings(self) -> dict[str, dict[str, Setting]]:
        """The settings that are options here, by the config's name and by key."""
        return {
            name: {item.key: item for item in settings(kind) if self._offers(item.key)}
            for name, kind in self.configs.items()
        }

    @property
    def known(self) -> dict[str, Setting]:
        """All of them by key."""
        return {key: item for each in self.settings.values() for key, item in each.items()}

    @property
    def __signature__(self) -> inspect.Signature:
        """What typer makes options of; inspect raises ValueError for a name that comes twice."""
        found: list[inspect.Parameter] = []
        for name, parameter in self.parameters.items():
            offered = self.settings.get(name)
            if offered is None:
                found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            else:
                found += [_option(item, self.known.values()) for item in offered.values()]
        return inspect.Signature(
            [
                *found,
                _keyword("config_file", _ConfigFile, None),
                _keyword("show_config", _ShowConfig, False),
            ]
        )

    def __call__(self, **given: Any) -> None:  # noqa: ANN401 - what typer hands over
        """Call the function with its configs, or print them."""
        del given["config_file"]  # its settings have come as defaults
        show = given.pop("show_config")
        asked = {key: given.pop(key) for key in self.known}
        made = self._build(asked, given)
        if show:
            hidden = {item.key for kind in made.values() for item in settings(kind)}
            parts = [as_toml(*made.values(), without=hidden - self.known.keys()), self._own(given)]
            sys.stdout.write("\n".join(part for part in parts if part))
            return
        try:
            self.function(**made, **given)
        except UsageError as error:
            error.args = (name_flags(str(error), self.known.values()),)
            raise

    def _build(self, asked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configs by parameter; what is wrong with one is the user's to mend."""
        known = self.known
        try:
            values = {
                key: _parsed(known[key], text) for key, text in asked.items() if text is not None
            }
            values |= self._fill({**given, **values})
            return {
                name: build(self.configs[name], values)
                for name, offered in self.settings.items()
                if all(key in values for key, item in offered.items() if item.required)
            }  # all of them, unless they are only to be shown
        except ValueError as error:
            raise typer.BadParameter(name_flags(str(error), known.values())) from error

    def _own(self, given: Mapping[str, Any]) -> str:
        """Return what this command alone takes, as in a file; what it must be told is left out."""
        must = {n for n, p in self.parameters.items() if p.default is inspect.Parameter.empty}
        lines = [
            f"{name} = {toml_value(value)}\n"
            for name, value in given.items()
            if value is not None and name not in {*must, "dry_run"}
        ]
        return "".join(["# Of this command alone.\n", *lines] if lines else [])


class _Command(TyperCommand):
    """A command that takes settings from a file, over which its options win."""

    allow_extra_args = True  # so as to say more about them than click does

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's click
        """Read the file, then the options."""
        if "--show-config" in args:
            for parameter in self.params:
                parameter.required = False
        if file := _last_value(args, "--config"):
            ctx.default_map = self._from_file(ctx, file)
        if extra := super().parse_args(ctx, args):
            taken = [p.metavar or p.name for p in self.params if p.param_type_name == "argument"]
            hint = "; quote a name with a space or a *, or give the folder that holds them all"
            raise typer.BadParameter(
                f"{ctx.info_name} takes {f'one {taken[0]}' if taken else 'options alone'}, "
                f"but got {' '.join(extra)} too{hint if taken else ''}",
                ctx=ctx,
            )
        return extra

    def _from_file(self, ctx: Any, file: str) -> dict[str, Any]:  # noqa: ANN401 - typer's click
        """Return the values in a file by parameter, spelled as on the command line and checked."""
        taken = _by_key(self)
        others = getattr(ctx.parent and ctx.parent.command, "commands", {}).values()
        elsewhere = {key for command in others for key in _by_key(command)}
        found, idle = {}, []
        for key, value in read_toml(file).items():
            if parameter := taken.get(key):
                try:
                    found[parameter.name] = self._checked(ctx, parameter, value)
                except (ValueError, typer.BadParameter) as error:
                    raise UsageError(f"--config {file}: {key}: {error}") from error
            elif key in elsewhere:
                idle.append(key)
            else:
                near = difflib.get_close_matches(key, taken, n=1)
                hint = f"; is it {near[0]}?" if near else ""
                raise UsageError(f"--config {file}: there is no setting {key!r}{hint}")
        if idle:
            told = f"{ctx.info_name} has no use for {', '.join(idle)}"
            sys.stderr.write(f"--config {file}: {told}\n")
        return found

    def _checked(self, ctx: Any, parameter: Any, value: object) -> object:  # noqa: ANN401
        """Return a value from a file as typer's parameter takes it; raises where it is none."""
        taker: ConfigTaker = self.callback.__wrapped__  # type: ignore[union-attr]
        setting = taker.known.get(parameter.name)
        if setting is None:
            return parameter.process_value(ctx, value)
        text = setting.spelled(value)
        parsed = setting.parse(text)
        return parsed if isinstance(parsed, bool) else text


def _parsed(setting: Setting, text: str | bool | Sequence[str]) -> Any:  # noqa: ANN401
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ValueError(f"{setting.flag} {error}") from error


def _by_key(command: Any) -> dict[str, Any]:  # noqa: ANN401 - typer's click
    """Return a command's parameters by the name that they have in a file."""
    keys = {
        (
            parameter.name
            if parameter.param_type_name == "argument"
            else max(parameter.opts, key=len)
        )
        .lstrip("-")
        .replace("-", "_"): parameter
        for parameter in command.params
    }
    return {key: keys[key] for key in keys.keys() - {"config", "show_config", "dry_run"}}


def _last_value(args: Sequence[str], flag: str) -> str | None:
    """Return what follows a flag, before click has parsed anything."""
    found = None
    for arg, following in zip(args, [*args[1:], None], strict=True):
        name, equals, value = arg.partition("=")
        if name == flag:
            found = value if equals else following
    return found


def _option(setting: Setting, known: Collection[Setting]) -> inspect.Parameter:
    """Return the parameter that typer makes a setting's option of; None where it is not given."""
    told = name_flags(setting.doc, known)
    if len(setting.metavar) > _WIDE:
        told += f" One of {setting.metavar.strip('<>').replace('|', ', ')}."
    if setting.usual:
        told += f" [default: {setting.usual}]"
    info: Any = typer.Option(
        f"{setting.flag}/--no-{setting.flag[2:]}" if setting.kind is bool else setting.flag,
        help=told,
        metavar=None
        if setting.kind is bool
        else "<name>"
        if len(setting.metavar) > _WIDE
        else setting.metavar,
        show_default=False,
    )
    kind = bool if setting.kind is bool else list[str] if setting.repeats else str
    if setting.required:
        return _keyword(setting.key, Annotated[kind, info], inspect.Parameter.empty)
    return _keyword(setting.key, Annotated[kind | None, info], None)


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)
