"""A function that takes configs, as typer sees it: an option in the place of each setting.

Standard library and typer only: a command line's `--help` loads nothing else.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.settings import Choice, Setting, as_toml, build, changed, name_flags, settings
from vega3d.pipeline.several import Several
from vega3d.pipeline.spelling import toml_value
from vega3d.pipeline.texts import safe

Fill = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""What was asked for -> settings that follow from it, such as a default that depends on a GPU."""

_ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file of settings, `name = value`; options win over it."),
]
_ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print the settings as such a file, and stop.")
]

_WIDE = 60
"""Columns of help that the words a setting takes may fill; more are told below it."""


class ConfigTaker:
    """A function as typer sees it: an option in the place of each setting of its configs."""

    def __init__(
        self,
        function: Callable[..., None],
        offers: Callable[[str], bool],
        defaults: Mapping[str, Any],
        fill: Fill,
    ) -> None:
        """Take note; the docs are read from source when typer asks for the signature."""
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__annotations__: dict[str, Any] = {}  # the signature has them
        self.function, self._offers = function, offers
        self._defaults, self._fill = defaults, fill
        self.several: Several | None = None

    def choosing(self, names: Mapping[str, str]) -> "ConfigTaker":
        """Return the same with the options of other configs where a setting is a choice."""
        chosen = {**self._defaults, **names}
        taker = ConfigTaker(self.function, self._offers, chosen, self._fill)
        taker.several = self.several
        return taker

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The function's own parameters."""
        return inspect.signature(self.function).parameters

    @cached_property
    def configs(self) -> dict[str, Any]:
        """Those of them that are configs, by name: the class, or one with other defaults."""
        kinds = {name: parameter.annotation for name, parameter in self.parameters.items()}
        return {
            name: changed(kind, self._defaults)
            for name, kind in kinds.items()
            if is_dataclass(kind)
        }

    @cached_property
    def settings(self) -> dict[str, dict[str, Setting]]:
        """The settings that are options here, by the config's name and by key."""
        return {
            name: {item.key: item for item in settings(config) if self._offers(item.key)}
            for name, config in self.configs.items()
        }

    @property
    def known(self) -> dict[str, Setting]:
        """All of them by key."""
        return {key: item for each in self.settings.values() for key, item in each.items()}

    @property
    def flags(self) -> dict[str, str]:
        """The flag of each field, and of what is no field."""
        own = {name: f"--{name.replace('_', '-')}" for name in self.parameters if "_" in name}
        return own | {item.field: item.flag for item in self.known.values()}

    @property
    def choices(self) -> list[tuple[Setting, Choice]]:
        """Those of them that name a config whose fields are options too."""
        return [(item, item.choice) for item in self.known.values() if item.choice]

    @property
    def __signature__(self) -> inspect.Signature:
        """What typer makes options of; inspect raises ValueError for a name that comes twice."""
        found: list[inspect.Parameter] = []
        for name, parameter in self.parameters.items():
            offered = self.settings.get(name)
            if offered is None:
                found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            else:
                found += [_option(item) for item in offered.values()]
        return inspect.Signature(
            [
                *found,
                _keyword("config_file", _ConfigFile, None),
                _keyword("show_config", _ShowConfig, False),
            ]
        )

    def explain(self, option: Any) -> None:  # noqa: ANN401 - typer's click
        """Put a setting's help, and the names of a choice, into the option that was made of it."""
        setting = self.known[option.name]
        option.help = self._told(setting)
        if setting.choice:
            option.metavar = _metavar(setting)

    def _told(self, setting: Setting) -> str:
        flags = self.flags
        told = name_flags(setting.doc, flags)
        if len(setting.metavar) > _WIDE:
            told += f" One of {setting.metavar.strip('<>').replace('|', ', ')}."
        if setting.choice:
            usual = setting.usual
            told += f" Below: the options of {usual}; `{setting.flag} NAME --help`: another's."
        elif setting.usual:
            told += f" [default: {setting.usual}]"
        return told

    def __call__(self, **given: Any) -> None:  # noqa: ANN401 - what typer hands over
        """Call the function with its configs, or print them."""
        show = given["show_config"]
        found = self.made(given)
        given = {name: value for name, value in found.items() if name not in self.configs}
        made = {name: value for name, value in found.items() if name in self.configs}
        if show:
            hidden = {item.key for config in made.values() for item in settings(config)}
            parts = [as_toml(*made.values(), without=hidden - self.known.keys()), self._own(given)]
            sys.stdout.write(safe("\n".join(part for part in parts if part)))
            return
        try:
            self.function(**made, **given)
        except UsageError as error:
            error.args = (name_flags(str(error), self.flags),)
            raise

    def made(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function is called with: its configs, and what else it takes."""
        asked = {key: given[key] for key in self.known}
        # A file's settings have come as defaults.
        rest = given.keys() - asked.keys() - {"config_file", "show_config"}
        others = {name: given[name] for name in given if name in rest}
        return {**self._build(asked, others), **others}

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
            raise typer.BadParameter(name_flags(str(error), self.flags)) from error

    def _own(self, given: Mapping[str, Any]) -> str:
        """Return what this command alone takes, as in a file; what it must be told is left out."""
        lines = [
            f"{_file_key(parameter)} = {toml_value(given[name])}\n"
            for name, parameter in self.parameters.items()
            if parameter.default is not inspect.Parameter.empty
            if given.get(name) is not None and name != "dry_run"
        ]
        return "".join(["# Of this command alone.\n", *lines] if lines else [])


def _parsed(setting: Setting, text: str | bool | Sequence[str]) -> Any:  # noqa: ANN401
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ValueError(f"{setting.flag} {error}") from error


def _option(setting: Setting) -> inspect.Parameter:
    """Return the parameter that typer makes a setting's option of; None where it is not given."""
    is_switch = setting.of_field is bool
    flag = f"{setting.flag}/--no-{setting.flag[2:]}" if is_switch else setting.flag
    info: Any = typer.Option(
        *([flag, setting.alias] if setting.alias else [flag]),
        metavar=None if is_switch or setting.choice else _metavar(setting),
        show_default=False,
    )
    kind = bool if is_switch else list[str] if setting.repeats else str
    if setting.required:
        return _keyword(setting.key, Annotated[kind, info], inspect.Parameter.empty)
    return _keyword(setting.key, Annotated[kind | None, info], None)


def _metavar(setting: Setting) -> str:
    """Return what help shows in the place of a value; many words are told below it."""
    return "<name>" if len(setting.metavar) > _WIDE else setting.metavar


def _file_key(parameter: inspect.Parameter) -> str:
    """Return the name in a file of a parameter of one command alone: its flag's, if it has one."""
    _, info = get_args(parameter.annotation)
    # Typer holds the first of the names as the default, until it makes an option of them.
    words = [str(word) for word in (info.default, *(info.param_decls or ()))]
    flag = next((word for word in words if word.startswith("--")), parameter.name)
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)
