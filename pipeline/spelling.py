"""How a setting's value is spelled, by its type: on the command line, in help and in a file.

Standard library only. A number or a word stands as it is, several with commas between them (a file
may have a list), a size as WIDTHxHEIGHT (`832x480`, although configs hold rows first), yes and no
as `true` and `false`.
"""

import json
import tomllib
from base64 import b64decode
from binascii import Error as BinasciiError
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from vega3d.pipeline.errors import UsageError

IN_A_WORD = "data:application/toml;base64,"


def parse(text: str, kind: Any) -> Any:  # noqa: ANN401 - a type and a value of it
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
        return tuple(parse(part.strip(), item) for part in text.split(",")) if text else ()
    for option in _options(kind):
        try:
            return parse(text, option)
        except ValueError:
            continue
    raise ValueError(text)


def spell(value: Any, kind: Any) -> str:  # noqa: ANN401 - a value and its type
    """Return the text that `parse` makes this value of."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        if _has_size(kind):
            return f"{value[1]}x{value[0]}"
        return ",".join(spell(item, str) for item in value)
    return str(value)


def toml_value(value: Any, kind: Any = str) -> str:  # noqa: ANN401 - any setting's
    """Return a value as TOML has it."""
    if isinstance(value, bool | int | float):
        return spell(value, kind)
    if isinstance(value, tuple | list) and not _has_size(kind):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return json.dumps(spell(value, kind), ensure_ascii=False)


def text_in_file(value: object) -> str:
    """Return one value from a file as the command line has it; raises ValueError for a table."""
    if isinstance(value, bool | int | float | str):
        return spell(value, str)
    raise ValueError(f"holds {value!r}, which is no setting's value")


def read_toml(path: str, but: str = "") -> dict[str, Any]:
    """Return the settings in a file; raises UsageError where it is none, or holds other tables.

    A file that other machines would not see may come as one word: IN_A_WORD and its text in base64.
    """
    try:
        if path.startswith(IN_A_WORD):
            text = b64decode(path.removeprefix(IN_A_WORD), validate=True).decode()
        else:
            text = Path(path).read_text("utf-8")
        held = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, BinasciiError) as error:
        raise UsageError(f"--config {path} is no TOML file: {error}") from error
    if tables := [key for key, value in held.items() if isinstance(value, dict) and key != but]:
        raise UsageError(f"--config {path}: [{tables[0]}] is a table, settings stand in none")
    return held


def shape(kind: Any) -> str:  # noqa: ANN401 - a type
    """Return a type as help shows it: `int`, `int,...`, `pad|crop`, `WIDTHxHEIGHT|auto`."""
    if options := _options(kind):
        return "|".join(map(shape, options))
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_args(kind) == (int, int):
        return "WIDTHxHEIGHT"
    if get_origin(kind) is tuple:
        return f"{shape(get_args(kind)[0])},..."
    return str(kind.__name__)


def wanted(kind: Any) -> str:  # noqa: ANN401 - a type
    """Say in words what a setting takes."""
    if options := _options(kind):
        return " or ".join(map(wanted, options))
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


def _has_size(kind: object) -> bool:
    return get_args(kind) == (int, int) or any(map(_has_size, get_args(kind)))


def _options(kind: object) -> tuple[Any, ...]:
    """Return the members of a union, None left out; () for any other type."""
    if get_origin(kind) in (Literal, tuple):
        return ()
    return tuple(part for part in get_args(kind) if part is not NoneType)
