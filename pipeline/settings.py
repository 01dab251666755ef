"""A config's fields as settings: one name, one type and one doc for command line and file.

Standard library only. A value is spelled alike in both: a number or a word as it is, several with
commas between them (a file may have a list), a size as WIDTHxHEIGHT (`832x480`, although configs
hold rows first), yes and no as `true` and `false`.

What a field may say of its option in its metadata: `option`, a flag of another name (`--views`);
`repeat`, one value each time the flag is given (for paths, which may hold a comma); `also`, words
that the command understands beside the field's own; `usual`, what help calls the default where a
command works it out.
"""

import ast
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from vega3d.pipeline.errors import UsageError

T = TypeVar("T")

FILE = "config.toml"
"""What a run leaves beside its output, to be given to `--config` again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field of a config, as the command line and a file know it."""

    field: str
    flag: str
    """Such as `--voxel-m`."""

    kind: Any
    """The field's type, and the words that only the command understands."""

    doc: str
    repeats: bool
    required: bool
    usual: str
    """What help shows as the default; "" for none."""

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
                return _parse(text.strip(), self.kind)
            return text if isinstance(text, bool) else tuple(text)
        except ValueError:
            raise ValueError(f"takes {_wanted(self.kind)}, got {text!r}") from None

    def spelled(self, value: object) -> str | list[str]:
        """Return a value from a file as the command line has it; raises ValueError for a table."""
        if not isinstance(value, list):
            return [_text(value)] if self.repeats else _text(value)
        texts = [_text(item) for item in value]
        return texts if self.repeats else ",".join(texts)

    @property
    def metavar(self) -> str:
        """What help shows in the place of a value."""
        return "<str>" if self.repeats else f"<{_shape(self.kind)}>"


def settings(config: object) -> list[Setting]:
    """List the settings of a config, those of the configs within it in their places.

    Args:
        config: A config class, or one of its instances, whose values then are the defaults.
    """
    cls = config if isinstance(config, type) else type(config)
    hints, docs = get_type_hints(cls), field_docs(cls)
    found = []
    for item in fields(cls):
        value = _value(config, item)
        if is_dataclass(value):
            found += settings(value)
        else:
            found.append(_setting(item, hints[item.name], docs.get(item.name, ""), value))
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
        if is_dataclass(value):
            changes[item.name] = build(value, values)
        elif _key(item) in values:
            changes[item.name] = values[_key(item)]
    make = config if isinstance(config, type) else partial(replace, cast("Any", config))
    return cast("Callable[..., T]", make)(**changes)


def name_flags(text: str, known: Collection[Setting]) -> str:
    """Put flags in the place of field names in a config's message or doc.

    A name of one word may be a word like any other ("no diffusion model"), so it is taken for the
    field only in backticks, or where something is said that it must be.
    """
    flags = {item.field: item.flag for item in known}
    if not flags:
        return text
    names = "|".join(sorted(flags, key=len, reverse=True))
    listed = rf"(?:(?:,| and|, and| or) (?:{names}))*"
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


def toml_value(value: Any, kind: Any = str) -> str:  # noqa: ANN401 - any setting's
    """Return a value as TOML has it."""
    if isinstance(value, bool | int | float):
        return _spell(value, kind)
    if isinstance(value, tuple | list) and not _has_size(kind):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return json.dumps(_spell(value, kind), ensure_ascii=False)


def read_toml(path: str) -> dict[str, Any]:
    """Return the settings in a file; raises UsageError where it is none."""
    try:
        held = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no TOML file: {error}") from error
    if tables := [key for key, value in held.items() if isinstance(value, dict)]:
        raise UsageError(f"--config {path}: [{tables[0]}] is a table, settings stand in none")
    return held


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


def _setting(item: Field[Any], kind: Any, doc: str, value: object) -> Setting:  # noqa: ANN401
    if also := item.metadata.get("also"):
        kind = Literal[(*also, *get_args(kind))]
    usual = "" if value is None or value is MISSING else _spell(value, kind)
    if isinstance(value, bool):
        usual = _flag(item) if value else f"--no-{_flag(item)[2:]}"
    return Setting(
        field=item.name,
        flag=_flag(item),
        kind=kind,
        doc=doc,
        repeats=bool(item.metadata.get("repeat")),
        required=value is MISSING,
        usual=item.metadata.get("usual", usual),
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
            yield from _values(value)
        elif value is not None:
            yield _key(item), toml_value(value, hints[item.name])


def _has_size(kind: object) -> bool:
    return get_args(kind) == (int, int) or any(map(_has_size, get_args(kind)))


def _options(kind: object) -> tuple[Any, ...]:
    """Return the members of a union, None left out; () for any other type."""
    if get_origin(kind) in (Literal, tuple):
        return ()
    return tuple(part for part in get_args(kind) if part is not NoneType)


def _parse(text: str, kind: Any) -> Any:  # noqa: ANN401 - a type and a value of it
    """Return the value of that type; raises ValueError for a text that spells none."""
    if kind is bool:
        return ("false", "true").index(text) == 1
    if kind in (int, float, str):
        return kind(text)
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(text)]
    if get_args(kind) == (int, int):
        width, height = (int(part) for part in text.split("x"))
        return height, width
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_parse(part.strip(), item) for part in text.split(",")) if text else ()
    for option in _options(kind):
        try:
            return _parse(text, option)
        except ValueError:
            continue
    raise ValueError(text)


def _spell(value: Any, kind: Any) -> str:  # noqa: ANN401 - a value and its type
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        if _has_size(kind):
            return f"{value[1]}x{value[0]}"
        return ",".join(_spell(item, str) for item in value)
    return str(value)


def _text(value: object) -> str:
    if isinstance(value, bool | int | float | str):
        return _spell(value, str)
    raise ValueError(f"holds {value!r}, which is no setting's value")


def _shape(kind: Any) -> str:  # noqa: ANN401 - a type
    """Return a type as help shows it: `int`, `int,...`, `pad|crop`, `WIDTHxHEIGHT|auto`."""
    if options := _options(kind):
        return "|".join(map(_shape, options))
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_args(kind) == (int, int):
        return "WIDTHxHEIGHT"
    if get_origin(kind) is tuple:
        return f"{_shape(get_args(kind)[0])},..."
    return str(kind.__name__)


def _wanted(kind: Any) -> str:  # noqa: ANN401 - a type
    """Say in words what a setting takes."""
    if options := _options(kind):
        return " or ".join(map(_wanted, options))
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}" if others else str(last)
    if get_args(kind) == (int, int):
        return "WIDTHxHEIGHT such as 832x480"
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if item in (int, float):
            return f"numbers such as {'10,20' if item is int else '0.5,1.5'}"
        of = f" of {', '.join(get_args(item))}" if get_origin(item) is Literal else ""
        return f"names{of}, with commas between them"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
