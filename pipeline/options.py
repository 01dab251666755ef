"""Commands that take configs: a config's fields are the options, their docs the help.

    app = Program("vega3d-train", "Train a small gated fusion.")

    @app.command()
    def fit(out: Out, config: TrainConfig, run: RunConfig) -> None:

A parameter whose type is a dataclass gives way to an option for each of its fields, and the
function is handed the config that they make; the others are typer's, each for this command alone.
Every command also takes `--config FILE`, over which options win, and `--show-config`. What a value
looks like, in both, is told in `spelling`, what a field may say of its option in `settings`.

Standard library and typer only: a command line's `--help` loads nothing else.
"""

import inspect
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from vega3d.pipeline.config_taker import ConfigTaker, Fill
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.option_values import take_as_given
from vega3d.pipeline.settings import settings
from vega3d.pipeline.several import TABLES, Several, arguments, asked_for, idle_keys
from vega3d.pipeline.spelling import read_toml
from vega3d.pipeline.texts import nearest, tell

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("vega3d"))
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Print the version, and stop."
    ),
]


class Program(typer.Typer):
    """A command line whose commands take configs."""

    def __init__(self, name: str = "", about: str = "") -> None:
        """Make a command line without commands; one without a name is a part of another."""
        super().__init__(
            name=name,
            cls=_Group,
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
        defaults: Mapping[str, Any] | None = None,
        fill: Fill = lambda _: {},
        several: Several | None = None,
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Make a function a command.

        Args:
            name: The command's, where it is not the function's.
            only: Keys of the settings that are options here; all where left out.
            without: Keys of the settings that are none here.
            defaults: Values that differ here from the configs' own, by key.
            fill: Returns settings that follow from what was asked for, which they win over.
            several: What it does where a choice is asked for more than once: see `several`.
        """

        def register(function: Callable[..., None]) -> Callable[..., None]:
            def offers(key: str) -> bool:
                return key not in without and (not only or key in only)

            taker = ConfigTaker(function, offers, defaults or {}, fill)
            taker.several = several
            super(Program, self).command(name, cls=_Command)(_Later(taker))
            return function

        return register


class _Later:
    """A command's function before anybody asks for its options; typer is told of none."""

    __signature__ = inspect.Signature()

    def __init__(self, taker: ConfigTaker) -> None:
        self.__name__, self.__doc__ = taker.__name__, taker.__doc__
        self.__annotations__: dict[str, Any] = {}
        self.taker = taker

    def __call__(self) -> None:
        raise AssertionError("a command is called with its options")


class _Group(TyperGroup):
    """A program, or a part of one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's click
        """Read the options before the command's name."""
        take_as_given(self.get_params(ctx))
        return super().parse_args(ctx, args)


class _Command(TyperCommand):
    """A command that takes settings from a file, over which its options win."""

    allow_extra_args = True  # so as to say more about them than click does
    idle: set[str] | None = None
    """Of one of several stores: keys of a file that go with the encoders of the others."""

    @property
    def params(self) -> list[Any]:
        """Its options, worked out when they are first asked for: a program has many commands."""
        if isinstance(later := getattr(self.callback, "__wrapped__", None), _Later):
            made = _typed(later.taker)
            self.callback, self._params = made.callback, made.params
        found: list[Any] = self._params
        return found

    @params.setter
    def params(self, params: list[Any]) -> None:
        self._params = params

    def explained(self) -> list[Any]:
        """Return its options with their help, whose texts nobody needs otherwise."""
        known = self.taker.known
        for parameter in self.params:
            if parameter.name in known:
                self.taker.explain(parameter)
        return self.params

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's click
        """Write the help page."""
        self.explained()
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's click
        """Read the file, then the options."""
        file = _last_value(args, ("--config",)) or ""
        held = read_toml(file, but=TABLES) if file else {}
        tables = held.pop(TABLES, None)
        if call := self._call_for_several(ctx, args, tables):
            self.callback, self.params = call, []
            return []
        if names := self._names(args, held):
            chosen = _typed(self.taker.choosing(names))
            self.params, self.callback = chosen.params, chosen.callback
        if "--show-config" in args:
            for parameter in self.params:
                parameter.required = False
        if file:
            ctx.default_map = self._from_file(ctx, file, held)
        take_as_given(self.get_params(ctx))
        try:
            extra = super().parse_args(ctx, args)
        except typer.TyperException as error:
            flag = getattr(error, "option_name", "")
            if told := self._told_of_other_choices(flag):
                raise typer.BadParameter(f"{flag} {told}", ctx=ctx) from error
            raise
        if extra:
            raise typer.BadParameter(self._told_of_extra(extra), ctx=ctx)
        return extra

    def _call_for_several(
        self,
        ctx: Any,  # noqa: ANN401 - typer's click
        args: list[str],
        tables: dict[str, Any] | None,
    ) -> Callable[[], None] | None:
        """Return what is to be done for several stores; None where one is asked for."""
        usual = self.idle is not None or "--help" in args
        if tables is not None and not usual and not self.taker.choices:
            raise UsageError(f"{self.name} takes no [{TABLES}.NAME] in its --config file")
        for item, choice in [] if usual else self.taker.choices:
            stores = asked_for(item, args, tables)
            if not stores:
                continue
            several = self.taker.several
            if several is None or "--show-config" in args:
                what = self.name if several is None else "--show-config"
                raise UsageError(f"{what} takes one {item.flag}, got {len(stores)}")
            found = {}
            for store in stores:
                given = [*arguments(item, stores, store, args), *several.own(args, store.name)]
                one = _Command(self.name, callback=self.callback, params=self.params)
                one.idle = idle_keys(choice, stores, store)
                made = one.make_context(ctx.info_name, given, parent=ctx.parent)
                found[store.name] = one.taker.made(made.params)
            return partial(several.run, found)
        return None

    @property
    def taker(self) -> ConfigTaker:
        """The function, and which of its configs' settings are options."""
        found = self.callback.__wrapped__  # type: ignore[union-attr]
        taker: ConfigTaker = found.taker if isinstance(found, _Later) else found
        return taker

    def _names(self, args: Sequence[str], held: Mapping[str, object]) -> dict[str, str]:
        """Return what is asked for where a setting is a choice, by key; an option wins."""
        found = {}
        for item, choice in self.taker.choices:
            name = _last_value(args, (item.flag, item.alias)) or held.get(item.key)
            if isinstance(name, str) and name in choice.names():  # click refuses any other
                found[item.key] = name
        return found

    def _from_file(self, ctx: Any, file: str, held: Mapping[str, object]) -> dict[str, object]:  # noqa: ANN401
        """Return the values in a file by parameter, spelled as on the command line and checked."""
        taken = _by_key(self)
        idle = self._overruled(held) | (self.idle or set()) | _keys_beside(ctx) - taken.keys()
        found = {}
        for key in [key for key in held if key not in idle]:
            if key not in taken:
                raise UsageError(f"--config {file}: {self._told_of_unknown(key)}")
            try:
                found[str(taken[key].name)] = self._checked(ctx, taken[key], held[key])
            except (ValueError, typer.BadParameter) as error:
                raise UsageError(f"--config {file}: {key}: {error}") from error
        if left := [key for key in held if key in idle - (self.idle or set())]:
            name = " ".join([str(ctx.info_name), *(item.usual for item, _ in self.taker.choices)])
            tell(f"--config {file}: {name} has no use for {', '.join(left)}")
        return found

    def _overruled(self, held: Mapping[str, object]) -> set[str]:
        """Return the keys in a file that go with a choice of its own, where an option made another.

        Another encoder's blocks are none of this one's, although the setting has the same name.
        """
        return {
            inner.key
            for item, choice in self.taker.choices
            if isinstance(name := held.get(item.key), str) and name in choice.names()
            for made in [choice.make(name, {})]
            if made.name != item.usual
            for inner in settings(made)
        }

    def _checked(self, ctx: Any, parameter: Any, value: object) -> object:  # noqa: ANN401
        """Return a value from a file as typer's parameter takes it; raises where it is none."""
        setting = self.taker.known.get(parameter.name)
        if setting is None:
            return parameter.process_value(ctx, value)
        text = setting.spelled(value)
        parsed = setting.parse(text)
        return parsed if isinstance(parsed, bool) else text

    def _told_of_unknown(self, key: str) -> str:
        if told := self._told_of_other_choices(f"--{key.replace('_', '-')}"):
            return f"{key} {told}"
        near = nearest(key, _by_key(self))
        return f"there is no setting {key!r}{f'; is it {near}?' if near else ''}"

    def _told_of_other_choices(self, flag: str) -> str:
        """Say what would have an option, where it is not what was chosen."""
        for item, choice in self.taker.choices:
            made = [config for name in choice.names() for config in [choice.make(name, {})]]
            having = dict.fromkeys(
                config.name for config in made if flag in {one.flag for one in settings(config)}
            )
            if having:
                return f"goes with {item.flag} {' or '.join(having)}, not with {item.usual}"
        return ""

    def _told_of_extra(self, extra: Sequence[str]) -> str:
        taken = [p.metavar or p.name for p in self.params if p.param_type_name == "argument"]
        told = f"but got {' '.join(extra)} too"
        if not taken:
            return f"{self.name} takes options alone, {told}"
        hint = "quote a name with a space or a *, or give the folder that holds them all"
        return f"{self.name} takes one {taken[0]}, {told}; {hint}"


def _typed(taker: ConfigTaker) -> Any:  # noqa: ANN401 - typer's click
    """Return typer's command of a function."""
    app = typer.Typer(add_completion=False)
    app.command()(taker)
    return get_command(app)


def _by_key(command: Any) -> dict[str, Any]:  # noqa: ANN401 - typer's click
    """Return a command's parameters by the name that they have in a file."""
    keys = {
        flag.lstrip("-").replace("-", "_"): parameter
        for parameter in command.params
        for flag in parameter.opts
    }
    return {key: keys[key] for key in keys.keys() - {"config", "show_config", "dry_run"}}


def _keys_beside(ctx: Any) -> set[str]:  # noqa: ANN401 - typer's click
    """Return what all commands of the program may take from a file."""
    commands = getattr(ctx.parent and ctx.parent.command, "commands", {}).values()
    return {key for command in commands for key in _by_key(command)}


def _last_value(args: Sequence[str], flags: Collection[str]) -> str | None:
    """Return what follows one of the flags, before click has parsed anything."""
    found = None
    for arg, following in itertools.pairwise([*args, ""]):
        name, equals, value = arg.partition("=")
        if name and name in flags:
            found = value if equals else following
    return found
