"""A config's fields as settings: one name, one type and one doc for command line and file.

Standard library only. How a value is spelled, in both, is told in `spelling`.

What a field may say of its option in its metadata: `option`, a flag of another name (`--views`),
and `alias`, a second one; `repeat`, one value each time the flag is given (for paths, which may
hold a comma); `also`, words that the command understands beside the field's own; `usual`, what help
calls the default where a command works it out; `choice`, where a name stands for a whole config
whose fields then are settings too.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from vega3d.pipeline.spelling import parse, shape, spell, text_in_file, toml_value, wanted
from vega3d.pipeline.texts import meant

T = TypeVar("T")

FILE = "config.toml"
"""What a run leaves beside its output, to be given to `--config` again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What the names of a field with `choice` stand for."""

    names: Callable[[], Sequence[str]]
    """All there are; imports none of what they stand for."""

    make: Callable[[str, Mapping[str, Any]], Any]
    """Returns the config of a name, before the settings that are asked for change it; the name that
    a config goes by is its `name`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field of a config, as the command line and a file know it."""

    config: type
    """Whose field it is."""

    field: str
    flag: str
    """Such as `--voxel-m`."""

    alias: str
    """A second flag, or ""."""

    of_field: Any
    """The field's type, and the words that only the command understands."""

    repeats: bool
    required: bool
    usual: str
    """What help shows as the default; "" for none."""

    choice: Choice | None = None

    @property
    def kind(self) -> Any:  # noqa: ANN401 - a type
        """What a value must be; packages are only looked for who asks after all the names."""
        return Literal[tuple(self.choice.names())] if self.choice else self.of_field

    @property
    def doc(self) -> str:
        """The text under the field; read from source."""
        return field_docs(self.config).get(self.field, "")

    @property
    def key(self) -> str:
        """The name in a file: the flag's, with underscores."""
        return _bare(self.flag)

    def parse(self, text: str | bool | Collection[str]) -> Any:  # noqa: ANN401 - the field's type
        """Return the value that a text spells; raises ValueError saying what it takes.

        Args:
            text: A flag without a value is a bool already, one that repeats has several texts.
        """
        try:
            if isinstance(text, str):
                return parse(text.strip(), self.kind)
            return text if isinstance(text, bool) else tuple(text)
        except ValueError:
            known = get_args(self.kind) if get_origin(self.kind) is Literal else ()
            raise ValueError(f"takes {wanted(self.kind)}, got {meant(text, known)}") from None

    def spelled(self, value: object) -> str | list[str]:
        """Return a value from a file as the command line has it; raises ValueError for a table."""
        if not isinstance(value, list):
            return [text_in_file(value)] if self.repeats else text_in_file(value)
        texts = [text_in_file(item) for item in value]
        return texts if self.repeats else ",".join(texts)

    @property
    def metavar(self) -> str:
        """What help shows in the place of a value."""
        return "<str>" if self.repeats else f"<{shape(self.kind)}>"


def settings(config: object) -> list[Setting]:
    """List the settings of a config, those of the configs within it in their places.

    Args:
        config: A config class, or one of its instances, whose values then are the defaults.
    """
    cls = config if isinstance(config, type) else type(config)
    hints = get_type_hints(cls)
    found = []
    for item in fields(cls):
        value = _value(config, item)
        if "choice" in item.metadata:
            found += [_setting(cls, item, str, cast("Any", value).name), *settings(value)]
        elif is_dataclass(value):
            found += settings(value)
        else:
            found.append(_setting(cls, item, hints[item.name], value))
    return found


def build(config: T | type[T], values: Mapping[str, Any]) -> T:
    """Return a config with some settings changed, those of the configs within it too.

    Args:
        config: A config class, or an instance that is changed.
        values: By `Setting.key`; keys of other configs are left alone.
    """
    changes = {}
    for item in fields(cast("Any", config)):
        value = _value(config, item)
        if "choice" in item.metadata and (_key(item) in values or isinstance(config, type)):
            name = values.get(_key(item), cast("Any", value).name)
            value = item.metadata["choice"].make(name, values)
        if is_dataclass(value):
            changes[item.name] = build(value, values)
        elif _key(item) in values:
            changes[item.name] = values[_key(item)]
    make = config if isinstance(config, type) else partial(replace, cast("Any", config))
    return cast("Callable[..., T]", make)(**changes)


def changed(config: T | type[T], values: Mapping[str, Any]) -> T | type[T]:
    """Return what `build` does, or the config itself where no value is one of its settings."""
    if not values:  # as for most commands: nothing is listed
        return config
    keys = {item.key for item in settings(config)}
    return build(config, values) if keys & values.keys() else config


def name_flags(text: str, flags: Mapping[str, str]) -> str:
    """Put flags in the place of field names in a config's message or doc.

    A name of one word may be a word like any other ("no diffusion model"), so it is taken for the
    field only in backticks, or where something is said that it must be.

    Args:
        text: The message or doc.
        flags: By the name of the field.
    """
    if not flags:
        return text
    names = "|".join(sorted(flags, key=len, reverse=True))
    listed = r"(?:(?:,| and|, and| or) [a-z_]+)*"  # not all of them need to be options here
    meant = rf"`({names})`|(?<![\w./-])({names})(?={listed} (?:must|goes with|go with)\b)"
    text = re.sub(meant, lambda found: flags[found[1] or found[2]], text)
    long = "|".join(name for name in flags if "_" in name)
    return re.sub(rf"(?<![\w./-])({long})\b", lambda found: flags[found[1]], text) if long else text


def as_toml(*configs: object, without: Collection[str] = ()) -> str:
    """Return configs as a file that `--config` takes; keys in `without` are left out."""
    parts = []
    for config in configs:
        title = (inspect.getdoc(type(config)) or "").partition("\n")[0]
        if lines := [f"{key} = {text}\n" for key, text in _values(config) if key not in without]:
            parts.append(f"# {title}\n{''.join(lines)}")
    return "\n".join(parts)


def field_docs(cls: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, those of its bases too, on one line each."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            found |= _docs_in(base.__module__).get(base.__qualname__, {})
    return found


@cache
def _docs_in(module: str) -> dict[str, dict[str, str]]:
    """Return class -> field -> doc of a module, from its source: Python keeps no such text."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.name: {
            above.target.id: " ".join(below.value.value.split())
            for above, below in zip(node.body, node.body[1:], strict=False)
            if isinstance(above, ast.AnnAssign)
            and isinstance(above.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _setting(config: type, item: Field[Any], kind: Any, value: object) -> Setting:  # noqa: ANN401
    if also := item.metadata.get("also"):
        kind = Literal[(*also, *get_args(kind))]
    if "usual" in item.metadata and value == item.default:
        usual = item.metadata["usual"]
    elif isinstance(value, bool):
        usual = _flag(item) if value else f"--no-{_flag(item)[2:]}"
    else:
        usual = "" if value is None or value is MISSING else spell(value, kind)
    return Setting(
        config=config,
        field=item.name,
        flag=_flag(item),
        alias=item.metadata.get("alias", ""),
        of_field=kind,
        repeats=bool(item.metadata.get("repeat")),
        required=value is MISSING,
        usual=usual,
        choice=item.metadata.get("choice"),
    )


def _flag(item: Field[Any]) -> str:
    flag: str = item.metadata.get("option", f"--{item.name.replace('_', '-')}")
    return flag


def _key(item: Field[Any]) -> str:
    return _bare(_flag(item))


def _bare(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _value(config: object, item: Field[Any]) -> object:
    """Return a field's value in a config, or its default in a class; MISSING where it has none."""
    if not isinstance(config, type):
        return getattr(config, item.name)
    return item.default if item.default_factory is MISSING else item.default_factory()


def _values(config: object) -> Iterator[tuple[str, str]]:
    """Return each setting that has a value, its key and the value as TOML."""
    hints = get_type_hints(type(config))
    for item in fields(cast("Any", config)):
        value = getattr(config, item.name)
        if is_dataclass(value):
            if "choice" in item.metadata:
                yield _key(item), toml_value(cast("Any", value).name)
            yield from _values(value)
        elif value is not None:
            yield _key(item), toml_value(value, hints[item.name])
